"""The vocabulary and the corpora of Transformer-XL, in every kind of file that its releases have used.

Pickles and torch files are read without running what they contain (`xlcore.pickles`); nothing writes them.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlcore import pickles
from xlcore.errors import FormatError
from xlcore.files import read_json

#: Symbols that may stand for unknown words, in the order in which they are looked for.
UNKNOWN = ("<unk>", "<UNK>")
#: What a vocabulary file says about itself beside its symbols.
_SETTINGS = ("special", "min_freq", "max_size", "lower_case", "delimiter")


@dataclass
class Vocabulary:
    """The symbols in the order of their ids, the id of unknown words, and the settings that the file holds."""

    symbols: list[str]
    unknown: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Return the vocabulary of a text, JSON, pickle or torch file. Raises FormatError if it holds none."""
        file = Path(path)
        with file.open("rb") as opened:
            head = opened.read(2)
        if head == b"PK" or head[:1] == b"\x80":
            return cls.from_object(pickles.load(file), str(file))
        if file.suffix == ".json":
            return cls.from_object(read_json(file), str(file))
        return cls._from_text(file)

    @classmethod
    def _from_text(cls, file: Path) -> "Vocabulary":
        """Read a symbol a line: the first field of it; a symbol that comes again keeps its first id."""
        try:
            lines = file.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise FormatError(f"{file}: the vocabulary must be text in UTF-8, got another file ({error})") from error
        symbols: dict[str, int] = {}
        for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
            parts = line.split()
            if not parts:
                raise FormatError(f"{file}: line {number} must hold a symbol, got a blank line")
            symbols.setdefault(parts[0], len(symbols))
        unknown = symbols.get("<UNK>", symbols.get("<unk>"))
        if unknown is None:
            raise FormatError(f"{file}: the vocabulary must hold <unk> or <UNK>, got neither among {len(symbols)}")
        return cls(list(symbols), unknown)

    @classmethod
    def from_object(cls, found: Any, where: str) -> "Vocabulary":
        """Return the vocabulary that a pickle or a JSON file holds: its dict, a list, or a corpus around one."""
        if isinstance(found, pickles.Placeholder):
            found = found.attributes
        if isinstance(found, list):
            found = {"idx2sym": found}
        if not isinstance(found, dict):
            raise FormatError(f"{where}: the file must hold a vocabulary, got {type(found).__name__}")
        if "vocab" in found:
            return cls.from_object(found["vocab"], where)
        if "train" in found:
            raise FormatError(f"{where}: the file must hold a vocabulary, got a corpus without one; see read_corpus")
        symbols = _symbols(found, where)
        unknown = found.get("unk_idx")
        if unknown is None:
            unknown = next((symbols.index(symbol) for symbol in UNKNOWN if symbol in symbols), None)
        elif not isinstance(unknown, int) or not 0 <= unknown < len(symbols):
            raise FormatError(f"{where}: unk_idx must be an id from 0 to {len(symbols) - 1}, got {unknown!r:.40}")
        counts = found.get("counter")
        settings = {key: found[key] for key in _SETTINGS if key in found}
        return cls(symbols, unknown, settings, counts if isinstance(counts, dict) else {})

    def as_text(self) -> str | None:
        """Return the lines of a text file that reads back with the same ids, None if there is no such file."""
        symbols = self.symbols
        plain = len(set(symbols)) == len(symbols) and all(symbol.split() == [symbol] for symbol in symbols)
        reads_as = (
            symbols.index("<UNK>") if "<UNK>" in symbols else symbols.index("<unk>") if "<unk>" in symbols else -1
        )
        text = "".join(f"{symbol}\n" for symbol in symbols)
        encodable = not re.search("[\ud800-\udfff]", text)
        return text if plain and encodable and reads_as == self.unknown else None


def _symbols(found: dict[Any, Any], where: str) -> list[str]:
    """Return the symbols in order, from the list, from the table, or from both if they agree."""
    listed, table = found.get("idx2sym"), found.get("sym2idx")
    if table is None and listed is None and found and all(isinstance(index, int) for index in found.values()):
        table = found  # a JSON file of symbol -> id
    if not listed and table:
        order = sorted(table, key=table.__getitem__) if isinstance(table, dict) else []
        if [table[symbol] for symbol in order] != list(range(len(order))):
            raise FormatError(f"{where}: sym2idx must hold each id from 0 up once, got others")
        listed = order
    if not isinstance(listed, list) or not all(isinstance(symbol, str) for symbol in listed):
        raise FormatError(f"{where}: idx2sym must be a list of strings, got {type(listed).__name__}")
    if isinstance(table, dict) and table is not found:
        for symbol, index in table.items():
            if not isinstance(index, int) or not 0 <= index < len(listed) or listed[index] != symbol:
                raise FormatError(f"{where}: sym2idx must agree with idx2sym, got {index!r} for {symbol!r:.40}")
    return list(listed)


def repaired(symbols: list[str]) -> list[str]:
    """Return symbols with UTF-8 that was read as latin1 read anew, where that gives a symbol of its own."""
    taken = set(symbols)
    repaired: list[str] = []
    for symbol in symbols:
        try:
            anew = symbol if symbol.isascii() else symbol.encode("latin1").decode("utf-8")
        except UnicodeError:
            anew = symbol
        anew = symbol if anew in taken else anew
        taken.add(anew)
        repaired.append(anew)
    return repaired


def read_corpus(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what `corpus.bin`, `cache.pkl` or `cache.pt` holds: dataset, train, valid, test (int64), cutoffs, vocab.

    Raises FormatError for other files. The vocabulary inside is a `Vocabulary`.
    """
    found = pickles.load(path)
    found = found.attributes if isinstance(found, pickles.Placeholder) else found
    if not isinstance(found, dict) or "train" not in found:
        raise FormatError(f"{os.fspath(path)}: the file must hold a corpus with train, got {type(found).__name__}")
    known = ("dataset", "train", "valid", "test", "cutoffs")
    corpus = {key: found[key] for key in known if key in found}
    return corpus | ({"vocab": Vocabulary.from_object(found, os.fspath(path))} if "vocab" in found else {})
