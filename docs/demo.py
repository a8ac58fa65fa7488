"""Train a small Transformer-XL on real text in Keras, open it in PyTorch, and show that both compute the same.

The text is the language reference that every CPython carries for `help()`. Takes some minutes on two processor cores,
and writes the model with its tokenizer, two pictures, and report.html; nothing is downloaded.
"""

import argparse
import base64
import html
import math
import os
import re
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from xlcore import ParityError, TransfoXLConfig, TransfoXLTokenizer, XLError
from xlcore.tasks.language_modeling import stream_segments

START = time.perf_counter()
BATCH, SEGMENT, MEMORY = 16, 32, 64  # texts side by side, words of a segment, words remembered
ROWS, READ = 4, 8  # the frameworks are compared on so many texts side by side, so many segments of each
MOST_FLOAT64, MOST_FLOORS = 1e-9, 4  # how far they may differ: in float64; in float32, times the lower floor
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # the colour-blind tell them apart, too
EXTRAS = {"torch": "torch", "keras": "tf", "matplotlib": "plots"}  # what a package comes with
LOOK = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.titlepad": 12, "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#ddd"}  # fmt: skip
Measured = dict[str, dict[str, float]]  # what was compared -> float32, floor of each side, float64


def read_text(topics: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the paragraphs to learn from, and those of the last tenth of the topics, which are held out."""
    names, seen = sorted(topics), set()  # topics repeat each other; a paragraph counts where it comes first
    parts: tuple[list[str], list[str]] = [], []
    for number, name in enumerate(names):
        for block in topics[name].split("\n\n"):
            lines = [line for line in block.split("\n") if re.search(r"\w", line)]  # no rules of stars and dashes
            paragraph = " ".join(" ".join(lines).split())
            if paragraph and paragraph not in seen:
                seen.add(paragraph)
                parts[10 * number >= 9 * len(names)].append(paragraph)
    return parts


def unigram_perplexity(learnt: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """Return the perplexity of guessing each word by how often it was met, and nothing else."""
    counts = np.bincount(learnt, minlength=vocab_size) + 1
    return math.exp(-np.log(counts / counts.sum())[held_out].mean())


def train(learnt: np.ndarray, held_out: np.ndarray, vocab_size: int, epochs: int) -> tuple[Any, dict]:
    """Train with Keras' `fit`, memory carried from batch to batch; return the model and its perplexities by epoch."""
    import keras

    from xl_tf import CarryMemory, TFTransfoXLLMHeadModel

    keras.utils.set_random_seed(1)
    config = TransfoXLConfig(  # the rarer a word, the narrower its vector (`cutoffs`, `div_val`)
        vocab_size=vocab_size, cutoffs=[vocab_size // 8, vocab_size // 2], div_val=2, n_layer=4, d_model=128,
        d_embed=128, n_head=4, d_head=32, d_inner=512, mem_len=MEMORY, clamp_len=MEMORY + SEGMENT, same_length=True,
        pre_lnorm=True, dropout=0.2, init_std=0.05, proj_init_std=128**-0.5, eos_token_id=0,
    )  # fmt: skip
    model = TFTransfoXLLMHeadModel(config)
    batches, unseen = (stream_segments(text, BATCH, SEGMENT) for text in (learnt, held_out))
    steps = epochs * len(batches["labels"]) // BATCH
    warm = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - warm, warmup_target=2e-3, warmup_steps=warm)
    model.compile(optimizer=keras.optimizers.Adam(rate, global_clipnorm=0.25), jit_compile=False)
    loss = model.evaluate(unseen, batch_size=BATCH, callbacks=[CarryMemory(BATCH)], verbose=0)

    def perplexity(epoch: int, logs: dict[str, float]) -> None:
        logs |= {"perplexity": math.exp(logs["loss"]), "val_perplexity": math.exp(logs["val_loss"])}

    history = model.fit(
        batches, batch_size=BATCH, shuffle=False, epochs=epochs, validation_data=unseen, validation_batch_size=BATCH,
        callbacks=[CarryMemory(BATCH), keras.callbacks.LambdaCallback(on_epoch_end=perplexity)],
        verbose=1 if sys.stdout.isatty() else 2,
    ).history  # fmt: skip
    return model, {"learnt": history["perplexity"], "held_out": [math.exp(loss), *history["val_perplexity"]]}


def read_on(model: Any, segments: dict[str, np.ndarray], to_tensor: Any) -> dict[str, np.ndarray]:
    """Read segments one after the other, each with the memory that the one before left; return all that came out."""
    seen, mems = {}, None
    for start in range(0, len(segments["labels"]), ROWS):
        ids, labels = (to_tensor(segments[name][start : start + ROWS]) for name in ("input_ids", "labels"))
        output = model(ids, mems=mems, labels=labels, output_scores=True, output_hidden_states=True)
        mems = output.mems
        values = {"loss of each word": output.losses, "log-probabilities": output.logits}
        values["memories"] = np.stack([np.asarray(memory) for memory in mems])
        for number, hidden in enumerate(output.hidden_states):
            values[f"hidden states, {f'layer {number}' if number else 'embedding'}"] = hidden
        for name, value in values.items():
            seen.setdefault(name, []).append(np.asarray(value).astype("float64"))
    return {name: np.stack(values) for name, values in seen.items()}


def compare(folder: Path, keras_model: Any, held_out: np.ndarray) -> Measured:
    """Return the largest differences between the frameworks, and of each side from its own float64 (its floor)."""
    import torch
    from keras import ops

    from xl_tf import TFTransfoXLLMHeadModel
    from xl_torch import TransfoXLLMHeadModel

    segments = stream_segments(held_out[: ROWS * (READ * SEGMENT + 1)], ROWS, SEGMENT)
    torch_model = TransfoXLLMHeadModel.from_pretrained(folder)
    with torch.no_grad():
        torch32 = read_on(torch_model, segments, torch.as_tensor)
        torch64 = read_on(torch_model.double(), segments, torch.as_tensor)
    keras32 = read_on(keras_model, segments, ops.convert_to_tensor)
    keras64 = read_on(TFTransfoXLLMHeadModel.from_pretrained(folder, dtype="float64"), segments, ops.convert_to_tensor)
    pairs = {"float32": (torch32, keras32), "PyTorch floor": (torch32, torch64), "Keras floor": (keras32, keras64)}
    pairs["float64"] = torch64, keras64
    return {
        name: {pair: float(abs(one[name] - other[name]).max()) for pair, (one, other) in pairs.items()}
        for name in torch32
    }


def check_agreement(measured: Measured) -> None:
    """Raise unless the frameworks agree: in float64 to `MOST_FLOAT64`, in float32 to a few times the lower floor."""
    for name, row in measured.items():
        floor = min(row["PyTorch floor"], row["Keras floor"])
        for kind, bound in (("float64", MOST_FLOAT64), ("float32", MOST_FLOORS * floor)):
            if not row[kind] <= bound:
                raise ParityError(f"{name}: frameworks must agree to {bound:.1e} in {kind}, got {row[kind]:.1e}")


def tables(measured: Measured) -> tuple[str, str]:
    """Return the differences as a table for the screen, and as one for the report."""
    rows = [["largest difference in", *next(iter(measured.values()))]]
    rows += [[name, *(f"{value:.1e}" if value else "0" for value in row.values())] for name, row in measured.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    return "\n".join(lines), "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def continue_text(folder: Path, model: Any, tokenizer: TransfoXLTokenizer, paragraphs: list[str]) -> tuple[str, str]:
    """Continue a held-out sentence in both frameworks; return its beginning and the words that both add."""
    import torch

    import xl_tf
    import xl_torch

    prose = (text for text in paragraphs if re.match(r"[A-Z][a-z]+ [a-z ,]{60}", text))
    start = tokenizer.encode(next(prose, paragraphs[0]))[:16]
    chance = {"temperature": 0.7, "top_k": 20, "seed": 1}
    torch_model = xl_torch.TransfoXLLMHeadModel.from_pretrained(folder)
    by_torch = xl_torch.generate(torch_model, torch.tensor([start]), 48, **chance)[0].tolist()
    by_keras = np.asarray(xl_tf.generate(model, np.array([start]), 48, **chance))[0].tolist()
    if by_torch != by_keras:
        raise ParityError(f"continuation: both must add the same words, got {by_torch} in PyTorch, {by_keras} in Keras")
    return tokenizer.decode(start), tokenizer.decode(by_torch[len(start) :]).replace("<eos>", "¶")


def draw_training(plt: Any, path: Path, history: dict[str, list[float]], unigram: float) -> str:
    """Draw the perplexities by epoch, and return the picture for the report."""
    figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    epochs = range(len(history["held_out"]))
    axes.axhline(unigram, color=GREY, linestyle="--", label="held-out text, from word frequencies alone")
    axes.plot(epochs, history["held_out"], "o-", color=BLUE, label="held-out text")
    axes.plot(epochs[1:], history["learnt"], "s-", color=ORANGE, label="training text (mean over the epoch)")
    axes.set(yscale="log", xlabel="epochs of training", ylabel="perplexity (words, log scale)", xticks=epochs)
    return finish(plt, figure, path, "Held-out text becomes easier to predict", "{x:g}")


def draw_agreement(plt: Any, path: Path, measured: Measured) -> str:
    """Draw the differences of the hidden states, layer by layer, and return the picture for the report."""
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7.2, 5.8), layout="constrained")
    rows = {name: row for name, row in measured.items() if name.startswith("hidden")}
    layers = np.arange(len(rows))
    for axes, kind, shift, look, colour, label in (
        (above, "PyTorch floor", -0.12, "^", ORANGE, "PyTorch, float32 minus its float64 (rounding floor)"),
        (above, "Keras floor", 0.12, "v", GREEN, "Keras, float32 minus its float64 (rounding floor)"),
        (above, "float32", 0, "o", BLUE, "PyTorch minus Keras, both in float32"),
        (below, "float64", 0, "D", GREY, "PyTorch minus Keras, both in float64"),
    ):
        values = np.array([row[kind] or math.nan for row in rows.values()])  # a log scale has no place for zero
        axes.plot(layers + shift, values, look, color=colour, label=label)
    for axes, dtype in ((above, "float32"), (below, "float64")):
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set(ylim=(low / 2, 2 * high), ylabel=f"largest difference\nin {dtype} (log scale)")
    below.set_xticks(layers, [name.removeprefix("hidden states, ") for name in rows])
    below.set_xlabel("hidden states (no mark: equal bit for bit)")
    return finish(plt, figure, path, "The frameworks differ by rounding only", "{x:.0e}")


