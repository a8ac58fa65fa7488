"""Steps that a CUDA graph could hold, in PyTorch: at fixed places, without waiting for a value, equal to ordinary ones.

Without a GPU a graph cannot be made: what stands for one here runs the step that it would hold.
"""

import contextlib

import numpy as np
import pytest

from tests.helpers import LM, TORCH, XLNET, Case, assert_close, inputs_for
from xlcore import ConfigError

torch = pytest.importorskip("torch")
graphs_of = __import__("xl_torch.layers.graphs", fromlist=["FixedStep"])

XLNET_LM = XLNET["permutation_lm"]
VARIANTS = [
    (LM, "default pre_lnorm any_length no_clamp tf1_window empty_start"),
    (XLNET_LM, "default one_way reuse"),
]
CASES = [Case(case.family, case.head, name) for case, names in VARIANTS for name in names.split()]
CALLS = (2, 1, 1, 1, 1, 1, 3, 3, 3, 1, 1)  # words of each; a memory of 5 positions that starts empty fills up, too


@pytest.fixture
def runs(monkeypatch):
    """Return a list that grows by a fixed step whenever one is run."""
    found, run = [], graphs_of.FixedStep.run
    monkeypatch.setattr(graphs_of.FixedStep, "run", lambda step: found.append(step) or run(step))
    return found


class Graph:
    """Runs again what it holds, and leaves what it finds where the first run left it."""

    def __init__(self, runs):
        self.runs, self.replayed = runs, 0

    def replay(self):
        step = self.runs[-1]
        self.replayed += 1
        place, found = step.found, step.run()
        with torch.inference_mode():  # places of any mode
            place.copy_(found)


@pytest.fixture
def graphs(runs, monkeypatch):
    """Have graphs made, of a kind that runs on the CPU; return all that are made."""
    made = []
    stream = type("Stream", (), {"wait_stream": lambda self, other: None})
    fakes = {"Stream": stream, "current_stream": stream, "stream": contextlib.nullcontext}
    fakes |= {"graph": contextlib.nullcontext, "CUDAGraph": lambda: made.append(Graph(runs)) or made[-1]}
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphs_of, "_captures", lambda place: True)
    return made


def words(case, config, length, seed, B=2):
    return torch.tensor(inputs_for(case, config, "input_ids", T=length, B=B, seed=seed)["input_ids"])


def model_of(case, **keys):
    config = case.config(**keys)
    model = TORCH.model(case, config, dtype="float64").eval()
    name = "logits" if case.family is XLNET_LM.family else "prediction_scores"
    return config, model, lambda memory, ids: model(ids, mems=memory)[name]


def assert_equal_steps(case, config, step, read, memories, calls=CALLS):
    """Hold steps and what they remember against ordinary ones."""
    mine, plain = memories
    for seed, length in enumerate(calls):
        ids = words(case, config, length, seed)
        with torch.no_grad():
            wanted = read(plain, ids)
        assert_close(TORCH.numpy(step(mine, ids)), TORCH.numpy(wanted), "float64", f"call {seed}")
        for one, other in zip(mine.mems(), plain.mems(), strict=True):
            np.testing.assert_allclose(TORCH.numpy(one), TORCH.numpy(other), rtol=0, atol=1e-12)


def memories():
    return TORCH.towers.KeyValueMemory(), TORCH.towers.KeyValueMemory()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fixed_step_equals_an_ordinary_one(case, runs):
    """Before the memory is full, when it gets full, and with calls of other shapes in between."""
    config, model, read = model_of(case)
    step = TORCH.towers.compiled_reader(model, read)
    assert_equal_steps(case, config, step, read, memories())
    assert len(runs) >= 5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_graph_is_tried_out_with_leaves_nothing_behind(case, graphs):
    config, model, read = model_of(case)
    step, pair = TORCH.towers.compiled_reader(model, read), memories()
    assert_equal_steps(case, config, step, read, pair, (4, 4, 1, 1, 1, 1, 1))
    assert [graph.replayed for graph in graphs][-1] >= 3
    count, read_before = len(graphs), graphs[-1].replayed
    found = step(pair[0], words(case, config, 1, 50))
    kept = found.clone()
    step(pair[0], words(case, config, 1, 51))
    assert torch.equal(found, kept)  # the next call writes elsewhere
    assert (len(graphs), graphs[-1].replayed) == (count, read_before + 2)


