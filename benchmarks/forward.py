"""How fast are the forward pass and training steps, beside transformers on the same weights and inputs?

    python benchmarks/forward.py --family xlm --peer-python .venv-peers/bin/python
    python benchmarks/forward.py --family xlm-roberta-xl --dtype bfloat16   # XL's widths, 2 layers

Five sides, each in a process of its own, by turns in one run: ours in PyTorch and in Keras, transformers 5 (PyTorch)
from this environment, transformers 4.34.0 (PyTorch, TensorFlow) from that of the peers, without which `--sides` must
leave them out; sides that lack the family or the dtype are. Keras and TensorFlow run as a graph and through XLA; the
faster counts, on each side. The floor is the time of the matrix products alone, in training those of the gradients,
too. Hidden states must be equal (1e-4 of their scale, 0.05 in bfloat16, which has eight bits). Prints medians, and the
medians of our ratios over the rounds; `--out` keeps them as JSON.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from floors import Product, Products, of_layer
from sides import (
    OLD_TENSORFLOW,
    PEER_PYTHON,
    PEERS,
    SIDES,
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
    "xlnet": {"n_layer": 4, "d_model": 768, "n_head": 12, "d_inner": 3072, "mem_len": None},
    "xlm": {"n_layers": 4, "emb_dim": 768, "n_heads": 12},
    "xlm-roberta-xl": {"num_hidden_layers": 2, "vocab_size": 32000},
}
CLASSES = {
    "xlnet": {
        "body": "XLNetModel",
        "lm": "XLNetLMHeadModel",
        "pretraining": "XLNetLMHeadModel",
        "classifier": "XLNetForSequenceClassification",
    },
    "xlm": {"body": "XLMModel", "lm": "XLMWithLMHeadModel", "classifier": "XLMForSequenceClassification"},
    "xlm-roberta-xl": {
        "body": "XLMRobertaXLModel",
        "lm": "XLMRobertaXLForMaskedLM",
        "classifier": "XLMRobertaXLForSequenceClassification",
    },
}
RELATIVE = ("xlnet",)  # families whose attention scores distances, too
NO_LABELS = {("xlm", "lm"): (OLD_TENSORFLOW,)}  # heads that take none there
NONE = {"xlm-roberta-xl": (OLD_TENSORFLOW,)}  # sides that lack the family
APART = {"float32": 1e-4, "bfloat16": 0.05}  # how far hidden states may lie apart, as a part of the largest
WORK = ("forward", "scores", "classifier", "lm", "pretraining")
PREDICTED = 6  # one word of so many is predicted in pretraining, from those before it in a random order


def targets(kind: str, ids: Any) -> dict[str, Any]:
    """Return what a training step is given beside ids [B, T]; for pretraining what switches the second stream on."""
    if kind != "pretraining":
        return {"labels": ids[:, 0] % 2 if kind == "classifier" else ids}
    B, T = ids.shape
    order = np.argsort(np.random.default_rng(0).random((B, T)))
    place = np.argsort(order)  # [B, T], of each word in the order
    chosen = order[:, T - T // PREDICTED :]  # [B, P]
    unseen = (place[:, None, :] >= place[:, :, None]) & (place[:, None, :] >= T - T // PREDICTED)
    return {
        "perm_mask": unseen.astype("float32"),  # [B, T, T]
        "target_mapping": np.eye(T, dtype="float32")[chosen],  # [B, P, T]
        "labels": np.take_along_axis(ids, chosen, 1),
    }


class Torch(TorchModels):
    """What a side in PyTorch does."""

    def forward(self, mode: str, kind: str) -> Callable[[], Any]:
        """Return what computes the hidden states, or scores of words."""
        model = self.model(kind).eval()

        def run() -> Any:
            with self.torch.inference_mode():
                return model(self.ids)[0][:, -1].float().numpy()

        return run

    def train(self, kind: str, mode: str) -> Callable[[], Any]:
        """Return what takes one training step."""
        model = self.model(kind).train()
        optimizer = self.torch.optim.AdamW(model.parameters(), lr=1e-5)
        given = {name: self.torch.tensor(value) for name, value in targets(kind, self.ids.numpy()).items()}

        def run() -> Any:
            optimizer.zero_grad()
            loss = model(self.ids, **given).loss
            loss.backward()
            optimizer.step()
            return loss.detach().float().numpy()

        return run


class Keras(KerasModels):
    """What a side in Keras or TensorFlow does."""

    def forward(self, mode: str, kind: str) -> Callable[[], Any]:
        """Return what computes the hidden states, or scores of words."""
        model = self.model(kind)
        step = self.tf.function(lambda ids: model(ids, training=False)[0], jit_compile=mode == "xla")
        return lambda: step(self.ids)[:, -1].numpy()

    def train(self, kind: str, mode: str) -> Callable[[], Any]:
        """Return what takes one training step."""
        model = self.model(kind)
        given = {name: self.tf.constant(value) for name, value in targets(kind, self.ids.numpy()).items()}
        optimizers = __import__("keras").optimizers if self.ours else self.tf.keras.optimizers

        def loss(ids: Any, given: Any) -> Any:
            return self.tf.reduce_mean(model(ids, **given, training=True)["loss"])

        optimizer = optimizers.AdamW(1e-5, weight_decay=0.01)
        step = self.trained(loss, model.trainable_variables, optimizer, mode)
        return lambda: step(self.ids, given).numpy()


class Floor:
    """The matrix products of a forward pass, or of a training step, and nothing else."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked = asked

    def forward(self, mode: str, kind: str) -> Callable[[], Any]:
        """Return what computes them."""
        return self._products(kind).forward()

    def train(self, mode: str, kind: str) -> Callable[[], Any]:
        """Return what computes them, and those of the gradients."""
        return self._products(kind).train()

    def _products(self, kind: str) -> Products:
        (B, T), (layers, words, relative, *sizes) = np.shape(self.asked["ids"]), self.asked["sizes"]
        D, R = sizes[0], 2 * T if relative else 0
        found, predicted = layers * of_layer(sizes, B, T, T, R=R, places=R), {"lm": B * T}
        if kind == "pretraining":  # the words that are predicted ask what the stream of all words holds
            P, keys = T // PREDICTED, [Product(B * T, D, D)] * 2 + [Product(R, D, D, learns=False)]
            found = found[len(found) // layers :] + keys + layers * of_layer(sizes, B, P, T, known=T, R=R)
            predicted[kind] = B * P
        head = [Product(predicted[kind], D, words)] if kind in predicted else []
        return Products(found + head, self.asked)


def work(name: str) -> None:
    """Answer requests as one side."""
    serve(Floor if name == "floor" else Torch if name.endswith("torch") else Keras)


# -------------------------------------------------------------------------------------------------------- the run


def check_equal(sides: dict[str, Side], mode: str, kind: str, apart: float) -> None:
    """Have all sides compute once, and stop if they do not agree."""
    able = {name: side for name, side in sides.items() if mode in side.about["modes"]}
    values = {name: np.array(side.ask(do="forward", mode=mode, kind=kind)["value"]) for name, side in able.items()}
    for name, value in values.items():
        first = next(iter(values.values()))
        far = float(np.abs(value - first).max() / max(1.0, np.abs(first).max()))
        if far > apart:
            raise SystemExit(f"{name}: must agree with the others, got a difference of {far:.2g}")


def timed(sides: dict[str, Side], rounds: int, **request: Any) -> dict[str, list[float]]:
    """Time each side in each of its modes, by turns; of several modes the fastest counts."""
    best: dict[str, list[float]] = {}
    for mode in ("eager", "graph", "xla"):
        able = {name: side for name, side in sides.items() if mode in side.about["modes"]}
        for name, seconds in in_turn(able, rounds, **request, mode=mode).items():
            if name not in best or statistics.median(seconds) < statistics.median(best[name]):
                best[name] = seconds
    return best


def start(given: argparse.Namespace, folder: str) -> dict[str, Side]:
    """Start all sides and the floor on the weights of a folder."""
    from xlcore import FAMILIES

    config = FAMILIES[given.family].config(**BASE[given.family])
    ids = np.random.default_rng(0).integers(14, config.vocab_size, (given.batch, given.length)).tolist()
    sizes = (config.hidden_size, config.feed_forward_size, config.num_heads)
    asked = {
        "classes": CLASSES[given.family],
        "folder": folder,
        "ids": ids,
        "threads": given.threads,
        "clock": given.clock,
        "dtype": given.dtype,
    }
    asked["sizes"] = [config.num_layers, config.vocab_size, given.family in RELATIVE, *sizes]
    command = [str(Path(__file__).resolve()), "--worker"]
    lacking = NONE.get(given.family, ()) if given.dtype == "float32" else (OLD_TENSORFLOW,)
    names = ["floor", *(name for name in SIDES if name in given.sides and name not in lacking)]
    return {name: Side([python_of(name, given.peer_python), *command, name], name=name, **asked) for name in names}


def run(given: argparse.Namespace) -> None:
    """Measure, print and keep."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, CLASSES[given.family]["lm"], given.family, BASE[given.family])
        sides = start(given, folder)
        models = {name: side for name, side in sides.items() if name != "floor"}
        for what, kind in (("forward", "body"), ("scores", "lm")):
            if what in given.what:
                for mode in ("eager", "graph"):
                    check_equal(models, mode, kind, APART[given.dtype])
                found = timed(sides, given.rounds, do="forward", kind=kind)
                rows.append(summary(f"forward pass, {kind}", found, PEERS))
        for kind in ("classifier", "lm", "pretraining"):
            able = {name: side for name, side in sides.items() if name not in NO_LABELS.get((given.family, kind), ())}
            if kind in given.what and kind in CLASSES[given.family]:
                found = timed(able, given.rounds, do="train", kind=kind)
                rows.append(summary(f"training step, {kind}", found, PEERS))
        for side in sides.values():
            side.close()
    about = {"config": BASE[given.family], "dtype": given.dtype, "shape": [given.batch, given.length]}
    keep(given.out, {**about, "rows": rows})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", choices=tuple(BASE), default="xlnet", help="whose model: base size with 4 layers, or XL's with 2"
    )
    parser.add_argument(
        "--peer-python", default=PEER_PYTHON, help="a Python with transformers 4.34.0 (`make bench-peers`)"
    )
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, metavar="SIDE", help=f"of {SIDES}")
    parser.add_argument("--what", nargs="+", default=WORK, choices=WORK, help="hidden states; training steps")
    parser.add_argument("--dtype", default="float32", choices=tuple(APART), help="of weights and all that is computed")
    parser.add_argument("--batch", type=int, default=4, help="texts")
    parser.add_argument("--length", type=int, default=256, help="words of each")
    given = options(parser, rounds=7)
    if given.worker:
        work(given.worker)
    else:
        run(given)


if __name__ == "__main__":
    main()
