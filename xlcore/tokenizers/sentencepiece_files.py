"""The model files of SentencePiece: read by the library, and made anew where only a `tokenizer.json` is left.

The library holds files from strangers to their format and to their bounds from version 0.2.2 on; before, a file could
end the process.
"""

import base64
import binascii
import importlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xlcore.errors import TokenizerError
from xlcore.files import read_object
from xlcore.protobuf import bytes_field, read_message, varint

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


# --- what a `tokenizer.json` needs of a model, and the way back -----------------------------------------------------


def charsmap(data: bytes) -> bytes:
    """Return the table by which a model normalizes text, empty if it has none."""
    specs = read_message(data, "SentencePiece", {_NORMALIZER: bytes})[_NORMALIZER]
    return b"".join(b"".join(read_message(spec, "SentencePiece", {_CHARSMAP: bytes})[_CHARSMAP]) for spec in specs[-1:])


def is_unigram(data: bytes) -> bool:
    """Tell whether a model splits by the probabilities of its pieces."""
    trainers = read_message(data, "SentencePiece", {_TRAINER: bytes})[_TRAINER]
    kinds = [kind for each in trainers for kind in read_message(each, "SentencePiece", {_MODEL_TYPE: int})[_MODEL_TYPE]]
    return kinds[-1:] in ([], [1])


def build(pieces: Iterable[Piece], table: bytes) -> bytes:
    """Return the model file of pieces, in the order of their ids, and a table of normalization."""
    score = struct.Struct("<f")
    head = bytes([_SCORE << 3 | 5]), bytes([_KIND << 3])
    listed = (
        bytes_field(_TEXT, piece.text.encode(errors="surrogatepass"))
        + head[0]
        + score.pack(piece.score)
        + head[1]
        + varint(piece.kind)
        for piece in pieces
    )
    return b"".join(bytes_field(_PIECE, entry) for entry in listed) + bytes_field(
        _NORMALIZER, bytes_field(_CHARSMAP, table)
    )


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
