"""XLM's batches against the tables of the authors' code, and the objectives by what they promise."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from xlcore.errors import ConfigError, ShapeError
from xlcore.shapes import IGNORED_LABEL
from xlcore.tasks.cross_lingual import (
    CrossLingualBatches,
    CrossLingualSettings,
    Masking,
    add_noise,
    causal_labels,
    language_shares,
    mask_for_evaluation,
)
from xlcore.tasks.parallel_text import (
    EOS,
    MASK,
    PAD,
    Sentences,
    batch_sentences,
    cut_sentences,
    cut_stream,
    index_lines,
    join_pairs,
)

SENTENCES = [np.array([20, 21, 22]), np.array([23, 24]), np.array([25, 26, 27, 28])]
FLAT = np.array([20, 21, 22, 1, 23, 24, 1, 25, 26, 27, 28, 1])
FIRST = batch_sentences([np.array([10, 11]), np.array([12])])
SECOND = batch_sentences([np.array([20]), np.array([21, 22, 23])])
NUMBERS = {"a": 14, "b": 15, "<unk>": 3, "<special1>": 5}


def text(count: int, seed: int) -> Sentences:
    rng = np.random.default_rng(seed)
    lines = [" ".join(map(str, rng.integers(14, 90, rng.integers(1, 9)))) for _ in range(count)]
    return index_lines(lines, lambda line: [int(word) for word in line.split()])


class TestLayout:
    def test_a_text_is_indexed(self, caplog: pytest.LogCaptureFixture) -> None:
        found = index_lines(["a b", "", "a <special1> <unk>"], lambda line: [NUMBERS[word] for word in line.split()])
        assert found.ids.tolist() == [14, 15, 1, 1, 14, 3, 1]
        assert [found[number].tolist() for number in range(len(found))] == [[14, 15], [], [14, 3]]
        assert "should hold no reserved words, got 1" in caplog.text

    def test_streams(self) -> None:
        one = cut_stream(FLAT, 1, 4)
        assert one.tolist() == [[[1, 20, 21, 22]], [[1, 23, 24, 1]], [[25, 26, 27, 28]]]
        two = cut_stream(FLAT, 2, 4)
        assert two.tolist() == [[[1, 1, 1, 1], [1, 23, 24, 1]], [[1, 20, 21, 22], [25, 26, 27, 28]]]
        with pytest.raises(ShapeError, match="ids, batch_size and length must be at least 1, got 0, 2, 4"):
            cut_stream(FLAT[:0], 2, 4)

    def test_sentences(self) -> None:
        ids, lengths = batch_sentences(SENTENCES)
        assert ids.tolist() == [[1, 20, 21, 22, 1, 2], [1, 23, 24, 1, 2, 2], [1, 25, 26, 27, 28, 1]]
        assert lengths.tolist() == [5, 4, 6]
        cut, cut_lengths = cut_sentences(ids, lengths, 4)
        assert cut.tolist() == [[1, 20, 21, 1], [1, 23, 24, 1], [1, 25, 26, 1]]
        assert cut_lengths.tolist() == [4, 4, 4]

    def test_translations(self) -> None:
        joined = join_pairs(FIRST, SECOND, (0, 1), reset_positions=True)
        assert joined.input_ids.tolist() == [[1, 10, 11, 1, 1, 20, 1, 2], [1, 12, 1, 1, 21, 22, 23, 1]]
        assert joined.lengths.tolist() == [7, 8]
        assert joined.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 0, 1, 2, 3, 4]]
        assert joined.langs.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]

    def test_pairs_of_sentences(self) -> None:
        joined = join_pairs(FIRST, SECOND, (0, 1), reset_positions=False)
        assert joined.input_ids.tolist() == [[1, 10, 11, 1, 20, 1, 2], [1, 12, 1, 21, 22, 23, 1]]
        assert joined.lengths.tolist() == [6, 7]
        assert joined.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6]] * 2
        assert joined.langs.tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]]
        with pytest.raises(ShapeError, match="both must have as many sentences, got 2 and 1"):
            join_pairs(FIRST, batch_sentences(SENTENCES[:1]), (0, 1), reset_positions=True)


class TestMasking:
    IDS = np.random.default_rng(0).integers(14, 500, (40, 60))

    def test_shares(self) -> None:
        hidden, labels = Masking(500)(self.IDS, np.random.default_rng(1))
        chosen = labels != IGNORED_LABEL
        assert not chosen[:, 0].any()
        assert 0.13 < chosen[:, 1:].mean() < 0.17
        assert (labels[chosen] == self.IDS[chosen]).all()
        assert (hidden[~chosen] == self.IDS[~chosen]).all()
        assert 0.74 < (hidden[chosen] == MASK).mean() < 0.86
        assert 0.05 < (hidden[chosen] == self.IDS[chosen]).mean() < 0.16

    def test_what_is_never_chosen(self) -> None:
        ids = np.where(np.arange(60) >= 50, PAD, np.where(np.arange(60) % 5 == 4, EOS, self.IDS))
        _, labels = Masking(500, share=1.0, predict_ends=False, random_reserved=False)(ids, np.random.default_rng(1))
        chosen = labels != IGNORED_LABEL
        assert (chosen == ((ids != PAD) & (ids != EOS) & (np.arange(60) > 0))).all()
        _, labels = Masking(500, share=1.0)(ids, np.random.default_rng(1))
        assert ((labels == EOS) == ((ids == EOS) & (np.arange(60) > 0))).all()

    def test_random_words(self) -> None:
        hidden, _ = Masking(20, share=1.0, shares=(0, 0, 1))(self.IDS % 6 + 14, np.random.default_rng(1))
        assert set(hidden[:, 1:].ravel().tolist()) == set(range(20))
        no_reserved = Masking(20, share=1.0, shares=(0, 0, 1), random_reserved=False)
        hidden, _ = no_reserved(self.IDS % 6 + 14, np.random.default_rng(1))
        assert set(hidden[:, 1:].ravel().tolist()) == set(range(14, 20))

    def test_rare_words_are_chosen_more_often(self) -> None:
        counts = np.zeros(16)
        counts[14:] = 1, 100
        ids = np.random.default_rng(0).integers(14, 16, (50, 50))
        _, labels = Masking(16, counts=counts)(ids, np.random.default_rng(1))
        found = Counter(labels[labels != IGNORED_LABEL].tolist())
        assert found[14] > 5 * found[15]
        # exactly as many places as asked for, but for those that fall on the first position
        first = np.ceil(0.15 * 2500) - sum(found.values())
        assert 0 <= first <= 50

    def test_few_words_to_choose_from(self) -> None:
        counts = np.zeros(16)
        counts[14] = 1
        ids = np.array([[EOS, 15, 14, 15]])
        _, labels = Masking(16, share=0.9, counts=counts)(ids, np.random.default_rng(1))
        assert labels.tolist() == [[-100, -100, 14, -100]]

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"share": 1.5}, "share must lie in"),
            ({"shares": (0.5, 0.5, 0.5)}, "shares must be three parts of 1"),
            ({"counts": np.ones(3)}, r"counts must have shape \[500\], got \[3\]"),
        ],
    )
    def test_errors(self, keys: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=f"Masking: {message}"):
            Masking(500, **keys)

    def test_evaluation(self) -> None:
        ids, lengths = batch_sentences([np.arange(20, 20 + size) for size in (1, 2, 9, 30, 0)])
        hidden, labels = mask_for_evaluation(ids, lengths, np.random.default_rng(0))
        chosen = labels != IGNORED_LABEL
        assert (chosen.sum(-1) > 0).tolist() == [True, True, True, True, False]
        assert (hidden[chosen] == MASK).all()
        assert (labels[chosen] == ids[chosen]).all()
        assert (ids[chosen] >= 14).all()

    def test_next_words(self) -> None:
        ids, lengths = batch_sentences(SENTENCES[:2])
        assert causal_labels(ids, lengths).tolist() == [[20, 21, 22, 1, -100], [23, 24, 1, -100, -100]]
        assert causal_labels(ids, lengths, 2).tolist() == [[-100, -100, 22, 1, -100], [-100, -100, 1, -100, -100]]


class TestNoise:
    def test_words_move_a_little_and_some_go(self) -> None:
        ids, lengths = batch_sentences([np.arange(100, 140)])
        moved, same = add_noise(ids, lengths, np.random.default_rng(0), shuffle=3, drop=0, blank=0)
        assert sorted(moved[0, 1:-1]) == list(range(100, 140))
        assert moved[0].tolist() != ids[0].tolist()
        assert np.abs(moved[0, 1:-1] - ids[0, 1:-1]).max() <= 3
        assert same.tolist() == lengths.tolist()
        _, fewer = add_noise(ids, lengths, np.random.default_rng(0), shuffle=0, drop=0.5, blank=0)
        assert 10 < fewer[0] < 35

    def test_a_sentence_keeps_a_word(self) -> None:
        ids, lengths = batch_sentences([np.array([50, 51]), np.array([], "int64")])
        noisy, short = add_noise(ids, lengths, np.random.default_rng(0), shuffle=0, drop=1.0, blank=1.0)
        assert noisy.tolist() == [[1, MASK, 1], [1, 1, 2]]
        assert short.tolist() == [3, 2]


class TestBatches:
    TEXTS = {"fr": text(200, 1), "en": text(400, 2)}
    PAIRS = {("en", "fr"): (text(30, 3), text(30, 4))}
    SETTINGS = CrossLingualSettings(batch_size=4, length=16, seed=5)

    def made(self, **keys: Any) -> CrossLingualBatches:
        settings = CrossLingualSettings(**{**vars(self.SETTINGS), **keys})
        masking = None if settings.objective == "clm" else Masking(100)
        return CrossLingualBatches(self.TEXTS, self.PAIRS, masking, settings)

    def test_the_same_whatever_was_asked_for_before(self) -> None:
        one, other = self.made(), self.made()
        for number in (1500, 7, 0):
            for name, array in one.batch(number).items():
                assert (array == other.batch(number)[name]).all(), name
        assert one.batch(3)["input_ids"].tolist() != self.made(seed=6).batch(3)["input_ids"].tolist()

    def test_languages_come_in_rounds(self) -> None:
        """Two batches of single languages, the larger text more often, then one of translations, however few."""
        batches = self.made()
        assert batches.languages == {"en": 0, "fr": 1}
        kinds = [tuple(np.unique(batches.batch(number)["langs"])) for number in range(300)]
        assert set(kinds[2::3]) == {(0, 1)}
        counts = Counter(kinds[0::3] + kinds[1::3])
        assert set(counts) == {(0,), (1,)}
        assert counts[(0,)] / 200 == pytest.approx(1 / (1 + 0.5**0.7), abs=0.09)

    def test_a_round_has_five_of_each_kind_at_most(self) -> None:
        texts = {f"l{number}": text(20, number) for number in range(7)}
        batches = CrossLingualBatches(texts, self.PAIRS, Masking(100), self.SETTINGS)
        mixed = [len(np.unique(batches.batch(number)["langs"])) == 2 for number in range(18)]
        assert mixed == ([False] * 5 + [True]) * 3

    @pytest.mark.parametrize("grouped", [True, False])
    def test_translations_are_put_together_anew_in_each_turn(self, grouped: bool) -> None:
        """Each pair once a turn; those of like length together, unless told otherwise."""
        pairs = (text(90, 3), text(90, 4))
        settings = CrossLingualSettings(batch_size=4, objective="clm", group_by_size=grouped)
        batches = CrossLingualBatches({}, {("en", "fr"): pairs}, None, settings)
        turns, spread = [], []
        for turn in range(2):
            found = [batches.batch(23 * turn + number) for number in range(23)]
            rows = [frozenset(row[row != PAD].tobytes() for row in batch["input_ids"]) for batch in found]
            assert sum(map(len, rows)) == len(frozenset.union(*rows)) == 90
            spread += [np.ptp(batch["attention_mask"].sum(-1)) for batch in found]
            turns.append((rows, frozenset.union(*rows)))
        assert turns[0][1] == turns[1][1]
        assert not set(turns[0][0]) & set(turns[1][0]) or grouped
        assert turns[0][0] != turns[1][0]
        assert (np.mean(spread) < 1) == grouped

    def test_threads_get_the_same_batches(self) -> None:
        alone, shared = self.made(), self.made()
        numbers = [2000, 0, 3000, 1, 1023, 5000, 900, 64]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(shared.batch, numbers))
        for number, batch in zip(numbers, found, strict=True):
            for name, array in alone.batch(number).items():
                np.testing.assert_array_equal(batch[name], array)

    def test_a_text_is_read_whole_before_any_of_it_again(self) -> None:
        batches = CrossLingualBatches({"en": self.TEXTS["en"]}, {}, None, CrossLingualSettings(4, 16, objective="clm"))
        count = len(cut_stream(self.TEXTS["en"].ids, 4, 16))
        for turn in range(2):
            seen = {batches.batch(turn * count + number)["input_ids"].tobytes() for number in range(count)}
            assert len(seen) == count
        first, second = (
            [batches.batch(turn * count + n)["input_ids"].tobytes() for n in range(count)] for turn in (0, 1)
        )
        assert first != second

    def test_next_words_of_a_batch(self) -> None:
        batch = self.made(objective="clm").batch(0)
        assert (batch["labels"][:, :-1][batch["labels"][:, :-1] >= 0]).size
        ids, labels = batch["input_ids"], batch["labels"]
        known = labels[:, :-1] != IGNORED_LABEL
        assert (labels[:, :-1][known] == ids[:, 1:][known]).all()

    def test_translations_have_positions_of_their_own(self) -> None:
        batches = CrossLingualBatches({}, self.PAIRS, Masking(100), self.SETTINGS)
        batch = batches.batch(0)
        starts = np.diff(batch["langs"], axis=-1) == 1
        assert (batch["position_ids"][:, 1:][starts] == 0).all()
        assert starts.any(-1).all()

    def test_errors(self) -> None:
        with pytest.raises(ConfigError, match="texts or pairs must hold a text, got none"):
            CrossLingualBatches({}, {}, Masking(100), self.SETTINGS)
        with pytest.raises(ConfigError, match="masking must be given for 'mlm' only, got None"):
            CrossLingualBatches(self.TEXTS, {}, None, self.SETTINGS)
        with pytest.raises(ConfigError, match="objective must be 'mlm' or 'clm', got 'nsp'"):
            CrossLingualSettings(objective="nsp")
        for pairs, message in (
            ({("en", "fr"): (text(3, 1), text(4, 1))}, "must have as many sentences, got 3 and 4"),
            ({("en", "en"): (text(3, 1), text(3, 1))}, "must be of two languages, got one"),
            (
                {("en", "fr"): (text(3, 1), index_lines([""] * 3, lambda line: []))},
                "an empty or too long side, got none",
            ),
        ):
            with pytest.raises(ConfigError, match=message):
                CrossLingualBatches({}, pairs, Masking(100), self.SETTINGS)

    def test_language_shares(self) -> None:
        assert language_shares({"a": 10, "b": 10}, 0.7) == {"a": 0.5, "b": 0.5}
        shares = language_shares({"a": 100, "b": 1}, 0.7)
        assert shares["a"] / shares["b"] == pytest.approx(100**0.7)
        assert language_shares({"a": 100, "b": 1}, -1) == {"a": 0.5, "b": 0.5}
