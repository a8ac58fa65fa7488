"""Scores of texts: equal to what one reading of the whole text gives, whatever it is cut into."""

import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import KERAS, LM, ROBERTA, TORCH, XLM, XLNET, assert_close, each_side, random_weights

from xlcore.errors import ConfigError, ShapeError
from xlcore.tasks.scoring import Reading, SentenceScore, TextScore, segments, streams, windows

IDS = np.random.default_rng(0).integers(2, 31, 38)
FROM_NOTHING = {"mem_len": 50, "same_length": False, "initial_memory": "empty"}
WORDS, ROBERTA_WORDS, GUESSES = XLM["word_lm"], ROBERTA["decoder_lm"], XLNET["permutation_lm"]


def losses_of(side, model, ids, **more):
    """Return the loss of each word but the first, of one call for the whole text."""
    output = side.run(model, {"input_ids": ids[None], **more})
    scores = next(output[name] for name in ("prediction_scores", "logits") if name in output)[0].astype("float64")
    scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return -np.take_along_axis(scores[:-1], ids[1:, None], axis=-1)[:, 0]


def guessed_losses(side, model, ids):
    """Return the same for XLNet: each word from those before it, by its two streams."""
    T = len(ids)
    masks = {"perm_mask": np.triu(np.ones((1, T, T), "float32")), "target_mapping": np.eye(T, dtype="float32")[None]}
    scores = side.run(model, {"input_ids": ids[None], **masks})["logits"][0]
    scores = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return -np.take_along_axis(scores, ids[:, None], axis=-1)[1:, 0]


def near(one, other):
    assert_close(np.array(one), np.array(other), "float64")


# -------------------------------------------------------------------------------------------------- with memory


@each_side
def test_segments_with_memory_give_the_score_of_the_whole_text(side):
    """Whatever the segments and streams: each stream is a text of its own; nothing is left out."""
    model = side.model(LM, LM.config(**FROM_NOTHING), dtype="float64")
    wanted = losses_of(side, model, IDS)
    for tgt_len in (15, 37, 64):  # the last one shorter, whole, one that is longer than the text
        found = side.towers.score(model, IDS, tgt_len=tgt_len)
        near(found.loss, wanted.mean())
        assert (found.tokens, found.length) == (37, 38)
    found = side.towers.score(model, IDS, tgt_len=9, batch_size=3)
    parts = [losses_of(side, model, IDS[start:stop]) for start, stop in ((0, 14), (13, 26), (25, 38))]
    near(found.loss, np.concatenate(parts).mean())
    assert found.tokens == 37


@each_side
def test_the_authors_way(side):
    """What fills no stream is left out, and the first word of each; memory and its start are those of the config."""
    config = LM.config(mem_len=6, clamp_len=4, same_length=True)
    model = side.model(LM, config, dtype="float64")
    found = side.towers.score(model, side.native(IDS), tgt_len=4, batch_size=5, drop_remainder=True)
    rows, total, mems = IDS[:35].reshape(5, 7), 0.0, None
    for start in (0, 4):
        stop = min(start + 4, 6)
        more = {} if mems is None else {"mems": mems}
        labels = rows[:, start : stop + 1]
        output = side.run(model, {"input_ids": rows[:, start:stop], "labels": labels, **more})
        total += output["losses"].sum()
        mems = [output[f"mems.{layer}"] for layer in range(config.n_layer)]
    near(found.loss, total / 30)
    assert (found.tokens, found.length) == (30, 38)


@each_side
def test_other_settings_are_those_of_another_config_and_are_set_back(side):
    model = side.model(LM, dtype="float64")
    changed = {"mem_len": 3, "clamp_len": 2, "same_length": False}
    other = side.model(LM, LM.config(**changed), dtype="float64")
    found = side.towers.score(model, IDS, tgt_len=4, **changed)
    near(found.loss, side.towers.score(other, IDS, tgt_len=4).loss)
    assert abs(found.loss - side.towers.score(model, IDS, tgt_len=4).loss) > 1e-4
    assert model.config == LM.config()
    assert model.transformer.mem_len == LM.config().mem_len


