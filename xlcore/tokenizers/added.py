"""Tokens that stand beside a vocabulary: added ones, and those with a role (`pad_token`, `eos_token`, ...)."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from xlcore.errors import TokenizerError, did_you_mean

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = "additional_special_tokens"


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the text is split.

    content: the token. lstrip, rstrip: it takes the white space on its left, right, with it. single_word: it is not
    found inside a word. normalized: it is found in the lower-cased text, where the tokenizer lower-cases. special: it
    is left out by `skip_special_tokens`.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    def __str__(self) -> str:
        return self.content

    def to_json(self) -> dict[str, Any]:
        """Return the fields as `tokenizer_config.json` has them."""
        return asdict(self)

    @classmethod
    def of(cls, value: object, where: str, **defaults: bool) -> "AddedToken":
        """Return the token that a string, a token or its JSON form stands for. Raises TokenizerError for others."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value, **defaults)
        if isinstance(value, Mapping) and isinstance(value.get("content"), str):
            return cls(**{key: value[key] for key in cls.__dataclass_fields__ if key in value})
        raise TokenizerError(f"{where} must be a string or an AddedToken, got {value!r:.60}")


class Splitter:
    """Find added tokens in a text: leftmost first, the longest where several start.

    lower_case: find them in any case; lower_special: special ones, too.
    """

    def __init__(self, tokens: Iterable[AddedToken], lower_case: bool = False, lower_special: bool = True):
        self._tokens = sorted(tokens, key=lambda token: -len(token.content))
        lowered = {True: lower_case and lower_special, False: lower_case}
        patterns = (f"({self._pattern(token, lowered[token.special])})" for token in self._tokens)
        self._regex = re.compile("|".join(patterns)) if self._tokens else None
        firsts = {first for token in self._tokens for first in (token.content[0].lower(), token.content[0].upper())}
        # where all tokens start with one sign, a text without it is done at once
        self._first = firsts.pop() if len(firsts) == 1 else ""

    @staticmethod
    def _pattern(token: AddedToken, lower_case: bool) -> str:
        found = re.escape(token.content)
        if lower_case and token.content == token.content.lower():
            found = f"(?i:{found})"  # the text is lowered before tokens are looked for, but for those with capitals
        return rf"(?<!\w){found}(?!\w)" if token.single_word else found

    def split(self, text: str) -> Iterator[tuple[int, int, AddedToken | None]]:
        """Yield start, end and token for each added token, and with None for each stretch between."""
        start = 0
        if self._regex is not None and self._first in text:
            for match in self._regex.finditer(text):
                token = self._tokens[(match.lastindex or 1) - 1]
                end = match.start()
                if token.lstrip:
                    end = len(text[:end].rstrip()) if text[end - 1 : end].isspace() else end
                if start < end:
                    yield start, end, None
                yield match.start(), match.end(), token
                start = match.end()
                if token.rstrip:
                    start = len(text) - len(text[start:].lstrip()) if text[start : start + 1].isspace() else start
        if start < len(text):
            yield start, len(text), None


class _Role:
    """A special token as an attribute: read as a string, set to a token of the vocabulary."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: "SpecialTokens", owner: type | None = None) -> str | None:
        token = tokenizer._roles.get(self.name)
        return None if token is None else token.content

    def __set__(self, tokenizer: "SpecialTokens", value: str | AddedToken | None) -> None:
        tokenizer._set_role(self.name, value)


class _RoleId:
    """The id of a special token as an attribute, None where there is no such token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: "SpecialTokens", owner: type | None = None) -> int | None:
        token = tokenizer._roles.get(self.name)
        return None if token is None else tokenizer._id_of(token.content)

    def __set__(self, tokenizer: "SpecialTokens", value: int | None) -> None:
        tokenizer._set_role(self.name, None if value is None else tokenizer._token_of(value))


