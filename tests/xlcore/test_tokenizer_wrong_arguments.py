"""What is no text, no ids, no folder or no stride is one clear error, in every tokenizer."""

from pathlib import Path

import numpy as np
import pytest

from xlcore.errors import FormatError, TokenizerError
from xlcore.families import FAMILIES
from xlcore.tokenizers import (
    TransfoXLTokenizer,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
    XLMTokenizer,
    XLNetTokenizer,
    XLNetTokenizerFast,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers"
FILES = {
    TransfoXLTokenizer: [GOLDEN / "transfo_xl" / "vocab.txt"],
    XLMTokenizer: [GOLDEN / "xlm" / "vocab.json", GOLDEN / "xlm" / "merges.txt"],
    XLNetTokenizer: [GOLDEN / "xlnet" / "spiece.model"],
    XLNetTokenizerFast: [GOLDEN / "xlnet" / "spiece.model"],
    XLMRobertaTokenizer: [GOLDEN / "xlm_roberta_xl" / "sentencepiece.bpe.model"],
    XLMRobertaTokenizerFast: [GOLDEN / "xlm_roberta_xl" / "sentencepiece.bpe.model"],
}


@pytest.fixture(scope="module", params=FILES, ids=lambda kind: kind.__name__)
def tokenizer(request):
    kind = request.param
    if kind is TransfoXLTokenizer:
        return kind(vocab_file=str(FILES[kind][0]))
    return kind(*map(str, FILES[kind]))


@pytest.mark.parametrize("wrong", ["abc", [1.5], [[1, 2]], None, np.array([1.5]), 1.5, ["a"]], ids=str)
def test_decoding_what_is_no_ids(tokenizer, wrong):
    message = rf"{type(tokenizer).__name__}: token_ids must be an id or a list of ids, got "
    with pytest.raises(TokenizerError, match=message):
        tokenizer.decode(wrong)


def test_ids_of_any_kind_are_decoded(tokenizer):
    ids = tokenizer.encode("a b", add_special_tokens=False)
    wanted = tokenizer.decode(ids)
    for same in (np.array(ids), tuple(ids), [np.int64(each) for each in ids], iter(ids)):
        assert tokenizer.decode(same) == wanted
    assert tokenizer.decode(ids[0]) == tokenizer.decode(ids[:1]) == tokenizer.decode(np.int64(ids[0]))


@pytest.mark.parametrize("wrong", [3, None, b"abc", ["a"]], ids=str)
def test_splitting_what_is_no_text(tokenizer, wrong):
    for split in (tokenizer.tokenize, tokenizer.tokenize_with_offsets):
        with pytest.raises(TokenizerError, match=rf"{type(tokenizer).__name__}: a text must be a string, got "):
            split(wrong)


def test_splitting_what_is_no_text_in_other_ways():
    words = TransfoXLTokenizer(vocab_file=str(FILES[TransfoXLTokenizer][0]))
    words.whitespace = True
    pytest.importorskip("tokenizers")
    fast = XLNetTokenizerFast(str(FILES[XLNetTokenizerFast][0]), exact=False)
    for each in (words, fast):
        for split in (each.tokenize, each.tokenize_with_offsets):
            with pytest.raises(TokenizerError, match="a text must be a string, got 3"):
                split(3)


def test_saving_onto_a_file(tokenizer, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FormatError, match=r"file.*: must be a folder, or not exist yet, got a file"):
            tokenizer.save_pretrained(place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_a_config_onto_a_file(family, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FormatError, match=r"file: must be a folder, or not exist yet, got a file"):
        FAMILIES[family].config().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("wrong", [-1, 50, "2", 1.5])
def test_a_stride_that_is_none(tokenizer, wrong):
    keys = {"max_length": 6, "truncation": "only_first", "return_overflowing_tokens": True}
    with pytest.raises(
        TokenizerError, match=rf"{type(tokenizer).__name__}: stride must be from 0 to \d+, got {wrong!r}"
    ):
        tokenizer("a b c d e f g h i j k l m n o p", stride=wrong, **keys)
    with pytest.raises(
        TokenizerError, match=rf"{type(tokenizer).__name__}: stride must be from 0 to \d+, got {wrong!r}"
    ):
        tokenizer("a", "b c d e f g h i j k l m", stride=wrong, **keys | {"truncation": "only_second"})
    assert tokenizer("a b c d e f g h i j k l m n o p", stride=1, **keys)["input_ids"]
