"""Extractive text analysis: what it reports is in the text, and is what a reader would report."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentray.examples.extractive import (
    key_phrases,
    split_sentences,
    statistics,
    summarise,
)
from agentray.examples.prose import count_syllables

FLOOD = """\
The river had been rising since Tuesday, and by Friday morning the lower fields were under a foot
of brown water. Farmers along the river moved their cattle to higher ground before the bridge
closed. The county had spent eleven years arguing about a flood barrier, and the flood barrier was
still a drawing in a drawer.

Engineers say the flood barrier would have cost less than one season of flood damage. The mayor,
who opposed the flood barrier in 2015, declined to be interviewed. At the school on Mill Lane,
volunteers filled sandbags until midnight. Nobody was hurt. The river is expected to fall by
Sunday, but flood damage to roads and cellars will take months to repair.
"""

GERMAN = """\
Der Fluss stieg seit Dienstag, und am Freitag standen die unteren Felder im Wasser. Die Bauern \
am Fluss brachten ihr Vieh auf die Weiden am Hang, bevor die Brücke gesperrt wurde. Der Landkreis \
hatte elf Jahre lang über den Deich am Fluss gestritten, und der Deich war noch immer nicht \
gebaut. Der Deich hätte weniger gekostet, so die Ingenieure, und das Hochwasser weniger Schaden \
gebracht."""

CHINESE = (
    "人工智能正在改变世界。人工智能的研究需要大量数据。"
    "许多公司使用人工智能分析数据，但是数据的质量很重要。天气很好。"  # noqa: RUF001
)

PROSE_LIKE = st.text(alphabet="aAbé.?!,'\"()-#*1 \n\t。天のकि\u0301_😀", max_size=200)
ANY_TEXT = st.text(max_size=200) | PROSE_LIKE


def one_line(text: str) -> str:
    return " ".join(text.split())


def fewest_quotes(summary: str, sentences: list[str]) -> float:
    """How many of the sentences, in order, make up the summary; infinity if none do."""
    left = {f"{summary} " if summary else "": 0}
    for sentence in sentences:
        quoted = f"{sentence} "
        for rest, count in list(left.items()):
            if rest.startswith(quoted):
                after = rest.removeprefix(quoted)
                left[after] = min(count + 1, left.get(after, count + 1))
    return left.get("", math.inf)


class TestSplitSentences:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
            ("Dr. Ito met Mrs. Ray.", ["Dr. Ito met Mrs. Ray."]),
            ("Use a queue, e.g. Redis. It helps.", ["Use a queue, e.g. Redis.", "It helps."]),
            ("The U.S. Senate met.", ["The U.S. Senate met."]),
            ("She left the U.S. He stayed.", ["She left the U.S.", "He stayed."]),
            ("J. R. Stone wrote it.", ["J. R. Stone wrote it."]),
            ("Pi is 3.14 or so. Yes.", ["Pi is 3.14 or so.", "Yes."]),
            ("See No. 5. He said no. Then left.", ["See No. 5.", "He said no.", "Then left."]),
            ("It runs Node.js. Ray helps.", ["It runs Node.js.", "Ray helps."]),
            ("Smith et al. (2010) agree.", ["Smith et al. (2010) agree."]),
            ("It ended... Then what?! Oh.", ["It ended...", "Then what?!", "Oh."]),
        ],
    )
    def test_full_stops(self, text: str, expected: list[str]):
        assert split_sentences(text) == expected

    def test_quotes_stay_with_their_sentence(self):
        text = '"Stop!" he said. “Did it work?” Nobody knew.'
        assert split_sentences(text) == ['"Stop!" he said.', "“Did it work?”", "Nobody knew."]

    def test_layout_ends_sentences_without_a_full_stop(self):
        text = (
            "# Shopping\n\nWe need the following:\n- fresh milk\n* bread\n2. some tea\n\nThat is it"
        )
        assert split_sentences(text) == [
            "Shopping",
            "We need the following:",
            "fresh milk",
            "bread",
            "some tea",
            "That is it",
        ]

    def test_a_wrapped_line_does_not_end_a_sentence(self):
        sentences = split_sentences(FLOOD)
        assert len(sentences) == 8
        assert one_line(sentences[0]).endswith("under a foot of brown water.")

    def test_a_line_with_room_to_spare_ends_a_sentence(self):
        assert split_sentences("A title\nThe text goes on for longer.")[0] == "A title"

    def test_scripts_without_spaces_or_latin_stops(self):
        assert split_sentences("今天很好。我们去！") == ["今天很好。", "我们去！"]  # noqa: RUF001
        assert split_sentences("「行こう。」と言った。はい") == ["「行こう。」と言った。", "はい"]
        assert split_sentences("यह एक है। यह दो है।") == ["यह एक है।", "यह दो है।"]

    @pytest.mark.parametrize("text", ["", " \n\t ", "...", "!!! ???", "😀"])
    def test_no_words_no_sentences(self, text: str):
        assert split_sentences(text) == []

    @given(ANY_TEXT)
    def test_sentences_are_stretches_of_the_text_in_order(self, text: str):
        position = 0
        for sentence in split_sentences(text):
            found = text.find(sentence, position)
            assert sentence == sentence.strip() != ""
            assert found >= 0
            position = found + len(sentence)


class TestSummarise:
    def test_quotes_the_sentences_about_the_subject(self):
        summary = summarise(FLOOD, 2)
        assert "Engineers say the flood barrier would have cost less" in summary
        assert "Nobody was hurt." not in summary
        assert "sandbags" not in summary

    def test_does_not_repeat_itself(self):
        twice = "The barrier held the river back."
        text = f"{twice} Cattle grazed nearby all day. {twice} The river passed the barrier."
        assert summarise(text, 2).count(twice) == 1

    def test_prefers_sentences_to_headings(self):
        text = "Flood barrier\n\n" + FLOOD
        assert not summarise(text, 1).startswith("Flood barrier\n")
        assert "." in summarise(text, 1)

    def test_works_without_a_stopword_list(self):
        assert "Deich" in summarise(GERMAN, 1)
        assert "天气很好" not in summarise(CHINESE, 2)

    def test_a_short_text_is_its_own_summary(self):
        assert summarise("Just this. And that.") == "Just this. And that."

    def test_one_very_long_sentence(self):
        text = "word " * 20_000
        assert summarise(text) == text.strip()

    def test_nothing_to_say(self):
        assert summarise("") == summarise(" \n ") == summarise(FLOOD, 0) == ""

    def test_negative_length_is_an_error(self):
        with pytest.raises(ValueError, match="max_sentences"):
            summarise(FLOOD, -1)

    @given(
        ANY_TEXT | st.lists(st.sampled_from(split_sentences(FLOOD))).map(" ".join),
        st.integers(0, 5),
    )
    def test_is_at_most_that_many_sentences_in_order(self, text: str, limit: int):
        sentences = split_sentences(text)
        summary = summarise(text, limit)
        assert summary == summarise(text, limit)
        assert fewest_quotes(summary, sentences) <= limit


class TestKeyPhrases:
    def test_recurring_phrase_comes_first(self):
        first, *others = key_phrases(FLOOD)
        assert (first.phrase, first.occurrences) == ("flood barrier", 4)
        assert {"river", "flood damage"} <= {other.phrase for other in others}

    def test_a_word_gets_no_credit_for_its_phrase(self):
        phrases = [p.phrase for p in key_phrases(FLOOD, 100)]
        assert "barrier" not in phrases
        assert "damage" not in phrases

    def test_spellings_of_one_phrase_are_one(self):
        text = (
            "Event loops matter. An event loop runs. The event loop waits. Every EVENT LOOP ends."
        )
        assert [p.phrase for p in key_phrases(text, 1)] == ["event loop"]
        assert key_phrases(text, 1)[0].occurrences == 4

    def test_case_is_kept(self):
        assert key_phrases("Mill Lane is shut, so is Mill Lane.")[0].phrase == "Mill Lane"

    def test_wrapped_phrase_is_shown_on_one_line(self):
        assert key_phrases("of the flood\nbarrier")[0].phrase == "flood barrier"

    def test_window_over_a_longer_phrase_counts_once(self):
        text = "Deep sea cable repair ship ahead. " * 5
        assert len([p for p in key_phrases(text) if "cable repair" in p.phrase]) == 1

    def test_no_stopword_list_falls_back_to_frequency(self):
        german = [p.phrase for p in key_phrases(GERMAN, 2)]
        assert german == ["Fluss", "Deich"]
        assert [p.phrase for p in key_phrases(CHINESE, 2)] == ["人工智能", "数据"]

    def test_nothing_to_find(self):
        assert key_phrases("") == key_phrases("  \n") == key_phrases("of the 12") == []
        assert key_phrases(FLOOD, 0) == []

    def test_negative_limit_is_an_error(self):
        with pytest.raises(ValueError, match="limit"):
            key_phrases(FLOOD, -1)

    @given(ANY_TEXT, st.integers(0, 12))
    def test_phrases_are_distinct_and_in_the_text(self, text: str, limit: int):
        found = key_phrases(text, limit)
        assert found == key_phrases(text, limit)
        assert len(found) <= limit
        assert all(p.phrase in one_line(text) for p in found)
        assert len({p.phrase.casefold() for p in found}) == len(found)
        assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)


class TestStatistics:
    def test_hand_computed_sentence(self):
        # 6 words of 6 syllables in 1 sentence: 206.835 - 1.015 * 6 - 84.6 * 1 = 116.145
        # and 0.39 * 6 + 11.8 * 1 - 15.59 = -1.45.
        found = statistics("The cat sat on the mat.")
        assert (found.words, found.sentences, found.syllables, found.characters) == (6, 1, 6, 23)
        assert found.flesch_reading_ease == pytest.approx(116.145)
        assert found.flesch_kincaid_grade == pytest.approx(-1.45)
        assert found.type_token_ratio == pytest.approx(5 / 6)
        assert found.average_sentence_length == 6
        assert found.average_word_length == pytest.approx(17 / 6)

    def test_reading_time(self):
        assert statistics("word " * 238).reading_time_s == pytest.approx(60)

    def test_harder_prose_scores_harder(self):
        hard = (
            "Institutional considerations notwithstanding, administrative reorganisation continued."
        )
        easy, dense = statistics(FLOOD), statistics(hard)
        assert easy.flesch_reading_ease is not None
        assert dense.flesch_reading_ease is not None
        assert 50 < easy.flesch_reading_ease < 90
        assert dense.flesch_reading_ease < 0

    @pytest.mark.parametrize("text", ["", " \n ", "?!"])
    def test_no_words(self, text: str):
        found = statistics(text)
        assert (found.words, found.sentences, found.syllables) == (0, 0, 0)
        assert found.average_sentence_length == found.average_word_length == 0
        assert found.type_token_ratio == found.reading_time_s == 0
        assert found.flesch_reading_ease is found.flesch_kincaid_grade is None

    @pytest.mark.parametrize(
        "text", [CHINESE, "Это простое предложение.", "यह पहला वाक्य है।", "12 34"]
    )
    def test_readability_means_nothing_outside_latin_script(self, text: str):
        assert statistics(text).words > 0
        assert statistics(text).flesch_reading_ease is None
        assert statistics(text).flesch_kincaid_grade is None

    def test_words_are_not_cut_at_combining_marks(self):
        assert statistics("हिन्दी cafe\u0301").words == 2

    def test_is_frozen(self):
        with pytest.raises(ValidationError):
            setattr(statistics("a"), "words", 3)  # noqa: B010 - a type checker refuses the plain form

    @given(ANY_TEXT)
    def test_any_text_has_consistent_statistics(self, text: str):
        found = statistics(text)
        assert found == statistics(text)
        assert found.syllables >= found.words >= found.sentences >= 0
        assert (found.words == 0) == (found.sentences == 0)
        assert 0 <= found.type_token_ratio <= 1
        assert found.average_sentence_length * found.sentences == pytest.approx(found.words)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "the cat make makes jumped called ruled time while eye once house through"),
        (2, "people table tables wanted boxes pages dishes nation social quiet being going flying"),
        (2, "little something million science poem create lately movement prism every"),
        (3, "radio various video actual engineer computer element's idea museum"),
        (4, "society variety geometry 1918 supervisor's"),
        (5, "readability university"),
    ],
)
def test_syllables(count: int, words: str):
    wrong = {w: count_syllables(w) for w in words.split() if count_syllables(w) != count}
    assert wrong == {}


@pytest.mark.parametrize(
    "unit",
    [FLOOD, CHINESE, "- ", '."', "A. ", "a\n", "a", "e\u0301", "supervised actors restart "],
)
def test_a_hundred_kilobytes_of_the_same(unit: str):
    text = unit * (100_000 // len(unit.encode()))
    assert fewest_quotes(summarise(text), split_sentences(text)) <= 3
    assert all(phrase.occurrences > 0 for phrase in key_phrases(text))
    assert statistics(text).characters == len(text.strip())
