"""The base of all tokenizers: text to ids and back, alone, in pairs and in batches; folders in and out.

The API is the one that users of transformers 4.34 know. A family's tokenizer says how a stretch of text is split
(`_tokenize`), what its vocabulary is, and which special tokens stand around a text or a pair.
"""

import inspect
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from xlcore.errors import FormatError, TokenizerError, did_you_mean
from xlcore.files import made_folder, read_object, write_json
from xlcore.tokenizers.added import EXTRA, ROLES, AddedToken
from xlcore.tokenizers.batch import require_sides
from xlcore.tokenizers.calls import ARGUMENTS, Calls, Span

#: What English text looks like after the spaces that a tokenizer put in are taken out, in this order.
_CLEAN_UP = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"]

_SAVED = ["model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces"]

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"


class Tokenizer(Calls):
    """Text to ids and back. See the family's tokenizer for what its texts look like.

    model_max_length: the length to which texts are cut where no `max_length` is given. padding_side, truncation_side:
    "left" or "right". model_input_names: what a call returns without being asked (`input_ids` comes first).
    clean_up_tokenization_spaces: whether `decode` takes out spaces before punctuation. added_tokens_decoder: id ->
    added token, as a folder has them. Special tokens (`pad_token=`, ...) that the vocabulary lacks are added to it.
    """

    #: Names of the files in which a vocabulary may lie, the one to prefer first -> the constructor's argument.
    vocab_files: ClassVar[dict[str, str]] = {}
    model_input_names: Sequence[str] = ("input_ids", "token_type_ids", "attention_mask")
    padding_side = "right"
    truncation_side = "right"
    pad_token_type_id = 0
    is_fast = False  # whether a call tells where tokens come from

    def __init__(
        self,
        *,
        model_max_length: int | None = None,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        model_input_names: Sequence[str] | None = None,
        clean_up_tokenization_spaces: bool = True,
        added_tokens_decoder: Mapping[Any, Any] | None = None,
        **special_tokens: Any,
    ):
        super().__init__()
        self.model_max_length = int(1e30) if model_max_length is None else model_max_length
        self.padding_side = padding_side or self.padding_side
        self.truncation_side = truncation_side or self.truncation_side
        require_sides(self._where, self.padding_side, self.truncation_side)
        self.model_input_names = list(model_input_names or self.model_input_names)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.extra_config: dict[str, Any] = {}
        for index, token in (added_tokens_decoder or {}).items():
            self._add_at(int(index), AddedToken.of(token, f"{self._where}: an added token"))
        self._add_special(special_tokens, saved=added_tokens_decoder is not None)

    def _add_special(self, tokens: Mapping[str, Any], saved: bool) -> None:
        """Take the special tokens of the constructor; where one is added already, it keeps how it was added.

        saved: all added tokens are known. A role may then be that of a plain word, which texts must not be split at.
        """
        for role, value in tokens.items():
            if role not in (*ROLES, EXTRA):
                arguments = [*self._arguments(), *ROLES, EXTRA]
                raise TokenizerError(f"{self._where}: unknown argument {role!r}{did_you_mean(role, arguments)}")
            if value is not None and role != EXTRA:
                token = AddedToken.of(value, f"{self._where}: {role}", normalized=False)
                if saved and token.content not in self._added_ids and self._vocabulary_id(token.content) is not None:
                    self._set_role(role, token)
                else:
                    self.add_special_tokens({role: self._as_added(value, token)})
        if tokens.get(EXTRA):
            values = tokens[EXTRA]
            values = [self._as_added(value, value) for value in values] if isinstance(values, list | tuple) else values
            self.add_special_tokens({EXTRA: values})

    def _as_added(self, value: Any, otherwise: Any) -> Any:
        return self._added.get(self._added_ids.get(value, -1), otherwise) if isinstance(value, str) else otherwise

    def _add_at(self, index: int, token: AddedToken) -> None:
        """Add a token of a saved tokenizer under its old id."""
        known = self._vocabulary_id(token.content)
        if (known is None and index < self.vocab_size) or known not in (None, index):
            raise FormatError(
                f"{self._where}: added token {token.content!r} must have an id of its own, got {index}, which is taken "
                f"in a vocabulary of {self.vocab_size}; is the vocabulary another than the one it was saved with?"
            )
        self._register(index, token)

    @classmethod
    def _arguments(cls) -> list[str]:
        """Return the names of the constructor's arguments, of this class and its bases."""
        found: list[str] = []
        for base in cls.__mro__:
            if "__init__" in vars(base):
                parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
                found += [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return [name for name in dict.fromkeys(found) if name != "self"]

    # --- what a family says -----------------------------------------------------------------------------------------

    def _tokenize(self, text: str) -> list[str]:
        """Split a stretch of text without added tokens."""
        raise NotImplementedError

    def _tokenize_with_spans(self, text: str) -> tuple[list[str], list[Span | None]]:
        """Split a stretch of text, and say where in it each token lies."""
        raise TokenizerError(
            f"{self._where}: return_offsets_mapping must be False, got True; offsets are not known here"
        )

    def _unknown_id(self, token: str) -> int:
        """Return the id of a token that the vocabulary lacks."""
        found = self.unk_token_id
        if found is None:
            raise TokenizerError(f"{self._where}: {token!r} must be in the vocabulary, got none and no unk_token")
        return found

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Return the size of the vocabulary without added tokens."""
        raise NotImplementedError

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id of the vocabulary and the added tokens."""
        raise NotImplementedError

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary into a folder and return the paths of its files."""
        raise NotImplementedError

    def _config(self) -> dict[str, Any]:
        """Return the family's own arguments, as `tokenizer_config.json` keeps them."""
        return {}

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens to text."""
        return " ".join(tokens)

    # --- vocabulary -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.vocab_size + sum(index >= self.vocab_size for index in self._added)

    def __repr__(self) -> str:
        special = self.special_tokens_map
        return f"{self._where}(vocab_size={self.vocab_size}, added={len(self) - self.vocab_size}, special={special})"

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the list of ids of a list; unknown tokens have the id of `unk_token`."""
        if tokens is None:
            return None
        if isinstance(tokens, str):
            found = self._id_of(tokens)
            return self._unknown_id(tokens) if found is None else found
        return [self._unknown_id(t) if (i := self._id_of(t)) is None else i for t in tokens]

    def _token_of(self, index: int) -> str:
        if index in self._added:
            return self._added[index].content
        if not 0 <= index < self.vocab_size:
            raise TokenizerError(f"{self._where}: an id must be from 0 to {len(self) - 1}, got {index}")
        return self._vocabulary_token(index)

    def _vocabulary_token(self, index: int) -> str:
        """Return the token of the vocabulary that has an id."""
        raise NotImplementedError

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the list of tokens of a list. Raises TokenizerError for ids outside."""
        if isinstance(ids, int):
            return self._token_of(ids)
        skipped = self._is_special() if skip_special_tokens else ()
        return [self._token_of(index) for index in map(int, ids) if index not in skipped]

    # --- text to tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """Split a text into tokens; added tokens are found first, anywhere in it."""
        self._refuse(options)
        tokens: list[str] = []
        for start, end, added in self._split_added(text):
            if added is None:
                tokens += self._tokenize(text[start:end])
            else:
                tokens.append(added.content)
        return tokens

    def tokenize_with_offsets(self, text: str, **options: Any) -> tuple[list[str], list[Span | None]]:
        """Split a text, and say where each token lies in it: (start, end), or None where that cannot be told."""
        self._refuse(options)
        tokens: list[str] = []
        spans: list[Span | None] = []
        for start, end, added in self._split_added(text):
            if added is not None:
                tokens.append(added.content)
                spans.append((start, end))
                continue
            found, places = self._tokenize_with_spans(text[start:end])
            tokens += found
            spans += [place and (place[0] + start, place[1] + start) for place in places]
        return tokens, spans

    def _refuse(self, options: Mapping[str, Any]) -> None:
        for name in options:
            raise TokenizerError(f"{self._where}: unknown argument {name!r}{did_you_mean(name, ARGUMENTS)}")

    # --- ids to text ------------------------------------------------------------------------------------------------

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """Return the text of ids: a list, an array, a tensor, or one id.

        clean_up_tokenization_spaces: take out the spaces before punctuation (default: the attribute of that name).
        spaces_between_special_tokens: put a space around added tokens.
        """
        tokens = self.convert_ids_to_tokens(self._listed(token_ids), skip_special_tokens)
        alone = self._standing_alone()
        parts: list[str] = []
        run: list[str] = []
        if alone.isdisjoint(tokens):  # one run, as most are
            parts, tokens = [self.convert_tokens_to_string(tokens)], []
        for token in [*tokens, None]:
            if token is not None and token not in alone:
                run.append(token)
                continue
            if run and (text := self.convert_tokens_to_string(run)):
                parts.append(text)
            parts += [] if token is None else [token]
            run = []
        text = (" " if spaces_between_special_tokens else "").join(parts)
        wanted = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        return self.clean_up_tokenization(text) if wanted else text

    def _listed(self, token_ids: Any) -> list[int]:
        """Return ids as a list. Raises TokenizerError for anything else."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        try:
            return [operator.index(each) for each in ([ids] if isinstance(ids, int) else ids)]
        except TypeError:
            what = "token_ids must be an id or a list of ids"
            raise TokenizerError(f"{self._where}: {what}, got {token_ids!r:.60}") from None

    def _standing_alone(self) -> set[str]:
        """Return the tokens that are not joined to those beside them: added, and not special or new."""
        special = {token.content for token in self._roles.values()}
        extra = {token.content for token in self._extra}
        return {
            token.content
            for index, token in self._added.items()
            if token.content not in special and (token.content not in extra or index >= self.vocab_size)
        }

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Return the text of each list of ids; arguments as for `decode`."""
        return [self.decode(ids, **kwargs) for ids in sequences]

    @staticmethod
    def clean_up_tokenization(out_string: str) -> str:
        """Return an English text without the spaces that a tokenizer put before punctuation and contractions."""
        for spaced in _CLEAN_UP:
            out_string = out_string.replace(spaced, spaced.strip())
        return out_string

    # --- folders ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Return the tokenizer that a folder holds; `kwargs` go before what its files say.

        Raises FormatError for a folder without a vocabulary, or with files that are not what they should be.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            raise FormatError(f"{cls.__name__}: {str(folder)!r} must be a folder, got none; download it first")
        config = cls._read_config(folder)
        given = cls._vocabulary_arguments(folder, kwargs)
        known = cls._arguments()
        arguments = {key: value for key, value in config.items() if key in (*known, *ROLES, EXTRA)}
        tokenizer = cls(
            **({key: v for key, v in arguments.items() if key not in cls.vocab_files.values()} | given | kwargs)
        )
        written = (*arguments, "tokenizer_class")
        tokenizer.extra_config = {key: value for key, value in config.items() if key not in written}
        if "added_tokens_decoder" not in config:
            tokenizer._add_saved(read_object(folder / ADDED_FILE))
        return tokenizer

    @classmethod
    def _read_config(cls, folder: Path) -> dict[str, Any]:
        """Return what the files of a folder say beside its vocabulary."""
        return read_object(folder / CONFIG_FILE) | read_object(folder / SPECIAL_FILE)

    @classmethod
    def _vocabulary_arguments(cls, folder: Path, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the argument that names the best vocabulary file of a folder."""
        if any(argument in given for argument in cls.vocab_files.values()):
            return {}
        for name, argument in cls.vocab_files.items():
            if (folder / name).is_file():
                return {argument: str(folder / name)}
        raise FormatError(f"{folder}: a {cls.__name__} must have one of {', '.join(cls.vocab_files)}, got none")

    def _add_saved(self, added: Mapping[str, Any]) -> None:
        """Add the tokens of `added_tokens.json`, as folders before 4.34 have them."""
        special = set(self.all_special_tokens)
        for content, index in sorted(added.items(), key=lambda entry: entry[1]):
            if content not in self._added_ids:
                is_special = content in special
                self._add_at(index, AddedToken(content, normalized=not is_special, special=is_special))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the tokenizer into a folder, each file whole or not at all, and return their paths."""
        folder = made_folder(save_directory)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        added = {str(index): token.to_json() for index, token in self.added_tokens_decoder.items()}
        config = self.extra_config | self._config() | self.special_tokens_map
        config |= {name: getattr(self, name) for name in _SAVED} | {"added_tokens_decoder": added}
        config["tokenizer_class"] = type(self).__name__.removesuffix("Fast")
        return (
            write_json(folder / f"{prefix}{CONFIG_FILE}", config),
            write_json(folder / f"{prefix}{SPECIAL_FILE}", self.special_tokens_map),
            write_json(folder / f"{prefix}{ADDED_FILE}", self.get_added_vocab()),
            *self.save_vocabulary(str(folder), filename_prefix),
        )
