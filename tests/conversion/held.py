"""What the tests of sources and targets share: models drawn, laid out for an origin, in memory or in files."""

from pathlib import Path

import numpy as np

from conversion import source
from conversion.formats.base import Entry, Reader
from conversion.target import Target
from xlcore import FAMILIES

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILY = FAMILIES["transfo-xl"]
HEADS = {head.name: head for family in FAMILIES.values() for head in family.heads}
BODY, LM, CLASSIFIER = (head.name for head in FAMILY.heads)
SMALL = {
    "vocab_size": 50, "cutoffs": [10, 30], "d_model": 8, "d_embed": 16, "div_val": 2, "n_head": 2, "d_head": 3,
    "d_inner": 12, "n_layer": 2, "mem_len": 4,
}  # fmt: skip
AUTHORS = {"untie_r": False, "initial_memory": "empty"}
FLOAT = np.dtype("float32")


TF_TABLE = "transformer/tf_transfo_xllm_head_model/transformer/word_emb/emb_layers_._1/embeddings:0"
TF_PROJECTION = "crit/tf_transfo_xllm_head_model/crit/out_projs_._2:0"


class Held(Reader):
    """Tensors in memory, as a file of a format would give them."""

    def __init__(self, tensors, form: str, shared=None, aside=()) -> None:
        self.tensors, self.format, self.shared, self.asked = dict(tensors), form, dict(shared or {}), []
        self._tensors = {**self.tensors, **self.shared}
        self.aside = {name: Entry(name, (3,), FLOAT) for name in aside}

    def __getitem__(self, name):
        array = self.tensors[self.shared.get(name, name)]
        return Entry(name, array.shape, array.dtype)

    def read(self, name):
        self.asked.append(name)
        return self.tensors[self.shared.get(name, name)]


def config_of(**keys):
    return FAMILY.config(**{**SMALL, **keys})


def draw(config, head: str = LM, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw every parameter of a model by canonical name."""
    rng = np.random.default_rng(seed)
    params = FAMILIES[config.model_type].params(config, HEADS[head])
    return {name: rng.standard_normal(param.shape).astype("float32") for name, param in params.items()}


def made(origin: str, config, arrays, head: str = LM, **more) -> tuple[Target, dict[str, np.ndarray]]:
    """Return the plan of an origin's files, and their tensors."""
    target = Target(origin, config, HEADS[head], FLOAT, **more)
    return target, {entry.name: target.make(entry.name, arrays.__getitem__) for entry in target.entries}


def lay_down(target: Target, tensors, folder: Path) -> None:
    """Write the files of a plan, and what lies beside."""
    folder.mkdir(parents=True, exist_ok=True)
    target.writer.begin(folder)
    sums = {}
    for name, array in tensors.items():
        place, data = target.writer.places[name], array.tobytes()
        with (folder / place.file).open("rb+") as stream:
            stream.seek(place.offset)
            stream.write(data)
        sums[name] = target.writer.sum(data, 0) if target.writer.sum else 0
    target.writer.end(folder, sums)
    for name, content in target.side.items():
        (folder / name).write_bytes(content)


def holder(monkeypatch, tmp_path):
    """Make a function that has the tensors of an origin opened in place of a file; what lies beside is in a folder."""

    def put(origin, config, arrays, head=LM, *, change=lambda tensors: None, side=(), **more) -> Held:
        target, tensors = made(origin, config, arrays, head, **more)
        change(tensors)
        reader = Held(tensors, target.format, target.shared)
        for name in side:
            (tmp_path / name).write_bytes(target.side[name])
        monkeypatch.setattr(source, "open_reader", lambda path: reader)
        return reader

    return put


def assert_gives(opened, arrays) -> None:
    """Hold a source against parameters, bit by bit; it may have tied ones under both names."""
    ties = opened.family.ties_within(opened.config, opened.head)
    for name, array in arrays.items():
        found = opened.read(ties.get(name, name))
        assert found.shape == array.shape, name
        assert found.tobytes() == array.tobytes(), name
        assert opened.entries[ties.get(name, name)] == Entry(ties.get(name, name), array.shape, array.dtype)


def write(folder, origin, config, head=LM, **more) -> dict[str, np.ndarray]:
    """Write a model's files, and return its parameters."""
    arrays = draw(config, head)
    lay_down(*made(origin, config, arrays, head, **more), folder)
    return arrays


def changed(name):
    """Make the change of one number of a tensor."""

    def change(tensors) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][0, 0] += 1

    return change