def finish(plt: Any, figure: Any, path: Path, title: str, number: str) -> str:
    """Add title, legend and the scales' numbers, save the picture, and return it for HTML."""
    for axes in figure.axes:
        locators = {"major_locator": plt.LogLocator(subs=(1, 2, 5)), "minor_locator": plt.NullLocator()}
        axes.yaxis.set(**locators, major_formatter=number)
    figure.axes[0].set_title(title)
    figure.legend(loc="outside lower left", frameon=False)
    figure.savefig(path, dpi=160)
    return f'<img alt="{title}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>xlbridge demo</title><style>
body { font: 17px/1.6 Georgia, serif; color: #222; background: #fff; max-width: 43rem; margin: auto; padding: 3em 1em }
h1, h2, table { font-family: system-ui, sans-serif; line-height: 1.25 } img { width: 100% }
h2 { margin-top: 2.5em; font-size: 1.3em }
table { border-collapse: collapse; width: 100%; margin: 1.5rem 0; font-size: 85% } tr:first-child { font-weight: 600 }
td { text-align: right; padding: 0.4rem 0; border-bottom: 1px solid #ddd } td:first-child { text-align: left }
blockquote { margin: 0; padding: 0 1rem; border-left: 4px solid #0072B2 }</style>"""
VOCABULARY = "{:,} words, met at least twice among {:,}. Held out are {:,} words of other topics, {:.1%} unknown."
TRAINING = """{:,} parameters; epochs: {}. Perplexity of the held-out text fell from {:.0f} to {:.1f}.
To know how often each word occurs, and nothing else, gives {:.0f}."""
AGREEMENT = f"""Both read {ROWS} held-out texts, {READ} segments of {SEGMENT} words each, with their own memory.
The floor of a side is how far its float32 lies from its own float64: the rounding that is to be expected."""
NEXT = """
The report is {out}/report.html, with the pictures training.png and agreement.png. Next, in Python:

    from xlcore import TransfoXLTokenizer
    from xl_tf import TFTransfoXLLMHeadModel, generate  # or xl_torch, TransfoXLLMHeadModel, and "pt" below
    tokenizer = TransfoXLTokenizer.from_pretrained("{out}/model")
    model = TFTransfoXLLMHeadModel.from_pretrained("{out}/model")
    ids = tokenizer("If a class defines", return_tensors="np")["input_ids"]
    print(tokenizer.decode(generate(model, ids, 40, temperature=0.7, top_k=20)[0]))"""


def tell(report: list[str], text: str, tag: str = "p") -> None:
    """Say a text on the screen, with the time at the head of a section, and add it to the report between tags."""
    print(f"\n[{time.perf_counter() - START:3.0f} s] " if tag == "h2" else "", end="")
    print(textwrap.fill(text, 100), flush=True)
    report.append(f"<{tag}>{html.escape(text)}</{tag}>")


def run(out: Path, epochs: int) -> None:
    """Do it all, section by section."""
    from pydoc_data.topics import topics

    from matplotlib import pyplot as plt

    plt.rcParams.update(LOOK)
    report, folder = [HEAD], out / "model"
    tell(report, "One model, two frameworks", "h1")
    tell(report, "A Transformer-XL is trained in Keras, saved, and opened in PyTorch, where it computes the same.")
    tell(report, "1. A vocabulary from the text of Python's help", "h2")
    parts = read_text(topics)
    whole = [r"\w*_\w*"]  # names such as __init__ are one word
    tokenizer = TransfoXLTokenizer.from_corpus(parts[0], min_freq=2, never_split=whole, progress=True)
    words = ([tokenizer.tokenize(text, add_eos=True) for text in part] for part in parts)
    learnt, held_out = (tokenizer.encode_sents(part, ordered=True) for part in words)
    unigram = unigram_perplexity(learnt, held_out, len(tokenizer))
    tell(report, VOCABULARY.format(len(tokenizer), len(learnt), len(held_out), (held_out == tokenizer.unk_idx).mean()))
    tell(report, "2. Training in Keras, memory carried along", "h2")
    model, history = train(learnt, held_out, len(tokenizer), epochs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size, (before, *_, after) = sum(math.prod(weight.shape) for weight in model.trainable_weights), history["held_out"]
    tell(report, TRAINING.format(size, epochs, before, after, unigram))
    report.append(draw_training(plt, out / "training.png", history, unigram))
    if not after < min(before / 2, unigram):
        raise XLError(f"training: held-out perplexity must fall to half and below {unigram:.0f}, got {after:.1f}")
    tell(report, "3. The same folder, opened in PyTorch", "h2")
    measured = compare(folder, model, held_out)
    tell(report, AGREEMENT)
    screen, table = tables(measured)
    print(screen)
    report += [table, draw_agreement(plt, out / "agreement.png", measured)]
    check_agreement(measured)
    tell(report, "4. A held-out sentence, continued", "h2")
    start, added = continue_text(folder, model, tokenizer, parts[1])
    tell(report, f"Both frameworks continue “{start}” with the same words, as well as so small a model can:")
    tell(report, added, "blockquote")
    (out / "report.html").write_text("\n".join(report), encoding="utf-8")
    print(NEXT.format(out=out))


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="times to read the training text (default: %(default)s)")
    asked = parser.parse_args()
    if asked.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {asked.epochs}")
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "MPLBACKEND": "agg"}  # TensorFlow: quiet
    for package, extra in EXTRAS.items():
        if find_spec(package) is None:
            raise SystemExit(f"demo: {package} must be installed; pip install 'xlbridge[{extra}]'")
    try:
        run(asked.out, asked.epochs)
    except XLError as error:
        raise SystemExit(f"demo: {error}") from None


if __name__ == "__main__":
    main()