@pytest.mark.parametrize("case", [LM, GUESSES], ids=str)
@each_side
def test_no_memory_is_none_at_all(side, case):
    """A `mem_len` of 0 that is asked for is that of a config: windows."""
    keys = {"same_length": False} if case is LM else {}
    model = side.model(case, case.config(mem_len=5, **keys), dtype="float64")
    plain = side.model(case, case.config(mem_len=0, **keys), dtype="float64")
    wanted = side.towers.score(plain, IDS, tgt_len=4).loss
    near(side.towers.score(model, IDS, tgt_len=4, mem_len=0).loss, wanted)
    near(side.towers.score(model, IDS, tgt_len=4, stride=2).loss, wanted)
    sentence = side.towers.score_sentences(model, [IDS], tgt_len=4, mem_len=0)[0]
    near(-sentence.log_probability / 37, wanted)
    assert abs(side.towers.score(model, IDS, tgt_len=4).loss - wanted) > 1e-4
    near(side.towers.score(plain, IDS, tgt_len=4, mem_len=5).loss, side.towers.score(model, IDS, tgt_len=4).loss)
    with pytest.raises(
        ConfigError, match=r"^score: windows must be read without mem_len and same_length, got mem_len=0"
    ):
        side.towers.score(model, IDS, mem_len=0, same_length=True)


@pytest.mark.parametrize("case", [LM, GUESSES], ids=str)
@each_side
def test_what_a_training_loop_carries_is_neither_read_nor_changed(side, case):
    model = side.model(case, case.config(mem_len=5), dtype="float64")
    wanted = [side.towers.score(model, IDS, tgt_len=4, **how).loss for how in ({}, {"mem_len": 8}, {"stride": 2})]
    model.carry_memory(2)
    side.run(model, {"input_ids": IDS[:8].reshape(2, 4)})
    carried = model.body().carried
    before = [side.numpy(state).copy() for state in carried.states()]
    found = [side.towers.score(model, IDS, tgt_len=4, **how).loss for how in ({}, {"mem_len": 8}, {"stride": 2})]
    near(found, wanted)
    assert carried.active
    assert model.body().mem_len == 5
    assert max(np.abs(each).max() for each in before) > 0
    for state, each in zip(carried.states(), before, strict=True):
        np.testing.assert_array_equal(side.numpy(state), each)


def test_each_part_learns_on_as_before():
    model = TORCH.model(LM)
    model.train()
    model.carry_memory(4)
    model.transformer.embedding.eval()
    before = {name: part.training for name, part in model.named_modules()}
    TORCH.towers.score(model, IDS)
    assert {name: part.training for name, part in model.named_modules()} == before
    with pytest.raises(ShapeError):
        TORCH.towers.score(model, [4, 31])
    assert {name: part.training for name, part in model.named_modules()} == before


@each_side
def test_a_sliding_window_sees_so_many_words_and_no_more(side):
    """Each word from the `tgt_len` before it, anew; the first ones from those that there are."""
    model = side.model(LM, dtype="float64")
    found = side.towers.score(model, IDS[:20], tgt_len=7, window=True, batch_size=4)
    plain = side.model(LM, LM.config(mem_len=0, same_length=False), dtype="float64")
    last = [losses_of(side, plain, IDS[end - 8 : end])[-1] for end in range(9, 21)]
    near(found.loss, np.concatenate([losses_of(side, plain, IDS[:8]), last]).mean())
    assert found.tokens == 19
    further = side.towers.score(model, IDS[:20], tgt_len=7, stride=6, batch_size=2)
    parts = [
        losses_of(side, plain, IDS[:8]),
        losses_of(side, plain, IDS[6:14])[1:],
        losses_of(side, plain, IDS[12:20])[1:],
    ]
    near(further.loss, np.concatenate(parts).mean())


@each_side
def test_xlnet_guesses_from_left_to_right(side):
    """In one segment, in several with memory, and in windows, which need no memory."""
    model = side.model(GUESSES, GUESSES.config(mem_len=50), dtype="float64")
    wanted = guessed_losses(side, model, IDS)
    for tgt_len in (37, 15):
        near(side.towers.score(model, IDS, tgt_len=tgt_len).loss, wanted.mean())
    forgetful = side.model(GUESSES, GUESSES.config(mem_len=None), dtype="float64")
    found = side.towers.score(forgetful, IDS, tgt_len=20, batch_size=2)  # windows, half a window on
    parts = [wanted[:20], guessed_losses(side, model, IDS[10:31])[10:], guessed_losses(side, model, IDS[20:])[10:]]
    near(found.loss, np.concatenate(parts).mean())


