"""The tokenizers of XLM-RoBERTa and XLM-RoBERTa-XL: SentencePiece, its ids moved up by one (Conneau et al., 2020)."""

import os
from pathlib import Path
from typing import Any, ClassVar

from xlcore.errors import TokenizerError
from xlcore.tokenizers.fairseq_files import check
from xlcore.tokenizers.fast import FastTokenizer
from xlcore.tokenizers.sentencepiece import JSON_FILE, SentencePieceTokenizer
from xlcore.tokenizers.sentencepiece_files import Piece, SavedUnigram, kinds, read

#: What fairseq puts first, and what the model file has in its place.
_FIRST, _MODEL_FIRST = ["<s>", "<pad>", "</s>", "<unk>"], ["<unk>", "<s>", "</s>"]
_UNKNOWN, _MASK = 3, "<mask>"


class XLMRobertaTokenizer(SentencePieceTokenizer):
    """Pieces of words, for XLM-RoBERTa and XLM-RoBERTa-XL: `<s> A </s>`, or `<s> A </s></s> B </s>`.

    Args:
        vocab_file: the model, `sentencepiece.bpe.model`; despite its name it is a unigram model.
        model_max_length: the length of texts that the released models take, 512.
        sp_model_kwargs: options of the library sentencepiece.
        tokenizer_file: a `tokenizer.json`, where there is no model.

    Raises:
        TokenizerError: for a file that is no model, or whose first pieces are not those of the family.
    """

    vocab_files: ClassVar[dict[str, str]] = {"sentencepiece.bpe.model": "vocab_file", JSON_FILE: "tokenizer_file"}
    model_file = "sentencepiece.bpe.model"
    model_input_names = ("input_ids", "attention_mask")

    def __init__(
        self,
        vocab_file: Any = None,
        bos_token: Any = "<s>",
        eos_token: Any = "</s>",
        sep_token: Any = "</s>",
        cls_token: Any = "<s>",
        unk_token: Any = "<unk>",
        pad_token: Any = "<pad>",
        mask_token: Any = _MASK,
        *,
        model_max_length: int | None = 512,
        **kwargs: Any,
    ):
        tokens = {"bos_token": bos_token, "eos_token": eos_token, "sep_token": sep_token, "cls_token": cls_token}
        tokens |= {"unk_token": unk_token, "pad_token": pad_token, "mask_token": mask_token}
        super().__init__(vocab_file, model_max_length=model_max_length, **tokens, **kwargs)

    def _tokens_of(self, pieces: list[str]) -> list[str]:
        if pieces[:3] != _MODEL_FIRST:
            first = ", ".join(map(repr, pieces[:3]))
            raise TokenizerError(f"{self._source}: the first pieces must be <unk>, <s>, </s>, got {first}")
        return [*_FIRST, *pieces[3:], _MASK]

    def _load(self) -> None:
        super()._load()
        self._index[_MASK] = len(self._tokens) - 1  # the family's own, should the model have such a piece, too

    def _pieces_of(self, saved: SavedUnigram) -> list[Piece]:
        texts = [text for text, _ in saved.vocabulary]
        if texts[:4] != _FIRST or texts[-1] != _MASK:
            first = ", ".join(map(repr, [*texts[:4], "...", *texts[-1:]]))
            raise TokenizerError(f"{self._source}: vocab must be <s>, <pad>, </s>, <unk>, ..., <mask>, got {first}")
        listed = [(text, 0.0) for text in _MODEL_FIRST] + saved.vocabulary[4:-1]
        return kinds(listed, 0, _MODEL_FIRST)

    def check_dictionary(self, path: str | os.PathLike[str]) -> int:
        """Hold a `dict.txt` of fairseq against the model, and return how many symbols it comes to, `<mask>` included.

        Raises TokenizerError at the first line with another piece than the model's, and where `<mask>` has another id.
        """
        return check(read(Path(path)), self._tokens[4:-1], str(path))

    # --- text to ids ------------------------------------------------------------------------------------------------

    def _segment_ids(self, text: str) -> list[int]:
        return [index + 1 if index else _UNKNOWN for index in self._split(text, int)]

    # --- rows -------------------------------------------------------------------------------------------------------

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `<s> A </s>`, or `<s> A </s></s> B </s>`."""
        cls, sep = self._needed("cls_token"), self._needed("sep_token")
        first = [cls, *token_ids_0, sep]
        return first if token_ids_1 is None else [*first, sep, *token_ids_1, sep]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for each token: the family has one type."""
        return [0] * (len(token_ids_0) + 2 + (0 if token_ids_1 is None else len(token_ids_1) + 2))

    def _special_mask(self, first: int, second: int | None) -> list[int]:
        return [1, *[0] * first, 1] + ([] if second is None else [1, *[0] * second, 1])


class XLMRobertaTokenizerFast(FastTokenizer, XLMRobertaTokenizer):
    """The same, with where each token lies: see `FastTokenizer`."""

    single_template = "cls_token $A sep_token"
    pair_template = "cls_token $A sep_token sep_token $B sep_token"

    def _json_vocabulary(self) -> list[tuple[str, float]]:
        scores = [0.0] * 4 + [score for _, score in super()._json_vocabulary()[3:]] + [0.0]
        return list(zip(self._tokens, scores, strict=True))
