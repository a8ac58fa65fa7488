"""Data for pretraining in both frameworks: equal batches, loaders, transformers' own collator beside ours."""

import importlib
from dataclasses import dataclass, replace
from itertools import islice, permutations

import numpy as np
import pytest

from tests.helpers import HEADS, KERAS, TORCH, assert_close, each_side, far
from xlcore.errors import TokenizerError
from xlcore.tasks.cross_lingual import CrossLingualSettings, Masking
from xlcore.tasks.parallel_text import index_lines
from xlcore.tasks.permutation_windows import PermutationSettings, TokenStream

V = 60
STARTS = np.arange(V) % 3 != 1
# Workers are forked here, which newer Pythons warn of where there are threads.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
SETTINGS = PermutationSettings(seq_len=32, reuse_len=16, perm_size=16, num_predict=7)


@dataclass
class Vocabulary:
    """Of a tokenizer what our collator and transformers' look at."""

    mask_token: str | None = "<mask>"
    pad_token: str | None = "<pad>"
    mask_token_id: int | None = 6
    pad_token_id: int | None = 5
    padding_side: str = "left"
    all_special_ids: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)

    def get_special_tokens_mask(self, ids, already_has_special_tokens):
        return [int(each in self.all_special_ids) for each in ids]


def text(tokens=900, seed=0):
    rng = np.random.default_rng(seed)
    return TokenStream(rng.integers(9, V, tokens), np.cumsum(rng.random(tokens) < 0.2) % 2 == 0)


def dataset(side, bi_data=True, **more):
    texts, settings = [text(), text(600, 1)], replace(SETTINGS, bi_data=bi_data)
    return side.towers.PermutationLanguageModelingDataset(texts, STARTS, 4, settings, **more)


def collator(side, tokenizer=None, **keys):
    return side.towers.DataCollatorForPermutationLanguageModeling(tokenizer or Vocabulary(), **keys)


def rows(*lengths, seed=0):
    return [np.random.default_rng([seed, length]).integers(0, V, length).tolist() for length in lengths]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]), name)
        assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype


# --------------------------------------------------------------------------------------------- the authors' batches


def test_one_seed_makes_the_same_batches_in_both_frameworks():
    torch_data, keras_data = dataset(TORCH), dataset(KERAS)
    for number in (0, 1, 50):
        assert_same(torch_data[number], keras_data[number])
    keras_data.resume(torch_data.state(20))
    assert_same(torch_data[23], keras_data[3])


@each_side
def test_a_loop_goes_on_without_end(side):
    data = dataset(side)
    found = list(islice(data, 60))
    assert data.place(59)[0] >= 1
    for number in (0, 30, 59):
        assert_same(found[number], data.batch(number))


@forks
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_keeps_the_order(workers):
    data = dataset(TORCH)
    from torch.utils.data import DataLoader

    loader = DataLoader(data, batch_size=None, sampler=range(3, 9), num_workers=workers)
    found = list(loader)
    assert len(found) == 6
    for number, batch in enumerate(found, 3):
        assert_same(batch, data[number])


@pytest.mark.parametrize("workers", [1, 3])
def test_fit_keeps_the_order(workers):
    """Over epochs, with threads that read ahead; what comes in is what the model sees."""
    keras = pytest.importorskip("keras")
    data, seen = dataset(KERAS, workers=workers), []

    class Watching(keras.Model):
        def train_step(self, *state_and_data):
            seen.append({name: np.asarray(value) for name, value in state_and_data[-1].items()})
            return {"loss": 0.0}

    model = Watching()
    model.compile(run_eagerly=True)
    model.fit(data, steps_per_epoch=4, epochs=2, shuffle=False, verbose=0)
    assert len(seen) == 8
    for number, batch in enumerate(seen):
        assert_same(batch, data.batch(number))


XLM_SETTINGS = CrossLingualSettings(batch_size=4, length=12, seed=5)


def sentences(count, seed, size=None):
    rng = np.random.default_rng(seed)
    lines = [rng.integers(14, V, size or rng.integers(1, 9)).tolist() for _ in range(count)]
    return index_lines(lines, lambda line: line)


def cross_lingual(side, single=True, size=None, **more):
    texts = {"en": sentences(60, 1), "fr": sentences(30, 2)} if single else {}
    pairs = {("en", "fr"): (sentences(40, 3, size), sentences(40, 4, size))}
    return side.towers.CrossLingualDataset(texts, pairs, Masking(V), XLM_SETTINGS, **more)


