"""How fast are our tokenizers, beside those of transformers, on the same text and vocabulary?

    python benchmarks/tokenizers.py --peer-python .venv-peers/bin/python [--family xlnet]

Ours run beside transformers 4.34.0 (the slow tokenizers) and, for the families with SentencePiece, transformers 5 (the
library tokenizers, Rust), all in one go, each in a process of its own, by turns. 4.34.0 needs an environment of its own
(`benchmarks/peers-requirements.txt`), transformers 5 is looked for in ours.

The text is CPython's own documentation, `pydoc_data.topics`; the vocabulary is learnt from it and filled up to the size
of the released one. The ids must be equal; texts that transformers 5 splits otherwise (ties, and some numbers before
commas) are left out on all sides, and counted. "First time" is a new tokenizer, with nothing kept.
Prints a table and writes `benchmarks/results/tokenizers.json`.
"""

import argparse
import gc
import importlib.metadata
import io
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sides import PEER_PYTHON, RESULTS, ROOT, Side, answer, requests

FAMILIES = {
    "transfo_xl": "TransfoXLTokenizer", "xlnet": "XLNetTokenizer", "xlm": "XLMTokenizer",
    "xlm_roberta": "XLMRobertaTokenizer",
}  # fmt: skip
VOCABULARY = {"transfo_xl": 267_735, "xlnet": 32_000, "xlm": 64_139, "xlm_roberta": 250_000}
BY_WORDS = ("transfo_xl", "xlm")  # the families of which there are slow tokenizers only
LEARNT = 8_000  # pieces that the text is enough for
BATCH = {"padding": True, "truncation": True, "max_length": 128}


def read_text() -> list[str]:
    """Return the paragraphs of the text."""
    from pydoc_data.topics import topics

    return [part for text in topics.values() for part in text.split("\n\n") if part.strip()]


# --- a side -----------------------------------------------------------------------------------------------------------


def make_tokenizer(side: str, family: str, folder: str, fast: bool) -> Any:
    """Return the tokenizer of a side, from a folder."""
    if side == "ours":
        sys.path.insert(0, str(ROOT))
        import xlcore as library
    else:
        import transformers as library
    name = FAMILIES[family] + ("Fast" if fast and side == "ours" and family not in BY_WORDS else "")
    if family == "transfo_xl":
        return library.TransfoXLTokenizer(vocab_file=str(Path(folder) / "vocab.txt"))
    return getattr(library, name).from_pretrained(folder)


def version_of(side: str) -> str:
    """Return what a side ran with."""
    names = ["numpy", "sentencepiece"] if side == "ours" else ["transformers", "tokenizers", "sentencepiece"]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def work(side: str) -> None:
    """Answer requests, a line of JSON each, until there are no more."""
    # Python puts the folder of a script first, where this file would stand for the package `tokenizers`.
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    asked = requests()
    request = next(iter(asked))
    made = request["family"], request["folder"]
    texts = request["texts"]
    tokenizers = {fast: make_tokenizer(side, *made, fast) for fast in (False, True)}
    answer(version=version_of(side), python=platform.python_version())
    for request in asked:
        if request["call"] == "keep":  # only the texts on which all sides agree
            texts = [texts[place] for place in request["places"]]
            answer()
            continue
        fresh = request.get("fresh")  # nothing kept from the round before
        fast = request["call"] == "offsets"
        tokenizer = make_tokenizer(side, *made, fast) if fresh else tokenizers[fast]
        gc.collect()
        start = time.perf_counter()
        out = run(tokenizer, texts, request)
        answer(seconds=time.perf_counter() - start, out=out)


def run(tokenizer: Any, texts: list[str], request: dict[str, Any]) -> Any:
    """Do what is measured."""
    call = request["call"]
    if call == "encode":
        return [tokenizer.encode(text) for text in texts]
    if call == "batch":
        return tokenizer(texts, **BATCH)["input_ids"]
    if call == "offsets":
        return tokenizer(texts, return_offsets_mapping=True)["input_ids"]
    return [tokenizer.decode(ids, skip_special_tokens=True, **request["options"]) for ids in request["ids"]]


# --- a family ---------------------------------------------------------------------------------------------------------


