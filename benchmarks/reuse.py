"""How much faster is a text scored with memory than by a sliding window, which reads its whole context for each word?

    python benchmarks/reuse.py --quick
    python benchmarks/reuse.py --device cuda --lengths 800 1800 2800 3800

The table of the paper (Dai et al., 2019, table 9) by our own models: one set of weights, read twice.

  memory:  A positions are remembered, as keys and values, and full when time starts; segments of T words are read, all
           of which are scored. same_length, as the authors evaluate.
  window:  no memory, mem_len 0 and same_length false: for each word the A words before it are read, and the last
           position is scored.

Both with the scores of the vocabulary, in the same dtype, by the same model in the same process, by turns; time is that
of one word. Beside the ratio of times stand those of multiplications, for this model and for one without relative
positions in the window, which is what the paper's other model is; and what the paper says, of a GPU, whose segment,
batch and model it does not tell. Quality differs: a memory reaches further back than a window.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sides import OURS, KerasModels, Side, TorchModels, keep, make_folder, options, serve

PAPER = {800: 363, 1800: 773, 2800: 1409, 3800: 1874}
# The authors' model of enwik8 with fewer layers, which all cost the same.
LARGE: dict[str, Any] = {"d_model": 1024, "d_embed": 1024, "n_head": 8, "d_head": 128, "d_inner": 3072}
SMALL: dict[str, Any] = {"d_model": 256, "d_embed": 256, "n_head": 4, "d_head": 64, "d_inner": 768}
REST: dict[str, Any] = {"vocab_size": 204, "cutoffs": [], "div_val": 1, "clamp_len": 1000}
DTYPES = ("float32", "bfloat16", "float16")


class Torch(TorchModels):
    """What a side in PyTorch does."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.asked = asked
        kind = getattr(self.torch, asked["dtype"])
        self.lm = self.model("lm").to(asked["device"], kind).eval()
        self.ids = self.ids.to(asked["device"])

    def memory(self, length: int, segment: int) -> Callable[[], Any]:
        """Return what reads a segment after a full memory, and scores all its words."""
        torch, body = self.torch, self._settled(length, True)
        shape, like = (length, len(self.ids), body.config.d_model), next(body.parameters())
        memory = self.package.KeyValueMemory([torch.randn(shape).to(like.device, like.dtype) for _ in body.blocks])
        return self._scored(memory, segment, segment)

    def window(self, length: int) -> Callable[[], Any]:
        """Return what reads a window and scores the word behind it."""
        self._settled(0, False)
        return self._scored(None, length, 1)

    def _settled(self, mem_len: int, same_length: bool) -> Any:
        body = self.lm.transformer
        body.reset_memory_length(mem_len)
        body.config.same_length = same_length
        return body

    def _scored(self, memory: Any, count: int, scored: int) -> Callable[[], Any]:
        torch, ids = self.torch, self.ids[:, :count]
        mem_len, same_length = self.lm.transformer.mem_len, self.lm.config.same_length

        def run() -> Any:
            self._settled(mem_len, same_length)
            with torch.no_grad():
                hidden = self.lm.transformer(ids, mems=memory).last_hidden_state[:, -scored:]
                losses = self.lm.crit.token_losses(hidden.flatten(0, 1), ids[:, -scored:].flatten())
            return losses[:1].double().cpu().numpy()  # waits for all of it

        run()  # the memory is made, and libraries are warm
        return run


class Keras(KerasModels):
    """What a side in Keras does, compiled."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(asked)
        self.lm = self.package.TFTransfoXLLMHeadModel.from_pretrained(self.folder)

    def memory(self, length: int, segment: int) -> Callable[[], Any]:
        """Return what reads a segment after a full memory, and scores all its words."""
        from xl_tf.layers.key_values import compiled_reader

        body = self._settled(length, True)
        zeros = self.tf.random.normal((length, len(self.ids), body.config.d_model))
        memory = self.package.KeyValueMemory([zeros for _ in body.blocks])
        step = compiled_reader(self.lm, self._losses)
        ids = self.ids[:, :segment]
        return self._warm(lambda: step(memory, ids, ids)[:1].numpy())

    def window(self, length: int) -> Callable[[], Any]:
        """Return what reads a window and scores the word behind it."""
        from xl_tf.backend import compiled_function

        self._settled(0, False)
        step = compiled_function(lambda ids, last: self._losses(None, ids, last), self.lm)
        ids, last = self.ids[:, :length], self.ids[:, length - 1 : length]
        return self._warm(lambda: step(ids, last)[:1].numpy())

    def _settled(self, mem_len: int, same_length: bool) -> Any:
        body = self.lm.transformer
        body.reset_memory_length(mem_len)
        body.config.same_length = same_length
        return body

    def _losses(self, memory: Any, ids: Any, wanted: Any) -> Any:
        hidden = self.lm.transformer(ids, mems=memory).last_hidden_state[:, -wanted.shape[1] :]
        return self.lm.crit.token_losses(self.tf.reshape(hidden, (-1, hidden.shape[-1])), self.tf.reshape(wanted, [-1]))

    def _warm(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Compile while the settings are those of this run, for the first and for all later segments."""
        for _ in range(2):
            run()
        return run


