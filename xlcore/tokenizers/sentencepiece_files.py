"""The model files of SentencePiece: read by the library, and made anew where only a `tokenizer.json` is left.

The library holds files from strangers to their format and to their bounds from version 0.2.2 on; before, a file could
end the process.
"""

import base64
import binascii
import importlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xlcore.errors import TokenizerError
from xlcore.files import read_object

SPACE = "▁"
#: Kinds of pieces, as the file numbers them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
_FIRST_SAFE = (0, 2, 2)
_OPTIONS = ("enable_sampling", "nbest_size", "alpha")
#: Numbers of fields: of the model, of a piece, of the normalizer and of the trainer.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_CHARSMAP, _MODEL_TYPE = 2, 3


class Piece(NamedTuple):
    """A piece of the vocabulary, its logarithmic probability, and its kind."""

    text: str
    score: float
    kind: int = NORMAL


def load(data: bytes, where: str, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the processor of a model and its pieces. Raises TokenizerError for bytes that are none.

    options: `enable_sampling`, `nbest_size`, `alpha`, as the library has them.
    """
    for name, value in options.items():
        if name not in _OPTIONS or not isinstance(value, int | float):
            raise TokenizerError(
                f"{where}: sp_model_kwargs must be numbers for {', '.join(_OPTIONS)}, got {value!r:.40} for {name!r}"
            )
    library = _library()
    try:
        processor = library.SentencePieceProcessor(**options)
        processor.LoadFromSerializedProto(data)
        return processor, processor.id_to_piece(list(range(len(processor))))
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TokenizerError(
            f"{where}: the file must be a SentencePiece model, got one that fails: {reason}"
        ) from error


def _library() -> Any:
    try:
        library = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise TokenizerError(
            "sentencepiece: the library must be installed, got none; pip install 'sentencepiece>=0.2.2'"
        ) from error
    found = tuple(int(part) for part in library.__version__.split(".")[:3] if part.isdigit())
    if found < _FIRST_SAFE:
        raise TokenizerError(
            f"sentencepiece: the version must be at least 0.2.2, got {library.__version__}, which does not check the "
            "files that it reads; pip install 'sentencepiece>=0.2.2'"
        )
    return library


def read(path: Path) -> bytes:
    """Return the bytes of a model file. Raises TokenizerError if there is none."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: the model must be a file, got none ({error.strerror})") from error


# --- the wire format ------------------------------------------------------------------------------------------------


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message that the library has read without complaint."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield tag >> 3, value
            continue
        size, place = _varint(data, place) if wire == 2 else ({1: 8, 5: 4}.get(wire, 0), place)
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and data[place] & 0x80:
        value |= (data[place] & 0x7F) << shift
        shift, place = shift + 7, place + 1
    return value | (data[place] if place < len(data) else 0) << shift, place + 1


def _number(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _message(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


# --- what a `tokenizer.json` needs of a model, and the way back -----------------------------------------------------


def charsmap(data: bytes) -> bytes:
    """Return the table by which a model normalizes text, empty if it has none."""
    specs = [value for number, value in _fields(data) if number == _NORMALIZER]
    return b"".join(value for spec in specs[-1:] for number, value in _fields(spec) if number == _CHARSMAP)


def is_unigram(data: bytes) -> bool:
    """Tell whether a model splits by the probabilities of its pieces."""
    trainers = [value for number, value in _fields(data) if number == _TRAINER]
    kinds = [value for trainer in trainers for number, value in _fields(trainer) if number == _MODEL_TYPE]
    return kinds[-1:] in ([], [1])


def build(pieces: Iterable[Piece], table: bytes) -> bytes:
    """Return the model file of pieces, in the order of their ids, and a table of normalization."""
    score = struct.Struct("<f")
    head = bytes([_SCORE << 3 | 5]), bytes([_KIND << 3])
    listed = (
        _message(_TEXT, piece.text.encode(errors="surrogatepass"))
        + head[0]
        + score.pack(piece.score)
        + head[1]
        + _number(piece.kind)
        for piece in pieces
    )
    return b"".join(_message(_PIECE, entry) for entry in listed) + _message(_NORMALIZER, _message(_CHARSMAP, table))


class SavedUnigram(NamedTuple):
    """What a `tokenizer.json` holds of a model: pieces with their scores, the id for unknowns, a table, tokens."""

    vocabulary: list[tuple[str, float]]
    unknown: int
    table: bytes
    added: list[dict[str, Any]]


def read_json(path: Path) -> SavedUnigram:
    """Return the model that a `tokenizer.json` holds. Raises TokenizerError if it holds none of this kind."""
    found = read_object(path)
    model, added = found.get("model"), found.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        kind = model.get("type") if isinstance(model, dict) else None
        raise TokenizerError(f"{path}: the model must be a Unigram model, got {kind!r:.40}")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, list) or not all(map(_is_entry, vocabulary)):
        raise TokenizerError(f"{path}: vocab must be a list of pieces with finite scores, got others")
    unknown = model.get("unk_id")
    if not isinstance(unknown, int) or not 0 <= unknown < len(vocabulary):
        raise TokenizerError(f"{path}: unk_id must be an id from 0 to {len(vocabulary) - 1}, got {unknown!r:.40}")
    if not isinstance(added, list) or not all(map(_is_added, added)):
        raise TokenizerError(f"{path}: added_tokens must be a list of tokens with ids, got others")
    table = _table(found.get("normalizer"), path)
    return SavedUnigram([(text, float(score)) for text, score in vocabulary], unknown, table, added)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        return False
    return type(entry[1]) in (int, float) and abs(entry[1]) < 1e30


def _is_added(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("content"), str) and isinstance(entry.get("id"), int)


def _table(normalizer: Any, path: Path) -> bytes:
    """Return the table among the steps of normalization."""
    steps = [normalizer] if isinstance(normalizer, dict) else []
    if steps and isinstance(steps[0].get("normalizers"), list):
        steps = steps[0]["normalizers"]
    found = [step for step in steps if isinstance(step, dict) and step.get("type") == "Precompiled"]
    try:
        return b"".join(base64.b64decode(step["precompiled_charsmap"], validate=True) for step in found[:1])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise TokenizerError(f"{path}: precompiled_charsmap must be bytes in base64, got others") from error


def kinds(vocabulary: Sequence[tuple[str, float]], unknown: int, control: Iterable[str]) -> list[Piece]:
    """Return the pieces of a vocabulary with their kinds, which a `tokenizer.json` does not tell.

    What is no control piece and has the score 0 was defined by the user: a logarithm of a probability is below 0.
    """
    named = set(control)
    pieces = []
    for index, (text, score) in enumerate(vocabulary):
        kind = UNKNOWN if index == unknown else CONTROL if text in named else USER_DEFINED if score == 0 else NORMAL
        pieces.append(Piece(text, score, kind))
    return pieces
