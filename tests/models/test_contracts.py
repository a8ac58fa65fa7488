"""What a call returns has the shapes that its contract names, in both frameworks."""

import importlib

import numpy as np
import pytest

from xlcore.families import FAMILIES

HEADS = [(family, head) for family in FAMILIES.values() for head in family.heads]
ROOMS = {"torch": ("xl_torch", ""), "keras": ("xl_tf", "TF")}


def called(room, head, config, inputs, **options):
    module, prefix = ROOMS[room]
    model = getattr(importlib.import_module(module), prefix + head.name)(config)
    if room == "torch":
        torch = pytest.importorskip("torch")
        given = {name: torch.as_tensor(value) for name, value in inputs.items() if name != "mems"}
        mems = {"mems": [torch.as_tensor(memory) for memory in inputs["mems"]]} if "mems" in inputs else {}
        return model.eval()(**given, **mems, **options)
    return model(**inputs, **options)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize(("family", "head"), HEADS, ids=lambda each: getattr(each, "name", ""))
def test_outputs_keep_their_contract(room, family, head):
    pytest.importorskip(room)
    config = family.config(**next(iter(family.examples.values())))
    common = {"D": config.hidden_size, "N": config.num_heads, "L": config.num_layers, "V": config.vocab_size}
    sizes = common | {"B": 2, "C": 3, "G": 6, "T": 5, "P": 5, "U": 5, "M": 3, "K": config.num_labels}
    names = [name for name in ("input_ids", "mems") if name in head.inputs]
    inputs = head.inputs.draw(sizes, 0, [*names, *head.targets])
    options = {"output_hidden_states": True, "output_attentions": True}
    whole = called(room, head, config, inputs, **options)
    unlabelled = called(room, head, config, {name: inputs[name] for name in names}, **options)
    met = {**whole, **unlabelled, **decoded(room, head, config, inputs, options)}
    assert met.keys() == head.output.fields.keys()
    known = {axis: size for axis, size in sizes.items() if axis not in ("U", "M")}
    known |= {"P": 4} if "losses" in met else {}  # one less than labels
    carried = "mems" in inputs
    known |= {"S": 8, "M": min(config.mem_len, 8)} if carried else {"S": 5}
    known |= beams(config)
    head.output.fields.check(head.name, known, met)


def decoded(room, head, config, inputs, options):
    """Return what a decoder adds that reads the states of an encoder, where the config can make one."""
    if "add_cross_attention" not in config.fields or "past_key_values" not in head.output.fields:
        return {}
    config = config.copy(is_decoder=True, add_cross_attention=True)
    states = np.random.default_rng(1).standard_normal((2, 3, config.hidden_size)).astype("float32")
    given = {"input_ids": inputs["input_ids"], "encoder_hidden_states": states}
    return called(room, head, config, given, **options)


def beams(config):
    """Return how many starts, and pairs of start and end, a search for answers keeps."""
    starts = getattr(config, "start_n_top", 0)
    return {"A": starts, "Z": starts * getattr(config, "end_n_top", 0)}


def test_another_shape_is_told_from_the_contract():
    head = HEADS[0][1]
    wrong = {"last_hidden_state": np.zeros((2, 5, 7))}
    with pytest.raises(ValueError, match=r"must have shape \[B=2, T=5, D=24\], got \[2, 5, 7\]"):
        head.output.fields.check(head.name, {"B": 2, "T": 5, "D": 24}, wrong)
