"""Time every workload, keep what was found, and draw it.

    python benchmarks/all.py                                           # ours alone
    python benchmarks/all.py --peer-python .venv-peers/bin/python      # beside transformers 5 and 4.34.0

Each workload is a benchmark of its own, run one after the other, which times its sides by turns in one run. What they
find is kept as JSON in a folder, one file each; of all files there a picture is drawn: how many times as fast as each
peer our sides are, and how many times as fast as it the matrix products alone would be, which nobody can pass.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sides import OURS, ROOT

HERE = Path(__file__).resolve().parent
WORKLOADS = {
    "transfo-xl": ("memory.py",),
    "xlnet": ("forward.py", "--family", "xlnet"),
    "xlm": ("forward.py", "--family", "xlm"),
    "xlm-roberta-xl": ("forward.py", "--family", "xlm-roberta-xl", "--what", "forward"),
    "xlnet-words": ("generation.py", "--family", "xlnet"),
    "xlm-words": ("generation.py", "--family", "xlm"),
}
FLOORS = ("floor", "all weights")
COLORS = {"ours torch": "#c4572e", "ours keras": "#3b6ea5"}


def run(name: str, folder: Path, peer_python: str | None) -> None:
    """Run one benchmark; without an environment of the peers with our sides alone where it can."""
    file, *more = WORKLOADS[name]
    if file != "generation.py":  # which has no peer in another environment
        more += ["--peer-python", peer_python] if peer_python else ["--sides", *OURS]
    print(f"\n=== {name}: {file} {' '.join(more)}", flush=True)
    command = [sys.executable, str(HERE / file), *more, "--out", str(folder / f"{name}.json")]
    if subprocess.run(command).returncode:
        raise SystemExit(f"{name}: a benchmark must end well, this one did not")


def ratios(found: dict[str, Any]) -> list[tuple[str, str, float, float | None]]:
    """Return of each workload of a file: what beside which peer, our side, our ratio, and that of the floor."""
    bars = []
    for row in found["rows"]:
        floor = row["sides"].get("floor")
        for side, values in row["sides"].items():
            beside = {peer: times for peer, times in values["times as fast as"].items() if peer not in FLOORS}
            for peer, times in beside.items():
                most = row["sides"][peer]["median"] / floor["median"] if floor else None
                bars.append((f"{row['what']}\nbeside {peer}", side, times, most))
    return bars


def draw(folder: Path, file: Path) -> None:
    """Draw all that is kept in a folder."""
    from matplotlib.figure import Figure

    bars = [
        (f"{each.stem}, {what}", *rest)
        for each in sorted(folder.glob("*.json"))
        for what, *rest in ratios(json.loads(each.read_text()))
    ]
    if not bars:
        print("no peer was timed: nothing to draw")
        return
    figure = Figure(figsize=(9, 0.42 * len(bars) + 1.2), layout="constrained")
    axes = figure.subplots()
    for row, (_, side, times, most) in enumerate(bars):
        axes.barh(row, times - 1, left=1, color=COLORS[side], height=0.7)
        axes.text(1.01, row, f"{times:.2f}", va="center", fontsize=8, transform=axes.get_yaxis_transform())
        if most is not None:
            axes.plot([most, most], [row - 0.4, row + 0.4], color="black", linewidth=2)
    axes.axvline(1, color="gray", linewidth=1)
    axes.set_yticks(range(len(bars)), [what for what, *_ in bars], fontsize=7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("times as fast as the peer (black: the floor, matrix products or reading weights alone)")
    names = {"ours torch": "PyTorch", "ours keras": "Keras"}
    marks = [axes.barh(0, 0, color=color) for color in COLORS.values()]
    figure.legend(marks, names.values(), loc="outside upper right", ncols=2)
    figure.savefig(file, dpi=110)
    print(f"drawn: {file}")


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="a Python with transformers 4.34.0 (`make bench-peers` builds it)")
    parser.add_argument("--what", nargs="*", default=list(WORKLOADS), choices=WORKLOADS, help="none: draw what is kept")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "results", help="for what is found")
    parser.add_argument("--picture", type=Path, default=ROOT / "benchmarks" / "results" / "speed.png")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.what:
        run(name, given.folder, given.peer_python)
    draw(given.folder, given.picture)


if __name__ == "__main__":
    main()
