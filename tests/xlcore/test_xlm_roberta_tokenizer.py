"""The XLM-RoBERTa tokenizer against what transformers 4.34.0 gave, the library sentencepiece, and transformers 5."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from xlcore.errors import TokenizerError
from xlcore.tokenizers import AddedToken, XLMRobertaTokenizer, XLMRobertaTokenizerFast
from xlcore.tokenizers.sentencepiece_files import Piece, build

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers" / "xlm_roberta_xl"
MODEL = GOLDEN / "sentencepiece.bpe.model"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
SAVED = json.loads((GOLDEN / "fast.json").read_text(encoding="utf-8"))
TEXTS = [case["args"][0] for case in CASES["cases"] if case["call"] == "tokenize"]
GOLDEN_TOKENIZER = XLMRobertaTokenizer(MODEL)
RAW = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


class TestGolden:
    @pytest.mark.parametrize("place", range(len(CASES["cases"])))
    def test_case(self, place: int) -> None:
        case = CASES["cases"][place]
        assert getattr(GOLDEN_TOKENIZER, case["call"])(*case["args"], **case["kwargs"]) == case["out"]

    def test_info(self) -> None:
        info, found = CASES["info"], GOLDEN_TOKENIZER
        assert (found.vocab_size, len(found)) == (info["vocab_size"], info["len"])
        assert found.special_tokens_map == info["special_tokens"]
        assert {role: getattr(found, f"{role}_id") for role in info["special_ids"]} == info["special_ids"]
        assert (found.padding_side, found.model_input_names) == (info["padding_side"], info["model_input_names"])


class TestIds:
    def test_fairseq_offset(self) -> None:
        found = GOLDEN_TOKENIZER
        assert found.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
        pieces = RAW.id_to_piece(list(range(3, len(RAW))))
        assert found.convert_ids_to_tokens(list(range(4, 1408))) == pieces
        assert found.convert_tokens_to_ids(pieces) == list(range(4, 1408))
        assert found.convert_ids_to_tokens(1408) == "<mask>"
        assert len(found.get_vocab()) == 1409
        assert found.get_vocab()["<mask>"] == 1408

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.text(max_size=8) | st.sampled_from(["e\u0301", "▁", "\x85 ", "ｱﾞ", "ﾊﾟ", "--- "]), max_size=8))
    def test_ids_are_those_of_the_library(self, parts: list[str]) -> None:
        """The fast tokenizers of transformers differ here, on half-width kana too (issues 9535, 15970)."""
        text = "".join(parts)
        if not any(token in text for token in GOLDEN_TOKENIZER.all_special_tokens):
            wanted = [index + 1 if index else 3 for index in RAW.encode(text)]
            assert GOLDEN_TOKENIZER.encode(text, add_special_tokens=False) == wanted
            assert GOLDEN_TOKENIZER.tokenize(text) == RAW.encode(text, out_type=str)

    def test_a_model_that_has_a_mask(self, tmp_path: Path) -> None:
        file = tmp_path / "mask.model"
        listed = [
            Piece("<unk>", 0, 2),
            Piece("<s>", 0, 3),
            Piece("</s>", 0, 3),
            Piece("<mask>", -1.0),
            Piece("▁", -2.0),
        ]
        file.write_bytes(build(listed, b""))
        found = XLMRobertaTokenizer(file)
        assert (found.mask_token_id, found.vocab_size) == (6, 7)
        assert found.encode("<mask> <mask>", add_special_tokens=False) == [6, 6]

    def test_another_model_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "other.model"
        file.write_bytes(build([Piece("<unk>", 0, 2), Piece("<pad>", 0, 3), Piece("a", -1.0)], b""))
        with pytest.raises(
            TokenizerError, match="the first pieces must be <unk>, <s>, </s>, got '<unk>', '<pad>', 'a'"
        ):
            XLMRobertaTokenizer(file)

    def test_added_tokens(self, tmp_path: Path) -> None:
        found = XLMRobertaTokenizer(MODEL)
        assert found.add_tokens(["newtok", AddedToken("tight")]) == 2
        assert found.convert_tokens_to_ids(["newtok", "tight"]) == [1409, 1410]
        text = "a newtok b tight c <mask> d<mask>"
        assert found.tokenize(text) == ["▁a", "newtok", "▁b", "tight", "▁c", "<mask>", "▁", "d", "<mask>"]
        assert found.decode(found.encode(text)) == "<s> a newtok b tight c<mask> d<mask></s>"
        for kind in (XLMRobertaTokenizer, XLMRobertaTokenizerFast):
            found.save_pretrained(tmp_path)
            again = kind.from_pretrained(tmp_path)
            assert again.encode(text) == found.encode(text)
            assert again.added_tokens_decoder == found.added_tokens_decoder


class TestRows:
    def test_pairs(self) -> None:
        found = GOLDEN_TOKENIZER(["a", "a a"], ["a", "a a a"], padding=True, return_token_type_ids=True)
        a = 11
        assert found["input_ids"] == [[0, a, 2, 2, a, 2, 1, 1, 1], [0, a, a, 2, 2, a, a, a, 2]]
        assert found["token_type_ids"] == [[0] * 9] * 2
        assert "token_type_ids" not in GOLDEN_TOKENIZER("a")

    def test_the_model_takes_512(self, caplog: pytest.LogCaptureFixture) -> None:
        found = XLMRobertaTokenizer(MODEL)
        assert len(found("a " * 600, truncation=True)["input_ids"]) == 512
        with caplog.at_level(logging.WARNING):
            found("a " * 600)
            found("a " * 600)
        assert [record.getMessage() for record in caplog.records] == [
            "XLMRobertaTokenizer: a text of 602 tokens is longer than the model takes (512)"
        ]
        assert XLMRobertaTokenizer(MODEL, model_max_length=None).model_max_length > 1e29


class TestFolders:
    @pytest.mark.parametrize("saved", ["saved_slow", "saved_fast"])
    def test_as_transformers_4_wrote_it(self, saved: str, tmp_path: Path) -> None:
        for name, content in SAVED[saved].items():
            (tmp_path / name).write_text(json.dumps(content))
        (tmp_path / "sentencepiece.bpe.model").write_bytes(MODEL.read_bytes())
        found = XLMRobertaTokenizer.from_pretrained(tmp_path)
        assert {str(i): token.to_json() for i, token in found.added_tokens_decoder.items()} == (
            SAVED[saved]["tokenizer_config.json"]["added_tokens_decoder"]
        )
        assert found.model_max_length > 1e29  # as the folder says
        assert [found.encode(text) for text in TEXTS] == [GOLDEN_TOKENIZER.encode(text) for text in TEXTS]

    def test_as_transformers_5_writes_it(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        (tmp_path / "sentencepiece.bpe.model").write_bytes(MODEL.read_bytes())
        transformers.XLMRobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "five")
        for kind in (XLMRobertaTokenizer, XLMRobertaTokenizerFast):
            found = kind.from_pretrained(tmp_path / "five")
            assert found.special_tokens_map == GOLDEN_TOKENIZER.special_tokens_map
            assert [found.encode(text) for text in TEXTS] == [GOLDEN_TOKENIZER.encode(text) for text in TEXTS]
            (path,) = found.save_vocabulary(str(tmp_path))
            assert path.endswith("sentencepiece.bpe.model")
            again = kind(path)
            assert [again.encode(text) for text in TEXTS] == [GOLDEN_TOKENIZER.encode(text) for text in TEXTS]

    def test_a_tokenizer_json_of_another_family(self, tmp_path: Path) -> None:
        model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1]]}
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
        with pytest.raises(
            TokenizerError, match=r"vocab must be <s>, <pad>, </s>, <unk>, \.\.\., <mask>, got '<unk>', 'a'"
        ):
            XLMRobertaTokenizer.from_pretrained(tmp_path)


class TestDictionary:
    """`dict.txt` of fairseq names the pieces from the fourth on; `<mask>` may stand in it, fillers follow."""

    LINES = [f"{piece} 100" for piece in RAW.id_to_piece(list(range(3, len(RAW))))]

    def check(self, lines: list[str], folder: Path) -> int:
        (folder / "dict.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return GOLDEN_TOKENIZER.check_dictionary(folder / "dict.txt")

    def test_it_agrees(self, tmp_path: Path) -> None:
        assert self.check(self.LINES, tmp_path) == 1409
        assert self.check([*self.LINES, "<mask> 1"], tmp_path) == 1409
        assert self.check([*self.LINES, "<mask> 1", "madeupword0000 0", "madeupword0001 0"], tmp_path) == 1411
        assert self.check([f"{self.LINES[0]} #fairseq:overwrite", *self.LINES[1:]], tmp_path) == 1409

    def test_it_does_not(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerError, match=r"dict.txt: line 2 must hold '▁the', got '\.'"):
            self.check([self.LINES[0], self.LINES[2], self.LINES[1], *self.LINES[3:]], tmp_path)
        with pytest.raises(TokenizerError, match=r"line 1404 must hold '.*', got None"):
            self.check(self.LINES[:-1], tmp_path)
        with pytest.raises(TokenizerError, match="<mask> must have the id 1408, got 1409"):
            self.check([*self.LINES, "madeupword0000 0", "<mask> 1"], tmp_path)


WORDS = st.text(alphabet="abcdefghijklmnoprstuvwyzABCDEHMNPSTéñöПриветмир日本語", min_size=1, max_size=8)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the tokenizer of transformers 5, made from a folder that ours wrote."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("xlmr")
    XLMRobertaTokenizerFast(MODEL).save_pretrained(folder)
    return transformers.XLMRobertaTokenizer.from_pretrained(folder)


@settings(max_examples=150, deadline=None)
@given(text=st.lists(WORDS | st.sampled_from(["<mask>", "it's", "(ok)", "x.", "5"]), max_size=8).map(" ".join))
def test_ids_equal_transformers_5(text: str, five: Any) -> None:
    ours, theirs = GOLDEN_TOKENIZER(text), five(text)
    assert dict(ours) == dict(theirs)
