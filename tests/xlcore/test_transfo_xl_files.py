"""The vocabulary and the folders of Transformer-XL: every file of its releases, and ours."""

import contextlib
import json
import os
import pickle
import shutil
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xlcore.transfo_xl_cases import CASES, GOLDEN, TEXTS
from xlcore.errors import FormatError
from xlcore.tokenizers import AddedToken, TransfoXLTokenizer, Vocabulary, read_corpus


class TestVocabularyFiles:
    def test_text(self, tmp_path: Path) -> None:
        file = tmp_path / "v.txt"
        file.write_text("a 5\nb 4\na 3\n<unk>\n<UNK>\n", encoding="utf-8")
        tokenizer = TransfoXLTokenizer(vocab_file=file)
        assert tokenizer.idx2sym == ["a", "b", "<unk>", "<UNK>"]
        assert tokenizer.encode("zzz") == [3]  # <UNK> goes first
        tokenizer.save_pretrained(tmp_path / "saved")
        assert TransfoXLTokenizer.from_pretrained(tmp_path / "saved").encode("zzz") == [3]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a\n\nb\n", "line 2 must hold a symbol, got a blank line"),
            (b"a\nb\n", "the vocabulary must hold <unk> or <UNK>, got neither among 2"),
            (b"a\xff\n", "the vocabulary must be text in UTF-8, got another file"),
            (b"", "the vocabulary must hold <unk> or <UNK>, got neither among 0"),
        ],
    )
    def test_bad_text(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "vocab.txt").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            TransfoXLTokenizer.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"idx2sym": ["a", 1]}, "idx2sym must be a list of strings, got list"),
            ({"idx2sym": ["a"], "sym2idx": {"a": 1}}, "sym2idx must agree with idx2sym, got 1 for 'a'"),
            ({"idx2sym": ["a", "b"], "sym2idx": {"b": 0}}, "sym2idx must agree with idx2sym, got 0 for 'b'"),
            ({"sym2idx": {"a": 0, "b": 2}}, "sym2idx must hold each id from 0 up once, got others"),
            ({"idx2sym": ["a"], "unk_idx": 4}, "unk_idx must be an id from 0 to 0, got 4"),
            ({"train": [1]}, "the file must hold a vocabulary, got a corpus without one; see read_corpus"),
            ({"x": "y"}, "idx2sym must be a list of strings, got NoneType"),
            (5, "the file must hold a vocabulary, got int"),
        ],
    )
    def test_bad_vocabularies(self, tmp_path: Path, content: Any, message: str) -> None:
        for name, data in (("vocab.json", json.dumps(content).encode()), ("vocab.pkl", pickle.dumps(content, 2))):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(FormatError, match=message):
                Vocabulary.read(tmp_path / name)

    def test_one_table_is_enough(self, tmp_path: Path) -> None:
        for content in (
            {"idx2sym": ["<unk>", "b"]},
            {"sym2idx": {"b": 1, "<unk>": 0}},
            {"b": 1, "<unk>": 0},
            ["<unk>", "b"],
        ):
            (tmp_path / "vocab.json").write_text(json.dumps(content))
            tokenizer = TransfoXLTokenizer.from_pretrained(tmp_path)
            assert (tokenizer.idx2sym, tokenizer.sym2idx, tokenizer.unk_idx) == (
                ["<unk>", "b"],
                {"<unk>": 0, "b": 1},
                0,
            )

    def test_settings_of_the_file_are_used(self, tmp_path: Path) -> None:
        """The reference ignores them."""
        symbols = ["<eos>", "<unk>", "the"]
        vocab = {
            "counter": Counter({"the": 3}), "special": ["<eos>"], "min_freq": 2, "max_size": 9, "lower_case": True,
            "delimiter": None,
            "vocab_file": None, "idx2sym": symbols, "sym2idx": OrderedDict((s, i) for i, s in enumerate(symbols)),
            "unk_idx": 1,
        }  # fmt: skip
        (tmp_path / "vocab.bin").write_bytes(pickle.dumps(vocab, 2))
        tokenizer = TransfoXLTokenizer.from_pretrained(tmp_path)
        assert (tokenizer.lower_case, tokenizer.min_freq, tokenizer.max_size, tokenizer.special) == (
            True,
            2,
            9,
            ["<eos>"],
        )
        assert tokenizer.encode("The X") == [2, 1]
        assert TransfoXLTokenizer.from_pretrained(tmp_path, lower_case=False).encode("The") == [1]

    def test_text_goes_before_pickles(self, tmp_path: Path) -> None:
        shutil.copy(GOLDEN / "vocab.pkl", tmp_path / "vocab.pkl")
        assert TransfoXLTokenizer.from_pretrained(tmp_path).vocab_size == 902
        (tmp_path / "vocab.txt").write_text("<unk>\n")
        assert TransfoXLTokenizer.from_pretrained(tmp_path).vocab_size == 1
        both = TransfoXLTokenizer(vocab_file=tmp_path / "vocab.txt", pretrained_vocab_file=GOLDEN / "vocab.pkl")
        assert both.vocab_size == 1

    def test_hostile_vocabulary(self, tmp_path: Path) -> None:
        """CVE-2023-7018."""

        class Hostile:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        for content in (Hostile(), {"idx2sym": ["<unk>"], "sym2idx": Hostile()}, {"idx2sym": Hostile()}):
            (tmp_path / "vocab.pkl").write_bytes(pickle.dumps(content, 2))
            with contextlib.suppress(FormatError):
                TransfoXLTokenizer.from_pretrained(tmp_path)
            assert not (tmp_path / "ran").exists()

    def test_corpora(self, tmp_path: Path) -> None:
        data = {
            "dataset": "wt103",
            "train": np.arange(5),
            "valid": np.arange(2),
            "test": np.arange(3),
            "cutoffs": [0, 2, 3],
        }
        (tmp_path / "corpus.bin").write_bytes(pickle.dumps(data, 2))
        corpus = read_corpus(tmp_path / "corpus.bin")
        assert np.array_equal(corpus["train"], np.arange(5))
        assert (corpus["dataset"], corpus["cutoffs"]) == ("wt103", [0, 2, 3])
        with pytest.raises(
            FormatError, match="the file must hold a vocabulary, got a corpus without one; see read_corpus"
        ):
            TransfoXLTokenizer.from_pretrained(tmp_path)
        with pytest.raises(FormatError, match="the file must hold a corpus with train, got dict"):
            read_corpus(GOLDEN / "vocab.pkl")

    @pytest.mark.parametrize("file", ["cache.pkl", "cache.pt"])
    def test_caches_of_the_original_code(self, tmp_path: Path, file: str) -> None:
        vocab = b"cvocabulary\nVocab\n)\x81}(U\x07idx2sym](U\x05<eos>U\x05<unk>U\x05caf\xc3\xa9eU\x0alower_case\x88ub"
        body = b"\x80\x02c__main__\nCorpus\n)\x81}(U\x05vocab" + vocab + b"U\x05train]U\x01xaub."
        if file == "cache.pt":
            heads = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
            body = b"".join(heads) + body + pickle.dumps([], 2)
        (tmp_path / file).write_bytes(body)
        tokenizer = TransfoXLTokenizer.from_pretrained(tmp_path)
        assert tokenizer.idx2sym == ["<eos>", "<unk>", "café"]
        assert tokenizer.encode("CAFÉ") == [2]
        corpus = read_corpus(tmp_path / file)
        assert corpus["train"] == ["x"]
        assert corpus["vocab"].symbols == tokenizer.idx2sym