def make_folder(family: str, texts: list[str], folder: str) -> None:
    """Write a tokenizer with a vocabulary of the released size, in files that all sides read."""
    import xlcore

    if family == "transfo_xl":
        maker = xlcore.TransfoXLTokenizer.from_corpus(texts, progress=False)
        maker.save_vocabulary(folder)
        with open(Path(folder) / "vocab.txt", "a", encoding="utf-8") as file:
            file.writelines(f"filler{number}\n" for number in range(VOCABULARY[family] - maker.vocab_size))
        return
    if family == "xlm":
        make_pairs(texts, Path(folder))
        return
    kind = xlcore.XLNetTokenizerFast if family == "xlnet" else xlcore.XLMRobertaTokenizerFast
    file = Path(folder) / kind.model_file
    file.write_bytes(learnt_model(family, texts))
    kind(file).save_pretrained(folder)


def make_pairs(texts: list[str], folder: Path) -> None:
    """Write byte pairs learnt from the text's words, for a tokenizer that lower-cases first, as 4.34 does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from xlcore.tokenizers.punctuation import PunctuationNormalizer
    from xlcore.tokenizers.words import MosesTokenizer
    from xlcore.tokenizers.xlm_files import RESERVED

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=LEARNT, end_of_word_suffix="</w>", show_progress=False)
    moses, normalize = MosesTokenizer(), PunctuationNormalizer()
    learner.train_from_iterator((" ".join(moses(normalize(text.lower()))) for text in texts), trainer)
    learner.model.save(str(folder))
    pieces = list(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    symbols = [*RESERVED, *(piece for piece in pieces if piece not in RESERVED)]
    symbols += [f"filler{number}</w>" for number in range(VOCABULARY["xlm"] - len(symbols))]
    (folder / "vocab.json").write_text(json.dumps({symbol: n for n, symbol in enumerate(symbols)}), encoding="utf-8")
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n", 1)[1]  # behind the version
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"lowercase_first": True}))


def learnt_model(family: str, texts: list[str]) -> bytes:
    """Return a SentencePiece model of the text, as the authors trained theirs, filled up with words of no text."""
    import sentencepiece

    from xlcore.tokenizers import sentencepiece_files as files

    symbols: dict[str, Any] = {}
    if family == "xlnet":
        symbols["control_symbols"] = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"]
        symbols["user_defined_symbols"] = ["<eop>", ".", "(", ")", '"', "-", "–", "£", "€"]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(text.split()) for text in texts), model_writer=written, vocab_size=LEARNT,
        hard_vocab_limit=False, character_coverage=0.9995, minloglevel=2, **symbols,
    )  # fmt: skip
    data = written.getvalue()
    model, pieces = files.load(data, "the benchmark", {})
    kinds = {True: files.NORMAL, False: files.USER_DEFINED}
    listed = [
        files.Piece(
            text,
            model.get_score(index),
            files.UNKNOWN if model.is_unknown(index)
            else files.CONTROL if model.is_control(index)
            else kinds[model.get_score(index) < 0],
        )
        for index, text in enumerate(pieces)
    ]  # fmt: skip
    listed += [files.Piece(f"▁filler{number}", -20.0) for number in range(VOCABULARY[family] - len(listed))]
    return files.build(listed, files.charsmap(data))


def agreeing(sides: dict[str, Side], texts: list[str]) -> list[str]:
    """Return the texts that all sides split alike, and tell the sides; only transformers 5 may differ."""
    found = {name: side.ask(call="encode")["out"] for name, side in sides.items()}
    if found["ours"] != found["4.34"]:
        raise SystemExit("ours and transformers 4.34 must give the same ids, got others")
    places = [place for place in range(len(texts)) if all(ids[place] == found["ours"][place] for ids in found.values())]
    for side in sides.values():
        side.ask(call="keep", places=places)
    return [texts[place] for place in places]


def measure(sides: dict[str, Side], rounds: int, **request: Any) -> dict[str, list[float]]:
    """Return the seconds of each round of all sides, by turns. Raises SystemExit if they differ."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        found = {name: side.ask(**request) for name, side in sides.items()}
        if any(answered["out"] != found["ours"]["out"] for answered in found.values()):
            raise SystemExit(f"the sides must give the same at {request['call']}, got others")
        for name, answered in found.items():
            seconds[name].append(answered["seconds"])
    return seconds


