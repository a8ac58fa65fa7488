"""How much memory and time does it take to load XLM-RoBERTa-XL at its real size and to fill a mask with it?

    python benchmarks/loading.py                    # 3.5 billion parameters, 7 GB on disk
    python benchmarks/loading.py --layers 4         # or less deep
    python benchmarks/loading.py --small            # to try the benchmark out

Writes a model of random bfloat16 weights tensor by tensor, then loads it and answers one forward pass of a text with a
mask, in a process of its own for each side, one after the other: ours in PyTorch, which reads the file or maps it, and
in Keras, transformers 5 in PyTorch, which maps it. What lies in the system's cache is put out of it before each. Prints
seconds, and the VmHWM of each whole process, frameworks and all, as a multiple of the weights as loaded; asked of ours
is at most 1.1. All must give the same scores, as far as the dtype goes. The files are deleted at the end.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from convert import make_source, settle
from sides import ROOT, keep

sys.path.insert(0, str(ROOT))

from xlcore.families import FAMILIES

MAPPED = "ours torch, mmap"
SIDES = ("ours torch", MAPPED, "ours keras", "transformers 5 torch")
HEAD, FAMILY = "XLMRobertaXLForMaskedLM", "xlm-roberta-xl"
WIDTH, LAYERS, HEADS, WORDS = 2560, 36, 32, 250880
LARGEST = 1.1  # times the weights that a process of ours may take
APART = 0.1  # how far the scores of two sides may lie apart, as a part of the largest: bfloat16 has eight bits


def status(key: str) -> int:
    """Return an entry of this process's status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# ------------------------------------------------------------------------------------------------------- one side


def torch_side(package: str, asked: dict[str, Any]) -> tuple[Any, Any]:
    """Return what loads a model in PyTorch and what scores the words at the mask."""
    import torch

    torch.set_num_threads(asked["threads"])
    head = getattr(__import__(package), HEAD)
    ids = torch.tensor([asked["ids"]])

    @torch.no_grad()
    def score(model: Any) -> np.ndarray:
        return model(input_ids=ids).logits[0, asked["mask"]].float().numpy()

    options = {"dtype": asked["dtype"]} | ({"mmap": True} if asked["name"] == MAPPED else {})
    return lambda: head.from_pretrained(asked["folder"], **options).eval(), score


def keras_side(asked: dict[str, Any]) -> tuple[Any, Any]:
    """Return what loads a model in Keras and what scores the words at the mask."""
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(asked["threads"])
    import xl_tf

    ids = np.array([asked["ids"]], "int32")

    def score(model: Any) -> np.ndarray:
        return model(ids).logits[0, asked["mask"]].numpy().astype("float32")

    return lambda: getattr(xl_tf, f"TF{HEAD}").from_pretrained(asked["folder"], dtype=asked["dtype"]), score


def work(asked: dict[str, Any]) -> dict[str, Any]:
    """Load and answer as one side; return seconds, memory and the first scores."""
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    package = "xl_torch" if asked["name"].startswith("ours") else "transformers"
    load, score = keras_side(asked) if asked["name"] == "ours keras" else torch_side(package, asked)
    before, began = status("VmRSS"), time.perf_counter()
    model = load()
    loaded = time.perf_counter() - began
    at_load = status("VmHWM")
    scores = score(model)
    seconds = {"load": loaded, "answer": time.perf_counter() - began - loaded}
    return {"before": before, "at load": at_load, "peak": status("VmHWM"), **seconds, "scores": scores[:512].tolist()}


# -------------------------------------------------------------------------------------------------------- the run


