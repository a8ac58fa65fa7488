"""What benchmarks share: processes that answer in turn, so that both sides are measured in one run, and a table."""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER_PYTHON = str(ROOT / ".venv-peers" / "bin" / "python")


class Side:
    """A process that holds one implementation and answers requests, a line of JSON each.

    Args:
        command: what starts it.
        about: the first request; its answer is kept as `about`.
    """

    def __init__(self, command: Sequence[str], **about: Any) -> None:
        self.words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in `close`; an unread pipe would fill up)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words, text=True
        )
        self.about = self.ask(**about)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer; a side that ends instead ends the benchmark with its last words."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.words.seek(0)
            raise SystemExit(
                f"a side must answer, got none: {' '.join(self.process.args)}\n{self.words.read()[-2000:]}"
            )
        return json.loads(line)

    def close(self) -> None:
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()
        self.words.close()


def answer(**values: Any) -> None:
    """Answer the request that was read last."""
    sys.__stdout__.write(json.dumps(values) + "\n")
    sys.__stdout__.flush()


def requests() -> Iterable[dict[str, Any]]:
    """Yield requests until there are no more."""
    for line in sys.stdin:
        yield json.loads(line)


def in_turn(sides: Mapping[str, Side], rounds: int, **request: Any) -> dict[str, list[float]]:
    """Ask all sides in turn, once to warm up and then `rounds` times; return the seconds that each took."""
    for side in sides.values():
        side.ask(**request)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            seconds[name].append(side.ask(**request)["seconds"])
    return seconds


def ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Return how many times as fast our side is, by the medians."""
    return statistics.median(seconds[theirs]) / statistics.median(seconds[ours])


def write(name: str, found: Any) -> None:
    """Keep what was found as JSON beside the other results."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
