"""What every tokenizer does, on a small one: calls, batches, added tokens, folders."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlcore.errors import FormatError, TokenizerError
from xlcore.files import write_text
from xlcore.tokenizers import AddedToken, Tokenizer


class Letters(Tokenizer):
    """A token a letter; `[CLS]` before a text and `[SEP]` behind each."""

    vocab_files: ClassVar[dict[str, str]] = {"letters.txt": "vocab_file"}

    def __init__(self, vocab_file: str | None = None, lower_case: bool = False, **kwargs: Any):
        listed = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
        self.symbols = Path(vocab_file).read_text().split() if vocab_file else listed
        self.lower_case = lower_case
        roles = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        super().__init__(**(roles | kwargs))

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return len(self.symbols)

    def get_vocab(self) -> dict[str, int]:
        return {symbol: index for index, symbol in enumerate(self.symbols)} | self.added_tokens_encoder

    def _vocabulary_id(self, token: str) -> int | None:
        return self.symbols.index(token) if token in self.symbols else None

    def _vocabulary_token(self, index: int) -> str:
        return self.symbols[index]

    def _tokenize(self, text: str) -> list[str]:
        return [letter for letter in (text.lower() if self.lower_case else text) if not letter.isspace()]

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[tuple[int, int] | None]]:
        return self._tokenize(text), [(place, place + 1) for place, letter in enumerate(text) if not letter.isspace()]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return (write_text(Path(save_directory) / "letters.txt", "\n".join(self.symbols)),)

    def _config(self) -> dict[str, Any]:
        return {"lower_case": self.lower_case}

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [2, *token_ids_0, 3] + ([] if token_ids_1 is None else [*token_ids_1, 3])

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))

    def _special_mask(self, first: int, second: int | None) -> list[int]:
        return [1, *[0] * first, 1] + ([] if second is None else [*[0] * second, 1])


@pytest.fixture
def letters() -> Letters:
    return Letters()


A = 4  # the id of "a"


class TestCalls:
    def test_one_text(self, letters: Letters) -> None:
        found = letters("ab c")
        assert found == {"input_ids": [2, A, A + 1, A + 2, 3], "token_type_ids": [0] * 5, "attention_mask": [1] * 5}
        assert found.input_ids is found["input_ids"]
        assert found.data == dict(found)
        with pytest.raises(AttributeError):
            _ = found.logits
        assert letters.encode("ab", add_special_tokens=False) == [A, A + 1]
        assert letters.encode_plus("ab", return_attention_mask=False, return_token_type_ids=False) == {
            "input_ids": [2, A, A + 1, 3]
        }

    def test_a_pair(self, letters: Letters) -> None:
        found = letters("ab", "c", return_special_tokens_mask=True, return_length=True)
        assert found["input_ids"] == [2, A, A + 1, 3, A + 2, 3]
        assert found["token_type_ids"] == [0, 0, 0, 0, 1, 1]
        assert found["special_tokens_mask"] == [1, 0, 0, 1, 0, 1]
        assert found["length"] == 6
        assert letters.num_special_tokens_to_add(pair=True) == 3
        assert letters.num_special_tokens_to_add() == 2

    def test_batches(self, letters: Letters) -> None:
        rows = letters(["ab", "c"])["input_ids"]
        assert rows == [[2, A, A + 1, 3], [2, A + 2, 3]]
        pairs = letters(["ab", "c"], ["c", "d"])["input_ids"]
        assert pairs == letters.batch_encode_plus([("ab", "c"), ("c", "d")])["input_ids"]
        assert pairs[1] == [2, A + 2, 3, A + 3, 3]
        assert letters([])["input_ids"] == []
        assert letters.batch_encode_plus([[A, A + 1, A + 2]])["input_ids"] == [[2, A, A + 1, A + 2, 3]]

    def test_words_tokens_and_ids(self, letters: Letters) -> None:
        assert letters(["ab", "c"], is_split_into_words=True)["input_ids"] == [2, A, A + 1, A + 2, 3]
        assert letters([["ab", "c"], ["d"]], is_split_into_words=True)["input_ids"][1] == [2, A + 3, 3]
        assert letters.encode(["a", "ab"]) == [2, A, 0, 3]
        assert letters.encode([A, A + 5]) == [2, A, A + 5, 3]
        assert letters.prepare_for_model([A], [A])["input_ids"] == [2, A, 3, A, 3]

    def test_a_side_set_later(self, letters: Letters) -> None:
        letters.padding_side = "middle"
        with pytest.raises(TokenizerError, match=r"^Letters: padding_side must be 'left' or 'right', got 'middle'$"):
            letters(["abc", "d"], padding=True)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding(self, letters: Letters, side: str) -> None:
        letters.padding_side = side
        found = letters(["abc", "d"], padding=True, return_special_tokens_mask=True, return_offsets_mapping=True)
        short = [2, A + 3, 3]
        assert found["input_ids"][1] == ([*short, 1, 1] if side == "right" else [1, 1, *short])
        assert found["attention_mask"][1] == ([1, 1, 1, 0, 0] if side == "right" else [0, 0, 1, 1, 1])
        assert found["special_tokens_mask"][1] == ([1, 0, 1, 1, 1] if side == "right" else [1, 1, 1, 0, 1])
        assert found["offset_mapping"][1] == (
            [(0, 0), (0, 1), (0, 0), (0, 0), (0, 0)] if side == "right" else [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0)]
        )
        assert len(letters("a", padding="max_length", max_length=7)["input_ids"]) == 7
        assert len(letters(["abc", "d"], padding=True, pad_to_multiple_of=4)["input_ids"][1]) == 8
        assert letters("a", padding=True)["input_ids"] == [2, A, 3]

    @pytest.mark.parametrize(
        ("strategy", "expected"),
        [(True, "abc|fg"), ("longest_first", "abc|fg"), ("only_first", "a|fghi"), ("only_second", "abcde|")],
    )
    def test_truncation_of_pairs(self, letters: Letters, strategy: bool | str, expected: str) -> None:
        found = letters("abcde", "fghi", truncation=strategy, max_length=8)
        text = letters.decode(found["input_ids"], clean_up_tokenization_spaces=False).replace(" ", "")
        if strategy == "only_second":  # it would leave nothing, so it is left whole
            expected = "abcde|fghi"
        assert text == "[CLS]" + expected.replace("|", "[SEP]") + "[SEP]"

    def test_truncation_side_and_overflow(self, letters: Letters) -> None:
        found = letters("abcdef", truncation=True, max_length=5, stride=1, return_overflowing_tokens=True)
        assert found["input_ids"] == [2, A, A + 1, A + 2, 3]
        assert found["overflowing_tokens"] == [A + 2, A + 3, A + 4, A + 5]
        assert found["num_truncated_tokens"] == 3
        letters.truncation_side = "left"
        found = letters("abcdef", truncation=True, max_length=5, stride=1, return_overflowing_tokens=True)
        assert found["input_ids"] == [2, A + 3, A + 4, A + 5, 3]
        assert found["overflowing_tokens"] == [A, A + 1, A + 2, A + 3]
        assert letters("abcdef", max_length=4)["input_ids"] == [2, A + 4, A + 5, 3]
        assert letters.truncate([1, 2, 3], [4], 2, "only_first") == ([3], [4], [1, 2])

    def test_truncated_offsets_belong_to_their_tokens(self, letters: Letters) -> None:
        found = letters("ab cd", " ef", truncation=True, max_length=6, return_offsets_mapping=True)
        assert found["offset_mapping"] == [(0, 0), (0, 1), (1, 2), (0, 0), (1, 2), (0, 0)]
        assert len(found["offset_mapping"]) == len(found["input_ids"])

    def test_model_max_length(self, caplog: pytest.LogCaptureFixture) -> None:
        letters = Letters(model_max_length=4)
        assert len(letters("abcdef", truncation=True)["input_ids"]) == 4
        assert len(letters("a", padding="max_length")["input_ids"]) == 4
        assert not caplog.records
        letters("abcdef")
        assert "a text of 8 tokens is longer than the model takes (4)" in caplog.text
        assert len(Letters()("abcdef", truncation=True)["input_ids"]) == 8

    def test_numpy(self, letters: Letters) -> None:
        found = letters(["ab", "c"], padding=True, return_tensors="np")
        assert found["input_ids"].dtype == np.int64
        assert found["input_ids"].tolist() == [[2, A, A + 1, 3], [2, A + 2, 3, 1]]
        assert letters("ab", return_tensors="np")["input_ids"].shape == (1, 4)

    def test_torch(self, letters: Letters) -> None:
        torch = pytest.importorskip("torch")
        found = letters(["ab", "c"], padding=True, return_tensors="pt").to("cpu")
        assert found["input_ids"].dtype == torch.int64
        assert found["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
        assert letters.pad([{"input_ids": torch.tensor([2, 3])}, {"input_ids": torch.tensor([2])}])[
            "input_ids"
        ].shape == (2, 2)

    def test_pad(self, letters: Letters) -> None:
        rows = [letters("ab"), letters("c")]
        found = letters.pad(rows, return_tensors="np")
        assert found["input_ids"].tolist() == [[2, A, A + 1, 3], [2, A + 2, 3, 1]]
        assert found["attention_mask"].tolist() == [[1] * 4, [1, 1, 1, 0]]
        arrays = letters.pad([{"input_ids": np.array(row["input_ids"])} for row in rows])
        assert isinstance(arrays["input_ids"], np.ndarray)
        one = letters.pad({"input_ids": [2, 3]}, padding="max_length", max_length=4)
        assert one == {"input_ids": [2, 3, 1, 1], "attention_mask": [1, 1, 0, 0]}

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda t: t("a", paddin=True), "Letters: unknown argument 'paddin'; did you mean 'padding'?"),
            (lambda t: t("a", padding="most"),
             "Tokenizer: padding must be a bool or one of 'do_not_pad', 'longest', 'max_length', got 'most'"),
            (lambda t: t("a", truncation="some"),
             "Tokenizer: truncation must be a bool or one of 'do_not_truncate', 'longest_first', "
             "'only_first', 'only_second', got 'some'"),
            (lambda t: t("a", max_length=0), "Tokenizer: max_length must be positive, got 0"),
            (lambda t: t("a", padding=True, pad_to_multiple_of=-1),
             "Tokenizer: pad_to_multiple_of must be positive, got -1"),
            (lambda t: t("a", padding="max_length"),
             "padding: 'max_length' must have a length, got no max_length and a model "
             "without one"),
            (lambda t: t("a", padding=True, truncation=True, max_length=5, pad_to_multiple_of=4),
             "Tokenizer: max_length must be a multiple of pad_to_multiple_of (4), got 5"),
            (lambda t: t("abc", truncation="only_second", max_length=3),
             "truncation: 'only_second' must have a second text, got "
             "none"),
            (lambda t: t("a", "b", truncation=True, max_length=9, return_overflowing_tokens=True),
             "return_overflowing_tokens: a pair must be cut 'only_first' or 'only_second', got 'longest_first'"),
            (lambda t: t("a", add_special_tokens=False, return_token_type_ids=True),
             "return_token_type_ids: add_special_tokens must be True, got False"),
            (lambda t: t(["ab", "c"], return_tensors="np"),
             "return_tensors: the rows of input_ids must be numbers of one length, "
             "got others; pass padding=True and truncation=True"),
            (lambda t: t("a", return_tensors="jax"), "Tokenizer: return_tensors must be 'np', 'pt' or 'tf', got 'jax'"),
            (lambda t: t(5), "Letters: a text must be a string, or a list of strings or ids, got 5"),
            (lambda t: t.encode(["a", 1]), "Letters: a list must hold strings only, or ids only, got ['a', 1]"),
            (lambda t: t(["a", "b"], ["c"]), "Letters: text_pair must be a list of 2 texts, got ['c']"),
            (lambda t: t(["a", "b"], "c"), "Letters: text_pair must be a list of 2 texts, got 'c'"),
            (lambda t: t.pad({"ids": [1]}), "Letters: pad must be given encodings with input_ids, got {'ids': [1]}"),
            (lambda t: t.pad({"input_ids": [[1], [2]], "labels": [[1]]}),
             "Letters: labels must have 2 rows as input_ids has, got 1"),
            (lambda t: t.get_special_tokens_mask([2], [3], True),
             "get_special_tokens_mask: finished ids must be one list, got two"),
            (lambda t: t.convert_ids_to_tokens(99), "Letters: an id must be from 0 to 29, got 99"),
            (lambda t: t.decode([-1]), "Letters: an id must be from 0 to 29, got -1"),
        ],
    )  # fmt: skip
    def test_errors(self, letters: Letters, call: Any, message: str) -> None:
        with pytest.raises(TokenizerError, match=f"^{re.escape(message)}"):
            call(letters)

    def test_a_missing_framework_names_its_extra(self, letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "tensorflow", None)
        with pytest.raises(TokenizerError, match=r"'tf' must have tensorflow, got none; pip install 'xlbridge\[tf\]'"):
            letters("a", return_tensors="tf")


class TestSpecialTokens:
    def test_attributes(self, letters: Letters) -> None:
        assert (letters.pad_token, letters.pad_token_id) == ("[PAD]", 1)
        assert (letters.mask_token, letters.mask_token_id) == (None, None)
        assert letters.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]"]
        assert letters.all_special_ids == [0, 3, 1, 2]
        assert letters.special_tokens_map["cls_token"] == "[CLS]"
        letters.mask_token = "a"
        assert letters.mask_token_id == A
        letters.pad_token_id = A + 1
        assert letters.pad_token == "b"
        letters.mask_token = None
        assert letters.mask_token is None
        assert letters.get_special_tokens_mask([2, A, 3], already_has_special_tokens=True) == [1, 0, 1]

    def test_adding(self, letters: Letters) -> None:
        assert letters.add_special_tokens({"mask_token": "[MASK]", "additional_special_tokens": ["<x>", "a"]}) == 2
        assert (letters.mask_token_id, letters.additional_special_tokens_ids) == (30, [31, A])
        assert (
            letters.add_special_tokens({"additional_special_tokens": ["<y>"]}, replace_additional_special_tokens=False)
            == 1
        )
        assert letters.additional_special_tokens == ["<x>", "a", "<y>"]
        letters.additional_special_tokens = ["<y>"]
        assert letters.additional_special_tokens == ["<y>"]
        assert len(letters) == 33
        assert letters.vocab_size == 30
        assert letters.get_added_vocab()["[MASK]"] == 30
        assert letters.decode([30, A, 32], skip_special_tokens=True) == "a"

    def test_new_ones_in_the_constructor_are_added(self) -> None:
        letters = Letters(mask_token="[MASK]")
        assert letters.mask_token_id == 30
        assert letters.tokenize("a[MASK]b") == ["a", "[MASK]", "b"]

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda t: setattr(t, "mask_token", "[M]"),
             "Letters: mask_token must be in the vocabulary, got '[M]'; add it with "
             "add_special_tokens({'mask_token': '[M]'})"),
            (lambda t: t.add_special_tokens({"pad_tokn": "x"}),
             "Letters: a special token must have a known role, got 'pad_tokn'; did you mean "
             "'pad_token'?"),
            (lambda t: t.add_special_tokens({"pad_token": 3}),
             "Letters: pad_token must be a string or an AddedToken, got 3"),
            (lambda t: t.add_special_tokens({"additional_special_tokens": "x"}),
             "Letters: additional_special_tokens must be a list "
             "of tokens, got 'x'"),
            (lambda t: t.add_tokens([""]), "Letters: an added token must not be empty, got ''"),
            (lambda t: t.add_tokens([1]), "Letters: an added token must be a string or an AddedToken, got 1"),
            (lambda t: Letters(pad_tokn="x"), "Letters: unknown argument 'pad_tokn'; did you mean 'pad_token'?"),
            (lambda t: Letters(padding_side="up"), "Letters: padding_side must be 'left' or 'right', got 'up'"),
            (lambda t: Letters(truncation_side="up"), "Letters: truncation_side must be 'left' or 'right', got 'up'"),
        ],
    )  # fmt: skip
    def test_errors(self, letters: Letters, call: Any, message: str) -> None:
        with pytest.raises(TokenizerError, match=f"^{re.escape(message)}"):
            call(letters)

    def test_padding_needs_a_token(self) -> None:
        letters = Letters(pad_token=None)
        with pytest.raises(
            TokenizerError, match=r"Letters: padding must have a pad_token, got none; set tokenizer.pad_token"
        ):
            letters(["a", "bc"], padding=True)

    def test_no_unknown_token(self) -> None:
        with pytest.raises(TokenizerError, match="Letters: 'é' must be in the vocabulary, got none and no unk_token"):
            Letters(unk_token=None).encode("é")

    def test_offsets_may_be_unknown(self, letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(Letters, "_tokenize_with_spans")
        with pytest.raises(
            TokenizerError, match="Letters: return_offsets_mapping must be False, got True; offsets are not"
        ):
            letters("a", return_offsets_mapping=True)


class TestAddedTokens:
    def test_found_anywhere_longest_first(self, letters: Letters) -> None:
        assert letters.add_tokens(["<x>", "<x>y", "ing", "ing"]) == 3
        assert letters.tokenize("a<x>b") == ["a", "<x>", "b"]
        assert letters.tokenize("a<x>yb<x><x>") == ["a", "<x>y", "b", "<x>", "<x>"]
        assert letters.tokenize("singing") == ["s", "ing", "ing"]
        assert letters.encode("a<x>", add_special_tokens=False) == [A, 30]
        assert letters.convert_ids_to_tokens([30, 31, 32]) == ["<x>", "<x>y", "ing"]

    def test_single_word(self, letters: Letters) -> None:
        letters.add_tokens(AddedToken("ing", single_word=True))
        assert letters.tokenize("sing ing ing.") == [*"sing", "ing", "ing", "."]
        assert letters.tokenize("ing") == ["ing"]

    @pytest.mark.parametrize(("left", "right"), [(False, False), (True, False), (False, True), (True, True)])
    def test_stripping(self, letters: Letters, left: bool, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Letters, "_tokenize", lambda self, text: [text])
        letters.add_tokens(AddedToken("<x>", lstrip=left, rstrip=right))
        before, after = ("a" if left else "a "), ("b" if right else "  b")
        assert letters.tokenize("a <x>  b") == [before, "<x>", after]

    def test_lower_case(self) -> None:
        letters = Letters(lower_case=True)
        letters.add_tokens(["Foo", AddedToken("BAR", normalized=False)])
        assert letters.tokenize("AFOObarBAR[SEP][sep]") == ["a", "foo", *"bar", "BAR", "[SEP]", *"[sep]"]
        assert letters.tokenize_with_offsets("A FOO")[1] == [(0, 1), (2, 5)]

    def test_offsets(self, letters: Letters) -> None:
        letters.add_tokens("<x>")
        found = letters("a <x>b", return_offsets_mapping=True)
        assert found["offset_mapping"] == [(0, 0), (0, 1), (2, 5), (5, 6), (0, 0)]

    def test_decoding_keeps_added_tokens_apart(self, letters: Letters) -> None:
        letters.add_tokens(["<x>"])
        assert letters.decode([A, A + 1, 30, A]) == "a b <x> a"
        assert letters.decode([A, 30, A], spaces_between_special_tokens=False) == "a<x>a"
        assert letters.decode(np.array([A, 30])) == "a <x>"
        assert letters.decode(A) == "a"
        assert letters.batch_decode([[A], [A + 1]]) == ["a", "b"]

    def test_clean_up(self) -> None:
        assert (
            Tokenizer.clean_up_tokenization("a . b ? c ! d , e ' f n't 'm 's 've 're") == "a. b? c! d, e'fn't'm's've're"
        )


class TestFolders:
    def test_round_trip_with_added_tokens(self, tmp_path: Path) -> None:
        """X14: an added token is the same after saving as before."""
        letters = Letters(model_max_length=9, padding_side="left", lower_case=True)
        letters.add_tokens(
            ["<x>", AddedToken("ing", single_word=True, lstrip=True), AddedToken("QQ", normalized=False)]
        )
        letters.add_special_tokens(
            {"mask_token": AddedToken("[MASK]", rstrip=True), "additional_special_tokens": ["<y>", "a"]}
        )
        letters.pad_token = "b"
        files = letters.save_pretrained(tmp_path)
        assert {Path(file).name for file in files} == {path.name for path in tmp_path.iterdir()}
        again = Letters.from_pretrained(tmp_path)
        text = "A ing sing QQ qq <x> <y>  [MASK]  [SEP] B"
        assert again.tokenize(text) == letters.tokenize(text)
        assert again(text) == letters(text)
        assert again.added_tokens_decoder == letters.added_tokens_decoder
        assert again.special_tokens_map == letters.special_tokens_map
        assert (again.model_max_length, again.padding_side, again.pad_token_id, len(again)) == (
            9,
            "left",
            A + 1,
            len(letters),
        )
        again.save_pretrained(tmp_path / "again")
        for file in tmp_path.glob("*.json"):
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()

    def test_folders_before_4_34(self, tmp_path: Path) -> None:
        Letters().save_vocabulary(str(tmp_path))
        (tmp_path / "added_tokens.json").write_text('{"<x>": 31, "[MASK]": 30}')
        (tmp_path / "special_tokens_map.json").write_text('{"mask_token": {"content": "[MASK]", "lstrip": true}}')
        (tmp_path / "tokenizer_config.json").write_text('{"max_len": 5, "model_max_length": 7, "use_fast": false}')
        letters = Letters.from_pretrained(tmp_path)
        assert letters.get_added_vocab()["<x>"] == 31
        assert letters.mask_token_id == 30
        assert letters.model_max_length == 7
        assert letters.extra_config == {"max_len": 5, "use_fast": False}
        letters.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "tokenizer_config.json").read_text())["use_fast"] is False

    def test_arguments_go_before_files(self, tmp_path: Path) -> None:
        Letters(lower_case=True).save_pretrained(tmp_path)
        assert Letters.from_pretrained(tmp_path).lower_case is True
        assert Letters.from_pretrained(tmp_path, lower_case=False, pad_token="a").pad_token_id == A

    def test_errors(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match=r"Letters: '.*none' must be a folder, got none; download it first"):
            Letters.from_pretrained(tmp_path / "none")
        with pytest.raises(FormatError, match=r"a Letters must have one of letters\.txt, got none"):
            Letters.from_pretrained(tmp_path)
        Letters().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        config["added_tokens_decoder"] = {"7": {"content": "<x>"}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        with pytest.raises(FormatError, match="added token '<x>' must have an id of its own, got 7, which is taken"):
            Letters.from_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text("[1]")
        with pytest.raises(FormatError, match="the file must hold a JSON object, got list"):
            Letters.from_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text("{")
        with pytest.raises(FormatError, match="the file must be JSON in UTF-8, got one that fails"):
            Letters.from_pretrained(tmp_path)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        write_text(tmp_path / "f", "old")
        with pytest.raises(UnicodeEncodeError):
            write_text(tmp_path / "f", "half \ud800")
        assert (tmp_path / "f").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["f"]


@given(st.lists(st.text("abc <x>", max_size=8), min_size=1, max_size=5), st.integers(1, 6), st.booleans())
def test_a_padded_batch_is_its_rows(texts: list[str], multiple: int, left: bool) -> None:
    letters = Letters(padding_side="left" if left else "right")
    letters.add_tokens("<x>")
    found = letters(texts, padding=True, pad_to_multiple_of=multiple, return_tensors="np")
    assert found["input_ids"].shape[1] % multiple == 0
    for row, mask, text in zip(found["input_ids"], found["attention_mask"], texts, strict=True):
        assert row[mask == 1].tolist() == letters.encode(text)
        assert set(row[mask == 0].tolist()) <= {1}
