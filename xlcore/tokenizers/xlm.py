"""The tokenizer of XLM (Lample and Conneau, 2019): Moses words, lower-cased, without accents, in byte pairs."""

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlcore.errors import FormatError, TokenizerError
from xlcore.files import write_text
from xlcore.tokenizers.base import Tokenizer
from xlcore.tokenizers.bpe import END, BytePairs
from xlcore.tokenizers.punctuation import PunctuationNormalizer
from xlcore.tokenizers.segmenters import moses_rules, segmenter
from xlcore.tokenizers.words import MosesTokenizer
from xlcore.tokenizers.xlm_files import RESERVED, read_merges, read_vocabulary

log = logging.getLogger(__name__)

_MAX_KEPT = 1 << 17
_STOPS = re.compile(r"[。．]\s*")
_PUNCTUATION = str.maketrans(
    dict(
        zip(
            "，、”“∶：？《》）！（；」「～’━〈〉【】％０１２３４５６７８９",
            ',,""::?"")!(;""~\'-<>[]%0123456789',
            strict=True,
        )
    )
    | {"…": "..."}
)
_ROMANIAN = str.maketrans("ŞȘşșŢȚţțĂăÂâÎî", "SSssTTttAaAaIi")


class _Without(dict[int, int | str | None]):
    """A table for `str.translate` that leaves out categories of characters, and learns each one when it meets it."""

    def __init__(self, category: str, instead: str | None = None):
        super().__init__()
        self._category, self._instead = category, instead

    def __missing__(self, code: int) -> int | str | None:
        found = unicodedata.category(chr(code)).startswith(self._category)
        return self.setdefault(code, self._instead if found else code)