def summary(what: str, seconds: dict[str, list[float]], amount: float, unit: str) -> dict[str, Any]:
    """Return the medians of one measurement."""
    speed = {side: amount / statistics.median(values) for side, values in seconds.items()}
    ratios = {side: speed["ours"] / value for side, value in speed.items() if side != "ours"}
    return {"what": what, "unit": unit, "speed": speed, "ratio": ratios, "seconds": seconds}


def run_family(family: str, pythons: dict[str, str], rounds: int) -> dict[str, Any]:
    """Measure a family, print and return the table."""
    texts = read_text()
    with tempfile.TemporaryDirectory() as folder:
        make_folder(family, texts, folder)
        known = {"family": family, "folder": folder, "texts": texts}
        wanted = ["ours", "4.34"] if family in BY_WORDS else list(pythons)
        sides = {
            name: Side([pythons[name], str(Path(__file__).resolve()), "--worker", name], **known) for name in wanted
        }
        kept = agreeing(sides, texts)
        rows = measured(family, sides, kept, rounds)
        about = {name: side.about for name, side in sides.items()}
        for side in sides.values():
            side.close()
    found = {"family": family, "vocabulary": VOCABULARY[family], "texts": len(kept), "left_out": len(texts) - len(kept)}
    report(found | {"sides": about, "rows": rows})
    return found | {"sides": about, "rows": rows}


def measured(family: str, sides: dict[str, Side], texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Return the rows of a family's table."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    ids = sides["ours"].ask(call="encode")["out"]
    rows = []
    calls = [("encode, first time", {"call": "encode", "fresh": True}), ("encode, again", {"call": "encode"})]
    if family not in BY_WORDS:
        calls = [("encode", {"call": "encode"}), ("a batch, cut and filled", {"call": "batch"})]
    for what, request in calls:
        rows.append(summary(what, measure(sides, rounds, **request), size, "MB/s"))
    if family in BY_WORDS:
        few = [row[:10] for row in ids[:4]]  # the peer copies its vocabulary for each id
        options = {"clean_up_tokenization_spaces": False} if family == "xlm" else {}  # 4.34 tidies, 5 and ours do not
        seconds = measure(sides, rounds, call="decode", ids=few, options=options)
        rows.append(summary("decode", seconds, sum(map(len, few)), "ids/s"))
        return rows
    rust = {name: side for name, side in sides.items() if name != "4.34"}  # the slow one knows no offsets
    rows.append(summary("offsets (Fast)", measure(rust, rounds, call="offsets"), size, "MB/s"))
    seconds = measure(sides, min(rounds, 3), call="decode", ids=ids, options={})
    return [*rows, summary("decode", seconds, sum(map(len, ids)) / 1e6, "million ids/s")]


def report(found: dict[str, Any]) -> None:
    """Print the table of a family."""
    names = list(found["sides"])
    print(f"\n{found['family']}: {found['vocabulary']} symbols, {found['texts']} texts ({found['left_out']} left out)")
    print(f"{'':26}" + "".join(f"{name:>10}" for name in names) + "".join(f"{'x ' + name:>10}" for name in names[1:]))
    for row in found["rows"]:
        speeds = "".join(f"{row['speed'][name]:10.2f}" if name in row["speed"] else f"{'':10}" for name in names)
        ratios = "".join(f"{row['ratio'][name]:10.1f}" if name in row["ratio"] else f"{'':10}" for name in names[1:])
        print(f"{row['what']:26}{speeds}{ratios}  {row['unit']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=PEER_PYTHON)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--family", choices=(*FAMILIES, "all"), default="all")
    parser.add_argument("--worker")
    given = parser.parse_args()
    if given.worker:
        work(given.worker)
        return
    sys.path.insert(0, str(ROOT))
    # from here on `tokenizers` is the package, not this file
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]
    pythons = {"ours": sys.executable, "4.34": given.peer_python, "5": sys.executable}
    families = list(FAMILIES) if given.family == "all" else [given.family]
    tables = {family: run_family(family, pythons, given.rounds) for family in families}
    file = RESULTS / "tokenizers.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    kept = {family: table for family, table in before.items() if family in FAMILIES}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept | tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