def test_a_graph_is_made_anew_where_something_has_moved_or_changed(graphs):
    config, model, read = model_of(LM, same_length=False)
    step, pair = TORCH.towers.compiled_reader(model, read), memories()
    assert_equal_steps(LM, config, step, read, pair, (3, 1, 1, 1))
    for memory in pair:
        memory.choose([1, 0])
    assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    model.config.clamp_len = 2
    assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    assert_equal_steps(LM, config, step, read, memories(), (3, 1, 1, 1))
    weight = model.crit.cluster.weight
    weight.data = weight.data.clone()
    assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    model.crit.cluster.weight = weight = torch.nn.Parameter(2 * weight.detach())
    assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    assert [graph.replayed for graph in graphs] == [2, 2, 2, 2, 2, 2]
    with torch.no_grad():
        weight.mul_(2)  # where it is: a graph reads it anew
    assert_equal_steps(LM, config, step, read, pair, (1,))
    for each in pair:
        with torch.no_grad():
            read(each, words(LM, config, 1, 60))  # in between without the step
    assert_equal_steps(LM, config, step, read, pair, (1,))
    assert [graph.replayed for graph in graphs] == [2, 2, 2, 2, 2, 4]


def test_a_graph_that_cannot_be_made_leaves_nothing_behind(graphs, monkeypatch):
    """A step that waits for a value, for one; what was remembered before is remembered still."""
    config, model, read = model_of(LM)
    step, pair = TORCH.towers.compiled_reader(model, read), memories()
    assert_equal_steps(LM, config, step, read, pair, (3, 1))

    def refused(graph):
        raise RuntimeError("waits for a value")

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "graph", refused)
        with pytest.raises(RuntimeError, match="waits for a value"):
            step(pair[0], words(LM, config, 1, 9))
    assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    assert graphs[-1].replayed == 3


def test_modes_without_gradient_take_turns(graphs):
    config, model, read = model_of(LM)
    step, pair = TORCH.towers.compiled_reader(model, read), memories()
    for mode in (torch.inference_mode, contextlib.nullcontext, torch.inference_mode, torch.no_grad):
        with mode():
            assert_equal_steps(LM, config, step, read, pair, (1, 1, 1))
    assert len(graphs) == 1


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_a_step_waits_for_no_value(case, runs):
    """On a device that has none: who asks for one fails."""
    config, model, read = model_of(case)
    model.to("meta")
    step, memory = TORCH.towers.compiled_reader(model, read), TORCH.towers.KeyValueMemory()
    for length in (6, 1, 1, 1):
        found = step(memory, words(case, config, length, 0).to("meta"))
        assert found.shape[1] == length
    assert len(runs) == 3
    waits = TORCH.towers.compiled_reader(model, lambda memory, ids: read(memory, ids) * read(memory, ids).max().item())
    with pytest.raises(RuntimeError, match="meta tensor"):
        waits(memory, words(case, config, 1, 0).to("meta"))


def test_what_is_no_memory_of_the_model():
    config, model, read = model_of(LM)
    step, memory = TORCH.towers.compiled_reader(model, read), TORCH.towers.KeyValueMemory()
    other = TORCH.model(LM, dtype="float64").eval()
    other(words(LM, config, 3, 0), mems=memory)
    with pytest.raises(ConfigError, match=r"^TransfoXLModel: mems must be what this model has read, got a KeyValueMem"):
        step(memory, words(LM, config, 1, 0))
    memory = TORCH.towers.KeyValueMemory()
    for _ in range(3):
        step(memory, words(LM, config, 1, 0))
    model.train()
    with pytest.raises(
        ConfigError, match=r"^TransfoXLModel: mems must be a list of arrays in training, got a KeyValue"
    ):
        step(memory, words(LM, config, 1, 0))