@each_side
def test_xlnet_forgets_nothing_between_segments(side):
    """Whatever part of a segment `reuse_len` keeps in training."""
    model = side.model(GUESSES, GUESSES.config(mem_len=50, reuse_len=4), dtype="float64")
    near(side.towers.score(model, IDS, tgt_len=8).loss, guessed_losses(side, model, IDS).mean())
    assert model.config.reuse_len == 4


# ------------------------------------------------------------------------------------------------ without memory


@pytest.mark.parametrize("case", [WORDS, ROBERTA_WORDS], ids=str)
@each_side
def test_models_of_fixed_length_read_windows_that_overlap(side, case):
    config = case.config(**({"causal": True} if case is WORDS else {"is_decoder": True}))
    model = side.model(case, config, dtype="float64")
    more = (lambda ids: {"langs": np.zeros((1, len(ids)), "int64")}) if case is WORDS else (lambda ids: {})
    found = side.towers.score(model, IDS, tgt_len=12, batch_size=2)
    spans = [(0, 13, 0), (6, 19, 6), (12, 25, 6), (18, 31, 6), (24, 37, 6), (30, 38, 6)]
    parts = [losses_of(side, model, IDS[start:stop], **more(IDS[start:stop]))[known:] for start, stop, known in spans]
    near(found.loss, np.concatenate(parts).mean())
    assert found.tokens == 37
    near(side.towers.score(model, IDS[:13]).loss, losses_of(side, model, IDS[:13], **more(IDS[:13])).mean())
    assert side.towers.score(model, IDS).tokens == 37
    with pytest.raises(ConfigError, match=r"score: tgt_len must be at most the model's 16 positions, got 17$"):
        side.towers.score(model, IDS, tgt_len=17)
    with pytest.raises(
        ConfigError, match=r"score: mem_len, same_length must be given for models with relative positions only$"
    ):
        side.towers.score(model, IDS, mem_len=4, same_length=True)


@pytest.mark.parametrize(
    ("case", "keys"),
    [(WORDS, {"causal": True}), (ROBERTA_WORDS, {"is_decoder": True}), (GUESSES, {"mem_len": None})],
    ids=str,
)
@each_side
def test_windows_leave_out_no_remainder(side, case, keys):
    model = side.model(case, case.config(**keys))
    message = (
        "score: drop_remainder must be false for windows, which leave out nothing, got true; models without memory"
    )
    with pytest.raises(ConfigError, match=f"^{message} read windows$"):
        side.towers.score(model, IDS, drop_remainder=True)


@each_side
def test_a_word_that_is_padding_elsewhere_counts_as_a_word(side):
    """In XLM, as in `generate`."""
    config = WORDS.config(causal=True)
    model, ids = side.model(WORDS, config, dtype="float64"), IDS[:9].copy()
    ids[[2, 5]] = config.pad_token_id
    given = {"langs": np.zeros((1, 9), "int64"), "attention_mask": np.ones((1, 9), "int64")}
    wanted = losses_of(side, model, ids, **given)
    assert np.abs(losses_of(side, model, ids, langs=given["langs"]) - wanted).max() > 1e-4
    near(side.towers.score(model, ids).loss, wanted.mean())
    found = side.towers.score_sentences(model, [ids, IDS[:5]])
    near(-found[0].log_probability, wanted.sum())
    near(found[1].log_probability, side.towers.score_sentences(model, [IDS[:5]])[0].log_probability)


@each_side
def test_the_language_of_a_text(side):
    """That which is told, or the config's; a text and sentences alike."""
    config = WORDS.config(causal=True, lang_id=1)
    weights = random_weights(WORDS, config, seed=3)
    model, ids = side.model(WORDS, config, dtype="float64", weights=weights), IDS[:9]
    wanted = [losses_of(side, model, ids, langs=np.full((1, 9), lang)) for lang in range(3)]
    assert np.abs(wanted[2] - wanted[1]).max() > 1e-4
    for lang, losses in ((None, wanted[1]), (0, wanted[0]), (2, wanted[2])):
        near(side.towers.score(model, ids, lang=lang).loss, losses.mean())
        near(-side.towers.score_sentences(model, [ids], lang=lang)[0].log_probability, losses.sum())
    for lang, told in ((3, r"lie in \[0, n_langs=3\), got 3"), (-1, "be at least 0, got -1"), ("fr", "be a whole num")):
        with pytest.raises(ConfigError, match=f"^score: lang must {told}"):
            side.towers.score(model, ids, lang=lang)
    for score, text in ((side.towers.score, ids), (side.towers.score_sentences, [ids])):
        with pytest.raises(ConfigError, match=r"^score: lang must be given for models with languages only, got 0$"):
            score(side.model(LM), text, lang=0)


