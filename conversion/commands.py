"""The verbs `convert`, `inspect` and `diff` of the command line."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from conversion.convert import DTYPES, Progress, convert, plan
from conversion.diff import diff, size_of
from conversion.hub import fetched, is_reference
from conversion.inspect import described, inspect
from conversion.shown import difference_lines, inspection_lines, plan_lines, report_lines, summary_lines
from conversion.source import open_source
from conversion.writing import Advance
from xlcore.config import read_json_object

CONVERT = """
Turn a checkpoint of any origin into a folder that loads: found out by itself are family, format, head, tied tensors and
dtype, and the configuration where no config.json tells it. SRC is a folder, a file, the prefix of a checkpoint, or
hf://owner/name on the hub. DST must not exist yet; it appears whole or not at all. A conversion that was killed goes on
when it is started again, with the same result bit by bit. Memory: 300 MB and twice the largest tensor, whatever the
size of the file.
"""
CONVERT_EXAMPLES = """
what --to takes (which of them, depends on the family):
  hf, safetensors     HuggingFace's names in safetensors; opens in both frameworks and in transformers (the default)
  torch               the same in PyTorch's own format, pytorch_model.bin
  hf-tf, hdf5         HuggingFace's TensorFlow file, tf_model.h5
  keras               weights of our Keras classes, model.weights.h5
  .keras              the same as an archive with the config in it, model.keras
  tf1, torch-original what the authors' own code reads; torch-original-fused: fairseq's older layout;
                      torch-original --parts 2: fairseq's model-parallel files, model-model_part-0.pt and so on
  or the name of the file: model.safetensors, pytorch_model.bin, tf_model.h5, model.weights.h5, model.ckpt

examples:
  xlbridge convert transfo-xl-original/model.ckpt my-model
  xlbridge convert my-model half --dtype bfloat16 --max-shard-size 2GB
  xlbridge convert my-model keras-weights --to keras
  xlbridge convert xlm-roberta-xl for-fairseq --to torch-original --parts 2
  xlbridge convert my-model nowhere --dry-run

