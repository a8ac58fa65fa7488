"""What benchmarks share: processes that answer in turn, so that all are measured in one run, and their models."""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER_PYTHON = str(ROOT / ".venv-peers" / "bin" / "python")
sys.path.append(str(ROOT))  # where our packages lie


class Side:
    """A process that holds one implementation and answers requests, a line of JSON each.

    Args:
        command: what starts it.
        about: the first request; its answer is kept as `about`.
    """

    def __init__(self, command: Sequence[str], **about: Any) -> None:
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`; an unread pipe would fill up)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True
        )
        self.about = self.ask(**about)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; a side that ends instead ends the benchmark with its last words."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.words.seek(0)
            raise SystemExit(
                f"a side must answer, got none: {' '.join(self.process.args)}\n{self.words.read()[-2000:]}"
            )
        return json.loads(line)

    def close(self) -> None:
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()
        self.words.close()


def answer(**values: Any) -> None:
    """Answer the request that was read last."""
    sys.__stdout__.write(json.dumps(values) + "\n")
    sys.__stdout__.flush()


def requests() -> Iterable[dict[str, Any]]:
    """Yield requests until there are no more."""
    for line in sys.stdin:
        yield json.loads(line)


# What counts as time: what passes, or what the processor works, for machines on which others work, too.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def leave_folder() -> None:
    """Have imports not look into this folder, which has files that are called as packages are."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]


def serve(make: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests as a side.

    `make` makes it of the first request, whose `clock` is one of `CLOCKS`. Each later one names a method of it, which
    prepares something to run, which stays until two others come; what is timed is running it, with its value's
    first numbers for an answer.
    """
    leave_folder()
    sys.stdout = sys.stderr  # what libraries print is no answer
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    asked, prepared = iter(requests()), {}
    first = next(asked)
    side, clock = make(first), CLOCKS[first["clock"]]
    answer(modes=getattr(side, "modes", ("eager",)))
    for request in asked:
        key = json.dumps(request, sort_keys=True)
        if key not in prepared:
            while len(prepared) > 1:  # or models and optimizers of all workloads would stay
                prepared.pop(next(iter(prepared)))
            gc.collect()
            prepared[key] = getattr(side, request.pop("do"))(**request)
        start = clock()
        value = prepared[key]()
        seconds = clock() - start
        answer(seconds=seconds, value=None if value is None else np.asarray(value, "float64").ravel()[:1024].tolist())


def in_turn(sides: Mapping[str, Side], rounds: int, warm: bool = False, **request: Any) -> dict[str, list[float]]:
    """Ask all sides in turn, once to warm up unless they are, and then `rounds` times; return the seconds of each."""
    for side in () if warm else sides.values():
        side.ask(**request)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else reversed(sides):
            seconds[name].append(sides[name].ask(**request)["seconds"])
    return seconds


def ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Return how many times as fast our side is: the median over the rounds."""
    return statistics.median(their / our for our, their in zip(seconds[ours], seconds[theirs], strict=True))


def summary(what: str, seconds: Mapping[str, list[float]], peers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Print the medians of one workload and our ratios to the peers; return them."""
    print(f"\n{what}")
    rows = {}
    for name, values in seconds.items():
        ratios = {peer: ratio(seconds, name, peer) for peer in peers.get(name, ()) if peer in seconds}
        rows[name] = {"median": statistics.median(values), "times as fast as": ratios}
        beside = ", ".join(f"{value:.2f}x as fast as {peer}" for peer, value in ratios.items())
        print(f"  {name:26}{rows[name]['median']:9.3f} s  {beside}", flush=True)
    return {"what": what, "rounds": len(next(iter(seconds.values()))), "sides": rows}


def keep(file: Path | None, found: Any) -> None:
    """Write what was found as JSON where the caller asked for it."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def write(name: str, found: Any) -> None:
    """Keep what was found as JSON beside the other results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def options(parser: argparse.ArgumentParser, rounds: int) -> argparse.Namespace:
    """Add the options that all benchmarks of sides have, and return what the command line says."""
    parser.add_argument("--threads", type=int, default=2, help="of each side; one computes at a time")
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="each side runs once in each")
    parser.add_argument("--out", type=Path, help="a file for what was found, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------- models of sides

OURS, PEER, OLD = ("ours torch", "ours keras"), "transformers 5 torch", "transformers 4 torch"
OLD_TENSORFLOW = "transformers 4 tensorflow"
PEERS = {"ours torch": (PEER, OLD), "ours keras": (PEER, OLD_TENSORFLOW)}
SIDES = (*OURS, PEER, OLD, OLD_TENSORFLOW)


def zipf(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Draw words as texts have them: the frequent ones come first, and a word comes as often as it stands in front."""
    shares = 1.0 / np.arange(1, count + 1)
    return np.random.default_rng(0).choice(count, shape, p=shares / shares.sum())


def python_of(name: str, peer_python: str) -> str:
    """Return the Python that a side needs: transformers 4 has one of its own."""
    return peer_python if name.startswith("transformers 4") else sys.executable


def make_folder(folder: str, head: str, family: str, config: Mapping[str, Any]) -> None:
    """Write a model with random weights, the same for all sides."""
    import torch

    import xl_torch
    import xlcore

    torch.manual_seed(0)
    getattr(xl_torch, head)(xlcore.FAMILIES[family].config(**config)).save_pretrained(folder)


class TorchModels:
    """Models in PyTorch, ours or transformers', of a folder.

    Args:
        asked: `name` of the side, `folder`, `classes` by kind, `ids` [B, T] and `threads`; `dtype`, or float32.
    """

    modes = ("eager",)

    def __init__(self, asked: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(asked["threads"])
        self.ours = asked["name"] in OURS
        self.torch, self.package = torch, __import__("xl_torch" if self.ours else "transformers")
        self.classes, self.folder = asked["classes"], asked["folder"]
        self.key = "torch_dtype" if asked["name"] == OLD else "dtype"
        self.dtype = getattr(torch, asked.get("dtype", "float32"))
        self.ids = torch.tensor(asked["ids"])
        self.loaded: dict[str, Any] = {}

    def model(self, kind: str) -> Any:
        """Return the model of a kind, loaded when it is first asked for."""
        if kind not in self.loaded:
            head, dtype = getattr(self.package, self.classes[kind]), {self.key: self.dtype}
            self.loaded[kind] = head.from_pretrained(self.folder, **dtype)
        return self.loaded[kind]


class KerasModels:
    """Models in Keras 3 (ours) or in transformers' TensorFlow, of a folder; see `TorchModels`."""

    modes = ("graph", "xla")

    def __init__(self, asked: dict[str, Any]) -> None:
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(asked["threads"])
        self.ours = asked["name"] in OURS
        self.tf, self.package = tensorflow, __import__("xl_tf" if self.ours else "transformers")
        self.classes, self.folder = asked["classes"], asked["folder"]
        self.dtype = {"dtype": asked.get("dtype", "float32")} if self.ours else {}
        self.ids = tensorflow.constant(np.array(asked["ids"], "int32"))

    def model(self, kind: str) -> Any:
        """Return a model of a kind."""
        return getattr(self.package, f"TF{self.classes[kind]}").from_pretrained(self.folder, **self.dtype)

    def trained(self, loss: Callable[..., Any], variables: list[Any], optimizer: Any, mode: str) -> Callable[..., Any]:
        """Return a compiled training step that returns its loss."""

        def step(*inputs: Any) -> Any:
            with self.tf.GradientTape() as tape:
                found = loss(*inputs)
            gradients = tape.gradient(
                found, [getattr(each, "value", each) if self.ours else each for each in variables]
            )
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return found

        optimizer.build(variables)
        return self.tf.function(step, jit_compile=mode == "xla")
