"""How much memory and time does a conversion take, beside a plain copy of the same file on the same disk?

    python benchmarks/convert.py --family xlm-roberta-xl --gigabytes 7

Writes a model of random bfloat16 weights tensor by tensor, of the shape of XLM-RoBERTa-XL (2560 wide, 250,880 words)
and as deep as the size asks for, and converts it to Keras weights and back, each in a process of its own, whose VmHWM
is held against the bound: 300 MB and twice the largest tensor. Each round copies the file first; what is read is put
out of memory before each step, and each step ends when the disk holds all. What came back must be what went, byte for
byte. Prints a table of medians and writes `benchmarks/results/convert-<family>.json`.
"""

import argparse
import filecmp
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from sides import ROOT, write

sys.path.insert(0, str(ROOT))

from conversion.convert import aims_for
from conversion.target import Target
from xlcore.config import Config
from xlcore.families import FAMILIES, find_head_by_name

WIDTH, WORDS, HEADS = 2560, 250880, 32
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "transfo-xl": ("TransfoXLLMHeadModel", {
        "vocab_size": WORDS, "cutoffs": [], "div_val": 1, "d_model": WIDTH, "d_embed": WIDTH, "n_head": HEADS,
        "d_head": WIDTH // HEADS, "d_inner": 4 * WIDTH,
    }),
    "xlnet": ("XLNetLMHeadModel", {
        "vocab_size": WORDS, "d_model": WIDTH, "n_head": HEADS, "d_head": WIDTH // HEADS, "d_inner": 4 * WIDTH,
    }),
    "xlm-roberta-xl": ("XLMRobertaXLForMaskedLM", {}),  # its defaults are that shape
}  # fmt: skip
BASE, BOUND = 300e6, 2
BLOCK = 1 << 23  # numbers that are drawn at a time

# What a conversion runs in: the command line itself, which tells its VmHWM at the end.
CHILD = """
import sys
from pathlib import Path
from conversion.cli import main
code = main(sys.argv[1:])
kilobytes = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(kilobytes, file=sys.stderr)
sys.exit(code)
"""


def config_for(family: str, gigabytes: float) -> Config:
    """Return the config whose bfloat16 weights come nearest to a size: as deep as that takes, one layer at least."""
    head, keys = SHAPES[family]
    if gigabytes < 2:  # for trying the benchmark out
        keys = keys | {"vocab_size": 20000}
    sizes = []
    for layers in (1, 2):
        config = FAMILIES[family].config(**keys, num_hidden_layers=layers)
        params = FAMILIES[family].params(config, find_head_by_name(head)).values()
        sizes.append(sum(2 * int(np.prod(param.shape)) for param in params))
    layers = round((gigabytes * 1e9 - sizes[0]) / (sizes[1] - sizes[0])) + 1
    return FAMILIES[family].config(**keys, num_hidden_layers=max(1, layers), torch_dtype="bfloat16")


