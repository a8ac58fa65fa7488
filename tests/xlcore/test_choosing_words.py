"""Which words `generate` chooses, by plain arrays: the rules of choosing, beam search, what is asked for, prompts."""

import itertools
import re

import numpy as np
import pytest

from xlcore import ConfigError, ShapeError
from xlcore.tasks.continuation import continue_texts
from xlcore.tasks.generation import (
    GenerationOptions,
    choose_next,
    likely,
    log_softmax,
    penalised,
    prompt_rows,
)

V = 5


class Recited:
    """Scores of next words that depend on the whole text; it remembers what it has read and takes nothing on trust."""

    def __init__(self, size=V, seed=0):
        self.size, self.seed, self.texts = size, seed, None

    def scores(self, text):
        return np.random.default_rng([self.seed, *text]).normal(0, 2, self.size)

    def read(self, texts):
        assert self.texts is None or (texts[:, :-1] == self.texts).all()
        self.texts = texts
        return np.stack([self.scores(text) for text in texts]).astype("float32")

    def choose(self, rows):
        self.texts = self.texts[rows]


def continued(rows, count, filling=None, model=0, **keys):
    options = GenerationOptions(count, **keys)
    return continue_texts([np.array(row) for row in rows], options, lambda: Recited(seed=model), filling)


# ------------------------------------------------------------------------------------------------------ choosing words


def test_the_penalty_by_hand():
    scores = np.array([[2.0, -3.0, 4.0, 0.0], [1.0, 1.0, 1.0, -1.0]])
    texts = np.array([[0, 1, 1], [3, 3, 2]])
    found = penalised(scores, texts, 2.0)
    np.testing.assert_array_equal(found, [[1.0, -6.0, 4.0, 0.0], [1.0, 1.0, 0.5, -2.0]])
    assert scores[0, 0] == 2.0
    assert penalised(scores, texts, 1.0) is scores


@pytest.mark.parametrize("top_p", [0.0, 0.05, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 11, 20])
def test_likely_words_by_hand(top_k, top_p):
    """One row at a time, one word after the other, the likeliest first."""
    scores = np.random.default_rng(top_k).normal(0, 2, (6, 11))
    found = likely(scores, top_k, top_p)
    for row, kept in zip(scores, found, strict=True):
        order = sorted(range(11), key=lambda word, row=row: -row[word])[: top_k or 11]
        shares = np.exp(row[order]) / np.exp(row[order]).sum()
        wanted = [word for place, word in enumerate(order) if place == 0 or shares[:place].sum() < top_p]
        assert sorted(np.flatnonzero(np.isfinite(kept))) == sorted(wanted)
        np.testing.assert_array_equal(kept[wanted], row[wanted])


def test_words_are_drawn_as_often_as_their_shares_say():
    """Any number from 0 to 1 picks a word, evenly spread ones each word by its share; none that is left out."""
    scores = np.log(np.array([0.1, 0.2, 0.4, 0.25, 0.05]))
    chances = (np.arange(1000) + 0.5) / 1000
    many = np.repeat(scores[None], 1000, axis=0)
    np.testing.assert_array_equal(np.bincount(choose_next(many, 1.0, 0, 1.0, chances)), [100, 200, 400, 250, 50])
    np.testing.assert_array_equal(np.bincount(choose_next(many, 1.0, 2, 1.0, chances)), [0, 0, 615, 385])
    np.testing.assert_array_equal(np.bincount(choose_next(many, 1.0, 0, 0.7, chances)), [0, 235, 471, 294])
    shares = np.exp(scores / 0.5) / np.exp(scores / 0.5).sum()
    found = np.bincount(choose_next(many, 0.5, 0, 1.0, chances), minlength=5)
    assert np.abs(found - 1000 * shares).max() <= 1
    np.testing.assert_array_equal(choose_next(many, 0.0, 2, 0.1, chances), [2] * 1000)
    ends = choose_next(many[:2], 1.0, 0, 1.0, np.array([0.0, np.nextafter(1.0, 0)]))
    np.testing.assert_array_equal(ends, [0, 4])


