"""The XLNet tokenizer against what transformers 4.34.0 gave, the library sentencepiece, and transformers 5."""

import json
import pickle
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from xlcore.errors import TokenizerError
from xlcore.tokenizers import AddedToken, XLNetTokenizer, XLNetTokenizerFast

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers" / "xlnet"
MODEL = GOLDEN / "spiece.model"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
SAVED = json.loads((GOLDEN / "fast.json").read_text(encoding="utf-8"))
TEXTS = [case["args"][0] for case in CASES["cases"] if case["call"] == "tokenize"]
GOLDEN_TOKENIZER = XLNetTokenizer(MODEL)
RAW = sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


@pytest.fixture
def tokenizer() -> XLNetTokenizer:
    return XLNetTokenizer(MODEL)


class TestGolden:
    @pytest.mark.parametrize("place", range(len(CASES["cases"])))
    def test_case(self, place: int) -> None:
        case = CASES["cases"][place]
        assert getattr(GOLDEN_TOKENIZER, case["call"])(*case["args"], **case["kwargs"]) == case["out"]

    def test_lower_case(self) -> None:
        lowered = XLNetTokenizer(MODEL, do_lower_case=True)
        cases = json.loads((GOLDEN / "lowercase.json").read_text(encoding="utf-8"))
        assert [lowered.encode(text) for text, _ in cases] == [ids for _, ids in cases]
        assert len(cases) == 40

    def test_info(self) -> None:
        info, found = CASES["info"], GOLDEN_TOKENIZER
        assert (found.vocab_size, len(found)) == (info["vocab_size"], info["len"])
        assert found.special_tokens_map == info["special_tokens"]
        assert {role: getattr(found, f"{role}_id") for role in info["special_ids"]} == info["special_ids"]
        assert (found.padding_side, found.model_input_names) == (info["padding_side"], info["model_input_names"])
        assert found.additional_special_tokens_ids == [8, 7]
        assert found.pad_token_type_id == 3
        assert not found.is_fast


# --- the rules, once more and plainly, on the library alone -----------------------------------------------------------


def plain(text: str, do_lower_case: bool, remove_space: bool, keep_accents: bool) -> list[str]:
    """Return the pieces of a text without special tokens, step by step as the specification has it."""
    if do_lower_case:
        text = "".join(character.lower() for character in text)
    if remove_space:
        text = " ".join(text.strip().split())
    text = text.replace("``", '"').replace("''", '"')
    if not keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    if do_lower_case:
        text = text.lower()
    pieces: list[str] = []
    for piece in RAW.encode(text, out_type=str):
        if not (len(piece) > 1 and piece.endswith(",") and piece[-2].isdigit()):
            pieces.append(piece)
            continue
        parts = RAW.encode(piece[:-1].replace("▁", ""), out_type=str)
        if piece[0] != "▁" and parts[0][0] == "▁":
            parts[0] = parts[0][1:]
        pieces += [*(part for part in parts if part), ","]
    return pieces


ODD = st.sampled_from([
    "1,", "2000,", "٣,", "²,", ",", "``", "''", "e\u0301", "\u0301", "ﷺ", "½", "한국", "İ", "ΣΑΣ", "\u200b", "\x00",
    "…", "\u3000", "\t", "\n", " ", "  ", "\x1c", "\x85", "😀", "👨\u200d👩", "▁", "the ", "Hello", "-----", "£", "𝚺",
])  # fmt: skip
ANY_TEXT = st.lists(st.text(max_size=6) | ODD, max_size=10).map("".join)
FLAGS = st.fixed_dictionaries(
    {"do_lower_case": st.booleans(), "remove_space": st.booleans(), "keep_accents": st.booleans()}
)
MADE: dict[tuple[bool, ...], XLNetTokenizer] = {}


def made(flags: dict[str, bool]) -> XLNetTokenizer:
    key = tuple(flags[name] for name in sorted(flags))
    return MADE.setdefault(key, XLNetTokenizer(MODEL, **flags))


