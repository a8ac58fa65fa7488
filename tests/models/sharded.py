"""One of several processes that hold a model together; not a test.

python -m tests.models.sharded RANK WORLD FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from tests.helpers import HEADS, TORCH, random_weights
from xl_torch import sharding
from xlcore.errors import ConfigError

NAMES = ("TransfoXLLMHeadModel", "XLNetLMHeadModel", "XLMWithLMHeadModel", "XLMRobertaXLForMaskedLM")
WAYS = ("shard_fully", "split")
EVEN = {"d_inner": 20, "n_head": 4, "n_heads": 4, "num_attention_heads": 4}  # two devices can share them
STEADY = {  # no dropout
    "dropout": 0.0, "dropatt": 0.0, "attention_dropout": 0.0, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
CHANGED = {"XLMRobertaXLForMaskedLM": {"position_embedding_type": "relative_key_query"}}


def case_of(name: str):
    """Return the case of a head, and a config whose heads two devices can share."""
    case = next(case for case in HEADS if case.head.name == name)
    known = type(case.config()).fields
    keys = {key: value for key, value in {**EVEN, **STEADY}.items() if key in known}
    return case, case.config(**keys, **CHANGED.get(name, {}))


def batch(config) -> dict[str, np.ndarray]:
    """Draw four texts in which every word counts, so that the mean over halves is the mean over all."""
    ids = np.random.default_rng(4).integers(3, config.vocab_size, (4, 6))
    head_mask = np.linspace(0.5, 1.0, config.num_heads, dtype="float32")
    return {"input_ids": ids, "labels": np.where(ids > 0, ids, 0), "head_mask": head_mask}


def whole(value: torch.Tensor) -> np.ndarray:
    """Return a tensor that may be dealt out as one array."""
    return (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().numpy()


def run(name: str, way: str, mesh, folder: Path) -> dict[str, float]:
    """Compute loss and gradients of a model that is dealt out, save it, load it again, and compute once more."""
    case, config = case_of(name)
    rank, shard = distributed.get_rank(), lambda model: getattr(sharding, way)(model, mesh)
    inputs = batch(config)
    if way == "shard_fully":  # each process has texts of its own
        inputs |= {key: inputs[key][2 * rank : 2 * rank + 2] for key in ("input_ids", "labels")}
    model = TORCH.model_class(case)(config)
    TORCH.set(model, random_weights(case, config))
    shard(model)
    ready = TORCH.ready(model, inputs)
    loss = model(**ready).loss
    loss.backward()
    parameters = model.canonical_parameters()
    gradients = {key: whole(value.grad) for key, value in parameters.items() if value.grad is not None}
    model.save_pretrained(folder / f"{name}-{way}")
    again = TORCH.model_class(case).from_pretrained(folder / f"{name}-{way}", shard=shard)
    after = again(**ready).loss
    np.savez(folder / f"{name}-{way}-{rank}.npz", **gradients)
    held = sum(getattr(value, "_local_tensor", value).numel() for value in parameters.values())
    values = [loss.detach(), after.detach()]
    if way == "shard_fully":  # the mean over all texts
        for value in values:
            distributed.all_reduce(value)
            value /= 2
    return {"loss": values[0].item(), "again": values[1].item(), "held": held}


def refusals(mesh) -> dict[str, str]:
    """Return what is said where a model cannot be dealt out."""
    found = {}
    for name, way, keys in (
        ("XLMRobertaXLForMaskedLM", "split", {"num_attention_heads": 3}),
        ("XLMWithLMHeadModel", "split", {"pruned_heads": {1: [0]}}),
        ("TransfoXLLMHeadModel", "split", {"d_inner": 21}),
        ("TransfoXLLMHeadModel", "shard_fully", {"untie_r": False}),
    ):
        case, config = case_of(name)
        try:
            getattr(sharding, way)(TORCH.model_class(case)(config.copy(**keys)), mesh)
        except ConfigError as error:
            found[f"{name} {way}"] = str(error)
    return found


def main(rank: int, world: int, folder: Path) -> None:
    """Do everything, and write what was found."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    found = {f"{name}-{way}": run(name, way, mesh, folder) for name in NAMES for way in WAYS}
    found["refused"] = refusals(mesh)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
