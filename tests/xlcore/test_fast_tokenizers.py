"""The Fast tokenizers: where tokens lie, windows, `tokenizer.json`; against transformers 4.34.0 and 5."""

import hashlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xlcore.errors import TokenizerError
from xlcore.tokenizers import (
    AddedToken,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
    XLNetTokenizer,
    XLNetTokenizerFast,
)
from xlcore.tokenizers.fast import windows

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers"
XLNET, XLMR = GOLDEN / "xlnet" / "spiece.model", GOLDEN / "xlm_roberta_xl" / "sentencepiece.bpe.model"
FAMILIES = {
    "xlnet": (XLNetTokenizer, XLNetTokenizerFast, XLNET),
    "xlm_roberta_xl": (XLMRobertaTokenizer, XLMRobertaTokenizerFast, XLMR),
}
FAST = {family: json.loads((GOLDEN / family / "fast.json").read_text(encoding="utf-8")) for family in FAMILIES}


def listed(found: Any) -> Any:
    """Return what an encoding holds as JSON has it: spans as lists."""
    return json.loads(json.dumps(dict(found)))


def as_transformers_4(family: str) -> Any:
    """Return the tokenizer that splits as the Fast class of 4.34.0, with the tokens of the golden file."""
    pytest.importorskip("tokenizers")
    tokenizer = FAMILIES[family][1](FAMILIES[family][2], exact=False)
    tokenizer.add_tokens(["newtok"])
    tokenizer.add_tokens([AddedToken("eaten", lstrip=True, rstrip=True)])
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
class TestAsTransformers4:
    def test_texts(self, family: str) -> None:
        tokenizer = as_transformers_4(family)
        for case in FAST[family]["texts"]:
            found = tokenizer(case["text"], return_offsets_mapping=True, return_special_tokens_mask=True)
            for key in ("input_ids", "offset_mapping", "special_tokens_mask"):
                assert listed(found)[key] == case[key]
            assert (found.tokens(), found.word_ids()) == (case["tokens"], case["word_ids"])
            assert tokenizer.encode(case["text"]) == case["input_ids"]
            assert tokenizer.decode(found["input_ids"]) == case["decode"]
            assert tokenizer.decode(found["input_ids"], skip_special_tokens=True) == case["skipped"]

    def test_windows(self, family: str) -> None:
        tokenizer = as_transformers_4(family)
        for case in FAST[family]["windows"]:
            asked = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
            found = tokenizer(*case["args"], **asked, **case["kwargs"])
            assert listed(found) == case["out"]
            rows = range(len(found["input_ids"]))
            assert [found.sequence_ids(row) for row in rows] == case["sequence_ids"]
            assert [found.word_ids(row) for row in rows] == case["word_ids"]
        tokenizer.truncation_side = "left"
        case = FAST[family]["left"]
        found = tokenizer(*case["args"], return_overflowing_tokens=True, max_length=12, truncation=True, stride=3)
        assert listed(found) == case["out"]

    def test_tokenizer_json(self, family: str, tmp_path: Path) -> None:
        tokenizer = FAMILIES[family][1](FAMILIES[family][2], exact=False)
        tokenizer.add_tokens(["newtok"])
        tokenizer.add_tokens([AddedToken("plainadd", lstrip=True)])
        tokenizer.save_pretrained(tmp_path)
        text = json.dumps(json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")), sort_keys=True)
        wanted = FAST[family]["tokenizer_json"]["sha256_of_sorted_json"]
        assert hashlib.sha256(text.encode()).hexdigest() == wanted
        for name, content in FAST[family]["saved_fast"].items():
            again = json.loads((tmp_path / name).read_text())
            again |= {"model_max_length": content["model_max_length"]} if "model_max_length" in content else {}
            assert {key: again[key] for key in content} == content

    def test_the_choice_is_kept(self, family: str, tmp_path: Path) -> None:
        tokenizer = as_transformers_4(family)
        tokenizer.save_pretrained(tmp_path)
        again = FAMILIES[family][1].from_pretrained(tmp_path)
        assert not again.exact
        text = "a newtok b  eaten c 1,000"
        assert again.encode(text) == tokenizer.encode(text)
        exact = FAMILIES[family][1].from_pretrained(tmp_path, exact=True)
        assert exact.encode(text) != tokenizer.encode(text)


@pytest.mark.parametrize("family", FAMILIES)
class TestExact:
    def test_ids_are_the_slow_ones(self, family: str) -> None:
        slow, fast, model = FAMILIES[family]
        ours, plain = fast(model), slow(model)
        for tokenizer in (ours, plain):
            tokenizer.add_tokens(["newtok", AddedToken("eaten", lstrip=True, rstrip=True)])
        for case in FAST[family]["texts"]:
            text = case["text"]
            found = ours(text, return_offsets_mapping=True)
            assert found["input_ids"] == plain.encode(text) == ours.encode(text)
            assert ours.tokenize(text) == plain.tokenize(text)
            assert found["offset_mapping"] == plain(text, return_offsets_mapping=True)["offset_mapping"]
            for token, span, of in zip(found.tokens(), found["offset_mapping"], found.sequence_ids(), strict=True):
                assert (of is None) <= (span == (0, 0))
                if of == 0 and token.isalnum() and token.isascii() and text.isascii() and text.isprintable():
                    assert text[slice(*span)] == token

    def test_offsets_equal_transformers_5(self, family: str, tmp_path: Path) -> None:
        """But for what one of the two leaves to no token: white space, and characters that are taken out or joined."""
        transformers = pytest.importorskip("transformers")
        ours = FAMILIES[family][1](FAMILIES[family][2])
        ours.save_pretrained(tmp_path)
        theirs = getattr(transformers, FAMILIES[family][0].__name__).from_pretrained(tmp_path)
        compared = 0
        for case in FAST[family]["texts"]:
            a, b = (t(case["text"], return_offsets_mapping=True) for t in (ours, theirs))
            if a["input_ids"] == b["input_ids"] and not any(odd in case["text"] for odd in ("\x07", "''", "``")):
                pairs = zip(a.tokens(), a["offset_mapping"], b["offset_mapping"], strict=True)
                alone = {"▁", *ours.added_tokens_encoder}
                assert [pair for pair in pairs if pair[1] != pair[2] and pair[0] not in alone] == []
                assert a.sequence_ids() == b.sequence_ids()
                assert a.word_ids() == b.word_ids() or "…" in case["text"] or "½" in case["text"]
                compared += 1
        assert compared > 30

    def test_words_given_split(self, family: str) -> None:
        fast = FAMILIES[family][1](FAMILIES[family][2])
        found = fast(["Hello", "my dog", "is"], is_split_into_words=True, return_offsets_mapping=True)
        words = [word for word in found.word_ids() if word is not None]
        assert sorted(set(words)) == [0, 1, 2]
        first = found.word_to_tokens(1)
        assert first is not None
        tokens = found.tokens()[slice(*first)]
        assert "".join(tokens) == "▁my▁dog"
        assert found["offset_mapping"][first.end - 1][1] == 6
        assert fast([], is_split_into_words=True).word_ids() == fast("").word_ids()

    def test_decoding_keeps_spaces(self, family: str) -> None:
        fast = FAMILIES[family][1](FAMILIES[family][2])
        ids = fast.encode("Hello<mask> world", add_special_tokens=False)
        assert fast.decode(ids) == "Hello<mask> world"
        assert fast.decode(np.array(ids), skip_special_tokens=True) == "Hello world"
        assert fast.decode(ids[0]) == "H"


class TestQuestions:
    """What an encoding answers, on a batch of pairs that is filled on the left."""

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls) -> Any:
        return XLNetTokenizerFast(XLNET)(["Who is it?", "a"], ["The dog  is cute", "b"], padding=True)

    def test_rows(self, found: Any) -> None:
        assert found.is_fast
        assert found.n_sequences == 2
        assert len(found.encodings) == 2
        assert found.encodings[0].ids == found["input_ids"][0] == found[0].ids
        assert found.tokens(1)[-5:] == ["▁a", "<sep>", "▁b", "<sep>", "<cls>"]
        assert found.tokens(1)[0] == "<pad>"
        assert found.sequence_ids(1)[-5:] == [0, None, 1, None, None]
        assert found.word_ids(1)[-5:] == [0, None, 0, None, None]
        with pytest.raises(TokenizerError, match="FastEncoding: batch_index must be below 2, got 2"):
            found.tokens(2)
        with pytest.raises(TokenizerError, match=r"FastEncoding: token_index must be below \d+, got 99"):
            found.token_to_chars(99)

    def test_tokens(self, found: Any) -> None:
        last = len(found.tokens(1)) - 1
        assert found.token_to_chars(1, last) is None
        assert found.token_to_sequence(1, last - 2) == 1
        assert found.token_to_word(1, last - 2) == 0
        assert found.token_to_chars(1, last - 2) == (0, 1)
        assert found.token_to_sequence(1, 0) is None

    def test_characters_and_words(self, found: Any) -> None:
        text = "The dog  is cute"
        for char, letter in enumerate(text):
            place = found.char_to_token(0, char, 1)
            if letter == " ":
                continue
            span = found.token_to_chars(0, place)
            assert span.start <= char < span.end
            assert letter in found.tokens(0)[place]
        assert found.char_to_token(0, 99, 1) is None
        assert found.char_to_word(0, 4, 1) == 1
        assert found.char_to_word(0, 99, 1) is None
        assert found.word_to_chars(0, 3, 1) == (12, 16)
        assert found.word_to_chars(0, 9, 1) is None
        assert found.word_to_tokens(0, 9, 1) is None
        start, end = found.word_to_tokens(0, 1, 1)
        assert "".join(found.tokens(0)[start:end]) == "▁dog"
        assert found.word_to_chars(0, 1, 1) == (4, 7)

    def test_one_text(self) -> None:
        found = XLMRobertaTokenizerFast(XLMR)("Hello my dog", return_tensors="np")
        assert found["input_ids"].shape == (1, len(found.tokens()))
        assert found.char_to_token(6) == found.tokens().index("▁m")
        assert found.word_to_chars(1) == (6, 8)
        assert found.n_sequences == 1

    def test_ids_and_tokens_lie_nowhere(self) -> None:
        tokenizer = XLMRobertaTokenizerFast(XLMR)
        found = tokenizer.encode_plus([11, 18])
        assert found.tokens() == ["<s>", "▁a", "▁and", "</s>"]
        assert found.word_ids() == [None] * 4
        assert found.token_to_chars(1) is None
        assert found.sequence_ids() == [None, 0, 0, None]
        assert tokenizer.encode_plus(["▁a"], return_offsets_mapping=True)["offset_mapping"] == [(0, 0), None, (0, 0)]

    def test_pickling(self, found: Any) -> None:
        again = pickle.loads(pickle.dumps(found))
        assert again == found
        assert again.tokens(1) == found.tokens(1)

    def test_a_changed_tokenizer(self) -> None:
        tokenizer = XLNetTokenizerFast(XLNET)
        found = tokenizer(["a b", "a"], padding=True)
        tokenizer.padding_side = "right"
        with pytest.raises(TokenizerError, match="the tokenizer must be as it was at the call, got a changed one"):
            found.tokens()
        assert tokenizer([]).encodings == []