class TestSaving:
    def test_round_trip(self, golden: TransfoXLTokenizer, tmp_path: Path) -> None:
        tokenizer = TransfoXLTokenizer(vocab_file=GOLDEN / "vocab.txt", pad_token="<eos>", never_split=["a-b"])
        tokenizer.add_tokens(["new-word", AddedToken("Word", single_word=True)])
        tokenizer.add_special_tokens({"cls_token": "[CLS]"})
        files = tokenizer.save_pretrained(tmp_path)
        assert sorted(Path(file).name for file in files) == [
            "added_tokens.json", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt",
        ]  # fmt: skip
        assert (tmp_path / "vocab.txt").read_bytes() == (GOLDEN / "vocab.txt").read_bytes()
        again = TransfoXLTokenizer.from_pretrained(tmp_path)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert (len(again), again.never_split) == (906, ["a-b"])
        for text in [*TEXTS, "a new-word, Words Word a-b [CLS]x"]:
            assert again(text) == tokenizer(text)
            assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))

    @pytest.mark.parametrize("symbol", ["two words", "", "\u2028", "a\n", "\udce9", "\x85", " "])
    def test_odd_symbols_go_to_json(self, tmp_path: Path, symbol: str) -> None:
        tokenizer = TransfoXLTokenizer()
        tokenizer.special = ["<unk>", symbol]
        tokenizer.build_vocab()
        (tmp_path / "vocab.txt").write_text("stale\n<unk>\n")
        assert [Path(file).name for file in tokenizer.save_vocabulary(str(tmp_path))] == ["vocab.json"]
        assert not (tmp_path / "vocab.txt").exists()
        assert TransfoXLTokenizer.from_pretrained(tmp_path).idx2sym == ["<unk>", symbol]

    def test_names(self, small: TransfoXLTokenizer, tmp_path: Path) -> None:
        assert small.save_vocabulary(str(tmp_path), "my") == (str(tmp_path / "my-vocab.txt"),)
        assert small.save_vocabulary(str(tmp_path / "other.txt")) == (str(tmp_path / "other.txt"),)
        assert (tmp_path / "other.txt").read_text(encoding="utf-8").split() == small.idx2sym

    def test_folder_of_transformers(self, tmp_path: Path) -> None:
        """What 4.34.0 writes: a pickle of the whole tokenizer, and three JSON files."""
        shutil.copy(GOLDEN / "vocab.pkl", tmp_path / "vocab.pkl")
        formula = {
            "content": "<formula>",
            "lstrip": True,
            "rstrip": True,
            "normalized": False,
            "single_word": False,
            "special": True,
        }
        config = {"additional_special_tokens": ["<formula>"], "eos_token": "<eos>", "unk_token": "<unk>",
        "lower_case": False,
                  "never_split": None, "delimiter": None, "max_size": None, "min_freq": 0, "special": [],
                  "vocab_file": "gone.txt",
                  "language": "en", "model_max_length": 1000000000000000019884624838656,
                  "tokenizer_class": "TransfoXLTokenizer",
                  "clean_up_tokenization_spaces": True, "pretrained_vocab_file": None,
                  "added_tokens_decoder": {"0": formula | {"content": "<eos>"}, "902": formula}}  # fmt: skip
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "added_tokens.json").write_text('{"<eos>": 0, "<formula>": 902, "<unk>": 1}')
        (tmp_path / "special_tokens_map.json").write_text(
            '{"additional_special_tokens": ["<formula>"], "eos_token": "<eos>"}'
        )
        tokenizer = TransfoXLTokenizer.from_pretrained(tmp_path, pad_token="<eos>")
        for case in CASES["cases"]:
            assert getattr(tokenizer, case["call"])(*case["args"], **case["kwargs"]) == case["out"]


class TestAnySymbols:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True))
    def test_any_symbols_are_saved_and_read(self, symbols: list[str]) -> None:
        tokenizer = TransfoXLTokenizer()
        tokenizer.counter.update(symbols)
        tokenizer.special = ["<unk>"]
        tokenizer.build_vocab()
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            again = TransfoXLTokenizer.from_pretrained(folder)
        assert again.idx2sym == tokenizer.idx2sym
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again.unk_idx == tokenizer.unk_idx
