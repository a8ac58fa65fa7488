"""How much memory and time does a training step on masked words take where there are 200,000 of them, or more?

    python benchmarks/training_memory.py
    python benchmarks/training_memory.py --family xlm-roberta-xl    # XL's widths and words, 2 layers

XLM at base size with 4 layers, batches of the size that the authors used for as many words, or XLM-RoBERTa-XL, fewer
words of it; 15 % of them to be predicted, forth and back and one step of plain SGD, which keeps nothing: ours in
PyTorch and in Keras beside transformers 5 (PyTorch), on the same weights and batch, each in a process of its own.
Losses must be equal.

Memory is what Linux counts: the peak of the resident memory during a step (VmHWM, set back before it) above what was
resident before it, when the weights were loaded and the libraries warm from a step on two words. Gradients are part of
it; a second column leaves one of each weight out, for they exist at the end whoever computes them. These processes give
back what they free at once (glibc's MALLOC_MMAP_THRESHOLD_, and TensorFlow without its own store of memory,
TF_ONEDNN_USE_SYSTEM_ALLOCATOR), so that only what is held counts.
Time is taken by turns in other processes, without that; not at all with `--rounds 0`. Prints medians and the medians of
our ratios over the rounds; `--out` keeps them as JSON.
"""

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sides import (
    OURS,
    PEER,
    PEER_PYTHON,
    KerasModels,
    Side,
    TorchModels,
    in_turn,
    keep,
    make_folder,
    options,
    python_of,
    serve,
    summary,
)

BASE: dict[str, dict[str, Any]] = {
    "xlm": {"n_layers": 4, "emb_dim": 768, "n_heads": 12},
    "xlm-roberta-xl": {"num_hidden_layers": 2},
}
APART = {"float32": 1e-4, "bfloat16": 0.02}  # how far losses may lie apart, as a part of them
HEADS = {"xlm": "XLMWithLMHeadModel", "xlm-roberta-xl": "XLMRobertaXLForMaskedLM"}
SIZES = {
    "xlm": (200_000, 16, 256),
    "xlm-roberta-xl": (250_880, 4, 128),
}  # words of the vocabulary, texts, words of each
SIDES = (*OURS, PEER)
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(kind: str) -> int:
    """Return the bytes that are resident ("VmRSS") or were at the most ("VmHWM")."""
    return 1024 * int(re.search(rf"{kind}:\s+(\d+)", STATUS.read_text())[1])


def peak(step: Callable[[], Any]) -> list[int]:
    """Return the most bytes that are resident during a step, above those before it, which are the weights."""
    RESET.write_text("5")
    before = resident("VmRSS")
    step()
    return [resident("VmHWM") - before]


class Torch(TorchModels):
    """What a side in PyTorch does."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.labels = self.torch.tensor(asked["labels"])

    def loss(self) -> Callable[[], Any]:
        """Return what computes the loss of a short text, with nothing dropped."""
        model, labels = self.model("lm").eval(), self.labels[:1, :32]

        def run() -> Any:
            with self.torch.inference_mode():
                return model(self.ids[:1, :32], labels=labels).loss.float()

        return run

    def step(self, rows: slice = slice(None), columns: slice = slice(None)) -> Callable[[], Any]:
        """Return what takes a training step."""
        model = self.model("lm").train()
        optimizer = self.torch.optim.SGD(model.parameters(), lr=1e-3)
        ids, labels = self.ids[rows, columns], self.labels[rows, columns]

        def run() -> None:
            model(ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    def memory(self) -> Callable[[], Any]:
        """Return what measures a step after a small one."""
        self.step(slice(1), slice(2))()
        step = self.step()
        return lambda: peak(step)


class Keras(KerasModels):
    """What a side in Keras does."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.labels = self.tf.constant(np.array(asked["labels"], "int32"))
        self.lm = self.model("lm")
        optimizer = __import__("keras").optimizers.SGD(1e-3)
        self.compiled = self.trained(self._loss, self.lm.trainable_variables, optimizer, "graph")

    def _loss(self, ids: Any, labels: Any) -> Any:
        return self.lm(ids, labels=labels, training=True)["loss"]

    def loss(self) -> Callable[[], Any]:
        """Return what computes the loss of a short text, with nothing dropped."""
        return lambda: self.lm(self.ids[:1, :32], labels=self.labels[:1, :32])["loss"].numpy()

    def step(self, rows: slice = slice(None), columns: slice = slice(None)) -> Callable[[], Any]:
        """Return what takes a training step."""
        ids, labels = self.ids[rows, columns], self.labels[rows, columns]
        return lambda: float(self.compiled(ids, labels))

    def memory(self) -> Callable[[], Any]:
        """Return what measures a step after a small one."""
        self.step(slice(1), slice(2))()
        step = self.step()
        return lambda: peak(step)


