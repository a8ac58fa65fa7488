"""The XLM tokenizer against transformers 5.23.0 (golden and live), fastBPE's own pieces, and what neither offers."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlcore.errors import FormatError, TokenizerError
from xlcore.tokenizers import XLMTokenizer
from xlcore.tokenizers.bpe import BytePairs
from xlcore.tokenizers.xlm_files import RESERVED, read_merges, read_vocabulary

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers" / "xlm"
ORIGINAL = GOLDEN.parent.parent / "original" / "xlm_codes"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
FILES = {"vocab_file": GOLDEN / "vocab.json", "merges_file": GOLDEN / "merges.txt"}

TEXTS = [
    ("Don't do it!", "don 't do it !"),
    ("1990's", "1990 's"),
    ("3,000.50 and 5.", "3,000.50 and 5 ."),
    ("“quoted,” he", '" quoted , " he'),
    ("don’t", "don 't"),
    ("hello\nworld", "helloworld"),
    ("...wait....", "... wait ...."),
    ("e-mail@x.com http://a.b/c", "e-mail @ x.com http : / / a.b / c"),
    ("你好，世界。", "你 好 , 世 界 ."),
    ("１２３％", "123 %"),
    ("No. 5 and No. x", "no. 5 and no. x"),
    ("etc. Mr. Smith went. U.S.A. is", "etc . mr. smith went . u.s.a. is"),
]


@pytest.fixture(scope="module")
def golden() -> XLMTokenizer:
    return XLMTokenizer(**FILES)


@pytest.fixture(scope="module")
def live() -> Any:
    pytest.importorskip("sacremoses")
    transformers = pytest.importorskip("transformers", minversion="5.0")
    return transformers.XLMTokenizer(str(FILES["vocab_file"]), str(FILES["merges_file"]))


def words(tokenizer: XLMTokenizer, text: str, **options: Any) -> str:
    """Return the words of a text before they are split into pieces."""
    return "".join(tokenizer.tokenize(text, **options)).replace("</w>", " ").strip()


class TestGolden:
    @pytest.mark.parametrize("place", range(len(CASES["cases"])))
    def test_case(self, golden: XLMTokenizer, place: int) -> None:
        case = CASES["cases"][place]
        assert getattr(golden, case["call"])(*case["args"], **case["kwargs"]) == case["out"]

    def test_keeping_case(self) -> None:
        tokenizer = XLMTokenizer(**FILES, do_lowercase_and_remove_accent=False)
        cases = json.loads((GOLDEN / "keep_case.json").read_text(encoding="utf-8"))
        assert [tokenizer.encode(text) for text, _ in cases] == [ids for _, ids in cases]
        assert len(cases) == 40

    def test_info(self, golden: XLMTokenizer) -> None:
        info = CASES["info"]
        assert (golden.vocab_size, len(golden)) == (info["vocab_size"], info["len"])
        assert golden.special_tokens_map == info["special_tokens"]
        assert {role: getattr(golden, f"{role}_id") for role in info["special_ids"]} == info["special_ids"]
        assert (golden.padding_side, golden.model_input_names) == (info["padding_side"], info["model_input_names"])

    @pytest.mark.parametrize(("text", "expected"), TEXTS)
    def test_words_of_the_specification(self, golden: XLMTokenizer, text: str, expected: str) -> None:
        assert words(golden, text) == expected

    def test_special_tokens_are_found_within_words(self, golden: XLMTokenizer) -> None:
        assert golden.tokenize("hello<special1>world").count("<special1>") == 1
        assert golden.tokenize("<SPECIAL1>") != ["<special1>"]

    @settings(max_examples=150, deadline=None)
    @given(st.one_of(st.text(max_size=60), st.text("aA.,'- \"\n0…’é«»ßİΣ。１<>s/", max_size=60)))
    def test_equal_to_transformers(self, golden: XLMTokenizer, live: Any, text: str) -> None:
        assert golden.tokenize(text) == live.tokenize(text)


class TestOriginal:
    CASES = json.loads((ORIGINAL / "bpe_cases.json").read_text(encoding="utf-8"))["cases"]

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"])
    def test_fastbpe(self, case: dict[str, Any]) -> None:
        """Pieces that the vocabulary lacks are split again: 'cathedral' has no 'at@@'."""
        tokenizer = XLMTokenizer(ORIGINAL / "vocab", ORIGINAL / "codes", split_unknown=True)
        pieces = tokenizer.tokenize(case["text"], bypass_tokenizer=True)
        assert tokenizer.convert_tokens_to_ids(pieces) == case["ids"]
        as_fastbpe = [piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}@@" for piece in pieces]
        assert as_fastbpe == case["bpe"]

    def test_without_the_threshold_pieces_are_unknown(self) -> None:
        tokenizer = XLMTokenizer(ORIGINAL / "vocab", ORIGINAL / "codes")
        assert "at" in tokenizer.tokenize("cathedral")
        assert tokenizer.convert_tokens_to_ids("at") == tokenizer.unk_token_id

    def test_the_dictionary_of_a_model_file_is_the_same(self, tmp_path: Path) -> None:
        lines = (ORIGINAL / "vocab").read_text().split("\n")[:-1]
        words = [*RESERVED, *(line.split()[0] for line in lines)]
        file = tmp_path / "model.pth"
        file.write_bytes(pickle.dumps({"dico_word2id": {word: n for n, word in enumerate(words)}}, protocol=2))
        assert read_vocabulary(file) == read_vocabulary(ORIGINAL / "vocab")

    def test_what_the_original_skips_takes_no_id(self, tmp_path: Path) -> None:
        file = tmp_path / "vocab"
        file.write_text("the 9\nthe 8\na\u2028b 7\nthree parts 6\nz@@ 5\n", encoding="utf-8")
        assert list(read_vocabulary(file).items())[-2:] == [("the</w>", 14), ("z", 15)]

    def test_as_the_original_starts_texts(self) -> None:
        tokenizer = XLMTokenizer(**FILES, bos_token="</s>")
        assert tokenizer.encode("a")[0] == tokenizer.encode("a")[-1] == 1


class TestPairs:
    def test_the_pair_learnt_first_is_joined_first(self) -> None:
        pairs = BytePairs([("b", "c"), ("a", "b"), ("a", "bc"), ("x", "y</w>")])
        assert pairs("abcab") == ["abc", "a", "b</w>"]
        assert pairs("xy") == ["xy</w>"]
        assert pairs("q") == ["q</w>"]

    def test_occurrences_are_joined_from_the_left(self) -> None:
        assert BytePairs([("a", "a")])("aaaab") == ["aa", "aa", "b</w>"]
        assert BytePairs([("a", "a")])("aaab") == ["aa", "a", "b</w>"]

    def test_the_later_place_of_a_pair_counts(self) -> None:
        assert BytePairs([("a", "b"), ("b", "c"), ("a", "b")])("abcd") == ["a", "bc", "d</w>"]

    def test_a_deep_merge_is_split_again(self) -> None:
        merges = [("a" * count, "a") for count in range(1, 3000)]
        pieces = BytePairs(merges, known={"a"})._split_unknown("a" * 3000)
        assert pieces == ["a"] * 3000


class TestLanguages:
    def test_romanian_and_french(self, golden: XLMTokenizer) -> None:
        pytest.importorskip("sacremoses")
        assert words(golden, "Ș ț ă â î", lang="ro") == "s t a a i"
        assert words(golden, "l'homme a dit: «oui».", lang="fr") == 'l\' homme a dit : " oui " .'

    def test_a_language_reaches_every_call(self, golden: XLMTokenizer) -> None:
        """transformers takes `lang` and splits by English rules whatever it is."""
        pytest.importorskip("sacremoses")
        assert golden.encode("l'homme", lang="fr") != golden.encode("l'homme")
        assert golden("l'homme", lang="fr")["input_ids"] == golden.encode("l'homme", lang="fr")

    @pytest.mark.parametrize("lang", ["de", "fr", "ru", "ko", "hi", "sv", "xx"])
    @pytest.mark.parametrize(
        "text",
        ["z.B. Nr. 5 u. s. w. d'art l'été 3.5 usw.", "한국어 텍스트. 안녕!", "Стр. 5 т.е. так.", "S:t Ev. 5, ok"],
    )
    def test_words_as_sacremoses_splits_them(self, lang: str, text: str) -> None:
        sacremoses = pytest.importorskip("sacremoses")
        tokenizer = XLMTokenizer(**FILES, do_lowercase_and_remove_accent=False)
        normalized = sacremoses.MosesPunctNormalizer(lang=lang).normalize(text)
        expected = sacremoses.MosesTokenizer(lang=lang).tokenize(normalized, return_str=True, escape=False)
        assert words(tokenizer, text, lang=lang) == expected

    def test_without_sacremoses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sacremoses.corpus", None)
        with pytest.raises(
            TokenizerError, match=r"lang .de. must have sacremoses installed, .* pip install sacremoses"
        ):
            XLMTokenizer(**FILES).tokenize("text", lang="de")

    def test_chinese(self, golden: XLMTokenizer) -> None:
        pytest.importorskip("jieba")
        assert words(golden, "我爱北京，天安门。", lang="zh") == "我 爱 北京 , 天安门 ."

    def test_thai(self, golden: XLMTokenizer) -> None:
        pytest.importorskip("pythainlp")
        tokenizer = XLMTokenizer(**FILES, do_lowercase_and_remove_accent=False)
        assert words(tokenizer, "ฉันรักภาษาไทย", lang="th") == "ฉัน รัก ภาษาไทย"

    @pytest.mark.parametrize(("lang", "name"), [("zh", "jieba"), ("ja", "Mykytea"), ("th", "pythainlp.tokenize")])
    def test_a_missing_library_is_named(self, lang: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(TokenizerError, match=rf"lang '{lang}' must have .* pip install \"xlbridge\[{lang}\]\""):
            XLMTokenizer(**FILES).tokenize("text", lang=lang)

    def test_kytea_must_have_its_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "Mykytea", sys)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(TokenizerError, match=r"KyTea's model at .*model.bin"):
            XLMTokenizer(**FILES).tokenize("text", lang="ja")

    @pytest.mark.parametrize("lower", [True, False])
    def test_a_segmenter_of_ones_own(self, lower: bool) -> None:
        """Space that a segmenter returns as a word is no word: transformers makes two unknown tokens of it."""
        tokenizer = XLMTokenizer(
            **FILES, do_lowercase_and_remove_accent=lower, segmenters={"ja": lambda text: [text[:2], " ", text[2:]]}
        )
        assert words(tokenizer, "thecat", lang="ja") == "th ecat"

    def test_an_unknown_language_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        tokenizer = XLMTokenizer(**FILES, lang2id={"en": 0, "fr": 1}, id2lang={"0": "en", "1": "fr"})
        tokenizer.tokenize("a", lang="xx")
        assert "lang should be one of en, fr, got 'xx'" in caplog.text
        assert tokenizer.id2lang == {0: "en", 1: "fr"}


class TestOptions:
    def test_lower_case_first(self) -> None:
        """As transformers 4: the next word is lower, so no full stop within a text is split off."""
        tokenizer = XLMTokenizer(**FILES, lowercase_first=True)
        assert words(tokenizer, "He left. Then") == "he left. then"

    def test_control_characters_as_spaces(self) -> None:
        tokenizer = XLMTokenizer(**FILES, control="space")
        assert words(tokenizer, "hello\nworld\tand\u200bmore") == "hello world and more"
        with pytest.raises(TokenizerError, match="control must be 'delete' or 'space', got 'keep'"):
            XLMTokenizer(**FILES, control="keep")

    def test_prepared_text(self, golden: XLMTokenizer) -> None:
        assert words(golden, "The cat's 5,000.", bypass_tokenizer=True) == "The cat's 5,000."

    def test_an_unknown_option_is_refused(self, golden: XLMTokenizer) -> None:
        with pytest.raises(TokenizerError, match="unknown argument 'language'"):
            golden.tokenize("a", language="en")

    def test_added_tokens_are_found_in_any_case(self) -> None:
        tokenizer = XLMTokenizer(**FILES)
        tokenizer.add_tokens(["NewTok"])
        assert tokenizer.tokenize("a NEWTOK b") == ["a</w>", "newtok", "b</w>"]


class TestFolders:
    def test_saving_and_loading(self, tmp_path: Path) -> None:
        before = XLMTokenizer(**FILES, lang2id={"en": 0}, id2lang={0: "en"}, control="space")
        before.add_tokens(["newtok"])
        before.save_pretrained(tmp_path)
        after = XLMTokenizer.from_pretrained(tmp_path)
        for text, _ in TEXTS:
            assert after.encode(f"{text} newtok\nmore") == before.encode(f"{text} newtok\nmore")
        assert (after.lang2id, after.id2lang, after.control) == ({"en": 0}, {0: "en"}, "space")
        assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) == before.encoder
        assert read_merges(tmp_path / "merges.txt") == before.merges

    def test_a_flag_that_is_a_string(self, tmp_path: Path) -> None:
        for file in FILES.values():
            shutil.copy(file, tmp_path)
        for text, flag in (("true", True), ("false", False)):
            (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lowercase_and_remove_accent": text}))
            assert XLMTokenizer.from_pretrained(tmp_path).do_lowercase_and_remove_accent is flag

    def test_originals_are_found(self) -> None:
        assert XLMTokenizer.from_pretrained(ORIGINAL).vocab_size == len(read_vocabulary(ORIGINAL / "vocab"))

    def test_merges_need_no_final_line_end(self, tmp_path: Path) -> None:
        """transformers loses the last merge of such a file."""
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b 5\nb c</w> 4")
        assert read_merges(tmp_path / "merges.txt") == [("a", "b"), ("b", "c</w>")]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b'{"a": 0, "b": 0}', "must give each token an id of its own from 0 up"),
            (b'{"a": "0"}', "must give each token an id of its own from 0 up"),
            (b"{}", "must give each token an id of its own from 0 up"),
            (b'{"a": 0', "the file must be JSON in UTF-8"),
            (b"\xff\xfe a", "must be text in UTF-8, got other bytes at 0"),
            (pickle.dumps({"model": 1}, protocol=2), "must hold dico_word2id, got none"),
            (pickle.dumps([], protocol=4), "must hold dico_word2id, got none"),
        ],
    )
    def test_damaged_vocabularies(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "vocab.json").write_bytes(content)
        with pytest.raises(FormatError, match=message):
            XLMTokenizer(tmp_path / "vocab.json", FILES["merges_file"])

    def test_missing_and_short_files(self, tmp_path: Path) -> None:
        with pytest.raises(FormatError, match="must be a vocabulary file, got none"):
            XLMTokenizer(tmp_path / "vocab.json", FILES["merges_file"])
        with pytest.raises(FormatError, match=r"merges.txt: must be a file, got none"):
            XLMTokenizer(FILES["vocab_file"], tmp_path / "merges.txt")
        (tmp_path / "merges.txt").write_text("a b\nc\n")
        with pytest.raises(FormatError, match="line 2 must hold two pieces, got 'c'"):
            read_merges(tmp_path / "merges.txt")
        shutil.copy(FILES["vocab_file"], tmp_path)
        (tmp_path / "merges.txt").unlink()
        with pytest.raises(FormatError, match=r"must have one of merges.txt, codes, got none"):
            XLMTokenizer.from_pretrained(tmp_path)
        with pytest.raises(FormatError, match="must be a folder to save a vocabulary in"):
            XLMTokenizer(**FILES).save_vocabulary(str(tmp_path / "none"))

    def test_inputs_need_their_tokens(self) -> None:
        tokenizer = XLMTokenizer(**FILES)
        tokenizer.sep_token = None
        with pytest.raises(TokenizerError, match="sep_token must be set to build inputs, got none"):
            tokenizer.encode("a")


class TestReports:
    """What users reported, by its number in the collection; M1 to M6 are the models'."""

    def test_m7_what_one_language_needs_is_asked_for_there_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """English needs no library; each other language names its own."""
        for name in ("sacremoses", "sacremoses.corpus", "jieba", "Mykytea", "pythainlp", "pythainlp.tokenize"):
            monkeypatch.setitem(sys.modules, name, None)
        tokenizer = XLMTokenizer(**FILES, do_lowercase_and_remove_accent=False)
        assert words(tokenizer, "Țara, Dr. Smith's.") == "Țara , Dr. Smith 's ."
        for lang in ("zh", "ja", "th", "de", "ro"):
            with pytest.raises(TokenizerError, match=f"lang '{lang}' must have"):
                tokenizer.tokenize("Țara", lang=lang)

    def test_m7_romanian_letters_are_replaced_in_romanian_alone(self) -> None:
        pytest.importorskip("sacremoses")
        tokenizer = XLMTokenizer(**FILES, do_lowercase_and_remove_accent=False)
        assert words(tokenizer, "Țara și câinele", lang="ro") == "Tara si cainele"
        assert words(tokenizer, "Țara și câinele", lang="fr") == "Țara și câinele"

    def test_m8_the_locale_changes_nothing(self) -> None:
        """Files and text are read as UTF-8 where the system says ASCII."""
        code = (
            "import sys; from xlcore.tokenizers import XLMTokenizer; "
            "print(*XLMTokenizer(*sys.argv[1:3]).encode('caf\\u00e9 \\u4f60\\u597d \\u00ab\\u00fcber\\u00bb'))"
        )
        told = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(GOLDEN.parents[3])}
        arguments = [sys.executable, "-W", "error", "-c", code, *map(str, FILES.values())]
        done = subprocess.run(arguments, env=os.environ | told, capture_output=True, text=True, check=True)
        assert [int(index) for index in done.stdout.split()] == XLMTokenizer(**FILES).encode("café 你好 «über»")

    def test_m9_no_file_and_no_pickle_holds_a_segmenter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is saved is text; what another process gets finds its libraries by itself."""

        class Thai:  # as a library that moved its functions since
            @staticmethod
            def word_tokenize(text: str) -> list[str]:
                return [text[:2], text[2:]]

        monkeypatch.setitem(sys.modules, "pythainlp.tokenize", Thai)
        tokenizer = XLMTokenizer(**FILES)
        expected = tokenizer.tokenize("thecat", lang="th")
        tokenizer.save_pretrained(tmp_path)
        for file in tmp_path.iterdir():
            assert b"pythainlp" not in file.read_bytes()
            assert file.suffix in (".json", ".txt")
        content = pickle.dumps(tokenizer)
        assert b"pythainlp" not in content
        for other in (pickle.loads(content), XLMTokenizer.from_pretrained(tmp_path)):
            assert other.tokenize("thecat", lang="th") == expected

    def test_m10_a_word_is_worked_out_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Others do it at every occurrence of a short one, and look through all pairs at every merge of a long one."""
        worked_out: list[str] = []
        join = BytePairs.__call__
        monkeypatch.setattr(BytePairs, "__call__", lambda pairs, word: worked_out.append(word) or join(pairs, word))
        tokenizer = XLMTokenizer(**FILES)
        first = tokenizer.tokenize("The cat saw a cat, the CAT.")
        assert worked_out == ["the", "cat", "saw", "a", ",", "the", "cat", "."]
        assert tokenizer.tokenize("The cat saw a cat, the CAT.") == first
        assert len(worked_out) == 8
