"""Words and sentences of prose in any script, by pattern and without a model."""

# ruff: noqa: RUF001 - punctuation of many scripts is the subject here

import re
import unicodedata
from collections.abc import Iterable, Iterator

__all__ = [
    "WORD",
    "count_syllables",
    "is_function_word",
    "is_mostly_latin",
    "split_sentences",
    "stem",
]

_STOPWORD_TEXT = """
a about above across after again against all almost along already also although always am among
an and another any anyone anything are around as at away back be became because become becomes
been before began behind being below between both but by came can cannot come comes could did do
does doing done down during each either else enough even ever every everyone everything few for
from further gave get gets give given gives go goes going gone got had has have having he hence
her here hers herself him himself his how however i if in indeed instead into is it its itself
just keep kept less let like made make makes many may me might more most much must my myself near
neither never next no nobody none nor not nothing now of off often on once one only onto or other
others our ours ourselves out over own per perhaps put quite rather really said same say says see
seem seems seen several shall she should since so some someone something sometimes still such take
taken takes than that the their theirs them themselves then there therefore these they thing things
this those though through thus to together too took toward towards under unless until up upon us
use used uses using very via was way we well went were what whatever when where whether which while
who whoever whole whom whose why will with within without would yet you your yours yourself
aren't can't couldn't didn't doesn't don't hadn't hasn't haven't i'm i've isn't it's let's shouldn't
that's they're wasn't we're weren't won't wouldn't you're http https www
的 了 是 在 和 与 也 就 都 而 及 有 这 那 我 你 他 她 们 不
"""
_STOPWORDS = frozenset(_STOPWORD_TEXT.split())

# Before a capital these never end a sentence ...
_TITLE_TEXT = """dr mr mrs ms mx prof st mt gen sen rep gov capt lt col sgt rev hon pres
e.g i.e cf vs viz approx ca"""
_TITLES = frozenset(_TITLE_TEXT.split())
# ... these belong to a number that follows them ("No. 5", but "He said no. Five left.") ...
_NUMBERED_TEXT = """no nos p pp fig figs eq eqs vol ch sec art jan feb mar apr jun jul aug sep sept
oct nov dec"""
_NUMBERED = frozenset(_NUMBERED_TEXT.split())
# ... and these stand within a sentence or end it, as initials and "U.S." do.
_EITHER = frozenset(("etc", "al", "inc", "ltd", "co", "corp", "jr", "sr", "dept", "est", "ave"))
_INITIALS = re.compile(r"[^\W\d_]{1,2}(?:\.[^\W\d_]{1,2})+|[^\W\d_]")

# Han and hiragana are written without spaces: each character counts as a word.
_UNSPACED = "\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
# Python's \w leaves out combining marks, which would cut Hindi or decomposed accents to pieces.
_MARKS = "".join(chr(c) for c in range(0x300, 0x10000) if unicodedata.category(chr(c))[0] == "M")
_SPACED_WORD = rf"[^\W_{_UNSPACED}]+(?:[{_MARKS}\u200c\u200d]+[^\W_{_UNSPACED}]*)*"
WORD = re.compile(rf"[{_UNSPACED}]|{_SPACED_WORD}(?:(?:[-'’.]|(?<=\d),(?=\d)){_SPACED_WORD})*")

_WRAP_UNIT = re.compile(rf"[{_UNSPACED}]|\S+")  # what moves to the next line as a whole