class XLMTokenizer(Tokenizer):
    """Text to ids of XLM and back: `<s> A </s>`, `<s> A </s> B </s>`.

    Args:
        vocab_file: `vocab.json`; a fastBPE vocabulary, or an original `.pth`, whose dictionary is read.
        merges_file: `merges.txt`, or the original's `codes`.
        lang2id, id2lang: numbers of the languages; information only, as in the original.
        do_lowercase_and_remove_accent: lower-case words and take their accents, after they are split.
        split_unknown: split pieces that the vocabulary lacks again, as fastBPE does with a vocabulary. False gives them
            `<unk>`, as transformers does.
        lowercase_first: lower-case before words are split, as transformers 4 does; a full stop within a text is then
            never split off.
        control: what becomes of control characters, line ends and tabs among them: "delete" joins the words beside
            them, as transformers does; "space" keeps them apart.
        segmenters: language -> a function from text to words, in place of jieba (zh), KyTea (ja) and PyThaiNLP (th).

    The original puts `</s>` before a text, too: `bos_token="</s>"` does that.

    Calls take `lang` ("en" if not given), whose rules split the text, and `bypass_tokenizer`, for text whose words
    stand between spaces already.
    """

    vocab_files = {"vocab.json": "vocab_file", "vocab": "vocab_file"}
    model_input_names = ("input_ids", "attention_mask")
    truncation_empties = True

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        merges_file: str | os.PathLike[str],
        unk_token: Any = "<unk>",
        bos_token: Any = "<s>",
        sep_token: Any = "</s>",
        pad_token: Any = "<pad>",
        cls_token: Any = "</s>",
        mask_token: Any = "<special1>",
        additional_special_tokens: Sequence[Any] | None = RESERVED[4:],
        lang2id: Mapping[str, int] | None = None,
        id2lang: Mapping[Any, str] | None = None,
        do_lowercase_and_remove_accent: bool | str = True,
        *,
        split_unknown: bool = False,
        lowercase_first: bool = False,
        control: str = "delete",
        segmenters: Mapping[str, Callable[[str], Sequence[str]]] | None = None,
        clean_up_tokenization_spaces: bool = False,
        **kwargs: Any,
    ):
        if control not in ("delete", "space"):
            raise TokenizerError(f"{self._where}: control must be 'delete' or 'space', got {control!r}")
        self.encoder = read_vocabulary(vocab_file)
        self.decoder = {index: token for token, index in self.encoder.items()}
        self.merges = read_merges(merges_file)
        self.split_unknown, self.lowercase_first, self.control = split_unknown, lowercase_first, control
        self.do_lowercase_and_remove_accent = str(do_lowercase_and_remove_accent).lower() == "true"
        self.lower_case = self.do_lowercase_and_remove_accent  # added tokens are found in any case
        self.lower_special = lowercase_first
        self.lang2id = None if lang2id is None else dict(lang2id)
        self.id2lang = None if id2lang is None else {int(index): str(name) for index, name in id2lang.items()}
        self._pairs = BytePairs(self.merges, self.encoder if split_unknown else None)
        self._given, self._found = dict(segmenters or {}), dict[str, Callable[[str], Sequence[str]]]()
        self._without_control = _Without("C", " " if control == "space" else None)
        self._without_marks = _Without("Mn")
        self._moses: dict[str, MosesTokenizer] = {}
        self._lowered: dict[str, list[str]] = {}
        self._as_is: dict[str, list[str]] = {}
        roles = {"unk_token": unk_token, "bos_token": bos_token, "sep_token": sep_token, "pad_token": pad_token}
        roles |= {"cls_token": cls_token, "mask_token": mask_token}
        super().__init__(
            additional_special_tokens=additional_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **roles,
            **kwargs,
        )

    # --- vocabulary -------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Return the size of the vocabulary without added tokens."""
        return len(self.encoder)

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id of the vocabulary and the added tokens."""
        return self.encoder | self.added_tokens_encoder

    def _vocabulary_id(self, token: str) -> int | None:
        return self.encoder.get(token)

    def _vocabulary_token(self, index: int) -> str:
        return self.decoder.get(index, self.unk_token or "")

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join pieces to words, with a space between; the spaces that Moses put in stay."""
        return "".join(tokens).replace(END, " ").strip()

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `vocab.json` and `merges.txt` into a folder and return their paths."""
        folder, prefix = Path(save_directory), f"{filename_prefix}-" if filename_prefix else ""
        if not folder.is_dir():
            raise FormatError(f"{folder}: must be a folder to save a vocabulary in, got none")
        vocabulary = json.dumps(self.encoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        merges = "".join(f"{left} {right}\n" for left, right in self.merges)
        return (
            write_text(folder / f"{prefix}vocab.json", vocabulary),
            write_text(folder / f"{prefix}merges.txt", merges),
        )

    @classmethod
    def _vocabulary_arguments(cls, folder: Path, given: Mapping[str, Any]) -> dict[str, str]:
        found = super()._vocabulary_arguments(folder, given)
        if "merges_file" in given:
            return found
        for name in ("merges.txt", "codes"):
            if (folder / name).is_file():
                return found | {"merges_file": str(folder / name)}
        raise FormatError(f"{folder}: a {cls.__name__} must have one of merges.txt, codes, got none")

    def _config(self) -> dict[str, Any]:
        names = ("do_lowercase_and_remove_accent", "split_unknown", "lowercase_first", "control", "lang2id", "id2lang")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    # --- text to tokens ---------------------------------------------------------------------------------------------

    def tokenize(
        self, text: str, *, lang: str | None = None, bypass_tokenizer: bool = False, **options: Any
    ) -> list[str]:
        """Split a text into pieces.

        lang: whose rules split words; "zh", "ja" and "th" need a library of their own. bypass_tokenizer: words stand
        between spaces already, and are not lower-cased.
        """
        self._refuse(options)
        if lang is not None and self.lang2id and lang not in self.lang2id:
            log.warning("%s: lang should be one of %s, got %r", self._where, ", ".join(self.lang2id), lang)
        tokens: list[str] = []
        for start, end, added in self._split_added(text):
            if added is not None:
                tokens.append(added.content)
            elif bypass_tokenizer:
                tokens += self._pieces(text[start:end].split(), lowered=False)
            else:
                tokens += self._pieces(self._words(text[start:end], lang or "en"), self.lower_case)
        return tokens

    def _tokenize(self, text: str) -> list[str]:
        return self._pieces(self._words(text, "en"), self.lower_case)

    def _words(self, text: str, lang: str) -> Sequence[str]:
        """Split a stretch of text into words."""
        if self.lowercase_first and self.lower_case:
            text = text.lower()
        if lang == "zh":
            return self._prepared(" ".join(self._segmenter(lang)(text)), lang).split()
        text = self._prepared(text, lang)
        if lang in ("ja", "th"):
            return self._segmenter(lang)(text)
        if lang == "ro":
            text = text.translate(_ROMANIAN)
        if lang not in self._moses:
            self._moses[lang] = MosesTokenizer(lang, **moses_rules(lang))
        return self._moses[lang](text)

    def _prepared(self, text: str, lang: str) -> str:
        """Bring punctuation to one form, and take out control characters."""
        if not text.isascii():
            text = _STOPS.sub(". ", text).translate(_PUNCTUATION)
        text = PunctuationNormalizer(lang)(text)
        return text if text.isascii() and text.isprintable() else text.translate(self._without_control)

    def _segmenter(self, lang: str) -> Callable[[str], Sequence[str]]:
        if lang in self._given:
            return self._given[lang]
        if lang not in self._found:
            self._found[lang] = segmenter(lang)
        return self._found[lang]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_found": {}}  # what libraries made cannot travel, and is made anew

    def _pieces(self, words: Sequence[str], lowered: bool) -> list[str]:
        """Return the pieces of words; what a word becomes is worked out once and kept."""
        kept = self._lowered if lowered else self._as_is
        pieces: list[str] = []
        for word in words:
            found = kept.get(word)
            if found is None:
                if len(kept) > _MAX_KEPT:
                    kept.clear()
                plain = self._without_accents(word) if lowered else word
                found = kept[word] = [piece for part in plain.split() for piece in self._pairs(part)]
            pieces += found
        return pieces

    def _without_accents(self, word: str) -> str:
        word = word.lower()
        if word.isascii():
            return word
        return unicodedata.normalize("NFD", word).translate(self._without_marks).lower()

    # --- special tokens ---------------------------------------------------------------------------------------------

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return `<s> A </s>`, or `<s> A </s> B </s>`."""
        start, end = [self._role_id("bos_token")], [self._role_id("sep_token")]
        return [*start, *token_ids_0, *end] + ([] if token_ids_1 is None else [*token_ids_1, *end])

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return 0 for the first text with `<s>` and `</s>`, 1 for the second with its `</s>`."""
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))

    def _special_mask(self, first: int, second: int | None) -> list[int]:
        return [1, *[0] * first, 1] + ([] if second is None else [*[0] * second, 1])

    def _role_id(self, role: str) -> int:
        found: int | None = getattr(self, f"{role}_id")
        if found is None:
            raise TokenizerError(f"{self._where}: {role} must be set to build inputs, got none")
        return found