def products(sizes: dict[str, Any], length: int, segment: int) -> dict[str, float]:
    """Return the ratios of multiplications of a layer for one word, window to memory (see the specification)."""
    D, inner, F = sizes["d_model"], sizes["n_head"] * sizes["d_head"], sizes["d_inner"]
    each = 4 * D * inner + 2 * D * F  # query, key, value, out; feed-forward
    keys = length + segment
    memory = each + 3 * inner * keys  # content, position, values
    window = length * each + 3 * inner * length**2 + length * D * inner  # and the keys of positions
    return {"this model": window / memory, "without positions": (length * each + 2 * inner * length**2) / memory}


def measure(side: Side, length: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return seconds for a word both ways, medians over rounds."""
    asked = {
        "memory": {"do": "memory", "length": length, "segment": given.segment},
        "window": {"do": "window", "length": length},
    }
    words = {"memory": given.batch * given.segment, "window": given.batch}
    for request in asked.values():
        side.ask(**request)
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    for turn in range(given.rounds):
        for name in list(asked) if turn % 2 else reversed(asked):
            seconds[name].append(side.ask(**asked[name])["seconds"] / words[name])
    ratios = [window / memory for window, memory in zip(seconds["window"], seconds["memory"], strict=True)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {**medians, "ratio": statistics.median(ratios), "ratios": ratios}


def run(given: argparse.Namespace) -> None:
    """Measure, print and keep."""
    sizes = SMALL if given.quick else LARGE
    lengths = given.lengths or ([800] if given.quick else sorted(PAPER))
    config = {**sizes, **REST, "n_layer": given.layers, "mem_len": max(lengths)}
    ids = np.random.default_rng(0).integers(0, REST["vocab_size"], (given.batch, max([given.segment, *lengths])))
    where = f"{given.dtype}, {given.device}, {given.threads} threads, {given.clock} time"
    what = f"{given.layers} layers of {sizes['d_model']}, B={given.batch}, T={given.segment}, {where}"
    print(f"{what}; the scores of {REST['vocab_size']} words are part of it")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_folder(folder, "TransfoXLLMHeadModel", "transfo-xl", config)
        asked = {"classes": {"lm": "TransfoXLLMHeadModel"}, "folder": folder, "ids": ids.tolist(), "dtype": given.dtype}
        asked |= {"threads": given.threads, "clock": given.clock, "device": given.device}
        for name in given.sides:
            side = Side([sys.executable, str(Path(__file__).resolve()), "--worker", name], name=name, **asked)
            print(f"\n{name:14}{'memory':>14}{'window':>14}{'ratio':>10}{'products':>10}{'(plain)':>9}{'paper':>8}")
            for length in lengths:
                found, counted = measure(side, length, given), products(sizes, length, given.segment)
                rows.append({"side": name, "length": length, **found, "products": counted, "paper": PAPER.get(length)})
                times = f"{1e3 * found['memory']:11.3f} ms{1e3 * found['window']:11.1f} ms"
                figures = f"{found['ratio']:9.0f}x{counted['this model']:9.0f}x{counted['without positions']:8.0f}x"
                print(f"{length:>14,}{times}{figures}{PAPER.get(length, 0) or '-':>7}x", flush=True)
            side.close()
    keep(given.out, {"config": config, "what": what, "rows": rows})


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model a quarter as wide, 800 words")
    parser.add_argument("--sides", nargs="+", default=OURS[:1], choices=OURS, metavar="SIDE", help=f"of {OURS}")
    parser.add_argument(
        "--lengths", nargs="+", type=int, metavar="A", help="positions that are seen; default the paper's"
    )
    parser.add_argument("--segment", type=int, default=128, metavar="T", help="words read at once after a memory")
    parser.add_argument("--batch", type=int, default=1, metavar="B", help="texts side by side, both ways")
    parser.add_argument("--layers", type=int, default=2, help="of the model; all cost the same")
    parser.add_argument("--device", default="cpu", help="of PyTorch; Keras takes what it finds")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of PyTorch; Keras computes in float32")
    given = options(parser, rounds=3)
    if given.worker:
        serve(Torch if given.worker.endswith("torch") else Keras)
    else:
        run(given)


if __name__ == "__main__":
    main()