class TestRules:
    @settings(max_examples=300, deadline=None)
    @given(ANY_TEXT, FLAGS)
    def test_pieces_and_ids(self, text: str, flags: dict[str, bool]) -> None:
        if any(token in text.lower() for token in GOLDEN_TOKENIZER.all_special_tokens):
            return
        pieces = plain(text, **flags)
        assert made(flags).tokenize(text) == pieces
        assert made(flags).encode(text, add_special_tokens=False) == RAW.piece_to_id(pieces)

    @settings(max_examples=200, deadline=None)
    @given(ANY_TEXT, FLAGS)
    def test_offsets(self, text: str, flags: dict[str, bool]) -> None:
        tokenizer = made(flags)
        tokens, spans = tokenizer.tokenize_with_offsets(text)
        assert tokens == tokenizer.tokenize(text)
        known = [span for span in spans if span is not None]
        assert all(0 <= start <= end <= len(text) for start, end in known)
        assert all(a[0] <= b[0] for a, b in pairwise(known))
        for token, span in zip(tokens, spans, strict=True):
            assert span is None or token == "▁" or span[0] < span[1]
            # a piece is what is left of the text where it lies, without control characters
            if span is not None and token.isascii() and not flags["do_lower_case"] and text[slice(*span)].isascii():
                left = "".join(c for c in text[slice(*span)] if c.isprintable() or c == "\0")
                assert token == left or '"' in token

    def test_numbers_before_commas(self, tokenizer: XLNetTokenizer) -> None:
        assert tokenizer.tokenize("1, 2,000,") == ["▁", "1", ",", "▁", "2", ",", "0", "0", "0", ","]
        assert tokenizer.convert_tokens_to_ids("1,") != tokenizer.unk_token_id  # there is such a piece
        assert [t for t in tokenizer.get_vocab() if t[-1:] == "," and t[-2:-1].isdigit()]

    def test_a_model_without_a_comma(self, tmp_path: Path) -> None:
        from xlcore.tokenizers.sentencepiece_files import Piece, build

        pieces = [Piece("<unk>", 0, 2), Piece("▁", -2.0), Piece("a", -3.0)]
        (tmp_path / "spiece.model").write_bytes(build(pieces, b""))
        found = XLNetTokenizer(tmp_path / "spiece.model")
        assert found.tokenize("a 7,a") == ["▁", "a", "▁", "7", ",", "a"]
        assert found.encode("a 7,a", add_special_tokens=False) == [1, 2, 1, 0, 0, 2]

    def test_half_a_character(self, tokenizer: XLNetTokenizer) -> None:
        with pytest.raises(TokenizerError, match=r"XLNetTokenizer: a text must be whole characters, got half of one"):
            tokenizer.encode("a\ud800")
        with pytest.raises(TokenizerError, match="XLNetTokenizerFast: a text must be whole characters"):
            XLNetTokenizerFast(MODEL, exact=False).encode("a\ud800")


class TestRows:
    def test_left_padding(self, tokenizer: XLNetTokenizer) -> None:
        found = tokenizer(["a", "a b"], ["b", "a a"], padding=True, return_special_tokens_mask=True)
        assert found["input_ids"][0][:2] == [5, 5]
        assert found["token_type_ids"] == [[3, 3, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 1, 2]]
        assert found["attention_mask"] == [[0, 0, 1, 1, 1, 1, 1], [1] * 7]
        assert found["special_tokens_mask"] == [[1, 1, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 1, 1]]

    def test_special_tokens(self, tokenizer: XLNetTokenizer) -> None:
        assert tokenizer.num_special_tokens_to_add() == 2
        assert tokenizer.num_special_tokens_to_add(pair=True) == 3
        ids = tokenizer.encode("a <mask> 😀")
        assert ids[-3] == 0
        assert tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) == [0, 1, 0, 1, 1, 1]
        tokenizer.sep_token = None
        with pytest.raises(TokenizerError, match="sep_token must be set to stand around texts, got none"):
            tokenizer.encode("a")

    def test_tensors(self, tokenizer: XLNetTokenizer) -> None:
        found = tokenizer(["a", "a b"], padding=True, truncation=True, max_length=3, return_tensors="np")
        assert found.input_ids.tolist() == [[22, 4, 3], [22, 4, 3]]


