"""The tokenizers of XLNet: SentencePiece behind a preparation of the text (Yang et al., 2019; transformers 4.34)."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, ClassVar

from xlcore.tokenizers.fast import FastTokenizer
from xlcore.tokenizers.sentencepiece import JSON_FILE, SentencePieceTokenizer, Traced
from xlcore.tokenizers.sentencepiece_files import SPACE, Piece, SavedUnigram, kinds
from xlcore.tokenizers.words import lower

_SPACES, _QUOTES = re.compile(r"\s{2,}|[^\S ]"), re.compile("``|''")
_ANY, _NOT_ASCII = re.compile(r".", re.DOTALL), re.compile(r"[^\x00-\x7f]")
#: What the tokenizers of transformers take from the score of a piece such as "0,", to keep it out of texts.
_PENALTY = 100.0
_FIRST, _SECOND, _CLS = 0, 1, 2


class XLNetTokenizer(SentencePieceTokenizer):
    """Pieces of words, for XLNet: `A <sep> <cls>`, or `A <sep> B <sep> <cls>`, filled on the left.

    Args:
        vocab_file: the model, `spiece.model`.
        do_lower_case: lower all but special tokens.
        remove_space: take white space at the ends out, and make one space of any in between.
        keep_accents: leave accents and compatibility characters as they are.
        sp_model_kwargs: options of the library sentencepiece.
        tokenizer_file: a `tokenizer.json`, where there is no model.

    Raises:
        TokenizerError: for a file that is no model.
    """

    vocab_files: ClassVar[dict[str, str]] = {"spiece.model": "vocab_file", JSON_FILE: "tokenizer_file"}
    model_file = "spiece.model"
    extra_tokens = ("<eop>", "<eod>")
    padding_side = "left"
    pad_token_type_id = 3

    def __init__(
        self,
        vocab_file: Any = None,
        do_lower_case: bool = False,
        remove_space: bool = True,
        keep_accents: bool = False,
        bos_token: Any = "<s>",
        eos_token: Any = "</s>",
        unk_token: Any = "<unk>",
        sep_token: Any = "<sep>",
        pad_token: Any = "<pad>",
        cls_token: Any = "<cls>",
        mask_token: Any = "<mask>",
        additional_special_tokens: Sequence[Any] | None = extra_tokens,
        **kwargs: Any,
    ):
        self.lower_case = do_lower_case
        self.remove_space, self.keep_accents = remove_space, keep_accents
        tokens = {"bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "sep_token": sep_token}
        tokens |= {"pad_token": pad_token, "cls_token": cls_token, "mask_token": mask_token}
        tokens |= {"additional_special_tokens": additional_special_tokens}
        super().__init__(vocab_file, **tokens, **kwargs)

    def _load(self) -> None:
        super()._load()
        self._split_numbers: dict[int, list[int]] = {}
        self._with_comma = {index for index, token in enumerate(self._tokens) if _is_number_with_comma(token)}
        self._comma_pieces = {self._tokens[index] for index in self._with_comma}
        self._has_comma = "," in self._index

    @property
    def do_lower_case(self) -> bool:
        """Return whether all but special tokens are lowered."""
        return self.lower_case

    def _config(self) -> dict[str, Any]:
        names = ("do_lower_case", "remove_space", "keep_accents")
        return {name: getattr(self, name) for name in names} | super()._config()

    def _pieces_of(self, saved: SavedUnigram) -> list[Piece]:
        control = (token["content"] for token in saved.added if token.get("special"))
        listed = [
            (text, score + _PENALTY) if score <= -_PENALTY and _is_number_with_comma(text) else (text, score)
            for text, score in saved.vocabulary
        ]
        return kinds(listed, saved.unknown, control)

    # --- text to pieces ---------------------------------------------------------------------------------------------

    def _prepare(self, text: str) -> str:
        if self.lower_case:
            text = lower(text)
        if self.remove_space:
            text = " ".join(text.split())
        text = text.replace("``", '"').replace("''", '"')
        if not self.keep_accents and not text.isascii():
            text = text.translate(_WITHOUT_ACCENTS)
        return text.lower() if self.lower_case else text

    def _traced(self, text: str) -> Traced:
        traced = Traced(text)
        if self.lower_case:
            traced.change(_ANY, lower)
        if self.remove_space:
            traced.change(_SPACES, lambda _: " ")
            traced.cut(len(traced.text) - len(traced.text.lstrip()), len(traced.text.rstrip()))
        traced.change(_QUOTES, lambda _: '"')
        if not self.keep_accents:
            traced.change(_NOT_ASCII, lambda character: character.translate(_WITHOUT_ACCENTS))
        if self.lower_case:
            whole = traced.text.lower()
            traced.change(_ANY, str.lower)
            traced.text = whole  # a sigma at the end of a word is another one than within, of the same length
        return traced

    def _segment_ids(self, text: str) -> list[int]:
        if not self._has_comma:  # a comma may be the end of an unknown piece, which ids do not show
            return super()._segment_ids(text)
        ids = self._split(text, int)
        if self._with_comma.isdisjoint(ids):
            return ids
        return [part for index in ids for part in (self._split_number(index) if index in self._with_comma else [index])]

    def _split_number(self, index: int) -> list[int]:
        if index not in self._split_numbers:
            pieces = self._mended([self._tokens[index]])
            self._split_numbers[index] = self.convert_tokens_to_ids(pieces)
        return self._split_numbers[index]

    def _mended(self, pieces: list[str]) -> list[str]:
        """Return the pieces with each digit and comma in one, as in "2000,", split anew, and the comma alone."""
        if self._has_comma and self._comma_pieces.isdisjoint(pieces):
            return pieces
        mended: list[str] = []
        for piece in pieces:
            if not _is_number_with_comma(piece):
                mended.append(piece)
                continue
            parts: list[str] = self.sp_model.encode(piece[:-1].replace(SPACE, ""), out_type=str)
            if piece[0] != SPACE and parts and parts[0][0] == SPACE:
                parts = parts[1:] if parts[0] == SPACE else [parts[0][1:], *parts[1:]]
            mended += [*parts, ","]
        return mended

    # --- rows -------------------------------------------------------------------------------------------------------

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `A <sep> <cls>`, or `A <sep> B <sep> <cls>`."""
        sep, cls = self._needed("sep_token"), self._needed("cls_token")
        return [*token_ids_0, sep, cls] if token_ids_1 is None else [*token_ids_0, sep, *token_ids_1, sep, cls]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for the first text and its `<sep>`, 1 for the second and its own, 2 for `<cls>`."""
        second = [] if token_ids_1 is None else [_SECOND] * (len(token_ids_1) + 1)
        return [*[_FIRST] * (len(token_ids_0) + 1), *second, _CLS]

    def _special_mask(self, first: int, second: int | None) -> list[int]:
        return [*[0] * first, 1, 1] if second is None else [*[0] * first, 1, *[0] * second, 1, 1]

    # --- ids to text ------------------------------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """Return the text of ids; as in transformers, there are no spaces around added tokens, whatever is asked."""
        return super().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces, False)

    def _standing_alone(self) -> set[str]:
        return set(self._added_ids)


def _is_number_with_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


class _WithoutAccents(dict[int, str]):
    """Character -> what is left of its compatibility form when combining marks are taken out.

    Marks are all that decomposing a whole text could put in another order, so each character may stand by itself.
    """

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFKD", chr(code))
        found = "".join(character for character in decomposed if not unicodedata.combining(character))
        if len(self) < 1 << 16:  # enough for the characters of any language, and a bound
            self[code] = found
        return found


_WITHOUT_ACCENTS = _WithoutAccents()


class XLNetTokenizerFast(FastTokenizer, XLNetTokenizer):
    """The same, with where each token lies: see `FastTokenizer`."""

    single_template = "$A:0 sep_token:0 cls_token:2"
    pair_template = "$A:0 sep_token:0 $B:1 sep_token:1 cls_token:2"

    def _json_vocabulary(self) -> list[tuple[str, float]]:
        return [(t, s - _PENALTY if _is_number_with_comma(t) else s) for t, s in super()._json_vocabulary()]

    def _json_normalizers(self) -> list[dict[str, Any]]:
        steps = [{"type": "Replace", "pattern": {"String": quotes}, "content": '"'} for quotes in ("``", "''")]
        if not self.keep_accents:
            steps += [{"type": "NFKD"}, {"type": "StripAccents"}]
        return steps + ([{"type": "Lowercase"}] if self.lower_case else []) + super()._json_normalizers()
