"""The tokenizer of Transformer-XL: whole words, split by the rules of Moses (Dai et al., 2019; transformers 4.34).

Its vocabulary is read from every file that the family's releases have used (`transfo_xl_files`), and is written as
text or JSON.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from xlcore.errors import TokenizerError
from xlcore.files import write_text
from xlcore.tokenizers import batch
from xlcore.tokenizers.added import AddedToken
from xlcore.tokenizers.base import Tokenizer
from xlcore.tokenizers.calls import Span
from xlcore.tokenizers.punctuation import PunctuationNormalizer
from xlcore.tokenizers.transfo_xl_files import UNKNOWN, Vocabulary, repaired
from xlcore.tokenizers.words import MosesDetokenizer, MosesTokenizer, align, join_numbers, lower


class TransfoXLTokenizer(Tokenizer):
    """Whole words by the rules of Moses, for Transformer-XL.

    Settings that are not given are those of the vocabulary file.

    Args:
        special, min_freq, max_size: how `build_vocab` makes a vocabulary from counts.
        lower_case: lower all but special tokens.
        delimiter: "" splits into characters; others are used with `whitespace=True` only.
        vocab_file: a text file, one symbol a line; it counts if both files are given.
        pretrained_vocab_file: any of the family's files (`vocab.pkl`, `vocab.bin`, `cache.pkl`, `cache.pt`, ...).
        never_split: regular expressions, matched in any case, whose matches stay whole; the special tokens if None.
        language: of the rules of Moses.
        whitespace: split at white space only, for prepared corpora (WikiText, One Billion Word).
        fix_encoding: read symbols anew that are UTF-8 read as latin1 (`cafÃ©`), as in the released vocabulary; ids do
            not change.

    Raises:
        FormatError: for a vocabulary file that is none of these.
    """

    vocab_files: ClassVar[dict[str, str]] = {
        "vocab.txt": "vocab_file",
        "vocab.json": "pretrained_vocab_file",
        "vocab.pkl": "pretrained_vocab_file",
        "vocab.bin": "pretrained_vocab_file",
        "cache.pkl": "pretrained_vocab_file",
        "cache.pt": "pretrained_vocab_file",
        "corpus.bin": "pretrained_vocab_file",
    }
    model_input_names = ("input_ids",)

    def __init__(
        self,
        special: Sequence[str] | None = None,
        min_freq: int | None = None,
        max_size: int | None = None,
        lower_case: bool | None = None,
        delimiter: str | None = None,
        vocab_file: str | os.PathLike[str] | None = None,
        pretrained_vocab_file: str | os.PathLike[str] | None = None,
        never_split: Sequence[str] | None = None,
        unk_token: Any = "<unk>",
        eos_token: Any = "<eos>",
        additional_special_tokens: Sequence[Any] | None = ("<formula>",),
        language: str = "en",
        *,
        whitespace: bool = False,
        fix_encoding: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ):
        path = vocab_file if vocab_file is not None else pretrained_vocab_file
        vocabulary = Vocabulary([]) if path is None else Vocabulary.read(path)
        saved = vocabulary.settings
        self.special = list(special if special is not None else saved.get("special") or [])
        self.min_freq: int = min_freq if min_freq is not None else saved.get("min_freq") or 0
        self.max_size: int | None = max_size if max_size is not None else saved.get("max_size")
        self.lower_case = bool(lower_case if lower_case is not None else saved.get("lower_case"))
        self.delimiter: str | None = delimiter if delimiter is not None else saved.get("delimiter")
        self.counter: Counter[str] = Counter(vocabulary.counts)
        self.language, self.whitespace, self.fix_encoding = language, whitespace, fix_encoding
        self._given_never_split = never_split
        self._set_vocabulary(repaired(vocabulary.symbols) if fix_encoding else vocabulary.symbols, vocabulary.unknown)
        tidy = not whitespace if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        tokens = {
            "unk_token": unk_token,
            "eos_token": eos_token,
            "additional_special_tokens": additional_special_tokens,
        }
        super().__init__(clean_up_tokenization_spaces=tidy, **tokens, **kwargs)
        self._normalize = PunctuationNormalizer(language)
        self._moses = MosesTokenizer(language, hyphens=True, numbers=True, protected=self._protected())
        self._join = MosesDetokenizer(language)

    @property
    def never_split(self) -> list[str]:
        """Return the strings whose matches stay whole."""
        return self.all_special_tokens if self._given_never_split is None else list(self._given_never_split)

    @never_split.setter
    def never_split(self, patterns: Sequence[str] | None) -> None:
        self._given_never_split = patterns
        self._moses.protected = self._protected()

    def _protected(self) -> list[str]:
        # as regular expressions only where the caller wrote them: "[PAD]" would protect every p, a and d
        return [re.escape(token) for token in self.never_split] if self._given_never_split is None else self.never_split

    # --- vocabulary -------------------------------------------------------------------------------------------------

    def _set_vocabulary(self, symbols: list[str], unknown: int | None) -> None:
        self.idx2sym = symbols
        self.sym2idx: dict[str, int] = {}
        for index, symbol in enumerate(symbols):
            self.sym2idx.setdefault(symbol, index)
        self.unk_idx = unknown
        self._behind: dict[str, int] | None = None  # added tokens that the vocabulary lacks

    def _register(self, index: int, token: AddedToken) -> None:
        super()._register(index, token)
        self._behind = None

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Return the size of the vocabulary without added tokens."""
        return len(self.idx2sym)

    @property
    def do_lower_case(self) -> bool:
        """Return `lower_case`, under the name that other tokenizers have for it."""
        return self.lower_case

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id of the vocabulary and the added tokens."""
        return self.sym2idx | self.added_tokens_encoder

    def _vocabulary_id(self, token: str) -> int | None:
        return self.sym2idx.get(token)

    def _vocabulary_token(self, index: int) -> str:
        return self.idx2sym[index]

    def _unknown_id(self, token: str) -> int:
        if self.unk_idx is None:
            raise TokenizerError(
                f"{self._where}: {token!r} must be in the vocabulary, got none and no <unk> or <UNK> that stands for it"
            )
        return self.unk_idx

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the list of ids of a list; unknown tokens have the id of `<unk>`."""
        if tokens is None or isinstance(tokens, str) or self.unk_idx is None:
            return super().convert_tokens_to_ids(tokens)
        unknown = self.unk_idx
        if self._behind is None:
            self._behind = {token: index for token, index in self._added_ids.items() if token not in self.sym2idx}
        known, behind = self.sym2idx.get, self._behind
        ids = [known(token, -1) for token in tokens]
        return (
            [behind.get(token, unknown) if i < 0 else i for i, token in zip(ids, tokens, strict=True)]
            if -1 in ids
            else ids
        )

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write `vocab.txt`, or `vocab.json` where a symbol could not be read back from a line of text.

        save_directory: a folder, or the path of the file to write.
        """
        vocabulary = Vocabulary(self.idx2sym, self.unk_idx)
        text = vocabulary.as_text()
        given = Path(save_directory)
        name = f"{filename_prefix}-vocab" if filename_prefix else "vocab"
        path = given / f"{name}.{'json' if text is None else 'txt'}" if given.is_dir() else given
        if text is not None:
            written = write_text(path, text)
        else:
            # ASCII only: a symbol may hold half a character
            content = {"idx2sym": self.idx2sym, "unk_idx": self.unk_idx}
            path = path.with_suffix(".json")
            written = write_text(path, json.dumps(content, ensure_ascii=True, indent=0) + "\n")
        if given.is_dir():  # what an earlier save left would be read in its place
            (given / f"{name}.{'txt' if text is None else 'json'}").unlink(missing_ok=True)
        return (written,)

    def _config(self) -> dict[str, Any]:
        names = ("special", "min_freq", "max_size", "lower_case", "delimiter", "language", "whitespace")
        return {name: getattr(self, name) for name in names} | {"never_split": self._given_never_split}

    def move_added_token(self, token: str, target_idx: int) -> None:
        """Move an added token into the vocabulary, to an id of its own; all ids from there on grow by one.

        For models that are resized in the middle: a new row in a cluster of the adaptive softmax.
        """
        if token not in self._added_ids or token in self.sym2idx:
            raise TokenizerError(f"{self._where}: the token to move must be an added one, got {token!r}")
        if not 0 <= target_idx <= self.vocab_size:
            raise TokenizerError(f"{self._where}: target_idx must be from 0 to {self.vocab_size}, got {target_idx}")
        unknown = None if self.unk_idx is None else self.unk_idx + (target_idx <= self.unk_idx)
        self._set_vocabulary([*self.idx2sym[:target_idx], token, *self.idx2sym[target_idx:]], unknown)
        self._renumber_added()

    # --- text to tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_eos: bool = False, add_double_eos: bool = False, **options: Any) -> list[str]:
        """Split a text into words.

        add_eos: end it with `eos_token`, as the lines of a corpus. add_double_eos: put `<S>` around it (lm1b).
        """
        tokens = self._split_prepared(text) if self.whitespace else super().tokenize(text, **options)
        return self._with_ends(tokens, add_eos, add_double_eos)

    def tokenize_with_offsets(
        self, text: str, *, add_eos: bool = False, add_double_eos: bool = False, **options: Any
    ) -> tuple[list[str], list[Span | None]]:
        """Split a text into words, and say where each lies in it; the ends that `add_eos` adds have no width."""
        if self.whitespace:
            tokens, spans = self._tokenize_with_spans(text)
        else:
            tokens, spans = super().tokenize_with_offsets(text, **options)
        first: list[Span | None] = [(0, 0)] if add_double_eos else []
        last: list[Span | None] = [(len(text), len(text))] if add_eos or add_double_eos else []
        return self._with_ends(tokens, add_eos, add_double_eos), first + spans + last

    def _with_ends(self, tokens: list[str], add_eos: bool, add_double_eos: bool) -> list[str]:
        end = "<S>" if add_double_eos else self.eos_token if add_eos else None
        if not (add_eos or add_double_eos):
            return tokens
        if end is None or self._id_of(end) is None:
            name = "add_double_eos" if add_double_eos else "add_eos"
            raise TokenizerError(
                f"{self._where}: {name} must have its token in the vocabulary, got no {end or 'eos_token'}"
            )
        return [end, *tokens, end] if add_double_eos else [*tokens, end]

    def _tokenize(self, text: str) -> list[str]:
        text = text.strip()
        if self.lower_case:
            text = lower(text)
        if self.delimiter == "":
            return list(text)
        return self._moses(self._normalize(text))

    def _split_prepared(self, text: str) -> list[str]:
        """Split as the original code does: at white space or the delimiter, and nowhere else."""
        self._require_text(text)
        text = text.strip().lower() if self.lower_case else text.strip()
        return list(text) if self.delimiter == "" else text.split(self.delimiter)

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[Span | None]]:
        tokens = self._split_prepared(text) if self.whitespace else self._tokenize(text)
        if self.delimiter == "":
            start = len(text) - len(text.lstrip())
            same = len(tokens) == len(text.strip())
            return tokens, [(start + place, start + place + 1) if same else None for place in range(len(tokens))]
        if self.whitespace and self.delimiter is None:
            return tokens, [match.span() for match in re.finditer(r"\S+", text)]
        return tokens, list(align(tokens, text, self.lower_case))

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join words to text: by the rules of Moses, or, for prepared corpora, as they were."""
        if self.delimiter == "":
            return "".join(tokens)
        if self.whitespace:
            return (self.delimiter or " ").join(tokens)
        return join_numbers(self._join(tokens)).strip()

    # --- corpora ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_corpus(
        cls,
        sources: Iterable[str | os.PathLike[str]],
        *,
        min_freq: int = 0,
        max_size: int | None = None,
        special: Sequence[str] = ("<eos>", "<unk>"),
        progress: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a tokenizer with the vocabulary of a corpus, by falling frequency, ties as they come.

        sources: texts (str) and files (Path), read line by line. special: symbols that come first. progress: show a
        bar (default: on a terminal). Other arguments go to the constructor (`whitespace=True` for prepared corpora).
        """
        tokenizer = cls(special=special, min_freq=min_freq, max_size=max_size, **kwargs)
        for line in _lines(sources, progress):
            tokenizer.counter.update(tokenizer.tokenize(line))
        tokenizer.build_vocab()
        return tokenizer

    def count_file(self, path: str | os.PathLike[str], verbose: bool = False, add_eos: bool = False) -> list[list[str]]:
        """Count the words of a file for `build_vocab`, and return the words of each line."""
        lines = _lines([Path(path)], None if verbose else False)
        sentences = [self.tokenize(line, add_eos=add_eos) for line in lines]
        self.count_sents(sentences)
        return sentences

    def count_sents(self, sents: Iterable[Iterable[str]]) -> None:
        """Count the words of sentences that are split already."""
        for sentence in sents:
            self.counter.update(sentence)

    def build_vocab(self) -> None:
        """Make the vocabulary anew from the counts: `special` first, then by falling frequency; added tokens follow."""
        counted = (symbol for symbol, count in self.counter.most_common(self.max_size) if count >= self.min_freq)
        symbols = list(dict.fromkeys(chain(self.special, counted)))
        self._set_vocabulary(symbols, next((symbols.index(symbol) for symbol in UNKNOWN if symbol in symbols), None))
        self._renumber_added()

    def encode_file(
        self,
        path: str | os.PathLike[str],
        ordered: bool = False,
        verbose: bool = False,
        add_eos: bool = True,
        add_double_eos: bool = False,
        return_tensors: str = "np",
    ) -> Any:
        """Return the ids of each line of a file as int64 arrays, or of all lines as one (`ordered`)."""
        lines = _lines([Path(path)], None if verbose else False)
        tokens = (self.tokenize(line, add_eos=add_eos, add_double_eos=add_double_eos) for line in lines)
        return self.encode_sents(tokens, ordered, return_tensors=return_tensors)

    def encode_sents(self, sents: Iterable[Sequence[str]], ordered: bool = False, return_tensors: str = "np") -> Any:
        """Return the ids of sentences that are split already, as `encode_file` does."""
        make = batch.tensor_maker(return_tensors)
        rows = [np.array(self.convert_tokens_to_ids(sentence), dtype=np.int64) for sentence in sents]
        if ordered:
            return make(np.concatenate(rows) if rows else np.empty(0, np.int64))
        return [make(row) for row in rows]


def _lines(sources: Iterable[str | os.PathLike[str]], progress: bool | None) -> Iterator[str]:
    """Yield the lines of texts and files, with a bar on a terminal, or as `progress` says."""
    from tqdm import tqdm  # here, so that importing xlcore needs numpy alone

    with tqdm(unit=" lines", disable=None if progress is None else not progress) as shown:
        for source in sources:
            for line in _lines_of(source):
                shown.update()
                yield line


def _lines_of(source: str | os.PathLike[str]) -> Iterator[str]:
    if isinstance(source, str):
        yield from source.split("\n")
        return
    with Path(source).open(encoding="utf-8") as file:
        yield from file