def make_source(folder: Path, family: str, config: Config) -> dict[str, Any]:
    """Write a model of random weights tensor by tensor, as one file; return what it is."""
    target = Target("hf", config, find_head_by_name(SHAPES[family][0]), np.dtype(ml_dtypes.bfloat16))
    folder.mkdir()
    target.writer.begin(folder)
    rng = np.random.default_rng(0)
    for entry in target.entries:
        place = target.writer.places[entry.name]
        with (folder / place.file).open("rb+") as stream:
            stream.seek(place.offset)
            for start in range(0, entry.nbytes // 2, BLOCK):
                count = min(BLOCK, entry.nbytes // 2 - start)
                drawn = rng.integers(0x3C00, 0x3D00, count, "uint16")  # 0.008 to 0.03
                drawn |= rng.integers(0, 2, count, "uint16") << 15
                stream.write(drawn.data)
    target.writer.end(folder, {})
    for name, content in target.side.items():
        (folder / name).write_bytes(content)
    sizes = [entry.nbytes for entry in target.entries]
    return {"parameters": sum(sizes) // 2, "tensors": len(sizes), "largest": max(sizes), "bytes": sum(sizes)}


def settle(folder: Path) -> None:
    """Have the disk hold everything, and put the folder's files out of memory."""
    os.sync()
    for file in folder.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def cpu_seconds() -> float:
    """Return the time that this process and its children have computed."""
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def copied(source: Path, copy: Path) -> dict[str, float]:
    """Copy a folder as a plain program does, until the disk has it; return what it took."""
    settle(source)
    began, before = time.monotonic(), cpu_seconds()
    shutil.copytree(source, copy)
    for file in copy.iterdir():
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    found = {"seconds": time.monotonic() - began, "cpu": cpu_seconds() - before, "peak": 0}
    shutil.rmtree(copy)
    return found


def converted(source: Path, destination: Path, *options: str) -> dict[str, float]:
    """Convert in a process of its own; return seconds, seconds computed, and peak memory in bytes."""
    settle(source)
    command = [sys.executable, "-c", CHILD, "convert", str(source), str(destination), "--max-shard-size", "100GB"]
    began, before = time.monotonic(), cpu_seconds()
    done = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"a conversion must succeed, got:\n{done.stderr[-2000:]}")
    return {"seconds": seconds, "cpu": cpu_seconds() - before, "peak": int(done.stderr.split()[-1]) * 1024}


def one_round(folder: Path, to: str) -> dict[str, dict[str, float]]:
    """Copy, convert there and back, and there without reading back."""
    source, there, back = (folder / name for name in ("source", "there", "back"))
    found = {"copy": copied(source, folder / "copy")}
    found["there"] = converted(source, there, "--to", to)
    found["back"] = converted(there, back)
    _, other, errors = filecmp.cmpfiles(source, back, [file.name for file in source.iterdir()], shallow=False)
    if other or errors:
        raise SystemExit(f"what comes back must be what went, got others: {other + errors}")
    shutil.rmtree(there)
    shutil.rmtree(back)
    found["there, not verified"] = converted(source, there, "--to", to, "--no-verify")
    shutil.rmtree(there)
    print({name: round(each["seconds"], 1) for name, each in found.items()}, flush=True)
    return found


def summed_up(rounds: list[dict[str, dict[str, float]]], model: dict[str, Any]) -> dict[str, Any]:
    """Return the median of the seconds, and the largest peak, of each step."""
    bound, found = BASE + BOUND * model["largest"], {}
    copy = statistics.median(each["copy"]["seconds"] for each in rounds)
    for step in rounds[0]:
        seconds = statistics.median(each[step]["seconds"] for each in rounds)
        peak = max(each[step]["peak"] for each in rounds)
        share = statistics.median(each["copy"]["seconds"] / each[step]["seconds"] for each in rounds)
        found[step] = {
            "seconds": seconds,
            "cpu": statistics.median(each[step]["cpu"] for each in rounds),
            "bytes a second": model["bytes"] / seconds,
            "share of copy": share,
            "peak": peak,
        }
    return {"bound": bound, "copy seconds": copy, "steps": found}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="xlm-roberta-xl", choices=sorted(SHAPES.keys() & FAMILIES.keys()))
    parser.add_argument("--gigabytes", type=float, default=7.0)
    parser.add_argument("--to", default="keras", help="what to convert to, and back from (default keras)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; four times the size must be free there")
    given = parser.parse_args()
    if given.to not in aims_for(given.family):
        parser.error(f"--to must be one of {', '.join(sorted(aims_for(given.family)))}, got {given.to!r}")
    config = config_for(given.family, given.gigabytes)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model = make_source(Path(folder) / "source", given.family, config)
        print(f"{config.model_type}, {config.num_layers} layers: {json.dumps(model)}", flush=True)
        rounds = [one_round(Path(folder), given.to) for _ in range(given.rounds)]
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "cpu": platform.processor() or platform.machine()}
    result = {
        "machine": machine,
        "family": given.family,
        "to": given.to,
        "layers": config.num_layers,
        "model": model,
        "rounds": rounds,
    }
    result |= summed_up(rounds, model)
    write(f"convert-{given.family}", result)
    print(f"at most {result['bound'] / 1e6:.0f} MB of memory are wanted, and half the speed of a copy")
    print(f"{'':22}{'seconds':>9}{'CPU s':>8}{'MB/s':>7}{'of copy':>9}{'VmHWM MB':>10}")
    for step, each in result["steps"].items():
        numbers = f"{each['seconds']:9.1f}{each['cpu']:8.1f}{each['bytes a second'] / 1e6:7.0f}"
        print(f"{step:22}{numbers}{each['share of copy']:9.0%}{each['peak'] / 1e6:10.0f}")


if __name__ == "__main__":
    main()
