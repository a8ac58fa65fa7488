"""`xlbridge score`: how well a model predicts a text, in the framework that is at hand."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conversion.checkpoint import read_config
from conversion.hub import fetched, is_reference
from conversion.parity.sides import ROOMS, settings
from xlcore import TransfoXLTokenizer, XLMRobertaTokenizer, XLMTokenizer, XLNetTokenizer
from xlcore.config import Config, read_json_object
from xlcore.errors import ConfigError, FormatError, XLError
from xlcore.families import FAMILIES
from xlcore.tasks.language_modeling import language_of
from xlcore.tasks.scoring import Array, Reading, ScoringJob

TOKENIZERS: dict[str, Any] = {
    "transfo-xl": TransfoXLTokenizer,
    "xlnet": XLNetTokenizer,
    "xlm": XLMTokenizer,
    "xlm-roberta-xl": XLMRobertaTokenizer,
}
EXTRAS = {"torch": "torch", "tensorflow": "tf", "jax": "jax"}  # what brings a framework
KINDS = ("causal_lm", "permutation_lm", "word_lm", "decoder_lm")  # heads that predict a word from those before it
DTYPES = ("float64", "float32", "bfloat16", "float16")
ABOUT = """
Tell how well a language model predicts a text: loss in nats, perplexity, bits per token, character and word. Every
token but the first is predicted, from those before it that the model can remember; each counts alike.

A model with memory (Transformer-XL, XLNet with mem_len) reads on segment by segment; others (causal XLM, XLM-RoBERTa-XL
decoders) read windows that overlap. XLNet predicts from left to right. MODEL is a folder or file with its tokenizer
beside it, or hf://owner/name; TEXT is a file in UTF-8, or - for standard input.
"""
EXAMPLES = """
examples:
  xlbridge score my-model book.txt
  xlbridge score transfo-xl-wt103 wiki.test.tokens --whitespace --lines --batch-size 16 --tgt-len 128 --mem-len 1600 \\
      --clamp-len 1000 --same-length --drop-remainder            as the authors evaluate
  xlbridge score my-model book.txt --window --tgt-len 800        a sliding window: far slower, one token at a time
  xlbridge score my-model lines.txt --sentences --json           each line by itself

Exit status: 0 scored, 2 an error.
"""


def add_to(commands: Any) -> None:
    """Add the verb and its options to the command line."""
    parser = commands.add_parser(
        "score",
        help="tell how well a model predicts a text",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="a folder, a file, or hf://owner/name")
    parser.add_argument("text", metavar="TEXT", help="a file in UTF-8; - for standard input")
    how = parser.add_argument_group("how the text is read")
    how.add_argument("--batch-size", type=int, default=1, metavar="N", help="streams, windows or sentences at a time")
    how.add_argument("--tgt-len", type=int, metavar="N", help="tokens read at once; default 128, or all positions")
    how.add_argument("--mem-len", type=int, metavar="N", help="positions that are remembered; default: the config's")
    how.add_argument("--clamp-len", type=int, metavar="N", help="distance beyond which all are alike; 0 for no limit")
    same = argparse.BooleanOptionalAction
    how.add_argument("--same-length", action=same, help="each position sees equally many keys; default: the config's")
    how.add_argument("--window", action="store_true", help="windows of --tgt-len without memory, each --stride on")
    how.add_argument("--stride", type=int, metavar="N", help="how far; default 1, half a window for models of windows")
    how.add_argument("--drop-remainder", action="store_true", help="leave out what fills no stream, as the authors do")
    how.add_argument("--lang", metavar="LANG", help="XLM: number or name of the language; by its name it is split, too")
    how.add_argument("--sentences", action="store_true", help="score each line by itself; empty lines are no sentences")
    words = parser.add_argument_group("how the text is split")
    words.add_argument("--lines", action="store_true", help="end each line with the token for it, as corpora are read")
    words.add_argument("--whitespace", action="store_true", help="at white space only, as prepared corpora are")
    where = parser.add_argument_group("where it is computed")
    where.add_argument("--framework", choices=tuple(ROOMS), default="torch", help="default torch")
    where.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, or cuda:1 for one of several")
    where.add_argument("--dtype", choices=DTYPES, default="float32", help="default float32")
    where.add_argument("--config", metavar="FILE", help="JSON with keys of the config that win over the folder's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"a device must be cpu, cuda or cuda:N, got {name!r}")
    return name


def run(options: argparse.Namespace) -> int:
    """Score a text, or sentences; return the exit status."""
    path = str(fetched(options.model) if is_reference(options.model) else options.model)
    reading = {name: getattr(options, name) for name in Reading.__dataclass_fields__}
    reading["lang"] = None  # what it is called, the tokenizer knows
    Reading(**reading)  # refuses what makes no sense before a framework is started
    changed = _changed(options.config)
    config = read_config(path, **changed)
    text = _text(options.text)
    tokenizer = _tokenizer(path, config, options.whitespace)
    reading["lang"], split = _language(config, tokenizer, options.lang)
    texts = [_ids(tokenizer, text, options.lines, split)]
    counted = {"characters": len(text), "words": len(text.split())}
    counts = {name: count for name, count in counted.items() if count}  # of empty lines nothing can be told by the word
    if options.sentences:
        lines = [line for line in _lines(text) if line.strip()]
        texts = [_ids(tokenizer, line, options.lines, split) for line in lines]
        reading = {name: reading[name] for name in _of_sentences(reading)}
    head = next(head.name for head in FAMILIES[config.model_type].heads if head.kind in KINDS)
    place = (options.dtype, options.device.partition(":")[0])
    job = ScoringJob(path, head, *place, changed, reading, counts, texts, options.sentences)
    found = _asked(job, options.framework, options.device)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n".join(_sentence_lines(found, lines) if options.sentences else _figures(found)))
    return 0


def _changed(path: str | None) -> dict[str, Any]:
    """Return the keys of the config that a file changes."""
    keys = dict(read_json_object(path)) if path else {}
    for name in ("dtype", "torch_dtype"):
        if name in keys:
            raise ConfigError(f"score: {name} must be given as --dtype, got {keys[name]!r} in {path}")
    return keys


def _of_sentences(reading: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options that sentences have, and refuse others that were given."""
    for name in ("window", "stride", "drop_remainder"):
        if reading[name]:
            raise ConfigError(f"score: {name} must be given for a text, not for sentences, got {reading[name]}")
    return "batch_size", "tgt_len", "mem_len", "clamp_len", "same_length", "lang"