def test_the_temperature_divides_before_words_are_left_out():
    """Of two words nearly alike a share of 0.6 is both, of the same at a low temperature it is one."""
    scores, chances = np.array([[1.0, 0.9, -9.0]]), np.array([0.99])
    assert choose_next(scores, 1.0, 0, 0.6, chances) == [1]
    assert choose_next(scores, 0.1, 0, 0.6, chances) == [0]


# --------------------------------------------------------------------------------------------------------- beam search


def all_texts(start, steps, ends, penalty, length_penalty, seed=0):
    """Return score and words of every continuation that has ended or has all its words, the best first."""
    found, reader = [], Recited(seed=seed)

    def visit(words, total):
        if words and (words[-1] in ends or len(words) == steps):
            found.append((total / len(words) ** length_penalty, words))
            return
        text = np.array([*start, *words])
        scores = reader.scores(text).astype("float32").astype("float64")
        logs = scores - np.log(np.exp(scores).sum())
        for word in range(V):
            log = logs[word] * (penalty if word in text else 1.0)
            visit([*words, word], total + log)

    visit([], 0.0)
    return sorted(found, key=lambda each: -each[0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("ends", [[], [3], [0, 4]])
def test_beam_search_finds_the_best_of_all_continuations(ends, length_penalty, seed):
    """With a beam for each text of three words, of four steps; the twenty best, and whole texts of two lengths."""
    keys = {"eos_token_id": ends, "length_penalty": length_penalty, "num_return_sequences": 20}
    starts = [[1, 2], [4], [2, 2]]
    keys |= {"num_beams": V**3, "early_stopping": "never", "repetition_penalty": 1.3}
    found = continued(starts, 4, model=seed, pad_token_id=9, **keys)
    for number, start in enumerate(starts):
        wanted = all_texts(start, 4, ends, 1.3, length_penalty, seed)[:20]
        for (_, words), row in zip(wanted, found[20 * number : 20 * number + 20], strict=True):
            assert list(row[: len(start) + len(words)]) == [*start, *words]
            assert (row[len(start) + len(words) :] == 9).all()


def test_a_greedy_beam_is_not_the_best():
    """Else the test above would show little."""
    differ = [continued([[1]], 4, model=m, num_beams=V**3) != continued([[1]], 4, model=m) for m in range(5)]
    assert np.any(differ)


def test_stopping_early():
    """At once when as many texts have ended as there are beams, or when none can be better."""
    counts = {}
    for early in (True, False, "never"):
        searches = []
        for seed in range(60):
            reader = Recited(seed=seed)
            options = GenerationOptions(9, num_beams=2, eos_token_id=[0, 1], early_stopping=early)
            continue_texts([np.array([2])], options, lambda reader=reader: reader)
            searches.append(reader.texts.shape[1])
        counts[early] = sum(searches)
    assert counts[True] < counts[False] < counts["never"] < 60 * 9


def test_beams_are_for_each_row_what_they_are_alone():
    """Whenever the others end."""
    starts, keys = [[1], [2, 3], [4], [0], [3, 3]], {"num_beams": 3, "eos_token_id": [0, 2], "num_return_sequences": 2}
    for early, seed in itertools.product((True, False, "never"), range(6)):
        together = continued(starts, 8, model=seed, early_stopping=early, **keys)
        for number, start in enumerate(starts):
            alone = continued([start], 8, model=seed, early_stopping=early, **keys)
            both = together[2 * number : 2 * number + 2]
            np.testing.assert_array_equal(both[:, : alone.shape[1]], alone)
            assert (both[:, alone.shape[1] :] == 0).all()


def test_more_beams_than_texts():
    found = continued([[1]], 1, num_beams=9, num_return_sequences=5)
    np.testing.assert_array_equal(found[:, 1], np.argsort(-Recited().scores([1])))
    with pytest.raises(ConfigError, match=r"^generate: num_return_sequences must be at most the 5 texts .*, got 6$"):
        continued([[1]], 1, num_beams=9, num_return_sequences=6)
    assert continued([[1]], 4, num_beams=3, eos_token_id=[0, 1, 2, 3, 4]).shape == (1, 2)


# ------------------------------------------------------------------------------------------- rows, chance, ends, copies


def test_a_row_is_what_it_is_alone():
    """Rows of several lengths; with a seed for each, or by its place in the batch."""
    starts, chance = [[1, 2, 3], [4], [0, 0, 1], [2], [4]], {"temperature": 2.0, "top_p": 0.95}
    seeds = [5, 6, 7, 8, 9]
    together = continued(starts, 6, pad_token_id=9, seed=seeds, **chance)
    assert together.shape == (5, 9)
    for number, start in enumerate(starts):
        alone = continued([start], 6, seed=seeds[number], **chance)[0]
        np.testing.assert_array_equal(together[number, : len(alone)], alone)
        assert (together[number, len(alone) :] == 9).all()
    one = continued(starts, 6, pad_token_id=9, seed=5, **chance)
    np.testing.assert_array_equal(one[0], together[0])
    assert (continued([[4]] * 4, 6, seed=5, **chance)[0] != continued([[4]] * 4, 6, seed=5, **chance)[1]).any()
    others = continued([[3, 3], *starts[1:]], 6, pad_token_id=9, seed=5, **chance)
    np.testing.assert_array_equal(others[[1, 3, 4], :7], one[[1, 3, 4], :7])


def test_several_texts_for_a_row():
    """Each is drawn by itself, the first as if it were alone; prompts are read once."""
    chance = {"temperature": 3.0, "seed": 3}
    found = continued([[1], [2]], 8, num_return_sequences=3, **chance)
    assert found.shape == (6, 9)
    assert len(np.unique(found[:3, 1:], axis=0)) == len(np.unique(found[3:, 1:], axis=0)) == 3
    np.testing.assert_array_equal(found[::3], continued([[1], [2]], 8, **chance))


@pytest.mark.parametrize("beams", [1, 2])
def test_ends_and_stops(beams):
    """A text ends behind one of several words, or behind several words in a row that have been written."""
    keys = {"num_beams": beams, "early_stopping": beams > 1, "pad_token_id": 7}
    free = continued([[1]], 12, **keys)[0]
    for ends in ([int(free[3])], [int(free[5]), int(free[4])]):
        found = continued([[1]], 12, eos_token_id=ends, **keys)[0]
        first = next(place for place in range(1, 13) if free[place] in ends)
        if beams == 1:
            np.testing.assert_array_equal(found, free[: first + 1])
        assert found[-1] in ends
    stop = [[int(free[3]), int(free[4])], [3, 3, 3, 3, 3]]
    found = continued([[1]], 12, stop=stop, **keys)[0]
    assert list(found[-2:]) == stop[0]
    if beams == 1:
        np.testing.assert_array_equal(found, free[:5])


def test_a_stop_begins_behind_the_prompt():
    """What a prompt ends with is no part of it."""
    first = int(continued([[1, 2]], 1)[0, 2])
    assert continued([[1, 2]], 5, stop=[[2, first]], pad_token_id=0).shape[1] > 3
    assert continued([[1, 2]], 5, stop=[[first]], pad_token_id=0).shape[1] == 3


def test_ended_rows_are_filled_up_and_change_nothing():
    starts = [[1], [2], [3], [4]]
    free = continued(starts, 10)
    found = continued(starts, 10, eos_token_id=0, pad_token_id=8)
    for row, text in zip(found, free, strict=True):
        end = next((place for place in range(1, 11) if text[place] == 0), 10)
        np.testing.assert_array_equal(row[: end + 1], text[: end + 1])
        assert (row[end + 1 :] == 8).all()
    assert len({(row == 8).sum() for row in found}) > 1
    np.testing.assert_array_equal(continued(starts, 10, eos_token_id=0), np.where(found == 8, 0, found))


def test_the_streamer_is_told_each_word_once():
    """By row of the result; of rows of unequal lengths, of several texts for a row, until each has ended."""
    told = []
    starts, keys = [[1, 2], [3], [4, 4]], {"temperature": 2.0, "num_return_sequences": 2, "eos_token_id": 0}
    found = continued(starts, 9, pad_token_id=8, streamer=told.append, **keys)
    for row, text in enumerate(found):
        start = starts[row // 2]
        words = [new[row] for new in told if row in new]
        assert [*start, *words] == [word for word in text if word != 8]
        assert words[-1] == 0 or len(words) == 9
    assert {type(word) for new in told for word in (*new, *new.values())} == {int}


def test_no_words():
    np.testing.assert_array_equal(continued([[1, 2], [3]], 0, pad_token_id=8), [[1, 2], [3, 8]])
    found = continued([[1]], 0, num_beams=2, num_return_sequences=2)
    np.testing.assert_array_equal(found, [[1], [1]])


# ------------------------------------------------------------------------------------------------------------- prompts


def test_rows_without_their_padding():
    """In front or behind; a padding word that the mask keeps is a word."""
    ids, mask = [[1, 1, 5, 6], [7, 8, 1, 1], [2, 1, 3, 4]], [[0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]]
    for found in (prompt_rows(ids, mask), prompt_rows(np.array(ids), np.array(mask, bool))):
        assert [list(row) for row in found] == [[5, 6], [7, 8], [2, 1, 3, 4]]
    assert [list(row) for row in prompt_rows([[1, 2], np.array([3])])] == [[1, 2], [3]]


def test_rows_have_room_for_any_word():
    dtypes = [prompt_rows([np.array([1], dtype)])[0].dtype for dtype in ("int8", "uint8", "int32", "uint64", "int64")]
    assert dtypes == ["int64", "int64", "int32", "int64", "int64"]


@pytest.mark.parametrize(
    ("ids", "mask", "told"),
    [
        ([1, 2], None, "input_ids must be of shape [B, T] or a list of rows, got [1, 2]"),
        ([[[1]]], None, "input_ids must be of shape [B, T] or a list of rows, got [[[1]]]"),
        (None, None, "input_ids must be of shape [B, T] or a list of rows, got None"),
        ([[1], [[2], 3]], None, "input_ids must be of shape [B, T] or a list of rows, got [[1], [[2], 3]]"),
        (np.ones(3, int), None, "input_ids must be of shape [B, T] or a list of rows, got shape [3]"),
        ([[1], [0.5]], None, "input_ids must be whole numbers, got float64 in row 1"),
        ([], None, "input_ids must have at least one row, got 0"),
        ([[1], []], None, "input_ids must have at least one word in each row, got none in row 1"),
        ([[1, 2]], [[0, 0]], "input_ids must have at least one word in each row, got none in row 0"),
        ([[1, 2]], [[1]], "attention_mask must have an entry for each word, rows [[2]], got [[1]]"),
        ([[1, 2]], 1, "attention_mask must be of shape [B, T] or a list of rows, got 1"),
        ([[1, 2, 3]], [[1, 0, 1]], "attention_mask must keep one stretch of a row, got gaps in row 0"),
    ],
    ids=str,
)
def test_prompts_that_are_none(ids, mask, told):
    with pytest.raises(ShapeError, match=f"^generate: {re.escape(told)}$"):
        prompt_rows(ids, mask)


# ------------------------------------------------------------------------------------------------------ what is refused


CHANCE, DRAWN = "unless words are drawn", "do_sample=True or a temperature draws them"
SEARCHED = "num_beams=4 searches four of them"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
        ({"do_sample": "yes"}, "do_sample must be true or false, got 'yes'"),
        ({"temperature": -0.5}, "temperature must lie in [0, inf], got -0.5"),
        ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 1.5}, "top_p must lie in [0, 1], got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"repetition_penalty": "2"}, "repetition_penalty must be a number, got '2'"),
        ({"seed": [1, -2]}, "seed[1] must be at least 0, got -2"),
        ({"num_beams": 0}, "num_beams must be positive, got 0"),
        ({"length_penalty": float("inf")}, "length_penalty must be finite, got inf"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or 'never', got 'soon'"),
        ({"num_return_sequences": 0}, "num_return_sequences must be positive, got 0"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id[1] must be a whole number, got 'x'"),
        ({"stop": 5}, "stop must be a list, got 5"),
        ({"stop": [5]}, "stop[0] must be a list of ids, got 5"),
        ({"stop": [[5], []]}, "stop[1] must be a list of ids, got []"),
        ({"stop": [[5, -1]]}, "stop[0] must be at least 0, got [5, -1]"),
        ({"pad_token_id": -100}, "pad_token_id must be at least 0, got -100"),
        ({"streamer": 3}, "streamer must be a function, got 3"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be above 0 to draw words, got 0"),
        ({"num_beams": 2, "do_sample": True}, "num_beams must be 1 to draw words, got 2"),
        ({"num_beams": 2, "top_k": 3}, "top_k must be 0 with num_beams=2, got 3"),
        ({"num_beams": 2, "top_p": 0.5}, "top_p must be 1.0 with num_beams=2, got 0.5"),
        ({"num_beams": 2, "streamer": print}, f"streamer must be None with num_beams=2, got {print}"),
        ({"num_beams": 2, "seed": 1}, "seed must be 0 with num_beams=2, got 1"),
        ({"top_k": 50}, f"top_k must be 0 {CHANCE}, got 50; {DRAWN}"),
        ({"top_p": 0.9, "temperature": 0}, f"top_p must be 1.0 {CHANCE}, got 0.9; {DRAWN}"),
        ({"seed": [1], "do_sample": False}, f"seed must be 0 {CHANCE}, got [1]; {DRAWN}"),
        ({"length_penalty": 0.5}, f"length_penalty must be 1.0 without beams, got 0.5; {SEARCHED}"),
        (
            {"early_stopping": "never", "do_sample": True},
            f"early_stopping must be False without beams, got never; {SEARCHED}",
        ),
        (
            {"do_sample": False, "temperature": 0.7},
            "temperature must be left out where do_sample is false, got 0.7; do_sample=True draws words",
        ),
        ({"num_return_sequences": 2}, "num_return_sequences must be at most num_beams=1 unless words are drawn, got 2"),
        (
            {"num_beams": 3, "num_return_sequences": 4},
            "num_return_sequences must be at most num_beams=3 unless words are drawn, got 4",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_asked(keys, told):
    with pytest.raises(ConfigError, match=f"^generate: {re.escape(told)}$"):
        GenerationOptions(**{"max_new_tokens": 2, **keys})


def test_what_does_not_fit_the_rows():
    with pytest.raises(ConfigError, match=r"^generate: seed must be one, or one for each of 2 rows, got 3$"):
        continue_texts([np.array([1]), np.array([2])], GenerationOptions(2, seed=[1, 2, 3], do_sample=True), Recited)
    for rows, keys in (([[1], [1, 2]], {}), ([[1]], {"stop": [[3]]})):
        message = r"^generate: pad_token_id must be given where texts can be of unequal length, got None$"
        with pytest.raises(ConfigError, match=message):
            continued(rows, 2, **keys)
        assert len(continued(rows, 2, filling=0, **keys)) == len(rows)


def test_ends_that_no_text_can_meet():
    for keys, got in (({"eos_token_id": [1, 7]}, 7), ({"stop": [[1], [5, 2]], "pad_token_id": 9}, 5)):
        message = f"^generate: eos_token_id and stop must lie in the vocabulary of 5 words, got {got}$"
        for beams in (1, 2):
            with pytest.raises(ConfigError, match=message):
                continued([[1]], 2, num_beams=beams, **keys)


def test_when_words_are_drawn():
    """Where the temperature is above zero, unless it is said otherwise."""
    heats = [({}, 0), ({"temperature": 0.5}, 0.5), ({"do_sample": True}, 1), ({"do_sample": True, "temperature": 2}, 2)]
    heats += [({"do_sample": False}, 0), ({"do_sample": False, "temperature": 1}, 0), ({"temperature": 0}, 0)]
    for keys, wanted in heats:
        assert GenerationOptions(3, **keys).heat == wanted


def test_when_nothing_but_the_likeliest_word_counts():
    for keys in ({}, {"do_sample": False}, {"temperature": 0.0}, {"stop": [[1]]}):
        assert GenerationOptions(3, **keys).greedy
    for keys in ({"do_sample": True}, {"temperature": 0.1}, {"num_beams": 2}, {"repetition_penalty": 1.1}):
        assert not GenerationOptions(3, **keys).greedy


def test_logarithms_of_shares():
    scores = np.array([[1000.0, 1001.0], [-np.inf, 2.0]])
    np.testing.assert_allclose(np.exp(log_softmax(scores)), [[1 / (1 + np.e), np.e / (1 + np.e)], [0, 1]])
