"""How fast is the Transformer-XL tokenizer, beside the one of transformers 4.34.0, on the same text and vocabulary?

    python benchmarks/tokenizers.py --peer-python .venv-peers/bin/python

Both sides run in one go, each in a process of its own, by turns. The peer needs an environment of its own
(`benchmarks/peers-requirements.txt`). The text is CPython's own documentation, `pydoc_data.topics`, the vocabulary
its words, filled up to the size of the released one (267,735). "First time" is a new tokenizer, with nothing kept.
The ids must be equal. Prints a table and writes `benchmarks/results/tokenizers.json`.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY = 267_735
ROOT = Path(__file__).resolve().parent.parent


def read_text() -> list[str]:
    """Return the paragraphs of the text."""
    from pydoc_data.topics import topics

    return [part for text in topics.values() for part in text.split("\n\n") if part.strip()]


def make_tokenizer(side: str, vocab_file: str):
    """Return the tokenizer of a side."""
    if side == "ours":
        sys.path.insert(0, str(ROOT))
        from xlcore.tokenizers import TransfoXLTokenizer
    else:
        from transformers import TransfoXLTokenizer
    return TransfoXLTokenizer(vocab_file=vocab_file)


def version_of(side: str) -> str:
    """Return what a side ran with."""
    names = ["numpy"] if side == "ours" else ["transformers", "sacremoses"]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def work(side: str) -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    # Python puts the folder of a script first, where this file would stand for the package `tokenizers`.
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    request = json.loads(sys.stdin.readline())
    tokenizer, texts = make_tokenizer(side, request["vocab_file"]), request["texts"]
    answer(version=version_of(side), python=platform.python_version())
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["fresh"]:  # nothing kept from the round before
            tokenizer = make_tokenizer(side, request["vocab_file"])
        start = time.perf_counter()
        if asked["call"] == "encode":
            out = [tokenizer.encode(text) for text in texts]
        else:
            out = [tokenizer.decode(ids) for ids in asked["ids"]]
        answer(seconds=time.perf_counter() - start, out=out)


def answer(**values: object) -> None:
    print(json.dumps(values), flush=True)


class Side:
    """A process that holds one tokenizer."""

    def __init__(self, side: str, python: str, vocab_file: str, texts: list[str]):
        command = [python, str(Path(__file__).resolve()), "--worker", side]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.about = self.ask(vocab_file=vocab_file, texts=texts)

    def ask(self, **request: object) -> dict:
        """Send a request and return the answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side must answer, got none: {' '.join(self.process.args)}")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end."""
        self.process.stdin.close()
        self.process.wait()


def measure(ours: Side, peer: Side, rounds: int, request: dict) -> dict[str, list[float]]:
    """Return the seconds of each round of both sides, by turns. Raises SystemExit if they differ."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        found = {"ours": ours.ask(**request), "peer": peer.ask(**request)}
        if found["ours"]["out"] != found["peer"]["out"]:
            raise SystemExit("the sides must give the same ids and texts, got others")
        for name, answered in found.items():
            seconds[name].append(answered["seconds"])
    return seconds


def summary(name: str, seconds: dict[str, list[float]], amount: float, unit: str) -> dict:
    """Return the medians of one measurement."""
    speed = {side: amount / statistics.median(values) for side, values in seconds.items()}
    return {"what": name, "unit": unit, **speed, "ratio": speed["ours"] / speed["peer"], "seconds": seconds}


def run(peer_python: str, rounds: int) -> None:
    """Measure, print and write."""
    texts = read_text()
    size = sum(len(text.encode()) for text in texts) / 1e6
    sys.path.insert(0, str(ROOT))
    from xlcore.tokenizers import TransfoXLTokenizer

    with tempfile.TemporaryDirectory() as folder:
        maker = TransfoXLTokenizer.from_corpus(texts, progress=False)
        (vocab_file,) = maker.save_vocabulary(folder)
        with open(vocab_file, "a", encoding="utf-8") as file:
            file.writelines(f"filler{number}\n" for number in range(VOCABULARY - maker.vocab_size))
        sides = [Side(s, p, vocab_file, texts) for s, p in (("ours", sys.executable), ("peer", peer_python))]
        rows = []
        for name, fresh in (("encode, first time", True), ("encode, again", False)):
            seconds = measure(*sides, rounds, {"call": "encode", "fresh": fresh})
            rows.append(summary(name, seconds, size, "MB/s"))
        ids = [maker.encode(text)[:10] for text in texts[:4]]  # few: the peer copies its vocabulary for each id
        seconds = measure(*sides, rounds, {"call": "decode", "fresh": False, "ids": ids})
        rows.append(summary("decode", seconds, sum(map(len, ids)), "ids/s"))
        about = {"ours": sides[0].about, "peer": sides[1].about, "text_mb": size, "vocabulary": VOCABULARY}
        for side in sides:
            side.close()
    report(rows, about)


def report(rows: list[dict], about: dict) -> None:
    """Print the table and write the JSON."""
    print(
        f"{about['text_mb']:.2f} MB of text, {about['vocabulary']} symbols; peer: {about['peer']['version']}; equal ids"
    )
    print(f"{'':22}{'ours':>10}{'peer':>10}{'ratio':>8}")
    for row in rows:
        print(f"{row['what']:22}{row['ours']:10.2f}{row['peer']:10.2f}{row['ratio']:7.1f}x  {row['unit']}")
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizers.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=str(ROOT / ".venv-peers" / "bin" / "python"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=("ours", "peer"))
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
    else:
        run(given.peer_python, given.rounds)


if __name__ == "__main__":
    main()