class TestWindows:
    def test_they_cover_the_text(self) -> None:
        tokenizer = XLMRobertaTokenizerFast(XLMR)
        text = "The quick brown fox jumps over it. " * 4
        ids = tokenizer.encode(text, add_special_tokens=False)
        for side in ("right", "left"):
            tokenizer.truncation_side = side
            found = tokenizer(text, truncation=True, max_length=12, stride=4, return_overflowing_tokens=True)
            parts = [row[1:-1] for row in found["input_ids"]]
            parts = parts if side == "right" else parts[::-1]
            whole = parts[0]
            for part in parts[1:]:
                assert whole[-4:] == part[:4]
                whole = whole + part[4:]
            assert whole == ids
            assert found["overflow_to_sample_mapping"] == [0] * len(parts)
        short = tokenizer("a", truncation=True, max_length=12, return_overflowing_tokens=True)
        assert short["input_ids"] == [[0, 11, 2]]

    def test_answers_in_a_long_context(self) -> None:
        """As question answering uses it: each window's offsets lead back into the context."""
        tokenizer = XLNetTokenizerFast(XLNET)
        question, context = "Who was it?", "The dog was there and the man was cute. " * 3
        asked = {"truncation": "only_second", "max_length": 30, "stride": 8, "padding": "max_length"}
        found = tokenizer(
            [question, "a"], [context, "b"], return_overflowing_tokens=True, return_offsets_mapping=True,
            return_tensors="np", **asked,
        )  # fmt: skip
        assert found["input_ids"].shape[1] == 30
        samples = found["overflow_to_sample_mapping"].tolist()
        assert samples == [0] * (len(samples) - 1) + [1]
        for row in range(len(samples) - 1):
            for token, span, of in zip(
                found.tokens(row), found["offset_mapping"][row], found.sequence_ids(row), strict=True
            ):
                if of == 1 and len(token) > 1 and token.strip("▁").isalpha():
                    assert context[slice(*span)] == token.strip("▁")

    def test_what_cannot_be(self) -> None:
        tokenizer = XLNetTokenizerFast(XLNET)
        with pytest.raises(TokenizerError, match="XLNetTokenizerFast: stride must be from 0 to 1, got 2"):
            tokenizer("a b c d e", truncation=True, max_length=4, stride=2, return_overflowing_tokens=True)
        with pytest.raises(
            TokenizerError, match="a pair must be cut 'only_first' or 'only_second', got 'longest_first'"
        ):
            tokenizer("a b c d", "a b c", truncation=True, max_length=5, return_overflowing_tokens=True)

    def test_places(self) -> None:
        assert windows(10, 4, 1, "right") == [(0, 4), (3, 7), (6, 10)]
        assert windows(10, 4, 1, "left") == [(6, 10), (3, 7), (0, 4)]
        assert windows(5, 4, 0, "right") == [(0, 4), (4, 5)]