def test_several_languages_in_both_frameworks():
    torch_data, keras_data = cross_lingual(TORCH), cross_lingual(KERAS)
    for number in (0, 2, 30, 1500):
        assert_same(torch_data[number], keras_data[number])


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_fit_reads_batches_of_any_length(workers, single):
    """Keras' TensorFlow takes for fixed what the first two batches have in common; they are made to differ."""
    keras = pytest.importorskip("keras")
    data, seen = cross_lingual(KERAS, single, workers=workers), []

    class Watching(keras.Model):
        def train_step(self, *state_and_data):
            seen.append({name: np.asarray(value) for name, value in state_and_data[-1].items()})
            return {"loss": 0.0}

    model = Watching()
    model.compile(run_eagerly=True)
    model.fit(data, steps_per_epoch=6, epochs=2, shuffle=False, verbose=0)
    assert len({batch["labels"].shape[1] for batch in seen}) > 2
    for number, batch in enumerate(seen):
        assert_same(batch, data[number])
        if number != 1:
            assert_same(batch, data.batch(number))


@each_side
def test_a_position_of_padding_more_changes_nothing(side):
    """All pairs are of one length here, so that the second batch is made longer."""
    data = cross_lingual(KERAS, False, size=4)
    short, long = data.batch(1), data[1]
    assert long["labels"].shape[1] == short["labels"].shape[1] + 1
    case = next(case for case in HEADS if case.head.name == "XLMWithLMHeadModel")
    model = side.model(case, case.config(vocab_size=V, n_langs=2), dtype="float64")
    wanted = side.run(model, short)["loss"]
    assert_close(side.run(model, long)["loss"], wanted, "float64")


# -------------------------------------------------------------------------------------- the collator of transformers


def theirs(**keys):
    collators = pytest.importorskip("transformers.data.data_collator")
    return collators.DataCollatorForPermutationLanguageModeling(Vocabulary(), **keys)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keys", [{}, {"plm_probability": 0.3, "max_span_length": 3}, {"max_span_length": 1}], ids=str)
def test_the_same_batches_as_transformers(keys, side):
    """From the same state of PyTorch the same tensors, and the same state afterwards."""
    towers = TORCH.towers
    import torch

    tokenizer = Vocabulary(padding_side=side)
    ours = towers.DataCollatorForPermutationLanguageModeling(tokenizer, **keys)
    other = theirs(**keys)
    other.tokenizer = tokenizer
    for seed, lengths in enumerate([(12, 12, 12), (40, 7, 22), (2,), (128, 128), (64, 1)]):
        features = rows(*lengths, seed=seed)
        for given in (features, [{"input_ids": row} for row in features], [torch.tensor(row) for row in features]):
            torch.manual_seed(seed)
            wanted = other(given)
            after = torch.random.get_rng_state()
            torch.manual_seed(seed)
            found = ours(given)
            assert torch.equal(torch.random.get_rng_state(), after)
            assert found.keys() == wanted.keys()
            for name in wanted:
                assert found[name].dtype == wanted[name].dtype
                assert torch.equal(found[name], wanted[name]), name


def test_errors_where_transformers_has_them():
    """Of the same kind, ValueError."""
    for features, change in ((rows(5), {}), (rows(4), {"mask_token": None, "mask_token_id": None})):
        tokenizer = Vocabulary(**change)
        other = theirs()
        other.tokenizer = tokenizer
        with pytest.raises(ValueError, match=r"even|mask token"):
            other(features)
        with pytest.raises(ValueError, match=r"even|mask token"):
            collator(TORCH, tokenizer)(features)


# ------------------------------------------------------------------------------------------------------ our collator


def test_one_seed_collates_the_same_in_both_frameworks():
    for keys in ({}, {"corrupt_inputs": False, "compact": True, "emit_attention_mask": True}):
        ours = [collator(side, seed=3, **keys) for side in (TORCH, KERAS)]
        batches = [[each(rows(20, 14)) for _ in range(3)] for each in ours]
        for one, other in zip(*batches, strict=True):
            assert_same(one, other)
        assert not np.array_equal(*(np.asarray(batch["perm_mask"]) for batch in batches[0][:2]))


@each_side
def test_collating_goes_on_from_a_step(side):
    whole, later = collator(side, seed=1), collator(side, seed=1, step=2)
    batches = [whole(rows(20, 14)) for _ in range(4)]
    assert whole.step == 4
    assert_same(later(rows(20, 14)), batches[2])
    assert_same(later(rows(20, 14)), batches[3])