_OPENERS = "\"'“‘«([¿¡*_"
_CLOSERS = "\"'”’»)]*_」』）》】"
_SELF_EVIDENT_STOPS = "。！？｡।॥؟۔።။។"  # never part of a number or an abbreviation
_STOP = re.compile(rf"(?:[.!?…]+|[{_SELF_EVIDENT_STOPS}]+)[{re.escape(_CLOSERS)}]*")
_LIST_MARKER = re.compile(
    r"\s*(?:[-*+•‣◦▪–]|#{1,6}|\d{1,2}\.|\(?(?:[a-z]|[ivx]{1,4}|\d{1,2})\))[^\S\r\n]+(?=\S)"
)


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences by punctuation and layout.

    Abbreviations that may also end a sentence ("U.S.", "etc.", initials) end it only before a
    function word, a frequent sentence starter (Kiss and Strunk 2006). Headings, list items and
    paragraphs without a full stop are sentences of their own; list markers are left out.

    Args:
        text: Any text.

    Returns:
        The sentences verbatim, in order; pieces without a letter or digit are left out.
    """
    return [
        sentence.strip()
        for block in _blocks(text)
        for sentence in _sentences_of(block)
        if WORD.search(sentence)
    ]


def _blocks(text: str) -> Iterator[str]:
    """Yield stretches that no sentence crosses: paragraphs, list items, headings."""
    lines = text.splitlines(keepends=True)
    width = max((len(line.rstrip()) for line in lines), default=0)
    start = offset = 0
    previous = ""
    for line in lines:
        marker = _LIST_MARKER.match(line)
        if marker or not line.strip() or _breaks(previous, line, width):
            yield text[start:offset]
            start = offset + (marker.end() if marker else 0)
        offset += len(line)
        previous = line
    yield text[start:]


def _breaks(line: str, following: str, width: int) -> bool:
    """Tell whether a line ended on purpose, rather than for want of room."""
    if line.startswith("#"):
        return True
    unit = _WRAP_UNIT.search(following)
    fits = unit is not None and len(line.rstrip()) + 1 + len(unit.group()) <= width
    return fits and not following.lstrip()[:1].islower() and not line.rstrip().endswith(",")


def _sentences_of(block: str) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(block):
        if _ends_sentence(block, stop):
            yield block[start : stop.end()]
            start = stop.end()
    yield block[start:]


def _ends_sentence(block: str, stop: re.Match[str]) -> bool:
    mark, following = stop.group(), block[stop.end() : stop.end() + 40]
    if mark[0] in _SELF_EVIDENT_STOPS:
        # A full stop within quotation marks may leave the sentence around them unfinished.
        return mark[-1] not in _CLOSERS or following[:1].isspace()
    if following and not following[0].isspace():
        return False
    following = following.lstrip().lstrip(_OPENERS)
    if following[:1].islower():
        return False
    before = block[max(0, stop.start() - 20) : stop.start()]
    return mark.startswith(("!", "?", "…", "..")) or not _abbreviates(before, following)


def _abbreviates(before: str, following: str) -> bool:
    """Tell whether a full stop marks an abbreviation within a sentence."""
    word = re.split(r"[^\w.]", before)[-1].casefold()
    if word in _TITLES:
        return True
    if word in _NUMBERED:
        return following[:1].isdigit()
    if word in _EITHER or _INITIALS.fullmatch(word):
        starter = WORD.match(following)
        return starter is None or starter.group().casefold() not in _STOPWORDS
    return False


def stem(word: str) -> str:
    """Fold case, possessive and plural: the S stemmer of Harman 1991."""
    word = word.casefold().replace("’", "'").removesuffix("'s")
    if len(word) < 4 or word.endswith(("us", "ss", "is", "aes", "ees", "oes")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word.removesuffix("s")


def is_function_word(word: str) -> bool:
    """Know English function words, the commonest Chinese ones, and hiragana (particles)."""
    return word.casefold().replace("’", "'") in _STOPWORDS or "\u3041" <= word[0] <= "\u309f"


# What English spelling adds to or takes from a count of vowel groups.
_SILENT = re.compile(
    r"(?<=[^aeiouyl])e$"  # make; but "table", "the" by the floor of one
    r"|(?<=[aeiouy]l)e$"  # while, whole
    r"|(?<=[^aeiouylsxzcg])es$(?<!shes)(?<!ches)"  # makes; but boxes, pages, dishes
    r"|(?<=[aeiouy]l)es$"  # rules; but tables
    r"|(?<=[^aeioultd])ed$"  # jumped; but wanted
    r"|(?<=[aeiouyl]l)ed$"  # ruled, called; but "bundled" keeps its own
    r"|(?<=[^aeiouyl])e(?=(?:ly|ments?|full?|less|ness)$)"  # lately, movement
    r"|(?<=\bsom)e(?=[tw])|(?<=\bev)e(?=ry)"  # something, every
)
_HIATUS = re.compile(
    r"(?<=[^aeioutscgx])i(?=o(?!n))|(?<=[^aeioutscgxln])i(?=on)"  # radio, champion; not nation
    r"|(?<=[^aeioutscg])i(?=[au])|i(?=et)|(?<=sc)i(?=en)"  # dial, quiet, science
    r"|(?<=[aeiou])(?=ing$)|(?<=[^aeiou])y(?=ing$)"  # going, flying
    r"|(?<!m)e(?=o(?!us$|n$|ns$|ple))|e(?=um)|(?<=cr)e(?=at(?!u))"  # video, museum, create
    r"|(?<=[aeiou]\w)e(?=as?$)|(?<=p)o(?=e[mt])"  # idea, poem
    r"|(?<=[^qg])u(?=al|ou|en)|(?<=s)(?=ms?$)"  # actual, influence, prism
)
_VOWELS = re.compile(r"[aeiouy]+|\d")


def is_mostly_latin(words: Iterable[str]) -> bool:
    """Tell whether most letters are Latin, accented ones included."""
    letters = [letter for word in words for letter in word if letter.isalpha()]
    latin = sum(letter < "\u0250" or "\u1e00" <= letter <= "\u1eff" for letter in letters)
    return latin > len(letters) / 2


def count_syllables(word: str) -> int:
    """Count the syllables of an English word from its spelling.

    Vowel groups, less silent e, plus vowels spoken apart; a digit counts as one, which is how
    Flesch 1948 counts figures as read aloud ("1918" has four). Approximate by nature.

    Args:
        word: One word; accents are ignored.

    Returns:
        The number of syllables, at least one.
    """
    plain = unicodedata.normalize("NFKD", word.casefold()).replace("’", "'")
    plain = plain.replace("e\u0301", "ey")  # a spoken e, as in "cliché"
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    parts = plain.removesuffix("'s").split("-")
    return max(1, sum(_count_part(part) for part in parts))


def _count_part(word: str) -> int:
    groups = len(_VOWELS.findall(word))
    return max(min(groups, 1), groups - len(_SILENT.findall(word)) + len(_HIATUS.findall(word)))
