"""The words of Moses, as Transformer-XL splits and joins them."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.xlcore.transfo_xl_cases import GOLDEN
from xlcore.errors import TokenizerError
from xlcore.tokenizers import TransfoXLTokenizer
from xlcore.tokenizers.punctuation import PunctuationNormalizer
from xlcore.tokenizers.words import MosesDetokenizer, MosesTokenizer, align, split_numbers


class TestWords:
    """The rules of Moses (spec 7.3 and 7.4), each with the text that shows it."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("the well-known dog's $5.00 (50%)", "the well @-@ known dog 's $ 5 @.@ 00 ( 50 % )"),
            ("don't he' 'tis", "don 't he ' ' tis"), ("'tis he'", "'tis he'"), ("it's 90's", "it 's 90 's"),
            ("Mr. Smith went. He left.", "Mr. Smith went . He left ."), ("word. word", "word. word"),
            ("x.com", "x.com"),
            ("a/b", "a / b"), ('"Hello," she said.', '" Hello , " she said .'), ("v1.2", "v1 @.@ 2"), (",5 x", ",5 x"),
            ("x ,5", "x , 5"), ("5,000,000", "5 @,@ 000 @,@ 000"), ("5,x", "5 , x"), ("5,", "5 ,"),
            ("-5 -- a-", "-5 -- a-"),
            ("No. 5 No. X", "No. 5 No . X"), ("pp. 3", "pp. 3"), ("U.S. X", "U.S. X"), ("i.e. X", "i.e. X"),
            ("1.2. X", "1 @.@ 2 . X"), ("a...b", "a ... b"), ("a..", "a .."), ("...", "..."), ("end.'", "end . '"),
            ("'", "'"),
            ("中文 한", "中 文 한"), ("e\u0301", "e \u0301"), ("a_b@c#", "a _ b @ c #"), ("x\x01y", "xy"),
            ("a\tb\r\nc", "a b c"),
            ("\u0915\u094d", "\u0915\u094d"), ("\u2160\u00bd", "\u2160 \u00bd"), ("5' '6", "5 ' '6"),
            ("5'\"'6", "5 ' \" ' 6"),
            ("(a) .", "( a ) ."), ("50 %", "50 %"), ("a : b ; c", "a : b ; c"), ("``a''", '" a "'), ("«a»", '" a "'),
            ("1\u00a0000", "1 @.@ 000"), ("a — b–c", "a - b @-@ c"), ("l’or ‘x’", "l 'or ' x'"), ("…", "..."), ("", ""),
            ("DOTDOTMULTI THISISPROTECTED000", "DOTDOTMULTI THISISPROTECTED000"),
        ],
    )  # fmt: skip
    def test_rules(self, golden: TransfoXLTokenizer, text: str, words: str) -> None:
        assert golden.tokenize(text) == words.split()

    def test_special_tokens_in_any_case_stay_whole(self, golden: TransfoXLTokenizer) -> None:
        assert golden.tokenize("a <EOS> b <Unk>.") == ["a", "<EOS>", "b", "<Unk>", "."]
        assert golden.tokenize("a<eos>b <formula> c") == ["a", "<eos>", "b", "<formula>", "c"]
        assert golden.tokenize("THISISPROTECTED000 <EOS>") == ["THISISPROTECTED000", "<EOS>"]

    def test_never_split(self, golden: TransfoXLTokenizer) -> None:
        tokenizer = TransfoXLTokenizer(vocab_file=GOLDEN / "vocab.txt", never_split=[r"\w+@\w+\.\w+", "a-b"])
        assert tokenizer.tokenize("to x@y.org, A-B c-d") == ["to", "x@y.org", ",", "A-B", "c", "@-@", "d"]
        assert tokenizer.never_split == [r"\w+@\w+\.\w+", "a-b"]
        tokenizer.never_split = ["c-d"]
        assert tokenizer.tokenize("c-d a-b") == ["c-d", "a", "@-@", "b"]
        assert golden.never_split == ["<eos>", "<unk>", "<formula>"]
        tokenizer = TransfoXLTokenizer(vocab_file=GOLDEN / "vocab.txt", pad_token="[PAD]")
        assert tokenizer.tokenize("a pad [PAD] [pad] x. d") == ["a", "pad", "[PAD]", "[pad]", "x.", "d"]
        with pytest.raises(
            TokenizerError, match=r"MosesTokenizer: never_split must be regular expressions, got \['\('\]"
        ):
            tokenizer.never_split = ["("]
        tokenizer.never_split = ["a"]
        with pytest.raises(
            TokenizerError, match="a text must have at most 1000 matches of never_split, got 1001; split it"
        ):
            tokenizer.tokenize("a" * 1001)

    def test_cached_words_know_their_neighbours(self) -> None:
        split = MosesTokenizer()
        for text, words in [("x. a", "x. a"), ("x. A", "x . A"), ("x. 5", "x . 5"), ("x.", "x ."), ("x. a", "x. a")]:
            assert split(text) == words.split()
        for text, words in [
            ("a ,5 b", "a , 5 b"),
            (",5 b", ",5 b"),
            ("a 'b c", "a ' b c"),
            ("'b c", "'b c"),
            ("b'", "b'"),
        ]:
            assert split(text) == words.split()

    def test_languages(self) -> None:
        assert MosesTokenizer("xx")("l'or it's") == ["l", "'", "or", "it", "'", "s"]
        assert MosesTokenizer("fr", prefixes=["M"])("l'or M. X Mr. X") == ["l'", "or", "M.", "X", "Mr", ".", "X"]
        assert PunctuationNormalizer("de")('er,"x 1\u00a02') == 'er",x 1,2'
        with pytest.raises(
            TokenizerError, match="language must be one whose abbreviations are known, got 'de'; pass prefixes="
        ):
            MosesTokenizer("de")
        with pytest.raises(
            TokenizerError, match="MosesDetokenizer: language must be none of fr, it, ga, cs, fi, ko, got 'fr'"
        ):
            MosesDetokenizer("fr")

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("the well @-@ known dog 's $ 5", "the well-known dog's $5"), ("( a ) [ b ]", "(a) [b]"),
            ("a , b . c ?!", "a, b. c?!"),
            ('" a " b " c', '"a" b "c'), ("the owners ' house", "the owners' house"),
            ("' a '", "'a'"),
            ("中 文 x", "中文 x"), ("&lt; a &amp;quot;", "< a &quot;"), ("„ a “", "„a“"),
            ("a / b", "a / b"),
            ("a 'b", "a'b"), ("'b", "'b"), ("€ 5", "€5"), ("¿ a ?", "¿a?"), ("", ""),
        ],
    )  # fmt: skip
    def test_joining(self, words: str, text: str) -> None:
        assert MosesDetokenizer()(words.split()) == text

    def test_numbers(self) -> None:
        assert split_numbers(["5,000", "1.73", ".5", "٣,٤", "a,b"]) == [
            "5", "@,@", "000", "1", "@.@", "73", ".5", "٣", "@,@", "٤", "a,b",
        ]  # fmt: skip