def batch(given: argparse.Namespace) -> dict[str, Any]:
    """Hide words as the authors do."""
    from xlcore.tasks.cross_lingual import Masking

    rng = np.random.default_rng(0)
    ids, labels = Masking(given.words)(rng.integers(14, given.words, (given.batch, given.length)), rng)
    return {"ids": ids.tolist(), "labels": labels.tolist()}


def start(name: str, asked: dict[str, Any], *before: str) -> Side:
    """Start a side."""
    command = [*before, python_of(name, PEER_PYTHON), str(Path(__file__).resolve()), "--worker", name]
    return Side(command, name=name, **asked)


def memory(names: list[str], asked: dict[str, Any], gradients: int) -> dict[str, int]:
    """Return the most memory that a step of each side takes, one after the other; stop if the losses differ.

    Args:
        gradients: bytes that one gradient of each weight takes.
    """
    most, losses = {}, {}
    for name in reversed(names):  # the peer first
        side = start(name, asked, "env", f"MALLOC_MMAP_THRESHOLD_={1 << 16}", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1")
        losses[name] = side.ask(do="loss")["value"][0]
        if abs(losses[name] - losses[PEER]) > APART[asked["dtype"]] * losses[PEER]:
            raise SystemExit(f"{name}: the loss must be {losses[PEER]:.6f}, got {losses[name]:.6f}")
        most[name] = int(side.ask(do="memory")["value"][0])
        share, beside = most[name] / most[PEER], most[name] - gradients
        print(f"  {name:26}{most[name] / 2**20:9.0f} MiB  {share:.3f} of {PEER}", end="")
        print(f"; beside gradients {beside / 2**20:9.0f} MiB, {beside / (most[PEER] - gradients):.3f}", flush=True)
        side.close()
    return most


def run(given: argparse.Namespace) -> None:
    """Measure, print and keep."""
    words, texts, length = SIZES[given.family]
    given.words, given.batch, given.length = given.words or words, given.batch or texts, given.length or length
    names = [name for name in SIDES if name in (*given.sides, PEER)]
    config, head = BASE[given.family] | {"vocab_size": given.words}, HEADS[given.family]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, head, given.family, config)
        asked = {
            "classes": {"lm": head},
            "folder": folder,
            "threads": given.threads,
            "clock": given.clock,
            "dtype": given.dtype,
            **batch(given),
        }
        print(f"memory above the weights, {given.words} words, {given.batch} x {given.length} positions", flush=True)
        gradients = (Path(folder) / "model.safetensors").stat().st_size // (2 if given.dtype == "bfloat16" else 1)
        most = memory(names, asked, gradients)
        if given.rounds:
            sides = {name: start(name, asked) for name in names}
            found = in_turn(sides, given.rounds, do="step")
            rows.append(summary("training step", found, {name: [PEER] for name in OURS}))
            for side in sides.values():
                side.close()
    share = {name: size / most[PEER] for name, size in most.items()}
    beside = {name: (size - gradients) / (most[PEER] - gradients) for name, size in most.items()}
    found = {"bytes": most, "share of the peer's": share, "share beside gradients": beside, "rows": rows}
    keep(given.out, {"config": config, "dtype": given.dtype, "shape": [given.batch, given.length], **found})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", nargs="+", default=OURS, choices=OURS, metavar="SIDE", help=f"of {OURS}")
    parser.add_argument("--family", choices=tuple(BASE), default="xlm", help="whose model")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of all that is computed")
    parser.add_argument("--words", type=int, help="of the vocabulary; 200,000 or 250,880 if not given")
    parser.add_argument("--batch", type=int, help="texts; 16 or 4 if not given")
    parser.add_argument("--length", type=int, help="words of each; 256 or 128 if not given")
    given = options(parser, rounds=3)
    if given.worker:
        serve(Torch if given.worker.endswith("torch") else Keras)
    else:
        run(given)


if __name__ == "__main__":
    main()
