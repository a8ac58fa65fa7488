"""Small models on disk for the tests of `convert`, `inspect` and `diff`, made without any framework."""

from pathlib import Path

import ml_dtypes
import numpy as np

from conversion import checkpoint
from xlcore import FAMILIES

GOLDEN = Path(__file__).parents[1] / "golden"
ORIGINAL, HF_FILES = GOLDEN / "original", GOLDEN / "hf_files"
FAMILY = FAMILIES["transfo-xl"]
HEADS = {head.name: head for head in FAMILY.heads}
SMALL = {
    "vocab_size": 50, "cutoffs": [10, 30], "d_model": 8, "d_embed": 16, "div_val": 2, "n_head": 2, "d_head": 3,
    "d_inner": 12, "n_layer": 2, "mem_len": 4,
}  # fmt: skip
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def save(
    folder: Path,
    head: str = "TransfoXLLMHeadModel",
    *,
    seed: int = 0,
    dtype="float32",
    change=lambda arrays: None,
    **keys,
) -> dict[str, np.ndarray]:
    """Save a random model as a canonical folder; return its parameters. `change` may change them before."""
    config, rng = FAMILY.config(**{**SMALL, **keys}), np.random.default_rng(seed)
    params = FAMILY.params(config, HEADS[head])
    arrays = {name: rng.standard_normal(param.shape).astype("float32") for name, param in params.items()}
    change(arrays)
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    read = {name: lambda array=array: array for name, array in arrays.items()}
    checkpoint.save(folder, config, HEADS[head], read, {name: array.dtype for name, array in arrays.items()})
    return arrays


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
