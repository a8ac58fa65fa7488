"""The models of SentencePiece: genuine ones, damaged ones, hostile ones, and those made from a `tokenizer.json`."""

import base64
import copy
import json
import random
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from xlcore.errors import FormatError, TokenizerError, XLError
from xlcore.tokenizers import XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLNetTokenizer, XLNetTokenizerFast
from xlcore.tokenizers import sentencepiece_files as files
from xlcore.tokenizers.sentencepiece import Traced
from xlcore.tokenizers.sentencepiece_files import Piece, build

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers"
XLNET, XLMR = GOLDEN / "xlnet" / "spiece.model", GOLDEN / "xlm_roberta_xl" / "sentencepiece.bpe.model"
GENUINE = {XLNetTokenizer: XLNET, XLMRobertaTokenizer: XLMR}
SMALL = [Piece("<unk>", 0.0, 2), Piece("▁", -2.0), Piece("a", -3.0)]


def made(pieces: list[Piece], folder: Path, table: bytes = b"", **kwargs: Any) -> XLNetTokenizer:
    file = folder / "made.model"
    file.write_bytes(build(pieces, table))
    return XLNetTokenizer(file, **kwargs)


class TestDamagedFiles:
    """Whatever the bytes: a tokenizer that works, or one TokenizerError that names the file."""

    @pytest.mark.parametrize("kind", GENUINE)
    def test_flipped_and_cut(self, kind: Any, tmp_path: Path) -> None:
        genuine = GENUINE[kind].read_bytes()
        chance = random.Random(0)
        file = tmp_path / "damaged.model"
        refused = taken = 0
        for _ in range(60):
            data = bytearray(genuine)
            for _ in range(chance.choice([1, 10, 1000])):
                data[chance.randrange(len(data))] = chance.randrange(256)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            file.write_bytes(data)
            try:
                found = kind(file)
            except TokenizerError as error:
                refused += str(error).startswith(f"{file}: ")
            else:
                found.encode("Hello wörld ½ \x00 日本 1,000")
                taken += 1
        assert refused + taken == 60
        assert refused > 20

    @pytest.mark.parametrize("data", [b"", b"\x00", b"not a model", b"PK\x03\x04", b"\x80\x04\x95", bytes(1000)])
    def test_other_files(self, data: bytes, tmp_path: Path) -> None:
        file = tmp_path / "other.model"
        file.write_bytes(data)
        for kind in GENUINE:
            with pytest.raises(
                TokenizerError, match=r"other\.model: the file must be a SentencePiece model, got one that"
            ):
                kind(file)

    @pytest.mark.parametrize(
        "pieces",
        [
            [Piece("a", -1.0)],
            [*SMALL, Piece("a", -1.0)],
            [*SMALL, Piece("", -1.0)],
            [*SMALL, Piece("b\0c", -1.0)],
            [*SMALL, Piece("b", float("nan"))],
            [*SMALL, Piece("b", float("inf"))],
            [*SMALL, Piece("b" * 1_000_000, -1.0)],
            [*SMALL, Piece("\ud800", -1.0)],
            [*SMALL, Piece("<0x41>", -1.0, 6)],
        ],
        ids=["no unknown", "twice", "empty", "null", "nan", "inf", "long", "no text", "byte"],
    )
    def test_pieces_that_cannot_be(self, pieces: list[Piece], tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match="must be a SentencePiece model"):
            made(pieces, tmp_path)

    @pytest.mark.parametrize(
        "table",
        [
            b"\x01",
            struct.pack("<I", 1 << 31) + b"a" * 20,
            struct.pack("<I", 1024) + struct.pack("<256I", *([0x7FFFFC00 | 0x100] * 256)) + b"a\0",
            struct.pack("<I", 4) + bytes(4) + b"no end",
        ],
        ids=["short", "huge claim", "out of bounds", "no end"],
    )
    def test_tables_that_lead_outside(self, table: bytes, tmp_path: Path) -> None:
        """Versions of the library before 0.2.2 read where these point to, and end the process."""
        with pytest.raises(TokenizerError, match="must be a SentencePiece model"):
            made(SMALL, tmp_path, table)

    def test_a_claim_of_many_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "claims.model"
        file.write_bytes(b"\x0a\xff\xff\xff\xff\x0f" + b"a" * 10)
        with pytest.raises(TokenizerError, match=r"claims\.model: the file must be a SentencePiece model"):
            XLNetTokenizer(file)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=r"none.model: the model must be a file, got none \(No such file"):
            XLNetTokenizer(tmp_path / "none.model")
        with pytest.raises(TokenizerError, match="XLNetTokenizer: vocab_file must be a SentencePiece model, got None"):
            XLNetTokenizer()
        with pytest.raises(
            FormatError, match=r"XLNetTokenizer must have one of spiece\.model, tokenizer\.json, got none"
        ):
            XLNetTokenizer.from_pretrained(tmp_path)


