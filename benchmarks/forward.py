"""How fast are forward pass, training step and generation, beside transformers on the same weights and inputs?

    python benchmarks/forward.py --family xlnet --peer-python .venv-peers/bin/python

Five sides, each in a process of its own, by turns in one run: ours in PyTorch and in Keras, transformers 5 (PyTorch)
from this environment, transformers 4.34.0 (PyTorch, TensorFlow) from that of the peers. Keras and TensorFlow run as a
graph and through XLA; the faster counts, on each side. The floor is the time of the matrix products alone. Outputs
must be equal (1e-4 of their scale). Prints a table of medians and writes `benchmarks/results/forward-<family>.json`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sides import PEER_PYTHON, ROOT, Side, answer, in_turn, ratio, requests, write

SHAPES: dict[str, dict[str, Any]] = {
    "xlnet": {
        "config": {"n_layer": 4, "d_model": 768, "n_head": 12, "d_inner": 3072, "mem_len": None},
        "body": "XLNetModel", "lm": "XLNetLMHeadModel", "classifier": "XLNetForSequenceClassification",
    },
}  # fmt: skip
SIDES = ("ours torch", "ours keras", "transformers 5 torch", "transformers 4 torch", "transformers 4 tensorflow")
PEERS_OF = {
    "ours torch": ("transformers 5 torch", "transformers 4 torch"),
    "ours keras": ("transformers 4 tensorflow",),
}


# ------------------------------------------------------------------------------------------------------- the sides


class TorchSide:
    """Models in PyTorch, ours or transformers'."""

    modes = ("eager",)

    def __init__(self, ours: bool, asked: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(asked["threads"])
        package = __import__("xl_torch" if ours else "transformers")
        self.torch, self.ours, self.names, self.package = torch, ours, asked["names"], package
        self.ids = torch.tensor(asked["ids"])
        self.folder = asked["folder"]
        self.models: dict[str, Any] = {}

    def model(self, kind: str) -> Any:
        """Return the model of a kind, loaded when it is first asked for."""
        if kind not in self.models:
            self.models[kind] = getattr(self.package, self.names[kind]).from_pretrained(self.folder)
        return self.models[kind]

    def forward(self, mode: str) -> Callable[[], Any]:
        """Return what computes the hidden states."""
        model = self.model("body").eval()

        def run() -> Any:
            with self.torch.inference_mode():
                return model(self.ids)[0].numpy()

        return run

    def train(self, kind: str, mode: str) -> Callable[[], Any]:
        """Return what takes one training step."""
        model = self.model(kind).train()
        optimizer = self.torch.optim.AdamW(model.parameters(), lr=1e-5)
        labels = self.ids % 2 if kind == "classifier" else self.ids
        labels = labels[:, 0] if kind == "classifier" else labels

        def run() -> Any:
            optimizer.zero_grad()
            loss = model(self.ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            return loss.detach().numpy()

        return run

    def generate(self, count: int) -> Callable[[], Any]:
        """Return what generates `count` tokens after the first eight."""
        model, prompt = self.model("lm").eval(), self.ids[:1, :8]
        length = prompt.shape[1] + count

        def run() -> Any:
            if self.ours:
                return self.package.generate(model, prompt, max_new_tokens=count, eos_token_id=None).numpy()
            return model.generate(prompt, max_length=length, min_length=length, do_sample=False).numpy()

        return run


class KerasSide:
    """Models in Keras 3 (ours) or in transformers' TensorFlow."""

    modes = ("graph", "xla")

    def __init__(self, ours: bool, asked: dict[str, Any]) -> None:
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(asked["threads"])
        package = __import__("xl_tf" if ours else "transformers")
        self.tf, self.ours, self.names, self.package = tensorflow, ours, asked["names"], package
        self.ids = tensorflow.constant(np.array(asked["ids"], "int32"))
        self.folder = asked["folder"]

    def model(self, kind: str) -> Any:
        """Return a model of a kind."""
        return getattr(self.package, f"TF{self.names[kind]}").from_pretrained(self.folder)

    def forward(self, mode: str) -> Callable[[], Any]:
        """Return what computes the hidden states."""
        model = self.model("body")
        step = self.tf.function(lambda ids: model(ids, training=False)[0], jit_compile=mode == "xla")
        return lambda: step(self.ids).numpy()

    def train(self, kind: str, mode: str) -> Callable[[], Any]:
        """Return what takes one training step."""
        model = self.model(kind)
        labels = self.ids % 2 if kind == "classifier" else self.ids
        labels = labels[:, 0] if kind == "classifier" else labels
        optimizers = __import__("keras").optimizers if self.ours else self.tf.keras.optimizers
        optimizer = optimizers.AdamW(1e-5, weight_decay=0.01)
        variables = model.trainable_variables
        optimizer.build(variables)

        def step(ids: Any, labels: Any) -> Any:
            with self.tf.GradientTape() as tape:
                output = model(ids, labels=labels, training=True)
                loss = self.tf.reduce_mean(output["loss"])
            gradients = tape.gradient(loss, [getattr(each, "value", each) if self.ours else each for each in variables])
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return loss

        compiled = self.tf.function(step, jit_compile=mode == "xla")
        return lambda: compiled(self.ids, labels).numpy()

    def generate(self, count: int) -> Callable[[], Any]:
        """Return what generates `count` tokens after the first eight."""
        model, prompt = self.model("lm"), self.ids[:1, :8]
        length = prompt.shape[1] + count

        def run() -> Any:
            if self.ours:
                return np.array(self.package.generate(model, prompt, max_new_tokens=count, eos_token_id=None))
            return model.generate(prompt, max_length=length, min_length=length, do_sample=False).numpy()

        return run


def floor(asked: dict[str, Any]) -> Callable[[], Any]:
    """Return what computes the matrix products of the forward pass and nothing else."""
    import torch

    torch.set_num_threads(asked["threads"])
    c, rows = asked["config"], np.size(asked["ids"])
    B, T = np.shape(asked["ids"])
    D, F, N = c["d_model"], c["d_inner"], c["n_head"]
    hidden, inner = torch.randn(rows, D), torch.randn(rows, F)
    square, wide, back = torch.randn(D, D), torch.randn(D, F), torch.randn(F, D)
    heads, turned = torch.randn(B * N, T, D // N), torch.randn(B * N, D // N, T)
    positions, scores = torch.randn(2 * T, D), torch.randn(B * N, T, T)

    def run() -> None:
        for _ in range(c["n_layer"]):
            for _ in range(4):
                hidden @ square
            positions @ square
            heads @ turned
            heads @ torch.randn(1).expand(B * N, D // N, 2 * T)
            scores @ heads
            hidden @ wide
            inner @ back

    return run


def work(name: str) -> None:
    """Answer requests as one side."""
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    sys.stdout = sys.stderr  # what libraries print is no answer
    found: dict[str, Callable[[], Any]] = {}
    side, asked = None, {}
    for request in requests():
        if side is None:
            if name.startswith("ours"):
                sys.path.insert(0, str(ROOT))
            asked = request
            kind = TorchSide if name.endswith("torch") else KerasSide
            side = floor if name == "floor" else kind(name.startswith("ours"), request)
            answer(name=name, modes=getattr(side, "modes", ("eager",)))
            continue
        key = json.dumps(request, sort_keys=True)
        if key not in found:
            do, more = request["do"], {k: v for k, v in request.items() if k != "do"}
            found[key] = floor(asked) if name == "floor" else getattr(side, do)(**more)
        start = time.perf_counter()
        value = found[key]()
        seconds = time.perf_counter() - start
        answer(seconds=seconds, value=None if value is None else np.asarray(value, "float64").ravel()[:256].tolist())


# -------------------------------------------------------------------------------------------------------- the run


def folder_of(family: str, folder: str, config: dict[str, Any]) -> None:
    """Write a model with random weights, the same for all sides."""
    sys.path.insert(0, str(ROOT))
    import torch

    import xl_torch

    torch.manual_seed(0)
    name = SHAPES[family]["lm"]
    import xlcore

    config_class = xlcore.FAMILIES[family].config
    getattr(xl_torch, name)(config_class(**config)).save_pretrained(folder)


def check_equal(sides: dict[str, Side], **request: Any) -> None:
    """Have all sides compute once, and stop if they do not agree."""
    values = {name: np.array(side.ask(**request)["value"]) for name, side in sides.items()}
    first = next(iter(values.values()))
    for name, value in values.items():
        far = float(np.abs(value - first).max() / max(1.0, np.abs(first).max()))
        if far > 1e-4:
            raise SystemExit(f"{name}: must agree with the others, got a difference of {far:.2g}")


def timed(sides: dict[str, Side], rounds: int, **request: Any) -> dict[str, list[float]]:
    """Time each side in each of its modes, by turns; of several modes the fastest counts."""
    best: dict[str, list[float]] = {}
    for mode in ("eager", "graph", "xla"):
        able = {name: side for name, side in sides.items() if mode in side.about["modes"]}
        if able:
            found = in_turn(able, rounds, **request, mode=mode)
            for name, seconds in found.items():
                if name not in best or statistics.median(seconds) < statistics.median(best[name]):
                    best[name] = seconds
    return best


def print_row(what: str, seconds: dict[str, list[float]], base: float | None = None) -> dict[str, Any]:
    """Print the medians of one workload and our ratios to the peers."""
    print(f"\n{what}")
    for name, values in seconds.items():
        beside = [f"{ratio(seconds, name, peer):.2f}x {peer}" for peer in PEERS_OF.get(name, ()) if peer in seconds]
        above = f"{statistics.median(values) / base:6.2f} of the floor" if base else ""
        print(f"  {name:26}{statistics.median(values):9.3f} s {above}  {', '.join(beside)}", flush=True)
    return {"what": what, "seconds": seconds, "floor": base}


def run(given: argparse.Namespace) -> None:
    """Measure, print and write."""
    shape = SHAPES[given.family]
    ids = np.random.default_rng(0).integers(10, 32000, (given.batch, given.length)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        folder_of(given.family, folder, shape["config"])
        asked = {"names": shape, "config": shape["config"], "folder": folder, "ids": ids, "threads": given.threads}
        sides = {}
        for name in ("floor", *(name for name in SIDES if name in given.sides)):
            python = given.peer_python if name.startswith("transformers 4") else sys.executable
            sides[name] = Side([python, str(Path(__file__).resolve()), "--worker", name], **asked)
        bottom, rows = sides.pop("floor"), []
        if "forward" in given.what:
            for mode in ("eager", "graph"):
                check_equal({n: s for n, s in sides.items() if mode in s.about["modes"]}, do="forward", mode=mode)
            base = statistics.median(in_turn({"floor": bottom}, given.rounds, do="forward")["floor"])
            rows.append(print_row("forward", timed(sides, given.rounds, do="forward"), base))
        for kind in ("classifier", "lm"):
            if kind in given.what:
                found = timed(sides, given.rounds, do="train", kind=kind)
                rows.append(print_row(f"training step, {kind}", found))
        if "generate" in given.what:
            able = {name: side for name, side in sides.items() if name != "transformers 4 tensorflow"}
            found = in_turn(able, given.generate_rounds, do="generate", count=given.tokens)
            rows.append(print_row(f"generate {given.tokens} tokens", found))
        for side in (bottom, *sides.values()):
            side.close()
    write(f"forward-{given.family}", {"config": shape["config"], "shape": [given.batch, given.length], "rows": rows})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=tuple(SHAPES), default="xlnet")
    parser.add_argument("--peer-python", default=PEER_PYTHON)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--what", nargs="+", default=("forward", "classifier", "lm", "generate"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--generate-rounds", type=int, default=1)
    parser.add_argument("--worker")
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if given.worker:
        work(given.worker)
    else:
        run(given)


if __name__ == "__main__":
    main()