# ------------------------------------------------------------------------------------------------------ sentences


@pytest.mark.parametrize("case", [LM, GUESSES, ROBERTA_WORDS], ids=str)
@each_side
def test_a_sentence_scores_as_it_does_alone(side, case):
    """In a batch of sentences of other lengths, and in segments."""
    keys = FROM_NOTHING if case is LM else {"mem_len": 50} if case is GUESSES else {"is_decoder": True}
    model = side.model(case, case.config(**keys), dtype="float64")
    spans = [(0, 5), (3, 16), (7, 8), (20, 33), (30, 33)]
    options = {} if case is ROBERTA_WORDS else {"tgt_len": 8}
    found = side.towers.score_sentences(model, [IDS[a:b] for a, b in spans], batch_size=3, **options)
    direct = guessed_losses if case is GUESSES else losses_of
    for (first, stop), each in zip(spans, found, strict=True):
        wanted = direct(side, model, IDS[first:stop]).sum() if stop - first > 1 else 0.0
        near(each.log_probability, -wanted)
        assert each.tokens == stop - first - 1
    assert side.towers.score_sentences(model, []) == []


@each_side
def test_a_sentence_longer_than_a_model_is_read_in_windows(side):
    model = side.model(ROBERTA_WORDS, ROBERTA_WORDS.config(is_decoder=True), dtype="float64")
    short, long = side.towers.score_sentences(model, [IDS[:4], IDS])
    near(-long.log_probability, 37 * side.towers.score(model, IDS).loss)
    near(short.log_probability, -losses_of(side, model, IDS[:4]).sum())


# -------------------------------------------------------------------------------------------------------- refusals


@each_side
def test_what_cannot_be_scored(side):
    towers, model = side.towers, side.model(LM)
    for case, keys in ((WORDS, {"causal": False}), (ROBERTA_WORDS, {"is_decoder": False}), (XLNET["base"], {})):
        other = side.model(case, case.config(**keys))
        name = side.model_class(case).__name__
        with pytest.raises(ConfigError, match=rf"score: model must be a language model of .*, got {name}$"):
            towers.score(other, IDS)
    other = (KERAS if side is TORCH else TORCH).model(LM)
    with pytest.raises(ConfigError, match=rf"score: model must be a language model of .*, got {type(other).__name__}$"):
        towers.score(other, IDS)
    with pytest.raises(ConfigError, match=r"score: model must be a language model of .*, got SimpleNamespace$"):
        towers.score_sentences(SimpleNamespace(), [IDS])
    for count in ("a", -5, 0, 2.5):
        condition = "be positive" if isinstance(count, int) else "be a whole number"
        with pytest.raises(ConfigError, match=rf"^score: characters must {condition}, got {count!r}$"):
            towers.score(model, IDS, characters=count)
    both = side.model(GUESSES, GUESSES.config(bi_data=True))
    with pytest.raises(ConfigError, match=r"score: bi_data must be false for a text that is read in one direction"):
        towers.score(both, IDS)
    for ids, got in ((IDS[None], r"int64 \[1, 38\]"), (IDS / 2, r"float64 \[38\]"), (IDS[:1], r"int64 \[1\]")):
        with pytest.raises(ShapeError, match=rf"score: ids must be a row of two ids or more, got {got}$"):
            towers.score(model, ids)
    with pytest.raises(ShapeError, match=r"score: ids must lie in \[0, 31\), got 31$"):
        towers.score(model, [4, 31])
    with pytest.raises(ShapeError, match=r"score: sentences\[1\] must lie in \[0, 31\), got -2$"):
        towers.score_sentences(model, [[4, 3], [-2, 3]])
    with pytest.raises(ShapeError, match=r"score: ids must be 41 or more for 40 streams, got 38$"):
        towers.score(model, IDS, batch_size=40)
    with pytest.raises(ShapeError, match=r"score: ids must be 60 or more for 30 streams, got 38$"):
        towers.score(model, IDS, batch_size=30, drop_remainder=True)