class TestDecoding:
    def test_special_tokens_stand_close(self, tokenizer: XLNetTokenizer) -> None:
        ids = tokenizer.encode("Hello <mask> world a😀b")
        assert tokenizer.decode(ids) == "Hello<mask>world a<unk>b<sep><cls>"
        assert tokenizer.decode(ids, skip_special_tokens=True) == "Hello world ab"
        assert tokenizer.decode(ids, spaces_between_special_tokens=False) == tokenizer.decode(ids)

    def test_ids_outside(self, tokenizer: XLNetTokenizer) -> None:
        for ids in ([9999], [-1], [22, -1]):
            with pytest.raises(TokenizerError, match="an id must be from 0 to 1406, got"):
                tokenizer.decode(ids)
        assert tokenizer.decode([]) == ""
        assert tokenizer.convert_ids_to_tokens(22) == "▁a"


class TestAddedTokens:
    """In transformers they split otherwise after saving and loading (issue 11112)."""

    TEXT = "a newtok b  eaten c <mask> d"

    @pytest.fixture
    def added(self, tokenizer: XLNetTokenizer) -> XLNetTokenizer:
        assert tokenizer.add_tokens(["newtok", AddedToken("eaten", lstrip=True), AddedToken("plain")]) == 3
        tokenizer.add_special_tokens({"additional_special_tokens": ["<eop>", "<eod>", "<new>"]})
        return tokenizer

    @pytest.mark.parametrize("kind", [XLNetTokenizer, XLNetTokenizerFast])
    def test_they_survive(self, added: XLNetTokenizer, kind: type[XLNetTokenizer], tmp_path: Path) -> None:
        for round_ in range(2):
            added.save_pretrained(tmp_path / str(round_))
            again = kind.from_pretrained(tmp_path / str(round_))
            assert again.added_tokens_decoder == added.added_tokens_decoder
            assert again.special_tokens_map == added.special_tokens_map
            for text in [*TEXTS, self.TEXT, "x plain <new> y"]:
                assert again.encode(text) == added.encode(text)
            assert (len(again), again.vocab_size) == (1411, 1407)
            added = again

    def test_white_space(self, added: XLNetTokenizer) -> None:
        assert added.tokenize(self.TEXT) == (["▁a", "newtok", "▁b", "eaten", "▁", "c", "<mask>", "▁", "d"])
        assert added.tokenize("anewtokb") == ["▁a", "newtok", "▁b"]

    def test_pickling(self, added: XLNetTokenizer) -> None:
        again = pickle.loads(pickle.dumps(added))
        assert again.encode(self.TEXT) == added.encode(self.TEXT)