class TestLibrary:
    def test_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sentencepiece", None)
        with pytest.raises(
            TokenizerError, match=r"sentencepiece: the library must be installed, got none; pip install"
        ):
            XLNetTokenizer(XLNET)

    def test_it_is_old(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sentencepiece", types.SimpleNamespace(__version__="0.2.1"))
        with pytest.raises(TokenizerError, match=r"the version must be at least 0\.2\.2, got 0\.2\.1, which does not"):
            XLNetTokenizer(XLNET)

    def test_importing_needs_neither_library(self) -> None:
        script = (
            "import sys; sys.modules['sentencepiece'] = sys.modules['tokenizers'] = None; import xlcore; "
            "print(xlcore.XLNetTokenizerFast, xlcore.XLMRobertaTokenizer)"
        )
        subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], capture_output=True)

    @pytest.mark.parametrize(
        "options", [{"model_file": "x"}, {"return_type": str}, {"alpha": "0.1"}, {"reverse": True}]
    )
    def test_options(self, options: dict[str, Any]) -> None:
        """A folder may ask for options; only those that cannot do harm, or break the order of things, are passed on."""
        with pytest.raises(
            TokenizerError, match="sp_model_kwargs must be numbers for enable_sampling, nbest_size, alpha"
        ):
            XLNetTokenizer(XLNET, sp_model_kwargs=options)
        with pytest.raises(TokenizerError, match=r"XLNetTokenizer: sp_model_kwargs must be a dict, got \[1\]"):
            XLNetTokenizer(XLNET, sp_model_kwargs=[1])


class TestSaving:
    def test_byte_for_byte(self, tmp_path: Path) -> None:
        file = tmp_path / "spiece.model"
        file.write_bytes(XLNET.read_bytes() + b"\xfa\x07\x03abc")  # a field that nobody knows
        tokenizer = XLNetTokenizer(file)
        file.unlink()
        (written,) = copy.deepcopy(tokenizer).save_vocabulary(str(tmp_path))
        assert Path(written).read_bytes() == XLNET.read_bytes() + b"\xfa\x07\x03abc"
        with pytest.raises(TokenizerError, match="XLNetTokenizer: save_directory must be a folder, got 'nowhere'"):
            tokenizer.save_vocabulary("nowhere")


