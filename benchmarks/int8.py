"""What do eight bits change, beside the same model in its own dtype: how far scores move, and how many likeliest words?

    python benchmarks/int8.py                   # XLM-RoBERTa-XL's widths with 4 layers, 2 texts of 64 words
    python benchmarks/int8.py --size 512        # or less wide

Weights are random: what a trained model answers is further from a draw, so that fewer of its words change. Ours in
PyTorch (`xl_torch.quantization.quantize`) and in Keras (`model.quantize("int8")`, linear maps only), each in a process
of its own, from one folder. Prints the largest and the mean difference of scores as a part of the largest score, and
the share of positions whose likeliest word stays; `--out` keeps them as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from convert import make_source
from sides import OURS, ROOT, keep

sys.path.insert(0, str(ROOT))

from xlcore.families import FAMILIES

HEAD, FAMILY, HEADS = "XLMRobertaXLForMaskedLM", "xlm-roberta-xl", 32


def torch_side(folder: str, ids: np.ndarray) -> tuple[Callable[[], np.ndarray], Callable[[], Any]]:
    """Return what scores words in PyTorch, and what makes the model one of eight bits."""
    import torch

    import xl_torch
    from xl_torch.quantization import quantize

    model = getattr(xl_torch, HEAD).from_pretrained(folder)

    @torch.no_grad()
    def score() -> np.ndarray:
        return model(torch.from_numpy(ids)).logits.numpy()

    return score, lambda: quantize(model)


def keras_side(folder: str, ids: np.ndarray) -> tuple[Callable[[], np.ndarray], Callable[[], Any]]:
    """Return what scores words in Keras, and what makes the model one of eight bits."""
    import keras

    import xl_tf

    model = getattr(xl_tf, f"TF{HEAD}").from_pretrained(folder)

    def change() -> None:
        model.quantize("int8", filters=lambda layer: isinstance(layer, keras.layers.Dense))

    return lambda: keras.ops.convert_to_numpy(model(ids.astype("int32")).logits), change


def work(asked: dict[str, Any]) -> dict[str, float]:
    """Score texts before and after, as one side."""
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    ids = np.array(asked["ids"])
    score, change = (torch_side if asked["name"] == "ours torch" else keras_side)(asked["folder"], ids)
    exact = score()
    change()
    apart = np.abs(score() - exact)
    largest = float(np.abs(exact).max())
    rounded = exact.argmax(-1) == score().argmax(-1)
    found = {"largest difference": float(apart.max()) / largest, "mean difference": float(apart.mean()) / largest}
    return {**found, "likeliest words that stay": float(rounded.mean())}


def measured(name: str, folder: Path, ids: np.ndarray) -> dict[str, float]:
    """Have a side answer in a process of its own."""
    asked = json.dumps({"name": name, "folder": str(folder), "ids": ids.tolist()})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: must answer, got exit status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(given: argparse.Namespace) -> None:
    """Write the model, measure, print and keep."""
    keys = {"vocab_size": given.words, "num_hidden_layers": given.layers, "num_attention_heads": HEADS}
    keys |= {"hidden_size": given.size, "intermediate_size": 4 * given.size, "torch_dtype": "bfloat16"}
    ids = np.random.default_rng(0).integers(5, given.words, (given.batch, given.length))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        make_source(folder, FAMILY, FAMILIES[FAMILY].config(**keys))
        found = {name: measured(name, folder, ids) for name in OURS if name in given.sides}
    for name, row in found.items():
        print(f"{name:12}" + "  ".join(f"{what} {value:.2%}" for what, value in row.items()))
    keep(given.out, {"config": keys, "shape": [given.batch, given.length], "sides": found})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="layers")
    parser.add_argument("--size", type=int, default=2560, help="hidden size, a multiple of 32")
    parser.add_argument("--words", type=int, default=20000, help="words of the vocabulary")
    parser.add_argument("--batch", type=int, default=2, help="texts")
    parser.add_argument("--length", type=int, default=64, help="words of each")
    parser.add_argument("--sides", nargs="+", default=OURS, choices=OURS, metavar="SIDE", help=f"of {OURS}")
    parser.add_argument("--out", type=Path, help="a file for what was found, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(work(json.loads(given.worker))))
    else:
        run(given)


if __name__ == "__main__":
    main()