Exit status: 0 converted, 2 an error.
"""
INSPECT = """
Tell what a checkpoint is without reading a tensor: family, head, configuration and where each key comes from,
parameters, bytes by dtype, what loading and training will need, tokenizer files, tied and missing tensors, shapes.
"""
DIFF = """
Compare two checkpoints of any formats, parameter by parameter under canonical names: what is missing, reshaped, or
different, by how much (the largest difference, the same in steps of the dtype, and the share of numbers that differ),
and what is equal bit by bit. Equal numbers in two dtypes count as equal. Configurations are compared, too.
Exit status: 0 equal, 1 different, 2 an error.
"""


WHAT = "a folder, a file, the prefix of a checkpoint, or hf://owner/name"


def add_to(commands: Any) -> None:
    """Add the verbs and their options to the command line."""
    _add_convert(_verb(commands, "convert", "turn any checkpoint into a folder that loads", CONVERT, CONVERT_EXAMPLES))
    one = _verb(commands, "inspect", "tell what a checkpoint is, without loading it", INSPECT)
    one.add_argument("path", metavar="PATH", type=_named, help=WHAT)
    one.add_argument("--every", action="store_true", help="show every parameter, not one row for all layers alike")
    _add_reading(one, "model class")
    one.set_defaults(run=run_inspect)
    two = _verb(commands, "diff", "compare two checkpoints of any formats", DIFF)
    two.add_argument("one", metavar="A", type=_named, help=WHAT)
    two.add_argument("other", metavar="B", type=_named, help="the other")
    two.add_argument("--tensors-only", action="store_true", help="the exit status tells of tensors, not of configs")
    two.add_argument("--json", action="store_true", help="print JSON")
    two.set_defaults(run=run_diff)


def _verb(commands: Any, name: str, short: str, about: str, examples: str = "") -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=short, description=about, epilog=examples, formatter_class=form
    )
    return made


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", type=_named, help=f"what to convert: {WHAT}")
    parser.add_argument("destination", metavar="DST", type=_named, help="the folder to be made")
    parser.add_argument("--to", default="hf", metavar="WHAT", help="what to write, see below (default hf)")
    parser.add_argument("--dtype", metavar="DTYPE", help=f"{', '.join(DTYPES)}; default: as they are")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="bytes a file, as 5GB (the default)")
    parser.add_argument(
        "--parts", type=int, default=1, metavar="N", help="model-parallel files of fairseq's XLM-RoBERTa-XL (default 1)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the whole plan; write nothing")
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the result back and compare every tensor (the default)",
    )
    _add_reading(parser, "model class to write")
    parser.set_defaults(run=run_convert)


def _named(path: str) -> str:
    """Refuse an empty path, which is a variable that was not set, and not the current folder."""
    if not path:
        raise argparse.ArgumentTypeError("a path must be named, got an empty one")
    return path


def _add_reading(parser: argparse.ArgumentParser, head: str) -> None:
    parser.add_argument("--head", metavar="NAME", help=f"{head}; default: what is found")
    parser.add_argument("--config", metavar="FILE", help="JSON with keys of the config that win over what is found")
    parser.add_argument("--json", action="store_true", help="print JSON")


# -------------------------------------------------------------------------------------------------------- running


def run_convert(options: argparse.Namespace) -> int:
    """Convert, or show the plan; return the exit status."""
    planned = plan(
        _here(options.source),
        options.destination,
        to=options.to,
        dtype=options.dtype,
        max_shard_size=options.max_shard_size,
        parts=options.parts,
        head=options.head,
        config=_keys(options.config),
    )
    if options.dry_run:
        _print(options.json, planned.to_dict, plan_lines(planned))
        return 0
    if not options.json:
        print("\n".join(summary_lines(planned)), flush=True)
    for warning in planned.source.warnings if options.json else ():
        print(f"xlbridge convert: warning: {warning}", file=sys.stderr)
    try:
        with _bars() as bars:
            report = convert(planned, verify=options.verify, progress=bars)
    except KeyboardInterrupt:
        print("xlbridge convert: stopped; start it again to go on from here", file=sys.stderr)
        return 2
    _print(options.json, report.to_dict, report_lines(report))
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """Tell what a checkpoint is; return the exit status."""
    source = inspect(_here(options.path), config=_keys(options.config), head=options.head)
    _print(options.json, lambda: described(source), inspection_lines(source, options.every))
    return 0


def run_diff(options: argparse.Namespace) -> int:
    """Compare two checkpoints; return the exit status."""
    one, other = (open_source(_here(path), whole=False) for path in (options.one, options.other))
    with _bars() as bars:
        difference = diff(one, other, bars("compare", size_of(one, other)))
    _print(options.json, difference.to_dict, difference_lines(difference))
    return 0 if difference.same_tensors and (options.tensors_only or not difference.config) else 1


def _here(path: str) -> str | Path:
    """Return where a checkpoint lies, fetched from the hub if that is where it is."""
    return fetched(path) if is_reference(path) else path


def _keys(file: str | None) -> Mapping[str, Any] | None:
    return read_json_object(file) if file else None


def _print(as_json: bool, content: Callable[[], Mapping[str, Any]], lines: Iterable[str]) -> None:
    if as_json:
        print(json.dumps(content(), indent=1, allow_nan=False))
    else:
        print("\n".join(lines))


@contextmanager
def _bars() -> Iterator[Progress]:
    """Give what shows how far each step is, in bytes and bytes a second, where stderr is a terminal."""
    shown: list[Any] = []

    def begin(what: str, total: int) -> Advance:
        bar = tqdm(
            total=total,
            desc=what,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
        )
        shown.append(bar)

        def advance(count: int) -> None:
            bar.update(count)

        return advance

    try:
        yield begin
    finally:
        for bar in shown:
            bar.close()