class TestTokenizerJson:
    """The model, made anew from what a Fast tokenizer wrote, splits as the one it came from."""

    @pytest.mark.parametrize(
        ("kind", "fast", "model"),
        [(XLNetTokenizer, XLNetTokenizerFast, XLNET), (XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMR)],
    )
    def test_the_way_back(self, kind: Any, fast: Any, model: Path, tmp_path: Path) -> None:
        first = fast(model)
        first.save_pretrained(tmp_path)
        again = kind(tokenizer_file=tmp_path / "tokenizer.json")
        ids = list(range(len(first.sp_model)))
        assert again.sp_model.id_to_piece(ids) == first.sp_model.id_to_piece(ids)
        assert again.sp_model.get_score(ids) == first.sp_model.get_score(ids)
        assert files.charsmap(again._model) == files.charsmap(first._model)
        assert len(files.charsmap(first._model)) > 100_000
        for text in ("Hello wörld, 1,000 ½.", 'a (b) "c" - £5 – d. €', "-----", "日本語 ｱﾞ e\u0301", "x" * 300):
            assert again.encode(text) == first.encode(text)

    def saved(self, folder: Path, **changes: Any) -> Path:
        model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["▁", -2], ["a", -3.5]]}
        content = {"model": model | changes.pop("model", {}), "added_tokens": []} | changes
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder / "tokenizer.json"

    def test_a_small_one(self, tmp_path: Path) -> None:
        found = XLNetTokenizer(tokenizer_file=self.saved(tmp_path, added_tokens=None))
        assert found.tokenize("a b") == ["▁", "a", "▁", "b"]
        assert found.sp_model.get_score(2) == -3.5

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": {"type": "BPE"}}, "the model must be a Unigram model, got 'BPE'"),
            ({"model": {"vocab": [["a", "b"]]}}, "vocab must be a list of pieces with finite scores"),
            ({"model": {"vocab": [["a", float("nan")]]}}, "vocab must be a list of pieces with finite scores"),
            ({"model": {"vocab": [["a", 10**400]]}}, "vocab must be a list of pieces with finite scores"),
            ({"model": {"vocab": {"a": 1}}}, "vocab must be a list of pieces with finite scores"),
            ({"model": {"unk_id": 3}}, "unk_id must be an id from 0 to 2, got 3"),
            ({"model": {"unk_id": None}}, "unk_id must be an id from 0 to 2, got None"),
            ({"model": {"vocab": [["\ud800", 0]]}}, "must be a SentencePiece model"),
            ({"added_tokens": [{"id": "x", "content": "y"}]}, "added_tokens must be a list of tokens with ids"),
            ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "must be bytes in base64"),
            ({"normalizer": {"type": "Precompiled"}}, "must be bytes in base64"),
            (
                {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"bad").decode()}},
                "must be a SentencePiece model",
            ),
        ],
    )
    def test_what_it_cannot_hold(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=message) as caught:
            XLNetTokenizer(tokenizer_file=self.saved(tmp_path, **changes))
        assert "tokenizer.json: " in str(caught.value)

    def test_no_json(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(XLError, match="must be JSON"):
            XLNetTokenizer.from_pretrained(tmp_path)


class TestTraced:
    def test_steps(self) -> None:
        import re

        traced = Traced("a  bb ab")
        assert traced.spans(["a", "▁", "bb"], [0, 1, 4, 5, 6]) == [(0, 1), (1, 4), (4, 6)]
        traced.change(re.compile("b+"), lambda found: "xyz" if len(found) == 2 else "")
        assert traced.text == "a  xyz a"
        assert list(traced.starts) == [0, 1, 2, 3, 3, 3, 5, 6]
        assert list(traced.ends) == [1, 2, 3, 5, 5, 5, 6, 7]
        traced.cut(3, 8)
        assert traced.text == "xyz a"
        assert traced.spans(["▁", "xyz", "▁a"], [0, 0, 1, 2, 3, 4, 5]) == [(3, 3), (3, 5), (6, 7)]
        assert Traced("").spans([], [0]) == []

    def test_one_character_that_becomes_several(self) -> None:
        tokens, spans = XLNetTokenizer(XLNET, keep_accents=True).tokenize_with_offsets("½ ﬁﬁ")
        assert (tokens, spans) == (
            ["▁", "1", "⁄", "2", "▁", "f", "if", "i"],
            [(0, 0), (0, 1), (0, 1), (0, 1), (1, 2), (2, 3), (2, 4), (3, 4)],
        )
