"""How near do the twins, both sound, come to what parity calls a difference?

    python benchmarks/parity_seeds.py --seeds 200

Each seed draws weights and inputs anew, for one example of a config and one head of a family, all of them by turns, and
is compared in all kinds and precisions. A check that fails is a false alarm, unless a second draw settles it. The
largest share that any distance takes of its limit says how much room `FACTOR` and `ROUNDINGS` in
`conversion/parity/method.py` leave. Prints a table and writes `benchmarks/results/parity_seeds.json`.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from conversion.parity.compare import Options, Subject, compare  # noqa: E402
from conversion.parity.results import Check  # noqa: E402
from conversion.parity.sides import Side  # noqa: E402
from xlcore.families import FAMILIES  # noqa: E402

DTYPES = ("float32", "bfloat16", "float16")


def told(check: Check, example: str) -> dict:
    """Return what is kept of a check."""
    keys = ("head", "case", "seed", "name", "distance", "floor", "limit", "scale")
    return {"share": check.share, "example": example} | {key: getattr(check, key) for key in keys}


def run(sides: tuple[Side, Side], families: list[str], seeds: range) -> dict:
    """Compare seed by seed, the families by turns; return the largest share of each kind, and all false alarms."""
    largest, alarms, checks, twice = {}, [], 0, []
    for seed in tqdm(seeds, desc=", ".join(families), unit="seed"):
        known, turn = FAMILIES[families[seed % len(families)]], seed // len(families)
        examples = list(known.examples.items())
        name, keys = examples[turn % len(examples)]
        head = known.heads[turn // len(examples) % len(known.heads)]
        subject = Subject(name, known.config(**keys))
        options = Options(heads=(head.name,), dtypes=DTYPES, first_seed=seed)
        report = compare((subject, subject), sides, options)
        checks += len(report.checks)
        twice += [seed] if any(check.seed != seed for check in report.checks) else []
        for check in report.checks:
            kind = check.kind if check.precision in ("", "float64", check.kind) else f"{check.kind} {check.precision}"
            if kind not in largest or check.share > largest[kind]["share"]:
                largest[kind] = told(check, name)
        found = [told(check, name) for check in report.failures]
        alarms += found
        if found:
            tqdm.write(f"false alarm: {found[0]}")
    found = {"checks": checks, "alarms": alarms, "drawn twice": twice, "largest": largest}
    return found | {"versions": report.versions}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(FAMILIES)
    parser.add_argument("--families", nargs="+", default=known, choices=known, help="by turns (default: all)")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--frameworks", default="torch,tensorflow")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/parity_seeds.json")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny; threads would only wait for each other
    one, other = given.frameworks.split(",")
    began = time.monotonic()
    with Side(one) as first, Side(other) as second:
        result = run((first, second), given.families, range(given.first, given.first + given.seeds))
    about = {"families": given.families, "first": given.first, "seeds": given.seeds, "machine": platform.machine()}
    result = about | {"seconds": round(time.monotonic() - began, 1)} | result
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{given.seeds} seeds ({len(result['drawn twice'])} drawn twice), {result['checks']} checks, "
        f"{len(result['alarms'])} false alarms"
    )
    for kind, worst in result["largest"].items():
        where = f"{worst['head']}, {worst['example']}, seed {worst['seed']}, {worst['case']}: {worst['name']}"
        print(f"{kind:20} {worst['share']:8.3g} of the limit  ({where})")


if __name__ == "__main__":
    main()
