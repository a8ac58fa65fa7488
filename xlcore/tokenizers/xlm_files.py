"""The files of XLM's tokenizer: HuggingFace's `vocab.json` and `merges.txt`; the original's codes and dictionary."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlcore import pickles
from xlcore.errors import FormatError
from xlcore.files import parse_json, read_object
from xlcore.tokenizers.bpe import END

#: The words that the original puts before those of every vocabulary file.
RESERVED = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{number}>" for number in range(10)))

_LINE_SEPARATOR = "\u2028"


def read_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    """Return token -> id, in the form in which the last piece of a word ends in `</w>`.

    Reads `vocab.json`, a fastBPE vocabulary (lines of token and count), and the dictionary of an original `.pth`.

    Raises:
        FormatError: for other files, and for ids that are not one a token.
    """
    file = Path(path)
    if not file.is_file():
        raise FormatError(f"{file}: must be a vocabulary file, got none")
    with file.open("rb") as opened:
        start = opened.read(64).lstrip()
    if start[:1] == b"{":
        return dict(_checked(file, read_object(file)))
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        found = pickles.load(file)
        words = found.get("dico_word2id") if isinstance(found, dict) else None
        if not isinstance(words, dict):
            raise FormatError(f"{file}: must hold dico_word2id, got none; name the vocabulary file")
        return from_dictionary(words, str(file))
    return _from_lines(_lines(file))


def from_dictionary(words: Mapping[Any, Any], where: str) -> dict[str, int]:
    """Return the vocabulary of an original's `dico_word2id`: what ends a word has `</w>`, in place of `@@` elsewhere.

    A word with `@@` within, whose form another word has, stays as it is.

    Raises:
        FormatError: for ids that are not one a word, and words that are no text.
    """
    if not all(isinstance(word, str) and _is_text(word) for word in words):
        raise FormatError(f"{where}: dico_word2id must have words that are text, got others")
    table: dict[str, int] = {}
    for word, index in sorted(_checked(where, words).items(), key=lambda each: "@@" in each[0].removesuffix("@@")):
        token = _with_end(word, index)
        table[word if token in table else token] = index
    if len(table) != len(words):
        raise FormatError(f"{where}: dico_word2id must have words that stay apart in our form, got others")
    return table


def to_dictionary(content: bytes, size: int) -> dict[int, str]:
    """Return an original's `dico_id2word` for the content of a `vocab.json`; see `from_dictionary`.

    Raises:
        FormatError: if it has no token, or several, for one of the `size` ids.
    """
    where = "vocab.json"
    found = parse_json(content, where)
    vocabulary = _checked(where, found if isinstance(found, dict) else {})
    words = {
        index: token
        if index < len(RESERVED) or "@@" in token
        else token.removesuffix(END) + "@@" * (not token.endswith(END))
        for token, index in sorted(vocabulary.items(), key=lambda each: each[1])
    }
    if list(words) != list(range(size)) or len(set(words.values())) != len(vocabulary):
        told = f"{len(vocabulary)} tokens for {len(words)} ids up to {max(words, default=-1)}"
        raise FormatError(f"{where}: must have one token for each id below {size}, got {told}")
    return words


def _is_text(word: str) -> bool:
    """Tell whether UTF-8 can hold a string: half a surrogate pair it cannot."""
    try:
        return bool(word.encode()) or not word
    except UnicodeEncodeError:
        return False


def read_merges(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Return the merges of a file, a line each: two pieces, and a count that is left out.

    Raises:
        FormatError: for a line with fewer than two pieces.
    """
    lines = _lines(Path(path))
    if lines and lines[0].startswith("#version"):
        lines = lines[1:]
    merges = []
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if len(parts) < 2:
            raise FormatError(f"{path}: line {number} must hold two pieces, got {line!r:.60}")
        merges.append((parts[0], parts[1]))
    return merges


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise FormatError(f"{file}: must be a file, got none")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file}: must be text in UTF-8, got other bytes at {error.start}") from error
    return lines[:-1] if lines[-1] == "" else lines


def _from_lines(lines: list[str]) -> dict[str, int]:
    """Number the words of a fastBPE vocabulary as the original does: what it skips takes no id."""
    words = dict.fromkeys(RESERVED)
    for line in lines:
        parts = line.rstrip().split()
        if _LINE_SEPARATOR not in line and len(parts) == 2 and parts[1].isdigit():
            words.setdefault(parts[0])
    return {_with_end(word, index): index for index, word in enumerate(words)}


def _with_end(word: Any, index: Any) -> str:
    """Turn fastBPE's mark, `@@` where a word goes on, into ours, `</w>` where it ends."""
    if "@@" not in str(word) and isinstance(index, int) and index >= len(RESERVED):
        return f"{word}{END}"
    return str(word).replace("@@", "")


def _checked(file: Path | str, table: Mapping[str, Any]) -> Mapping[str, int]:
    ids = list(table.values())
    if not ids or any(type(index) is not int or index < 0 for index in ids) or len(set(ids)) != len(ids):
        raise FormatError(f"{file}: must give each token an id of its own from 0 up, got others")
    return table