PIECES = st.sampled_from(
    "a Mr. no. 5 , . .. ' 's \" - ( ) % : é 中 <eos> <EOS> “ ’".split(" ") + [" ", "  ", "\t", "\u00a0"]  # noqa: RUF005
)
ANY_TEXT = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=20)


class TestProperties:
    @given(ANY_TEXT)
    @example("5' '6")
    @example(" ' '")
    def test_chunks_and_whole_agree(self, text: str) -> None:
        """Words that are kept and words that are worked out in place are the same."""
        split = MosesTokenizer(hyphens=True, numbers=True)
        text = re.sub("[\x00-\x1f]", "", re.sub(r"\s+", " ", text)).strip()
        whole = split_numbers(split._words(text, "", at_end=True))
        assert split(text) == whole
        assert split(text) == whole

    @settings(deadline=None)
    @given(st.lists(ANY_TEXT, max_size=3))
    def test_batch_is_its_rows(self, texts: list[str]) -> None:
        tokenizer = TransfoXLTokenizer(vocab_file=GOLDEN / "vocab.txt", pad_token="<eos>")
        found = tokenizer(texts, padding=True, return_attention_mask=True)
        for text, ids, mask in zip(texts, found["input_ids"], found.get("attention_mask", []), strict=True):
            assert ids[: sum(mask)] == tokenizer.encode(text)
            assert all(token and not token.isspace() for token in tokenizer.tokenize(text))

    @given(ANY_TEXT)
    def test_spans_are_in_order_of_tokens_and_apart(self, text: str) -> None:
        split, normalize = MosesTokenizer(hyphens=True, numbers=True), PunctuationNormalizer()
        words = split(normalize(text))
        spans = align(words, text)
        assert len(spans) == len(words)
        taken = sorted(span for span in spans if span is not None)
        assert all(start < end <= len(text) for start, end in taken)
        assert all(before[1] <= after[0] for before, after in pairwise(taken))

    @given(st.text("abcXYZ 019.,-'!?()", max_size=40))
    def test_plain_ascii_has_all_spans(self, text: str) -> None:
        words = MosesTokenizer(hyphens=True, numbers=True)(PunctuationNormalizer()(text))
        signs = {"@-@": "-", "@,@": ",", "@.@": "."}
        if "''" in text or "' '" in text:
            return
        for word, span in zip(words, align(words, text), strict=True):
            assert span is not None
            assert text[slice(*span)] == signs.get(word, word)