def measured(name: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Have a side load and answer in a process of its own, from a cold disk."""
    config = json.loads((folder / "config.json").read_text())
    ids = np.random.default_rng(0).integers(5, config["vocab_size"] - 1, given.length).tolist()
    ids[given.length // 2] = config["vocab_size"] - 1
    asked = {"name": name, "folder": str(folder), "dtype": given.dtype, "threads": given.threads}
    asked |= {"ids": ids, "mask": given.length // 2}
    settle(folder)
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(asked)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: must load and answer, got exit status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check_equal(found: dict[str, list[dict[str, Any]]]) -> float:
    """Return how far the scores of the sides lie apart at most, and stop if that is more than rounding."""
    scores = [np.array(rounds[0]["scores"]) for rounds in found.values()]
    apart = max(float(np.abs(each - scores[0]).max() / np.abs(scores[0]).max()) for each in scores)
    if not apart <= APART:
        raise SystemExit(f"all sides must give the same scores, got {apart:.2g} of the largest between them")
    return apart


def table(found: dict[str, list[dict[str, Any]]], weights: int) -> dict[str, dict[str, float]]:
    """Print the medians of each side; return them."""
    rows = {}
    for name, rounds in found.items():
        row = {key: statistics.median(each[key] for each in rounds) for key in rounds[0] if key != "scores"}
        row["times the weights"] = row["peak"] / weights
        rows[name] = row
        print(
            f"{name:22}load {row['load']:7.1f} s  answer {row['answer']:6.1f} s  peak {row['peak'] / 1e9:6.2f} GB = "
            f"{row['times the weights']:.2f}x the weights, {(row['peak'] - row['before']) / weights:.2f}x above imports"
        )
    return rows


def run(given: argparse.Namespace) -> None:
    """Write the model, measure, print and keep."""
    keys = {"vocab_size": given.words, "num_hidden_layers": given.layers, "num_attention_heads": HEADS}
    keys |= {"hidden_size": given.size, "intermediate_size": 4 * given.size, "torch_dtype": "bfloat16"}
    config = FAMILIES[FAMILY].config(**keys)
    with tempfile.TemporaryDirectory(dir=given.folder) as place:
        folder = Path(place) / "model"
        facts = make_source(folder, FAMILY, config)
        weights = facts["parameters"] * (4 if given.dtype == "float32" else 2)
        print(f"{facts['parameters']:,} parameters, {facts['bytes'] / 1e9:.2f} GB on disk, {weights / 1e9:.2f} loaded")
        names = [name for name in SIDES if name in given.sides]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(given.rounds):
            for name in names if turn % 2 == 0 else reversed(names):
                found[name].append(measured(name, folder, given))
    apart, rows = check_equal(found), table(found, weights)
    print(f"scores lie at most {apart:.1e} of the largest apart")
    beyond = [name for name in rows if name.startswith("ours") and rows[name]["times the weights"] > LARGEST]
    print(f"asked of ours: at most {LARGEST}x; " + (f"missed by {', '.join(beyond)}" if beyond else "met"))
    about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": given.threads}
    shape = {"layers": given.layers, "size": given.size, "words": given.words, "dtype": given.dtype}
    keep(given.out, {**about, **shape, **facts, "rounds": given.rounds, "apart": apart, "sides": rows})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers")
    parser.add_argument("--size", type=int, default=WIDTH, help="hidden size, a multiple of 32")
    parser.add_argument("--words", type=int, default=WORDS, help="words of the vocabulary")
    parser.add_argument("--small", action="store_true", help="4 layers of 512, 20,000 words")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"), help="to load in")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, metavar="SIDE", help=f"of {SIDES}")
    parser.add_argument("--length", type=int, default=16, help="words of the text")
    parser.add_argument("--threads", type=int, default=2, help="of each side; one computes at a time")
    parser.add_argument("--rounds", type=int, default=1, help="each side runs once in each")
    parser.add_argument("--folder", type=Path, help="where the model is written meanwhile; the system's if not given")
    parser.add_argument("--out", type=Path, help="a file for what was found, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(work(json.loads(given.worker))))
        return
    if given.small:
        given.layers, given.size, given.words = 4, 512, 20000
    run(given)


if __name__ == "__main__":
    main()