@each_side
def test_sentences_that_are_none(side):
    model = side.model(LM)
    for sentences, got in ((5, "5"), (None, "None")):
        with pytest.raises(ShapeError, match=rf"^score: sentences must be a list of rows of ids, got {got}$"):
            side.towers.score_sentences(model, sentences)
    with pytest.raises(ShapeError, match=r"^score: sentences must be a list of rows of ids, got "):
        side.towers.score_sentences(model, side.native(np.array(5)))
    for sentences, got in (
        ([[2, 3], [4, [5]]], r"1\] must be a row of ids, got \[4, \[5\]\]"),
        ("a", r"0\] must be a row of"),
    ):
        with pytest.raises(ShapeError, match=rf"^score: sentences\[{got}"):
            side.towers.score_sentences(model, sentences)
    with pytest.raises(ShapeError, match=r"^score: ids must be a row of two ids or more, got \[4, \[5\]\]$"):
        side.towers.score(model, [4, [5]])


def test_what_is_compiled_is_read_as_it_is():
    torch, model = pytest.importorskip("torch"), TORCH.model(LM)
    compiled, calls = torch.compile(model, backend=lambda *given: calls.append(given)), []
    assert TORCH.towers.score(compiled, IDS) == TORCH.towers.score(model, IDS)
    assert TORCH.towers.score_sentences(compiled, [IDS]) == TORCH.towers.score_sentences(model, [IDS])
    assert calls == []


NONSENSE = {
    "batch_size must be positive, got 0": {"batch_size": 0},
    "tgt_len must be a whole number, got 2.5": {"tgt_len": 2.5},
    "stride must be positive, got 0": {"stride": 0},
    "windows must be read without mem_len and same_length, got mem_len=4, same_length=None": {
        "stride": 1,
        "mem_len": 4,
    },
    "drop_remainder must be false for windows, which leave out nothing, got true; models without memory read windows": {
        "window": 1,
        "drop_remainder": True,
    },
}


@pytest.mark.parametrize(("message", "keys"), NONSENSE.items())
def test_options_that_make_no_sense(message, keys):
    with pytest.raises(ConfigError) as error:
        Reading(**keys)
    assert str(error.value) == f"score: {message}"


def test_a_stride_that_leaves_words_out():
    with pytest.raises(
        ConfigError, match=r"score: stride must be at most tgt_len=4, for no word to be left out, got 5$"
    ):
        Reading(tgt_len=4, stride=5).settings(True, None)


# --------------------------------------------------------------------------------------- what is read when, figures


@pytest.mark.parametrize("count", [11, 12, 31])
@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_every_word_but_the_first_is_predicted_once(batch_size, count):
    text = np.arange(count)
    rows = streams(text, batch_size, False)
    for batches in (segments(rows, 3), windows([text], 5, 2, batch_size)):
        seen = []
        for inputs, labels in batches:
            assert inputs.shape == labels.shape
            where = labels >= 0
            assert (inputs[where] == labels[where] - 1).all()
            seen += labels[where].tolist()
        assert sorted(seen) == list(range(1, count))


def test_figures():
    found = TextScore(loss=math.log(8), tokens=9, length=10, characters=40, words=5)
    figures = {
        "loss": math.log(8),
        "perplexity": 8.0,
        "bits_per_token": 3.0,
        "bits_per_character": 0.75,
        "bits_per_word": 6.0,
    }
    counts = {"tokens": 9, "length": 10, "characters": 40, "words": 5}
    assert found.to_dict() == pytest.approx({**figures, **counts})
    assert TextScore(1.0, 3, 4).to_dict().keys() == {"loss", "perplexity", "bits_per_token", "tokens", "length"}
    assert TextScore(1e4, 3, 4).perplexity == math.inf
    assert math.isnan(TextScore(math.nan, 3, 4).perplexity)
    assert math.isnan(SentenceScore(math.nan, 2).perplexity)
    assert SentenceScore(-2 * math.log(5), 2).perplexity == pytest.approx(5.0)
    assert SentenceScore(0.0, 0).perplexity == 1.0


def test_progress_is_for_terminals(capsys, monkeypatch):
    scoring = import_module("xlcore.tasks.scoring")
    reader = SimpleNamespace(read=lambda inputs, labels: None, totals=lambda: np.zeros(1))
    scoring.add_up(segments([np.arange(5)], 2), reader, 4, True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    scoring.add_up(segments([np.arange(5)], 2), reader, 4, True)
    assert "score" in capsys.readouterr().err