@forks
def test_workers_draw_for_themselves():
    """Else all workers, and all epochs, would choose the same targets."""
    towers = TORCH.towers
    import torch
    from torch.utils.data import DataLoader

    ours = towers.DataCollatorForPermutationLanguageModeling(Vocabulary(), seed=1)
    data = [np.full(40, 9)] * 8

    def epoch(loader):
        return [batch["labels"].tolist() for batch in loader]

    def both(seed):
        torch.manual_seed(seed)
        loader = DataLoader(data, batch_size=2, collate_fn=ours, num_workers=2)
        return epoch(loader) + epoch(loader)

    found = both(0)
    assert len({str(each) for each in found}) == 8
    assert both(0) == found
    assert both(1) != found


def test_keras_follows_its_own_seed():
    keras = pytest.importorskip("keras")
    ours = collator(KERAS)
    batches = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        batches.append(ours(rows(30, 30)))
    assert_same(batches[0], batches[1])
    assert not np.array_equal(batches[0]["perm_mask"], batches[2]["perm_mask"])


@each_side
def test_global_draws_have_the_range_that_is_asked_for(side):
    draws = importlib.import_module(f"{side.towers.__name__}.pretraining").GlobalDraws()
    assert {draws.integers(1, 6) for _ in range(300)} == {1, 2, 3, 4, 5}
    assert {tuple(np.asarray(draws.permutation(3)).tolist()) for _ in range(300)} == set(permutations(range(3)))


@each_side
def test_kinds_of_tensors(side):
    ours = collator(side, seed=0)
    kinds = {kind: type(ours(rows(8), return_tensors=kind)["input_ids"]).__module__ for kind in ("np", "pt", "tf")}
    assert kinds["np"] == "numpy"
    assert kinds["pt"] == "torch"
    assert kinds["tf"].startswith("tensorflow")
    assert type(ours(rows(8))["labels"]).__module__ == {"torch": "torch", "keras": "numpy"}[str(side)]
    with pytest.raises(TokenizerError, match="return_tensors must be 'np', 'pt' or 'tf', got 'jax'"):
        ours(rows(8), return_tensors="jax")


# -------------------------------------------------------------------------------------- what a model makes of them

XLNET = next(case for case in HEADS if case.head.name == "XLNetLMHeadModel")


def xlnet(side, dtype="float64", **keys):
    return side.model(XLNET, XLNET.config(**{"vocab_size": V, "mem_len": 24, "reuse_len": 16} | keys), dtype=dtype)


def window(batch, row):
    """Return one window of a batch, without its labels."""
    return {name: np.asarray(array)[row : row + 1] for name, array in batch.items() if name != "labels"}


def altered(batch, places):
    """Return a window as often as there are places, each time with another token at one of them, and first as it is."""
    rows = {name: np.repeat(array, 1 + len(places), axis=0) for name, array in batch.items()}
    rows["input_ids"][1 + np.arange(len(places)), places] = 8
    return rows


def reaching(mask, layers):
    """Return whose tokens reach the query of each position: those it sees, those they see, and so on."""
    sees = mask == 0
    content = sees | np.eye(len(mask), dtype=bool)
    reach = sees
    for _ in range(layers - 1):
        reach = reach @ content
    return reach


@pytest.mark.parametrize("source", ["authors", "collator"])
@each_side
def test_a_target_depends_on_what_it_may_see_and_on_nothing_else(side, source):
    """Not on itself, nor by way of others; on all the rest."""
    model = xlnet(side)
    if source == "authors":
        batch = dataset(side)[2]
    else:
        batch = collator(side, seed=0, corrupt_inputs=False)(rows(32, 32))
    places = np.arange(32)
    for row in (0, 1):
        one = window(batch, row)
        logits = side.run(model, altered(one, places))["logits"]
        changes = np.abs(logits[1:] - logits[:1]).max(axis=-1).T  # [P, T]
        mapping = one["target_mapping"][0]
        predicted = np.einsum("pt,tt->p", mapping, one["perm_mask"][0]) == 1  # those that may not see themselves
        reach = mapping @ reaching(one["perm_mask"][0], layers=2)
        assert predicted.sum() >= 3
        other = one["input_ids"][0] != 8
        assert changes[predicted][:, other][reach[predicted][:, other] == 0].max() < 1e-12
        assert changes[predicted][:, other][reach[predicted][:, other] > 0].min() > 1e-12