def _text(path: str) -> str:
    """Return what a file holds, without the mark of the byte order that some programs write in front."""
    try:
        return (sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"score: {path} must be text in UTF-8, got byte {error.object[error.start]:#x}") from None


def _lines(text: str) -> list[str]:
    """Return the lines of a text, which nothing but a newline ends: other signs, such as U+2028, are part of them."""
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _tokenizer(path: str, config: Config, whitespace: bool) -> Any:
    """Return the tokenizer that lies beside a model."""
    folder = path if Path(path).is_dir() else str(Path(path).parent)
    if whitespace and config.model_type != "transfo-xl":
        raise ConfigError(f"score: whitespace must be given for Transformer-XL only, got it for {config.model_type}")
    return TOKENIZERS[config.model_type].from_pretrained(folder, **({"whitespace": True} if whitespace else {}))


def _language(config: Config, tokenizer: Any, lang: str | None) -> tuple[int | None, dict[str, str]]:
    """Return the number of a language, and what the tokenizer is told to split by its rules: only by a name."""
    if lang is None:
        return None, {}
    names: Mapping[str, int] = getattr(tokenizer, "lang2id", None) or {}
    number = int(lang) if lang.isdecimal() else names.get(lang)
    if number is None and getattr(config, "has_languages", False):
        known = f" or one of {', '.join(names)}" if names else ", for the tokenizer knows no names"
        raise ConfigError(f"score: lang must be a number{known}, got {lang}")
    language_of("score", config, lang if number is None else number)
    return number, {} if lang.isdecimal() else {"lang": lang}


def _ids(tokenizer: Any, text: str, lines: bool, split: Mapping[str, str]) -> Array:
    """Return the ids of a text; with `lines` each line is split by itself, and ends with the token for that."""
    if not lines:
        return np.array(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, **split)), "int64")
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise ConfigError("score: lines must end with a token that the tokenizer has, got one without eos_token")
    rows = (tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line, **split)) for line in _lines(text))
    return np.array([index for line in rows for index in (*line, end)], "int64")


def _asked(job: ScoringJob, framework: str, device: str) -> Any:
    """Have a framework do a job in a process of its own."""
    room = ROOMS[framework]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    given = {"PYTHONPATH": paths, **settings(framework, device)}
    shown = None if sys.stderr.isatty() else subprocess.PIPE  # progress is for terminals
    with tempfile.TemporaryDirectory() as folder:
        job.write(Path(folder))
        quiet = "ignore::RuntimeWarning"  # that the package has read the module already
        environment = [f"{name}={value}" for name, value in given.items()]
        command = ["env", *environment, sys.executable, "-P", "-W", quiet, "-m", f"{room}.scoring", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=shown, text=True, check=False)
    if done.returncode or not done.stdout:
        last = (done.stderr or "what it has written").strip().splitlines()[-1:] or ["nothing on standard error"]
        package = f"pip install 'xlbridge[{EXTRAS[framework]}]'"
        raise XLError(
            f"score: python -m {room}.scoring must run, got: {last[0]}; is the framework installed? {package}"
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise XLError(answer["error"])
    return answer["found"]


def _figures(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the figures of a text."""
    shown = {
        "loss": "nats a token", "perplexity": "", "bits_per_token": "", "bits_per_character": "", "bits_per_word": "",
    }  # fmt: skip
    for name, unit in shown.items():
        if name in found:
            yield f"{name.replace('_', ' '):20}{found[name]:12.4f}  {unit}".rstrip()
    counts = (f"{found[name]:,} {name}" for name in ("characters", "words") if name in found)
    yield f"{'tokens predicted':20}{found['tokens']:12,}  of {found['length']:,}; {', '.join(counts)}"


def _sentence_lines(found: list[dict[str, Any]], lines: list[str]) -> Iterator[str]:
    """Yield a line for each sentence."""
    yield f"{'log-probability':>16}{'tokens':>8}  sentence"
    for each, line in zip(found, lines, strict=True):
        yield f"{each['log_probability']:16.4f}{each['tokens']:8}  {line}"
