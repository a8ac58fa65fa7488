"""How fast are texts continued, beside the `generate` of transformers on the same weights and prompt?

    python benchmarks/generation.py --family xlm --tokens 200

Sides, each in a process of its own, by turns in one run: ours in PyTorch and in Keras, transformers 5 (PyTorch). Words
are the likeliest ones; XLM is causal, XLNet remembers what it has read, on each side. What ours write is checked: by
XLM of transformers, which reads each text once, and must find every word the likeliest after those before it (its
`generate` asks for another thing: what a `<s>` behind the text stands for); of XLNet both must write the same at first.
The floor is to read all weights once a word, as matrix-vector products. Prints medians, and the medians of our ratios
over the rounds; `--out` keeps them as JSON.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from floors import Product, Products, of_word
from sides import (
    OURS,
    PEER,
    PEER_PYTHON,
    PEERS,
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
    "xlm": {"n_layers": 4, "emb_dim": 768, "n_heads": 12, "causal": True},
}
CLASS = {"xlnet": "XLNetLMHeadModel", "xlm": "XLMWithLMHeadModel"}
SIDES = (*OURS, PEER)
SAME = 16  # words of XLNet that must be the same; rounding may turn a later one, and then all behind it


class Torch(TorchModels):
    """What a side in PyTorch does."""

    def generate(self, count: int) -> Callable[[], Any]:
        """Return what adds `count` words to the prompt."""
        model = self.model("lm").eval()
        if self.ours:
            return lambda: self.package.generate(model, self.ids, count).numpy()[0]
        # Ends and filling are told, or it takes those of the config.
        keys = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
        return lambda: model.generate(self.ids, **keys).numpy()[0]

    def shortfall(self, text: list[int]) -> Callable[[], Any]:
        """Return what tells how far each added word is from the likeliest one, at the most."""
        model, text = self.model("lm").eval(), self.torch.tensor([text])
        first = self.ids.shape[1]

        def run() -> Any:
            with self.torch.inference_mode():
                scores = model(text[:, :-1]).logits[0, first - 1 :]
            return (scores.max(-1).values - scores.gather(-1, text[0, first:, None])[:, 0]).max()

        return run


class Keras(KerasModels):
    """What a side in Keras does."""

    modes = ("eager",)

    def generate(self, count: int) -> Callable[[], Any]:
        """Return what adds `count` words to the prompt."""
        model = self.model("lm")
        return lambda: np.array(self.package.generate(model, self.ids, count))[0]


class Floor(Products):
    """The products of a word, of as many words."""

    def __init__(self, asked: dict[str, Any]) -> None:
        layers, words, D, F = asked["sizes"]
        super().__init__([*layers * of_word(D, F), Product(1, D, words)], asked)


def check(family: str, sides: dict[str, Side], count: int, first: int) -> None:
    """Have each side write once, and stop if what ours wrote is wrong."""
    texts = {
        name: [int(word) for word in side.ask(do="generate", count=count)["value"]] for name, side in sides.items()
    }
    for name, text in texts.items():
        if len(text) != first + count:
            raise SystemExit(f"{name}: must add {count} words, got {len(text) - first}")
        if family == "xlm" and name in OURS:
            (far,) = sides[PEER].ask(do="shortfall", text=text)["value"]
            if far > 1e-3:
                raise SystemExit(f"{name}: each word must be the likeliest one, got one that falls short by {far:.2g}")
        if family == "xlnet" and text[: first + SAME] != texts[PEER][: first + SAME]:
            raise SystemExit(f"{name}: must begin as transformers does, got another text")


def run(given: argparse.Namespace) -> None:
    """Measure, print and keep."""
    from xlcore import FAMILIES

    base, prompt = BASE[given.family], np.random.default_rng(0).integers(14, 30000, (1, given.prompt))
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, CLASS[given.family], given.family, base)
        asked = {"classes": {"lm": CLASS[given.family]}, "folder": folder, "ids": prompt.tolist()}
        config = FAMILIES[given.family].config(**base)
        asked["sizes"] = [config.num_layers, config.vocab_size, config.hidden_size, config.feed_forward_size]
        sides = {}
        for name in ("floor", *(name for name in SIDES if name in (*given.sides, PEER))):
            command = [python_of(name, PEER_PYTHON), str(Path(__file__).resolve()), "--worker", name]
            sides[name] = Side(command, name=name, threads=given.threads, clock=given.clock, **asked)
        check(given.family, {name: sides[name] for name in sides if name != "floor"}, given.tokens, given.prompt)
        sides["floor"].ask(do="generate", count=given.tokens)
        found = in_turn(sides, given.rounds, warm=True, do="generate", count=given.tokens)
        row = summary(f"{given.tokens} words after {given.prompt}", found, PEERS)
        for side in sides.values():
            side.close()
    keep(given.out, {"config": base, "tokens": given.tokens, "prompt": given.prompt, "rows": [row]})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=tuple(BASE), default="xlm", help="whose model, at base size with 4 layers")
    parser.add_argument("--sides", nargs="+", default=OURS, choices=OURS, metavar="SIDE", help=f"of {OURS}")
    parser.add_argument("--tokens", type=int, default=200, help="words to add")
    parser.add_argument("--prompt", type=int, default=8, help="words to begin with")
    given = options(parser, rounds=3)
    if given.worker:
        serve(Floor if given.worker == "floor" else Torch if given.worker.endswith("torch") else Keras)
    else:
        run(given)


if __name__ == "__main__":
    main()
