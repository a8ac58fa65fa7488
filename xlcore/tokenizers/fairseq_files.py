"""The `dict.txt` of fairseq: a symbol and a count a line, held against the pieces of a SentencePiece model."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from xlcore.errors import FormatError, TokenizerError
from xlcore.protobuf import read_message

MODEL_FILE, SYMBOLS, MASK = "sentencepiece.bpe.model", "dict.txt", "<mask>"
_OVERWRITE = " #fairseq:overwrite"
_FIRST = 4  # <s>, <pad>, </s>, <unk>, which stand before the first line
_MODEL_FIRST = ["<unk>", "<s>", "</s>"]
_MOST_PIECES = 1 << 22
_PIECE, _TEXT = 1, 1


def symbols_of(content: bytes) -> list[str]:
    """Return the symbols of a `dict.txt`, in their order."""
    lines = content.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [line.removesuffix(_OVERWRITE).rpartition(" ")[0] for line in lines]


def check(content: bytes, pieces: Sequence[str], where: str) -> int:
    """Hold a `dict.txt` against the pieces that words are cut into, and return how many symbols it comes to.

    Raises:
        TokenizerError: at the first line with another piece, and where `<mask>` does not follow the last piece.
    """
    symbols = symbols_of(content)
    for number, (symbol, piece) in enumerate(zip_longest(symbols, pieces), 1):
        if piece is not None and symbol != piece:
            raise TokenizerError(f"{where}: line {number} must hold {piece!r}, got {symbol!r:.60}")
    mask = symbols.index(MASK) + _FIRST if MASK in symbols else len(symbols) + _FIRST  # it is put behind if it lacks
    if mask != len(pieces) + _FIRST:
        raise TokenizerError(f"{where}: {MASK} must have the id {len(pieces) + _FIRST}, got {mask}")
    return len(symbols) + _FIRST + (MASK not in symbols)


def pieces_of(model: bytes, where: str) -> list[str]:
    """Return the pieces of a model that words are cut into, in their order; the library is not needed.

    Raises:
        TokenizerError: for a file that is no model of the family.
    """
    try:
        entries = read_message(model, where, {_PIECE: bytes}, _MOST_PIECES)[_PIECE]
        texts = [b"".join(read_message(entry, where, {_TEXT: bytes})[_TEXT][-1:]) for entry in entries]
        found = [text.decode() for text in texts]
    except (FormatError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{where}: the file must be a SentencePiece model, got one that fails: {error}") from error
    if found[:3] != _MODEL_FIRST:
        first = ", ".join(map(repr, found[:3])) or "none"
        raise TokenizerError(f"{where}: the first pieces must be <unk>, <s>, </s>, got {first}")
    return found[3:]


def check_files(file: Callable[[str], bytes | None], config: Any, where: str) -> None:
    """Hold the files of a tokenizer against each other, and against the number of words that the model knows.

    Raises:
        TokenizerError: if they are of different vocabularies.
    """
    model, listed = file(MODEL_FILE), file(SYMBOLS)
    if model is None:
        return
    pieces = pieces_of(model, f"{where}: {MODEL_FILE}")
    count = len(pieces) + _FIRST + 1
    if listed is not None:
        count = check(listed, pieces, f"{where}: {SYMBOLS}")
    if count > config.vocab_size:
        what = f"must have at most vocab_size={config.vocab_size} tokens"
        raise TokenizerError(f"{where}: {MODEL_FILE if listed is None else SYMBOLS} {what}, got {count}")


def dictionary(model: bytes, size: int, where: str) -> bytes:
    """Return the `dict.txt` of a model that knows `size` words; their counts nothing tells: 1 for each, 0 for fillers.

    `<mask>`, which fairseq puts last if it lacks, is written where fillers follow.
    """
    pieces = pieces_of(model, where)
    fillers = size - len(pieces) - _FIRST - 1
    lines = [f"{piece} 1" for piece in pieces]
    if fillers > 0:
        lines += [f"{MASK} 1", *(f"madeupword{number:04d} 0" for number in range(fillers))]
    return "".join(f"{line}\n" for line in lines).encode()
