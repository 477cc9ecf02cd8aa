"""Text analysis without a model: sentences, summary, key phrases and readability.

Every function is pure and deterministic, takes any string, and reports only what the text
itself holds: a summary quotes sentences, a key phrase is a stretch of the text.
Nothing here is quadratic in the text, so no input has to be cut short to stay fast.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, ConfigDict

from agentray.examples.lexrank import most_central, tf_idf
from agentray.examples.prose import (
    WORD,
    count_syllables,
    is_function_word,
    is_mostly_latin,
    split_sentences,
    stem,
)

__all__ = [
    "KeyPhrase",
    "TextStatistics",
    "key_phrases",
    "split_sentences",
    "statistics",
    "summarise",
]

_FRAGMENT_WORDS = 4  # headings and list items shorter than this say too little on their own
_PHRASE_WORDS = 4
_LONGEST_KEY_WORD = 40  # longer ones are hashes, encoded data or unsegmented script
_READING_WPM = 238  # silent reading of English non-fiction, Brysbaert 2019

_Key = tuple[str, ...]  # a phrase as the stems of its words


class KeyPhrase(BaseModel):
    """A phrase the text dwells on.

    Attributes:
        phrase: The phrase in its commonest spelling in the text, a line wrap shown as a space.
        score: Its C-value; comparable within one text only.
        occurrences: How often it occurs, regardless of case and of English plurals.
    """

    model_config = ConfigDict(frozen=True)

    phrase: str
    score: float
    occurrences: int


class TextStatistics(BaseModel):
    """Counts and readability of a text.

    Attributes:
        characters: Unicode code points, without white space around the text.
        words: Words; each Han or hiragana character counts as one.
        sentences: Sentences, headings and list items.
        average_sentence_length: Words per sentence.
        average_word_length: Characters per word.
        syllables: Syllables as English spelling suggests them, one for a non-Latin word.
        flesch_reading_ease: About 0 (hard) to 100 (easy), calibrated on English; None without
            words or when most letters are not Latin.
        flesch_kincaid_grade: School grade in the US; None as above.
        type_token_ratio: Distinct words per word, 0 to 1; falls with the length of a text.
        reading_time_s: Seconds of silent reading at 238 words a minute.
    """

    model_config = ConfigDict(frozen=True)

    characters: int
    words: int
    sentences: int
    average_sentence_length: float
    average_word_length: float
    syllables: int
    flesch_reading_ease: float | None
    flesch_kincaid_grade: float | None
    type_token_ratio: float
    reading_time_s: float


def summarise(text: str, max_sentences: int = 3) -> str:
    """Quote the sentences most central to a text, in their original order.

    Sentences are ranked by continuous LexRank (Erkan and Radev 2004): a random walk between
    sentences by the cosine of their tf-idf vectors. A sentence that repeats a chosen one is
    passed over (subsumption, Radev, Jing and Budzikowska 2000).

    Args:
        text: Any text.
        max_sentences: How many sentences to quote at most.

    Returns:
        Verbatim sentences joined by a space; "" if the text has no words.

    Raises:
        ValueError: If max_sentences is negative.
    """
    if max_sentences < 0:
        raise ValueError(f"max_sentences must not be negative, got {max_sentences}")
    sentences = split_sentences(text)
    if len(sentences) > max_sentences:
        substantial = [s for s in sentences if len(WORD.findall(s)) >= _FRAGMENT_WORDS]
        sentences = substantial or sentences
    if len(sentences) > max_sentences:
        vectors = tf_idf([_terms(sentence) for sentence in sentences])
        sentences = [sentences[i] for i in most_central(vectors, max_sentences)]
    return " ".join(sentences)


def key_phrases(text: str, limit: int = 10) -> list[KeyPhrase]:
    """Find the phrases a text dwells on.

    Candidates are word sequences between function words and punctuation (RAKE, Rose et al.
    2010). They are scored by C-value (Frantzi, Ananiadou and Mima 2000), which unlike RAKE's
    score does not favour a long phrase used once, and which gives a phrase no credit for the
    longer phrases it is part of. Length weighs log2(words + 1), so that single words count too.

    The function words are English, with the commonest Chinese ones and all of hiragana. Text in
    other languages is scored the same way, by frequency; there, short words of scripts with
    capitals stand in for function words (frequent words are short, Zipf 1935).

    Args:
        text: Any text.
        limit: How many phrases to return at most.

    Returns:
        Phrases by falling score, ties in order of appearance.

    Raises:
        ValueError: If limit is negative.
    """
    if limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}")
    surfaces = _candidates(text)
    scores = _c_values({key: len(forms) for key, forms in surfaces.items()})
    # Sorting is stable, and candidates arrive in order of appearance.
    ranked = sorted((key for key in scores if scores[key] > 0), key=lambda key: -scores[key])
    return [
        KeyPhrase(
            phrase=Counter(surfaces[key]).most_common(1)[0][0],
            score=round(scores[key], 4),
            occurrences=len(surfaces[key]),
        )
        for key in _without_shifted_copies(ranked, limit)
    ]


def statistics(text: str) -> TextStatistics:
    """Count a text and grade how easily it reads.

    Reading ease is Flesch 1948; the grade is Kincaid, Fishburne, Rogers and Chissom 1975; the
    reading rate is Brysbaert 2019.

    Args:
        text: Any text.

    Returns:
        The statistics; a text without words has zeros and no readability.
    """
    sentences = split_sentences(text)
    words = [word for sentence in sentences for word in WORD.findall(sentence)]
    total = len(words)
    syllables = sum(map(count_syllables, words))
    sentence_length = total / len(sentences) if sentences else 0.0
    ease = grade = None
    if is_mostly_latin(words):
        per_word = syllables / total
        ease = 206.835 - 1.015 * sentence_length - 84.6 * per_word
        grade = 0.39 * sentence_length + 11.8 * per_word - 15.59
    return TextStatistics(
        characters=len(text.strip()),
        words=total,
        sentences=len(sentences),
        average_sentence_length=sentence_length,
        average_word_length=sum(map(len, words)) / total if total else 0.0,
        syllables=syllables,
        flesch_reading_ease=ease,
        flesch_kincaid_grade=grade,
        type_token_ratio=len({word.casefold() for word in words}) / total if total else 0.0,
        reading_time_s=total * 60 / _READING_WPM,
    )


def _terms(sentence: str) -> list[str]:
    return [stem(word) for word in WORD.findall(sentence) if not is_function_word(word)]


def _candidates(text: str) -> dict[_Key, list[str]]:
    """Map each candidate phrase, by its stems, to its spellings in order of appearance.

    A candidate recurs, or is all that stands between two delimiters, or is a single word.
    """
    sentences = split_sentences(text)
    strict = not _reads_as_english(word for s in sentences for word in WORD.findall(s))
    surfaces: defaultdict[_Key, list[str]] = defaultdict(list)
    whole: set[_Key] = set()
    for sentence in sentences:
        for run in _runs(sentence, strict=strict):
            stems = tuple(stem(word) for word, _, _ in run)
            whole.add(stems)
            for first in range(len(run)):
                for last in range(first, min(first + _PHRASE_WORDS, len(run))):
                    surface = " ".join(sentence[run[first][1] : run[last][2]].split())
                    surfaces[stems[first : last + 1]].append(surface)
    return {
        key: forms
        for key, forms in surfaces.items()
        if (len(forms) > 1 or key in whole or len(key) == 1) and not _is_one_character(key)
    }


def _runs(sentence: str, *, strict: bool) -> Iterator[list[tuple[str, int, int]]]:
    """Yield runs of content words with only white space between them, each with its place."""
    run: list[tuple[str, int, int]] = []
    for match in WORD.finditer(sentence):
        word = match.group()
        if run and sentence[run[-1][2] : match.start()].strip():
            yield run
            run = []
        if _delimits(word, strict=strict):
            yield run
            run = []
        else:
            run.append((word, *match.span()))
    yield run


def _delimits(word: str, *, strict: bool) -> bool:
    if is_function_word(word) or len(word) > _LONGEST_KEY_WORD:
        return True
    if not any(map(str.isalpha, word)):
        return True
    has_case = word.lower() != word.upper()
    return has_case and (len(word) == 1 or (strict and len(word) <= 3 and not word.isupper()))


def _reads_as_english(words: Iterable[str]) -> bool:
    """Tell whether function words are as frequent as English has them: near half, not a tenth."""
    listed = [is_function_word(word) for word in words]
    # A title or a list of keywords has few function words in any language.
    return len(listed) < 20 or sum(listed) > 0.2 * len(listed)


def _is_one_character(key: _Key) -> bool:
    return len(key) == 1 and len(key[0]) == 1


def _c_values(frequencies: dict[_Key, int]) -> dict[_Key, float]:
    """Score phrases by length and frequency, less the mean frequency of phrases around them."""
    around: defaultdict[_Key, list[int]] = defaultdict(list)
    for key, frequency in frequencies.items():
        spans = ((i, j) for i in range(len(key)) for j in range(i + 1, len(key) + 1))
        for part in {key[i:j] for i, j in spans} - {key}:
            around[part].append(frequency)
    return {key: _c_value(key, n, around.get(key, [])) for key, n in frequencies.items()}


def _c_value(key: _Key, frequency: int, around: list[int]) -> float:
    if frequency == 1:
        # Length is evidence of a term only in a phrase that recurs: two words are enough here.
        return 0.0 if around else math.log2(min(len(key), 2) + 1)
    # As in the original, phrases below a minimal frequency take no credit from their parts.
    recurring = [n for n in around if n > 1]
    nested = sum(recurring) / len(recurring) if recurring else 0.0
    return math.log2(len(key) + 1) * (frequency - nested)


def _without_shifted_copies(ranked: Iterable[_Key], limit: int) -> Iterator[_Key]:
    """Yield the best phrases, but of windows over one longer repeated phrase only the first."""
    edges: set[_Key] = set()
    taken = 0
    for key in ranked:
        if taken == limit:
            return
        ends = {key[1:], key[:-1]} if len(key) > 2 else set[_Key]()
        if not ends & edges:
            taken += 1
            yield key
        edges |= ends
