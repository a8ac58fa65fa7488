"""What does a long memory cost, beside transformers 4.34 on the same weights and words?

    python benchmarks/memory.py decode segments train --peer-python .venv-peers/bin/python --threads 1 --clock cpu

`decode` writes the likeliest words, one a call, and `segments` reads 128 words a call, with a memory of 1,600 positions
in 6 layers of Transformer-XL's large shape for WikiText-103; `train` takes training steps of its base shape, cut to 4
layers, on 4 texts of 128 words after as many. Words are drawn as texts have them (Zipf's law). Sides, each in a process
of its own, by turns in one run: ours in PyTorch and in Keras with a `KeyValueMemory` (but in training), transformers
4.34 in PyTorch and in TensorFlow, which project their whole memory anew in each call. The floor of `decode` is to read
the weights of layers and of the frequent words once a word, as matrix-vector products, which leaves out what rare words
and distances have, for hardly a word needs that; "all weights" is to read those, too. The floor of `segments` and of
`train` is the matrix products alone. What is computed must be equal: all words, hidden states and losses (1e-3 of
their scale). Prints medians, and the medians of our ratios over the rounds; of `train` the largest memory that a side
had in a step, too, and how much of it came on top of what it held before. `--out` keeps them as JSON.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from floors import Product, Products, of_layer, of_word
from sides import (
    OLD,
    OLD_TENSORFLOW,
    OURS,
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
    zipf,
)

WORDS = {"vocab_size": 267735, "cutoffs": [20000, 40000, 200000]}
LARGE = {**WORDS, "d_model": 1024, "n_head": 16, "d_head": 64, "d_inner": 4096, "div_val": 4, "n_layer": 6}
BASE = {**WORDS, "d_model": 410, "n_head": 10, "d_head": 41, "d_inner": 2100, "div_val": 1, "n_layer": 4}
SHAPES = {
    "decode": {**LARGE, "d_embed": 1024, "mem_len": 1600, "clamp_len": -1},
    "segments": {**LARGE, "d_embed": 1024, "mem_len": 1600, "clamp_len": -1},
    "train": {**BASE, "d_embed": 410, "mem_len": 128, "clamp_len": -1},
}
COUNTS = {"segments": 4, "train": 1}  # calls of a run
TEXTS = {"decode": (1, 1), "segments": (1, 128), "train": (4, 128)}
CLASSES = {"body": "TransfoXLModel", "lm": "TransfoXLLMHeadModel"}
FLOORS = {"decode": ("floor", "all weights"), "segments": ("floor",), "train": ("floor",)}
PEERS = {"ours torch": (OLD, *FLOORS["decode"]), "ours keras": (OLD_TENSORFLOW, *FLOORS["decode"])}
LACKING = {"train": (OLD_TENSORFLOW,)}  # it has no softmax with clusters of one width
APART = 1e-3
STATUS = Path("/proc/self/status")


def with_peak(run: Callable[[], float]) -> Callable[[], Any]:
    """Return what runs and tells what it returns, the most memory that the process had then, and had more than before.

    In bytes; what is freed goes back to the system (MALLOC_MMAP_THRESHOLD_), or what was held once would count.
    """

    def resident(kind: str) -> float:
        return 1024.0 * next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if kind in line)

    def found() -> list[float]:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        value = run()
        return [value, resident("VmHWM"), resident("VmHWM") - before]

    return found


class Torch(TorchModels):
    """What a side in PyTorch does."""

    def decode(self, count: int) -> Callable[[], Any]:
        """Return what goes on with as many words, behind those of the run before."""
        model, words = self.model("lm").eval(), self.ids
        mems = self.package.KeyValueMemory() if self.ours else None

        def likeliest() -> None:
            nonlocal words, mems
            if self.ours:
                hidden = model.transformer(words, mems=mems).last_hidden_state
                words = model.crit.likeliest(hidden[:, -1])[1]
            else:
                output = model(words, mems=mems)
                words, mems = output.prediction_scores[:, -1:].argmax(-1), output.mems

        def run() -> list[int]:
            found = []
            with self.torch.inference_mode():
                for _ in range(count):
                    likeliest()
                    found.append(words.numpy().item())
            return found

        return run

    def segments(self, count: int) -> Callable[[], Any]:
        """Return what reads as many segments, behind those of the run before."""
        model = self.model("body").eval()
        mems = self.package.KeyValueMemory() if self.ours else None

        def run() -> Any:
            nonlocal mems
            with self.torch.inference_mode():
                for _ in range(count):
                    output = model(self.ids, mems=mems)
                    mems = output.mems
            return output.last_hidden_state[:, -1].numpy()

        return run

    def train(self, count: int) -> Callable[[], Any]:
        """Return what takes as many training steps."""
        model = self.model("lm").train()
        optimizer = self.torch.optim.SGD(model.parameters(), lr=1e-3)
        for module in model.modules():  # else each side drops others
            module.p = 0.0 if isinstance(module, self.torch.nn.Dropout) else getattr(module, "p", None)

        def run() -> float:
            for _ in range(count):
                optimizer.zero_grad()
                output = model(self.ids, labels=self.ids)
                loss = output.loss if output.loss is not None else output.losses.mean()
                loss.backward()
                optimizer.step()
            return float(loss)

        return with_peak(run)


class Keras(KerasModels):
    """What a side in Keras or TensorFlow does."""

    def decode(self, count: int) -> Callable[[], Any]:
        """Return what goes on with as many words, behind those of the run before."""
        model, words = self.model("lm"), self.ids
        mems = self._memory(model)

        def ours(memory: Any, words: Any) -> Any:
            return model.crit.likeliest(model.transformer(words, mems=memory).last_hidden_state[:, -1])[1]

        def theirs(words: Any, mems: Any) -> Any:
            output = model(words, mems=mems)
            return self.tf.argmax(output.prediction_scores[:, -1:], -1, "int32"), output.mems

        step = self._step(model, ours, theirs)

        def run() -> list[int]:
            nonlocal words, mems
            found = []
            for _ in range(count):
                words, mems = step(words, mems)
                words = self.tf.cast(words, "int32")
                found.append(words.numpy().item())
            return found

        return run

    def segments(self, count: int) -> Callable[[], Any]:
        """Return what reads as many segments, behind those of the run before."""
        model = self.model("body")
        mems = self._memory(model)

        def theirs(words: Any, mems: Any) -> Any:
            output = model(words, mems=mems)
            return output.last_hidden_state, output.mems

        step = self._step(model, lambda memory, words: model(words, mems=memory).last_hidden_state, theirs)

        def run() -> Any:
            nonlocal mems
            for _ in range(count):
                hidden, mems = step(self.ids, mems)
            return hidden[:, -1].numpy()

        return run

    def train(self, count: int) -> Callable[[], Any]:
        """Return what takes as many training steps."""
        model = self.model("lm")
        keras = __import__("keras") if self.ours else self.tf.keras
        for layer in model._flatten_layers() if self.ours else model.submodules:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        optimizer = keras.optimizers.SGD(1e-3)

        def loss(ids: Any) -> Any:
            output = model(ids, labels=ids, training=True)
            return output["loss"] if output.get("loss") is not None else self.tf.reduce_mean(output["losses"])

        step = self.trained(loss, model.trainable_variables, optimizer, "graph")
        return with_peak(lambda: float([step(self.ids) for _ in range(count)][-1]))

    def model(self, kind: str) -> Any:
        """Return a model of a kind; what the peer should tie, but starts anew, is set."""
        model = super().model(kind)
        if not self.ours and kind == "lm":
            crit, table = model.crit, model.transformer.word_emb
            for (weight, _), embedding in zip(crit.out_layers, table.emb_layers, strict=False):
                weight.assign(embedding.weights[0])
            for tied, own, other in zip(model.config.tie_projs, crit.out_projs, table.emb_projs, strict=False):
                if tied:
                    own.assign(other)
        return model

    def _memory(self, model: Any) -> Any:
        return self.package.KeyValueMemory() if self.ours else model.transformer.init_mems(1)

    def _step(self, model: Any, ours: Callable[..., Any], theirs: Callable[..., Any]) -> Callable[..., Any]:
        """Return a compiled step from words and memory to what is found, and memory."""
        if not self.ours:
            return self.tf.function(theirs)
        step = __import__("xl_tf.layers.key_values", fromlist=["compiled_reader"]).compiled_reader(model, ours)
        return lambda words, memory: (step(memory, words), memory)


class Floor:
    """What no side can go below: the products of one word, of one segment or of a training step, and nothing else.

    Args:
        asked: what each side is asked; of `name` "all weights" a word reads all of them.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.shape, self.ids = asked, asked["shape"], np.array(asked["ids"])
        self.sizes, self.layers = [self.shape[name] for name in ("d_model", "d_inner", "n_head")], self.shape["n_layer"]

    def decode(self, count: int) -> Callable[[], None]:
        """Return what reads the weights for as many words."""
        D, F, _ = self.sizes
        read = self.layers * of_word(D, F)
        read += [Product(1, D, D), Product(1, D, self.shape["cutoffs"][0])]
        if self.asked["name"] == "all weights":
            read += self.layers * [Product(1, D, D)]
            read += [
                each for _, width, size in self._rare() for each in (Product(1, D, width), Product(1, width, size))
            ]
        return Products(read, self.asked).generate(count)

    def segments(self, count: int) -> Callable[[], None]:
        """Return what multiplies for as many segments."""
        (B, T), M = self.ids.shape, self.shape["mem_len"]
        read = self.layers * of_layer(self.sizes, B, T, M + T, known=M, R=M + T)
        return Products(count * read, self.asked).forward()

    def train(self, count: int) -> Callable[[], None]:
        """Return what multiplies for as many training steps: of rare words where such are."""
        (B, T), M, D = self.ids.shape, self.shape["mem_len"], self.sizes[0]
        found = self.layers * of_layer(self.sizes, B, T, M + T, memory=M, R=M + T, places=M + T)
        wanted, borders = self.ids[:, 1:], self.shape["cutoffs"]
        found += [Product(wanted.size, D, borders[0] + len(borders))]
        for start, width, size in self._rare():
            rows = int(((wanted >= start) & (wanted < start + size)).sum())
            found += [Product(rows, D, width)] if rows and width != D else []
            found += [Product(rows, width, size)] if rows else []
        return Products(count * found, self.asked).train()

    def _rare(self) -> list[tuple[int, int, int]]:
        """Return of each table of rare words the first word, the width and how many words there are."""
        borders, widest = [*self.shape["cutoffs"], self.shape["vocab_size"]], self.shape["d_embed"]
        return [
            (start, widest // self.shape["div_val"] ** number, end - start)
            for number, (start, end) in enumerate(itertools.pairwise(borders), 1)
        ]


def check_equal(values: dict[str, np.ndarray]) -> None:
    """Stop if sides do not agree."""
    first = next(iter(values.values()))
    for name, value in values.items():
        if np.abs(value - first).max() > APART * max(1.0, np.abs(first).max()):
            raise SystemExit(f"{name}: must agree with the others, got {value[:8]}, not {first[:8]}")


def measure(what: str, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one workload."""
    shape, count = SHAPES[what], given.words if what == "decode" else COUNTS[what]
    ids = zipf(shape["vocab_size"], TEXTS[what]).tolist()
    names = [name for name in given.sides if name not in LACKING.get(what, ())]
    names += FLOORS[what]
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, CLASSES["lm"], "transfo-xl", shape)
        asked = {"classes": CLASSES, "folder": folder, "ids": ids, "threads": given.threads, "clock": given.clock}
        kept = [f"MALLOC_MMAP_THRESHOLD_={1 << 16}", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR=1"]
        before = {name: ["env", *kept] for name in names if what == "train" and name != "floor"}
        command = [str(Path(__file__).resolve()), "--worker"]
        sides = {
            name: Side(
                [*before.get(name, []), python_of(name, given.peer_python), *command, name],
                name=name,
                shape=shape,
                **asked,
            )
            for name in names
        }
        request = {"do": what, "count": count}
        answers = {name: side.ask(**request)["value"] for name, side in sides.items()}
        values = {name: np.array(value) for name, value in answers.items() if value is not None}
        peaks = {name: value[1:] for name, value in values.items()} if what == "train" else {}
        check_equal({name: value[:1] for name, value in values.items()} if peaks else values)
        found = in_turn(sides, given.rounds, warm=True, **request)
        row = summary(f"{what}, {count} a run, {TEXTS[what]} words a call", found, PEERS)
        for name, peak in peaks.items():
            most, more = (max(both) for both in zip(peak, sides[name].ask(**request)["value"][1:], strict=True))
            row["sides"][name] |= {"peak": most, "on top": more}
            print(f"  {name:26}{most / 2**30:9.2f} GiB at the most, {more / 2**20:,.0f} MiB of it for the step")
        for side in sides.values():
            side.close()
    return {**row, "config": shape}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(SHAPES), help=f"of {tuple(SHAPES)}; all of them if not given")
    known = (*OURS, OLD, OLD_TENSORFLOW)
    parser.add_argument("--sides", nargs="+", default=known, choices=known, metavar="SIDE", help=f"of {known}")
    parser.add_argument("--peer-python", default=PEER_PYTHON, help="with transformers 4.34.0, TensorFlow and PyTorch")
    parser.add_argument("--words", type=int, default=16, help="words that one run of `decode` writes")
    given = options(parser, rounds=3)
    if given.worker:
        serve(Floor if given.worker in FLOORS["decode"] else Torch if given.worker.endswith("torch") else Keras)
    else:
        keep(given.out, {"rows": [measure(what, given) for what in given.what]})


if __name__ == "__main__":
    main()