class TestLibrary:
    def test_it_is_only_needed_for_the_other_way(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, "tokenizers", None)
        tokenizer = XLNetTokenizerFast(XLNET)
        assert tokenizer("Hello", return_offsets_mapping=True)["offset_mapping"][0] == (0, 1)
        tokenizer.save_pretrained(tmp_path)
        wanted = r"exact=False must have the library tokenizers, got none; pip install 'xlbridge\[fast\]'"
        with pytest.raises(TokenizerError, match=wanted):
            XLNetTokenizerFast(XLNET, exact=False).encode("Hello")

    def test_backend(self) -> None:
        pytest.importorskip("tokenizers")
        tokenizer = XLMRobertaTokenizerFast(XLMR)
        text = "Hello my dog"
        assert tokenizer.backend_tokenizer.encode(text).ids == tokenizer.encode(text)
        tokenizer.add_tokens(["dog"])
        assert tokenizer.backend_tokenizer.encode(text).ids[-2] == tokenizer.convert_tokens_to_ids("dog") == 1409
        assert pickle.loads(pickle.dumps(tokenizer)).encode(text) == tokenizer.encode(text)

    def test_only_unigram_models(self, tmp_path: Path) -> None:
        file = tmp_path / "bpe.model"
        file.write_bytes(XLNET.read_bytes() + b"\x12\x02\x18\x02")  # the trainer's model type, once more: 2
        assert XLNetTokenizer(file).vocab_size == 1407
        with pytest.raises(TokenizerError, match="the model must be a unigram model, got another; use XLNetTokenizer"):
            XLNetTokenizerFast(file)