class SpecialTokens:
    """The added and the special tokens of a tokenizer; a base of `Tokenizer`, which knows the vocabulary."""

    bos_token, eos_token, unk_token, sep_token = _Role(), _Role(), _Role(), _Role()
    pad_token, cls_token, mask_token = _Role(), _Role(), _Role()
    bos_token_id, eos_token_id, unk_token_id, sep_token_id = _RoleId(), _RoleId(), _RoleId(), _RoleId()
    pad_token_id, cls_token_id, mask_token_id = _RoleId(), _RoleId(), _RoleId()

    lower_case = False
    lower_special = True
    vocab_size: int

    def __init__(self) -> None:
        self._roles: dict[str, AddedToken] = {}
        self._extra: list[AddedToken] = []
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self._splitter: Splitter | None = None
        self._kept: dict[str, Any] = {}  # what was worked out from special tokens, until one of them changes

    # what Tokenizer knows

    def _vocabulary_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None for others."""
        raise NotImplementedError

    def _id_of(self, token: str) -> int | None:
        found = self._added_ids.get(token)
        return self._vocabulary_id(token) if found is None else found

    def _token_of(self, index: int) -> str:
        raise NotImplementedError

    @property
    def _where(self) -> str:
        return type(self).__name__

    # special tokens

    def _set_role(self, role: str, value: object) -> None:
        self._kept.clear()
        if value is None:
            self._roles.pop(role, None)
            return
        token = replace(AddedToken.of(value, f"{self._where}: {role}", normalized=False), special=True)
        if self._id_of(token.content) is None:
            raise TokenizerError(
                f"{self._where}: {role} must be in the vocabulary, got {token.content!r}; "
                f"add it with add_special_tokens({{{role!r}: {token.content!r}}})"
            )
        self._roles[role] = token

    @property
    def additional_special_tokens(self) -> list[str]:
        """Return the special tokens that have no role of their own."""
        return [token.content for token in self._extra]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken]) -> None:
        self.add_special_tokens({EXTRA: list(tokens)})

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Return their ids."""
        return [self._known_id(token.content) for token in self._extra]

    def _known_id(self, token: str) -> int:
        found = self._id_of(token)
        assert found is not None  # special tokens are added when they are named
        return found

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """Return role -> token, and the list of those without a role."""
        found: dict[str, Any] = {role: self._roles[role].content for role in ROLES if role in self._roles}
        return found | ({EXTRA: self.additional_special_tokens} if self._extra else {})

    @property
    def all_special_tokens_extended(self) -> list[AddedToken]:
        """Return each special token once, those with a role first."""
        found: dict[str, AddedToken] = {}
        for token in [*(self._roles[role] for role in ROLES if role in self._roles), *self._extra]:
            found.setdefault(token.content, token)
        return list(found.values())

    @property
    def all_special_tokens(self) -> list[str]:
        """Return each special token once, as strings."""
        return [token.content for token in self.all_special_tokens_extended]

    @property
    def all_special_ids(self) -> list[int]:
        """Return the ids of `all_special_tokens`."""
        return [self._known_id(token) for token in self.all_special_tokens]

    def _is_special(self) -> frozenset[int]:
        """Return the same ids, to look ids up in."""
        if "ids" not in self._kept:
            self._kept["ids"] = frozenset(self.all_special_ids)
        return self._kept["ids"]  # type: ignore[no-any-return]

    # adding

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens behind the vocabulary and return how many are new.

        A token of the vocabulary keeps its id, and is from now on found in texts before they are split. Strings take
        the white space around them with them. Raises TokenizerError for what is not a token, or is empty.
        """
        tokens = [new_tokens] if isinstance(new_tokens, str | AddedToken) else list(new_tokens)
        defaults = {"normalized": not special_tokens, "lstrip": True, "rstrip": True}
        count = 0
        for value in tokens:
            token = AddedToken.of(value, f"{self._where}: an added token", **defaults)
            count += self._add(replace(token, special=token.special or special_tokens))
        return count

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Give tokens a role (`{"pad_token": "<pad>"}`), add those that are new, and return how many are."""
        count = 0
        for role, value in special_tokens_dict.items():
            if role == EXTRA:
                count += self._add_extra(value, replace_additional_special_tokens)
            elif role in ROLES:
                token = AddedToken.of(value, f"{self._where}: {role}", normalized=False, lstrip=True, rstrip=True)
                count += self._add(replace(token, special=True))
                self._set_role(role, replace(token, special=True))
            else:
                known = did_you_mean(role, [*ROLES, EXTRA])
                raise TokenizerError(f"{self._where}: a special token must have a known role, got {role!r}{known}")
        return count

    def _add_extra(self, values: object, instead: bool) -> int:
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TokenizerError(f"{self._where}: {EXTRA} must be a list of tokens, got {values!r:.60}")
        where = f"{self._where}: {EXTRA}"
        tokens = [AddedToken.of(value, where, normalized=False, lstrip=True, rstrip=True) for value in values]
        self._kept.clear()
        if instead:
            self._extra = []
        for token in tokens:
            if token.content not in self.additional_special_tokens:
                self._extra.append(replace(token, special=True))
        return sum(self._add(replace(token, special=True)) for token in tokens)

    def _add(self, token: AddedToken) -> int:
        """Register a token; return 1 if it is new, 0 if the vocabulary or an earlier call has it."""
        if self.lower_case and token.normalized and not token.special:
            token = replace(token, content=token.content.lower())
        if not token.content:
            raise TokenizerError(f"{self._where}: an added token must not be empty, got ''")
        found = self._id_of(token.content)
        index = max(self.vocab_size, max(self._added, default=-1) + 1) if found is None else found
        self._register(index, token)
        return int(found is None)

    def _register(self, index: int, token: AddedToken) -> None:
        self._added[index] = token
        self._added_ids[token.content] = index
        self._splitter = None
        self._kept.clear()

    def _renumber_added(self) -> None:
        """Give added tokens their ids anew, after the vocabulary has changed."""
        tokens = [self._added[index] for index in sorted(self._added)]
        self._added, self._added_ids = {}, {}
        self._kept.clear()
        for token in tokens:
            self._add(token)

    def _require_text(self, text: Any) -> None:
        """Refuse what is no string."""
        if not isinstance(text, str):
            raise TokenizerError(f"{self._where}: a text must be a string, got {text!r:.60}")

    def _split_added(self, text: str) -> Iterator[tuple[int, int, AddedToken | None]]:
        self._require_text(text)
        if self._splitter is None:
            self._splitter = Splitter(self._added.values(), self.lower_case, self.lower_special)
        return self._splitter.split(text)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Return id -> token of all tokens that are found before a text is split."""
        return dict(sorted(self._added.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Return token -> id of the same."""
        return {token.content: index for index, token in sorted(self._added.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Return token -> id of the same: added tokens, and special ones that the vocabulary has."""
        return self.added_tokens_encoder