class TestFolders:
    def test_files(self, tokenizer: XLNetTokenizer, tmp_path: Path) -> None:
        written = tokenizer.save_pretrained(tmp_path, filename_prefix="my")
        names = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "spiece.model"]
        assert [Path(path).name for path in written] == [f"my-{name}" for name in names]
        assert (tmp_path / "my-spiece.model").read_bytes() == MODEL.read_bytes()

    @pytest.mark.parametrize("saved", ["saved_slow", "saved_fast"])
    def test_as_transformers_4_wrote_it(self, saved: str, tmp_path: Path) -> None:
        for name, content in SAVED[saved].items():
            (tmp_path / name).write_text(json.dumps(content))
        (tmp_path / "spiece.model").write_bytes(MODEL.read_bytes())
        found = XLNetTokenizer.from_pretrained(tmp_path)
        assert {str(i): token.to_json() for i, token in found.added_tokens_decoder.items()} == (
            SAVED[saved]["tokenizer_config.json"]["added_tokens_decoder"]
        )
        assert found.tokenize("a newtok b") == ["▁a", "newtok", "▁b"]
        found.save_pretrained(tmp_path / "again")
        for name, content in SAVED[saved].items():  # what it had says the same again; what is new stands beside it
            again = json.loads((tmp_path / "again" / name).read_text())
            assert {key: again[key] for key in content} == content

    def test_as_transformers_5_writes_it(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        (tmp_path / "spiece.model").write_bytes(MODEL.read_bytes())
        theirs = transformers.XLNetTokenizer.from_pretrained(tmp_path)
        theirs.add_tokens(["newtok"])
        theirs.save_pretrained(tmp_path / "five")
        assert not (tmp_path / "five" / "spiece.model").exists()
        for kind in (XLNetTokenizer, XLNetTokenizerFast):
            found = kind.from_pretrained(tmp_path / "five")
            assert found.additional_special_tokens == ["<eop>", "<eod>"]
            assert found.special_tokens_map == GOLDEN_TOKENIZER.special_tokens_map
            assert [found.encode(text) for text in TEXTS] == [GOLDEN_TOKENIZER.encode(text) for text in TEXTS]
            assert found.tokenize("anewtok") == ["▁a", "newtok"]
            found.save_pretrained(tmp_path / "again")  # with a model file that is made anew
            again = kind.from_pretrained(tmp_path / "again")
            assert [again.encode(text) for text in TEXTS] == [GOLDEN_TOKENIZER.encode(text) for text in TEXTS]

    def test_options_are_kept(self, tmp_path: Path) -> None:
        flags: dict[str, Any] = {"do_lower_case": True, "remove_space": False, "keep_accents": True}
        XLNetTokenizer(MODEL, sp_model_kwargs={"alpha": 0.5}, **flags).save_pretrained(tmp_path)
        again = XLNetTokenizer.from_pretrained(tmp_path)
        assert {name: getattr(again, name) for name in flags} == flags
        assert again.sp_model_kwargs == {"alpha": 0.5}
        assert XLNetTokenizer.from_pretrained(tmp_path, do_lower_case=False).do_lower_case is False

    def test_transformers_5_reads_ours(self, tmp_path: Path) -> None:
        transformers = pytest.importorskip("transformers")
        XLNetTokenizerFast(MODEL).save_pretrained(tmp_path)
        theirs = transformers.XLNetTokenizer.from_pretrained(tmp_path)
        assert theirs.padding_side == "left"
        differ = [text for text in TEXTS if theirs.encode(text) != GOLDEN_TOKENIZER.encode(text)]
        # it takes all nonspacing marks for accents, and joins unknown characters otherwise
        assert len(differ) <= 4
        assert not [text for text in differ if text.isascii()]


LATIN = st.text(alphabet="abcdefghijklmnoprstuvwyzABCDEHMNPST", min_size=1, max_size=8)
WORD = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "(", '"', "<mask>"]),
    LATIN | st.sampled_from("0123456789"),
    st.sampled_from(["", ".", "?", ")", "'s", "<sep>", " é"]),
)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the tokenizer of transformers 5, made from a folder that ours wrote."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("xlnet")
    XLNetTokenizerFast(MODEL).save_pretrained(folder)
    return transformers.XLNetTokenizer.from_pretrained(folder)


class TestLive:
    @settings(max_examples=150, deadline=None)
    @given(text=st.lists(WORD, max_size=8).map(" ".join))
    def test_ids_equal_transformers_5(self, text: str, five: Any) -> None:
        ours, theirs = GOLDEN_TOKENIZER(text), five(text)
        assert ours["input_ids"] == theirs["input_ids"]
        assert ours["attention_mask"] == theirs["attention_mask"]


def test_sampling() -> None:
    sampled = XLNetTokenizer(MODEL, sp_model_kwargs={"enable_sampling": True, "nbest_size": -1, "alpha": 0.1})
    assert len({tuple(sampled.tokenize("Hello my dog is there, and leading")) for _ in range(20)}) > 1
    fast = XLNetTokenizerFast(MODEL, sp_model_kwargs={"enable_sampling": True, "nbest_size": -1, "alpha": 0.1})
    for _ in range(10):
        found = fast("Hello my dog is there, and leading")
        assert fast.convert_tokens_to_ids(found.tokens()) == found["input_ids"]
