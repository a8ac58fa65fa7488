"""fairseq's `dict.txt`: read, held against a SentencePiece model, and made anew, without the library."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from xlcore.errors import TokenizerError
from xlcore.tokenizers.fairseq_files import check_files, dictionary, pieces_of, symbols_of
from xlcore.tokenizers.sentencepiece_files import CONTROL, UNKNOWN, Piece, build

FIRST = [Piece("<unk>", 0.0, UNKNOWN), Piece("<s>", 0.0, CONTROL), Piece("</s>", 0.0, CONTROL)]
MODEL = build([*FIRST, Piece("▁", -1.0), Piece("a b", -2.0), Piece("ä", -3.0)], b"")
GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers" / "xlm_roberta_xl" / "sentencepiece.bpe.model"


def test_pieces_are_those_of_the_library():
    sentencepiece = pytest.importorskip("sentencepiece")
    library = sentencepiece.SentencePieceProcessor(model_file=str(GOLDEN))
    assert pieces_of(GOLDEN.read_bytes(), "x") == library.id_to_piece(list(range(3, len(library))))
    assert pieces_of(MODEL, "x") == ["▁", "a b", "ä"]


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (b"", r"^x: the first pieces must be <unk>, <s>, </s>, got none$"),
        (build([Piece("<pad>", 0.0), *FIRST], b""), r"^x: the first pieces must be .*, got '<pad>', '<unk>', '<s>'$"),
        (b"\x0a\xff", r"^x: the file must be a SentencePiece model, got one that fails: x: "),
        (b"\x0a\x03\x0a\x01\xff", r"^x: the file must be a SentencePiece model, got one that fails: .*utf-8"),
    ],
)
def test_what_is_no_model_is_refused(model, got):
    with pytest.raises(TokenizerError, match=got):
        pieces_of(model, "x")


def test_a_dictionary_lists_pieces_then_mask_and_fillers():
    assert dictionary(MODEL, 8, "x").decode() == "▁ 1\na b 1\nä 1\n"
    lines = dictionary(MODEL, 10, "x").decode().splitlines()
    assert lines[3:] == ["<mask> 1", "madeupword0000 0", "madeupword0001 0"]
    assert symbols_of(dictionary(MODEL, 10, "x"))[:4] == ["▁", "a b", "ä", "<mask>"]
    assert symbols_of(b"x 5 #fairseq:overwrite\r\ny 1\n") == ["x", "y"]
    assert symbols_of("a\u2028b 1\n\x85 2".encode()) == ["a\u2028b", "\x85"]  # no ends of lines to fairseq


@pytest.mark.parametrize("size", [8, 10])
def test_a_dictionary_fits_the_model_that_it_is_made_of(size):
    files = {"sentencepiece.bpe.model": MODEL, "dict.txt": dictionary(MODEL, size, "x")}
    check_files(files.get, SimpleNamespace(vocab_size=size), "x")
    expected = rf"^x: dict\.txt must have at most vocab_size={size - 1} tokens, got {size}$"
    with pytest.raises(TokenizerError, match=expected):
        check_files(files.get, SimpleNamespace(vocab_size=size - 1), "x")
    check_files({"dict.txt": b""}.get, SimpleNamespace(vocab_size=size), "x")  # there is nothing to hold it against


def test_a_model_must_fit_the_vocabulary():
    with pytest.raises(
        TokenizerError, match=r"^x: sentencepiece\.bpe\.model must have at most vocab_size=7 tokens, got 8$"
    ):
        check_files({"sentencepiece.bpe.model": MODEL}.get, SimpleNamespace(vocab_size=7), "x")


def test_a_dictionary_of_another_model_is_told_by_its_line():
    files = {"sentencepiece.bpe.model": MODEL, "dict.txt": "▁ 1\nä 1\na b 1\n".encode()}
    with pytest.raises(TokenizerError, match=r"^x: dict\.txt: line 2 must hold 'a b', got 'ä'$"):
        check_files(files.get, SimpleNamespace(vocab_size=8), "x")