@each_side
def test_what_is_remembered_does_not_depend_on_what_comes(side):
    """Neither on the tokens of the second half nor on who sees whom there."""
    model, one = xlnet(side), window(dataset(side)[2], 1)
    changed = altered(one, np.arange(16, 32))
    changed["perm_mask"][3:, 16:] = 1 - changed["perm_mask"][3:, 16:]
    found = side.run(model, {**changed, "use_mems": True})
    for layer in range(2):
        memory = found[f"mems.{layer}"]
        assert memory.shape[:2] == (16, 17)
        assert far(memory, memory[:, :1] + 0 * memory) < 1e-12
    early = side.run(model, {**altered(one, [3]), "use_mems": True})["mems.1"]
    assert far(early[:, 0], early[:, 1]) > 1e-3


@each_side
def test_fewer_predictions_are_the_same_predictions(side):
    """By ones at positions, by positions, and at every position: one loss."""
    model, batch = xlnet(side), {name: np.asarray(array) for name, array in dataset(side)[1].items()}
    places = np.where(batch["target_mapping"].any(-1), batch["target_mapping"].argmax(-1), -1)
    labels = np.full((4, 32), -100)
    for row in range(4):
        counted = batch["labels"][row] != -100
        labels[row, places[row][counted]] = batch["labels"][row][counted]
    everywhere = np.tile(np.eye(32, dtype="float32"), (4, 1, 1))
    wanted = side.run(model, batch)["loss"]
    assert wanted > 1
    assert_close(side.run(model, {**batch, "target_mapping": places})["loss"], wanted, "float64")
    whole = {**batch, "target_mapping": everywhere, "labels": labels}
    assert_close(side.run(model, whole)["loss"], wanted, "float64")


@each_side
def test_each_row_remembers_its_own_text(side):
    """Two windows after each other: each row as if it stood alone."""
    model, data = xlnet(side), dataset(side, bi_data=False)
    zeros = [np.zeros((24, 4, 12), "float32")] * 2
    first, second = ({k: np.asarray(v) for k, v in data[number].items() if k != "labels"} for number in (0, 1))
    found = side.run(model, {**first, "mems": zeros, "use_mems": True})
    together = side.run(model, {**second, "mems": [found["mems.0"], found["mems.1"]]})["logits"]
    for row in range(4):
        alone = side.run(model, {**window(first, row), "mems": [each[:, :1] for each in zeros], "use_mems": True})
        assert_close(alone["mems.1"][:, 0], found["mems.1"][:, row], "float64")
        later = side.run(model, {**window(second, row), "mems": [alone["mems.0"], alone["mems.1"]]})["logits"]
        assert_close(later[0], together[row], "float64")
    forgotten = side.run(model, {**second, "mems": zeros})["logits"]
    assert far(forgotten, together) > 1e-3


@each_side
def test_a_row_read_backwards_is_its_mirror(side):
    """With bi_data, the second half of a batch: same scores where all is turned round."""
    model, one = xlnet(side, bi_data=True), window(dataset(side)[0], 0)
    mirror = {name: array[..., ::-1] for name, array in one.items()}
    mirror["perm_mask"] = one["perm_mask"][:, ::-1, ::-1]
    logits = side.run(model, {name: np.concatenate([one[name], mirror[name]]) for name in one})["logits"]
    assert_close(logits[1], logits[0], "float64")
    forwards = side.run(xlnet(side), {name: np.concatenate([one[name], mirror[name]]) for name in one})["logits"]
    assert far(forwards[1], forwards[0]) > 1e-3


def test_training_is_the_same_in_both_frameworks():
    """Windows after windows, with memory, from one seed: the same losses, which fall."""
    losses = {}
    for side in (TORCH, KERAS):
        model, data = xlnet(side, dropout=0.0, bi_data=True), dataset(side)
        mems, found = [np.zeros((24, 4, 12), "float32")] * 2, []
        for number in [0, 1, 2, 3] * 3:
            batch = {name: np.asarray(array) for name, array in data[number].items()}
            outputs, gradients = side.both(model, {**batch, "mems": mems, "use_mems": True}, training=True)
            side.descend(model, {name: gradients[name] for name in side.weights(model)}, 0.05)
            mems = [outputs["mems.0"], outputs["mems.1"]]
            found.append(float(outputs["loss"]))
        losses[side] = np.array(found)
    assert_close(losses[TORCH], losses[KERAS], "float64")
    assert losses[TORCH][-4:].mean() < losses[TORCH][:4].mean() - 0.3
