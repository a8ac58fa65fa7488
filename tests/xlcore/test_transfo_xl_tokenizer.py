"""The Transformer-XL tokenizer against what transformers 4.34.0 gave, and what that one could not do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.xlcore.transfo_xl_cases import CASES, GOLDEN, TEXTS, made
from xlcore.errors import TokenizerError
from xlcore.tokenizers import TransfoXLTokenizer


class TestGolden:
    @pytest.mark.parametrize("place", range(len(CASES["cases"])))
    def test_case(self, golden: TransfoXLTokenizer, place: int) -> None:
        case = CASES["cases"][place]
        assert getattr(golden, case["call"])(*case["args"], **case["kwargs"]) == case["out"]

    @pytest.mark.parametrize("file", ["vocab.txt", "vocab.pkl", "vocab.bin"])
    def test_lower_case_from_every_file(self, file: str) -> None:
        tokenizer = TransfoXLTokenizer(pretrained_vocab_file=GOLDEN / file, lower_case=True)
        cases = json.loads((GOLDEN / "lowercase.json").read_text(encoding="utf-8"))
        assert [tokenizer.encode(text) for text, _ in cases] == [ids for _, ids in cases]
        assert len(cases) == 40

    def test_info(self, golden: TransfoXLTokenizer) -> None:
        info = CASES["info"]
        assert (golden.vocab_size, len(golden)) == (info["vocab_size"], info["len"])
        assert golden.special_tokens_map == info["special_tokens"]
        assert {role: getattr(golden, f"{role}_id") for role in info["special_ids"]} == info["special_ids"]
        assert (golden.padding_side, golden.model_input_names) == (info["padding_side"], info["model_input_names"])
        assert golden.convert_tokens_to_ids("<formula>") == 902

    @pytest.mark.parametrize("file", ["vocab.pkl", "vocab.bin"])
    def test_files_decode(self, file: str) -> None:
        """The reference cannot decode after reading these."""
        tokenizer = TransfoXLTokenizer(pretrained_vocab_file=GOLDEN / file)
        assert tokenizer.vocab_size == 902
        for case in CASES["cases"]:
            if case["call"] == "decode" and not case["kwargs"]:
                assert tokenizer.decode(*case["args"]) == case["out"]


class TestOffsets:
    @pytest.mark.parametrize(
        ("text", "spans"),
        [
            ("The cat's 5,000.", "The|cat|'s|5|,|000|."), ("well-known", "well|-|known"), ("a  b…c", "a|b|…|c"),
            ("“Hi,” he", "“|Hi|,|”|he"), ('"Hi", he', '"|Hi|,|"|he'), ("``x''", "``|x|''"), ("l’or", "l|’or"),
            ("x\x01y z", "x\x01y|z"),
            ("a <eos> b<formula> c", "a|<eos>|b|<formula>|c"), ("1\u00a0000", "1|\u00a0|000"), ("(50 %)", "(|50|%|)"),
        ],
    )  # fmt: skip
    def test_moses(self, golden: TransfoXLTokenizer, text: str, spans: str) -> None:
        tokens, places = golden.tokenize_with_offsets(text)
        assert tokens == golden.tokenize(text)
        found = [text[slice(*place)] for place in places if place is not None]
        assert sorted(found) == sorted(spans.split("|"))
        assert None not in places

    def test_golden_texts(self, golden: TransfoXLTokenizer) -> None:
        for text in TEXTS:
            found = golden(text, return_offsets_mapping=True)
            assert len(found["offset_mapping"]) == len(found["input_ids"])

    def test_lower_case(self, tmp_path: Path) -> None:
        tokenizer = made("<unk> x", tmp_path, lower_case=True)
        assert tokenizer.tokenize_with_offsets(" The CAT's.") == (
            ["the", "cat", "'s", "."],
            [(1, 4), (5, 8), (8, 10), (10, 11)],
        )
        assert tokenizer.tokenize_with_offsets("xİ Y")[1] == [None, None, (3, 4)]  # one letter became two

    def test_special_tokens_in_lowered_text(self, tmp_path: Path) -> None:
        tokenizer = made("<eos> <unk> x", tmp_path, lower_case=True, pad_token="[PAD]")
        assert tokenizer.tokenize("X<EOS>x[PAD]Σ [pad]") == ["x", "<eos>", "x", "[PAD]", "σ", "[pad]"]

    def test_whitespace_and_ends(self, tmp_path: Path) -> None:
        tokenizer = made("<eos> <unk> <S> a", tmp_path, whitespace=True)
        assert tokenizer.tokenize_with_offsets("  a  b.c\n") == (["a", "b.c"], [(2, 3), (5, 8)])
        assert tokenizer.tokenize_with_offsets("a b", add_eos=True) == (["a", "b", "<eos>"], [(0, 1), (2, 3), (3, 3)])
        found = tokenizer("a b", add_double_eos=True, return_offsets_mapping=True)
        assert found == {"input_ids": [2, 3, 1, 2], "offset_mapping": [(0, 0), (0, 1), (2, 3), (3, 3)]}

    def test_characters(self, tmp_path: Path) -> None:
        tokenizer = made("<unk> a b", tmp_path, delimiter="")
        assert tokenizer.tokenize_with_offsets(" a b") == (["a", " ", "b"], [(1, 2), (2, 3), (3, 4)])

    def test_words_given_split(self, small: TransfoXLTokenizer) -> None:
        found = small(["the cat", "cat's"], is_split_into_words=True, return_offsets_mapping=True)
        assert found["offset_mapping"] == [(0, 3), (4, 7), (0, 3), (3, 5)]


class TestModes:
    def test_whitespace_leaves_prepared_text_alone(self, tmp_path: Path) -> None:
        line = " the cat @-@ like 5 @,@ 000 <unk> . \n"
        prepared = made("<eos> <unk> the cat @-@ @,@ 5 000 . like", tmp_path, whitespace=True)
        assert prepared.tokenize(line) == line.split()
        assert prepared.decode(prepared.encode(line)) == line.strip()
        assert made("<unk> a", tmp_path).tokenize("a @-@ b") == ["a", "@", "-", "@", "b"]

    def test_delimiter(self, tmp_path: Path) -> None:
        assert made("<unk> a", tmp_path, whitespace=True, delimiter="|").tokenize("a b|c") == ["a b", "c"]
        letters = made("<unk> a b", tmp_path, delimiter="")
        assert letters.tokenize(" a b ") == ["a", " ", "b"]
        assert letters.decode(letters.encode("aba")) == "aba"
        assert made("<unk> a", tmp_path, delimiter="|").tokenize("a|b") == ["a", "|", "b"]

    def test_ends_work_in_public_calls(self, tmp_path: Path) -> None:
        tokenizer = made("<eos> <unk> <S> a", tmp_path)
        assert tokenizer.tokenize("a b", add_eos=True) == ["a", "b", "<eos>"]
        assert tokenizer.encode("a", add_eos=True) == [3, 0]
        assert tokenizer("a", add_double_eos=True)["input_ids"] == [2, 3, 2]
        assert tokenizer(["a", ""], add_eos=True)["input_ids"] == [[3, 0], [0]]
        with pytest.raises(TokenizerError, match="add_double_eos must have its token in the vocabulary, got no <S>"):
            made("<eos> <unk>", tmp_path).tokenize("a", add_double_eos=True)
        with pytest.raises(TokenizerError, match="add_eos must have its token in the vocabulary, got no eos_token"):
            made("<unk>", tmp_path, eos_token=None).tokenize("a", add_eos=True)
        with pytest.raises(TokenizerError, match="unknown argument 'add_eoss'"):
            tokenizer("a", add_eoss=True)

    def test_fix_encoding(self, tmp_path: Path) -> None:
        symbols = ["<unk>", "cafÃ©", "Ã©", "é", "naïve", "â\x80\x93"]
        (tmp_path / "vocab.json").write_text(json.dumps(symbols))
        as_is = TransfoXLTokenizer.from_pretrained(tmp_path)
        fixed = TransfoXLTokenizer.from_pretrained(tmp_path, fix_encoding=True)
        assert as_is.idx2sym == symbols
        assert fixed.idx2sym == ["<unk>", "café", "Ã©", "é", "naïve", "–"]
        assert (as_is.encode("café"), fixed.encode("café")) == ([0], [1])
        fixed.save_pretrained(tmp_path / "fixed")
        assert TransfoXLTokenizer.from_pretrained(tmp_path / "fixed").encode("café") == [1]

    def test_decoding_is_fast(self) -> None:
        """The reference copies its vocabulary for each id: 10 ids took 11 s."""
        tokenizer = TransfoXLTokenizer()
        tokenizer.counter.update(f"w{number}" for number in range(267_735))
        tokenizer.special = ["<unk>"]
        tokenizer.build_vocab()
        calls: list[int] = []
        tokenizer.get_vocab = lambda: calls.append(1) or {}  # type: ignore[method-assign]
        assert tokenizer.decode(range(1, 2001)).split()[:2] == ["w0", "w1"]
        assert not calls


class TestCorpora:
    def test_from_corpus(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "corpus.txt"
        file.write_text("b a b\n\n c b a\n", encoding="utf-8")
        tokenizer = TransfoXLTokenizer.from_corpus([file, "d a b\ne"], whitespace=True)
        assert tokenizer.idx2sym == ["<eos>", "<unk>", "b", "a", "c", "d", "e"]
        assert tokenizer.counter["b"] == 4
        assert tokenizer.convert_tokens_to_ids("<formula>") == 7
        assert tokenizer.encode("b zz") == [2, 1]
        assert TransfoXLTokenizer.from_corpus([file], max_size=2, special=["<unk>"]).idx2sym == ["<unk>", "b", "a"]
        assert TransfoXLTokenizer.from_corpus([file], min_freq=2).idx2sym == ["<eos>", "<unk>", "b", "a"]
        assert capsys.readouterr().err == ""  # no bar where there is no terminal
        TransfoXLTokenizer.from_corpus([file], progress=True)
        assert "lines" in capsys.readouterr().err

    def test_added_tokens_follow_a_new_vocabulary(self) -> None:
        """The reference gives `<formula>` and a word the same id here."""
        tokenizer = TransfoXLTokenizer(special=["<eos>", "<unk>"])
        tokenizer.add_tokens("later")
        tokenizer.count_sents([["the", "cat"], ["the"]])
        tokenizer.build_vocab()
        assert tokenizer.get_vocab() == {"<eos>": 0, "<unk>": 1, "the": 2, "cat": 3, "<formula>": 4, "later": 5}
        assert (len(tokenizer), tokenizer.vocab_size, tokenizer.eos_token_id) == (6, 4, 0)

    def test_files(self, tmp_path: Path) -> None:
        tokenizer = made("<eos> <unk> <S> a b", tmp_path, whitespace=True)
        file = tmp_path / "text"
        file.write_text("a b\n\nb z\n", encoding="utf-8")
        assert tokenizer.count_file(file, add_eos=True) == [["a", "b", "<eos>"], ["<eos>"], ["b", "z", "<eos>"]]
        assert tokenizer.counter == {"a": 1, "b": 2, "z": 1, "<eos>": 3}
        rows = tokenizer.encode_file(file)
        assert [row.tolist() for row in rows] == [[3, 4, 0], [0], [4, 1, 0]]
        assert all(row.dtype == np.int64 for row in rows)
        assert tokenizer.encode_file(file, ordered=True, add_eos=False).tolist() == [3, 4, 4, 1]
        assert tokenizer.encode_file(file, ordered=True, add_double_eos=True).tolist() == [2, 3, 4, 2, 2, 2, 2, 4, 1, 2]
        assert tokenizer.encode_sents([], ordered=True).tolist() == []
        torch = pytest.importorskip("torch")
        assert torch.equal(
            tokenizer.encode_file(file, ordered=True, return_tensors="pt"), torch.tensor([3, 4, 0, 0, 4, 1, 0])
        )

    def test_no_vocabulary(self) -> None:
        tokenizer = TransfoXLTokenizer(unk_token=None)
        with pytest.raises(
            TokenizerError, match="'a' must be in the vocabulary, got none and no <unk> or <UNK> that stands for it"
        ):
            tokenizer.encode("a")


class TestMovingTokens:
    def test_move(self, small: TransfoXLTokenizer) -> None:
        small.add_tokens(["new", "newer"])
        before = small.get_vocab()
        small.move_added_token("newer", 3)
        assert small.idx2sym[2:5] == ["the", "newer", "cat"]
        assert small.get_vocab() == {
            token: 3 if token == "newer" else index + (index >= 3) for token, index in before.items()
        }  # fmt: skip
        assert small.tokenize("thenewercat") == ["the", "newer", "cat"]
        assert small.convert_ids_to_tokens(list(range(len(small)))) == [*small.idx2sym, "<formula>", "new"]
        small.move_added_token("new", 0)
        assert (small.unk_idx, small.eos_token_id, small.encode("zzz")) == (2, 1, [2])

    def test_errors(self, small: TransfoXLTokenizer) -> None:
        small.add_tokens(["new"])
        with pytest.raises(TokenizerError, match="the token to move must be an added one, got 'the'"):
            small.move_added_token("the", 0)
        with pytest.raises(TokenizerError, match="the token to move must be an added one, got '<eos>'"):
            small.move_added_token("<eos>", 3)
        with pytest.raises(TokenizerError, match="target_idx must be from 0 to 12, got 13"):
            small.move_added_token("new", 13)


def test_importing_needs_no_framework() -> None:
    blocked = ("torch", "tensorflow", "keras", "sacremoses", "transformers")
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked}))"
    code += "; from xlcore.tokenizers import TransfoXLTokenizer as T; print(T.from_corpus(['a b.']).tokenize('a b.'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert found.stdout == "['a', 'b', '.']\n"
