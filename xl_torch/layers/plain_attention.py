"""Attention by content alone (Vaswani et al., 2017): its layer, and who sees what."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xl_torch.checks import require_ids
from xl_torch.layers.attention import attend, by_head, relative_shift
from xl_torch.layers.basic import linear, parameter
from xlcore.errors import ConfigError
from xlcore.heads import ENCODED, SOURCE

Maybe = Tensor | None


class Seen(NamedTuple):
    """Which keys [S] queries see: every query at least one."""

    visible: Maybe  # [T, S] or [B, 1, 1 or T, S], true for those that are seen; None if all are
    sees: Maybe = None  # [B, 1 or T, 1, 1], zero for a query to which a mask leaves no key; None if each has some


class Source(NamedTuple):
    """What a decoder reads of an encoder."""

    states: Maybe  # [B, M, D]; None if keys and values of them are known
    visible: Maybe  # [B, 1, 1 or T, M], true for those that count; None if all do
    sees: Maybe = None  # as in `Seen`


class PlainAttention(nn.Module):
    """Attention with several heads (Vaswani et al., 2017, section 3.2.2), of which some may be taken out.

    Args:
        kept: the heads that there are, by the numbers that they had at first.
        distances: scores keys by how far they stand behind their query, too; None if nothing does.
    """

    def __init__(self, config: Any, kept: list[int], distances: "DistanceScores | None" = None) -> None:
        super().__init__()
        D, N, H = config.hidden_size, len(kept), config.head_dim
        self.heads, self.kept, self.distances = (N, H), kept, distances
        self.dropout = config.attention_dropout
        self.query = linear(D, N * H)
        self.key = linear(D, N * H)
        self.value = linear(D, N * H)
        self.out = linear(N * H, D)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, S, N, H] of context [B, S, D]."""
        return self.key(context).unflatten(-1, self.heads), self.value(context).unflatten(-1, self.heads)

    def forward(
        self,
        hidden: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Maybe,
        head_mask: Maybe,
        need_probabilities: bool,
        sees: Maybe = None,
    ) -> tuple[Tensor, Maybe]:
        """Attend from hidden [B, T, D] to keys and values.

        Args:
            visible, sees: as in `Seen`; a query that sees nothing attends to all keys alike.
            head_mask: [N], counts the heads that were there at first.
        """
        query = self.query(hidden).unflatten(-1, self.heads)  # [B, T, N, H]
        query = query if sees is None else query * sees.to(query.dtype)
        head_mask = None if head_mask is None else head_mask[self.kept]
        dropout = self.dropout if self.training else 0.0
        bias = None if self.distances is None else self.distances(query, key, sees)
        query, key, value = by_head(query), by_head(key), by_head(value)  # [B, N, T or S, H]
        attended, probabilities = attend(query, key, value, bias, visible, dropout, head_mask, need_probabilities)
        return self.out(attended), probabilities

    @torch.no_grad()
    def bring_forward(self, kept: list[int]) -> None:
        """Put these heads before the others, which changes nothing of what is computed."""
        order = [self.kept.index(head) for head in [*kept, *(set(self.kept) - set(kept))]]
        for part in (self.query, self.key, self.value):
            weight, bias = part.weight.unflatten(0, self.heads), part.bias.unflatten(0, self.heads)
            part.weight.copy_(weight[order].flatten(0, 1))
            part.bias.copy_(bias[order].flatten(0, 1))
        weight = self.out.weight.unflatten(1, self.heads)
        self.out.weight.copy_(weight[:, order].flatten(1, 2))


class DistanceScores(nn.Module):
    """Scores of keys by how far they stand behind their query, a vector for each distance.

    score(t, s) = query_t . distance_{t-s} / sqrt(H) (Shaw et al., 2018, section 3.2), and of keys, too,
    + key_s . distance_{t-s} / sqrt(H) (Huang et al., 2020, section 3.2).

    Args:
        reach: distances lie between -reach and reach. size: H. of_keys: whether keys are scored, too.
    """

    def __init__(self, reach: int, size: int, of_keys: bool) -> None:
        super().__init__()
        self.reach, self.of_keys = reach, of_keys
        self.weight = parameter(2 * reach - 1, size)

    def forward(self, query: Tensor, key: Tensor, sees: Maybe = None) -> Tensor:
        """Score keys [B, S, N, H] for queries [B, T, N, H], which are the last ones, as [B, N, T, S].

        A query that sees nothing, [B, 1 or T, 1, 1], is zero and has scores of zero.
        """
        T, S = query.shape[1], key.shape[1]
        falling = self._rows(torch.arange(S, -T, -1, device=query.device))  # [S + T, H]
        scores = relative_shift(torch.einsum("btnh,rh->bntr", query, falling))[..., :S]
        if not self.of_keys:
            return scores
        rising = self._rows(torch.arange(-T, S, device=query.device))
        by_key = relative_shift(torch.einsum("bsnh,rh->bnsr", key, rising))[..., :T]
        by_key = by_key.transpose(-1, -2)  # [B, N, T, S]
        return scores + (by_key if sees is None else by_key * sees.transpose(1, 2))

    def _rows(self, distances: Tensor) -> Tensor:
        """Return the vectors of distances, scaled; the shift never reads the first, which may lie out of reach."""
        return self.weight[(distances + self.reach - 1).clamp(0, 2 * self.reach - 2)] * self.weight.shape[1] ** -0.5


# --------------------------------------------------------------------------------------------------- who sees what


def kept_positions(
    config: Any, input_ids: Maybe, inputs_embeds: Maybe, attention_mask: Maybe, lengths: Maybe
) -> Tensor:
    """Return [B, S], zero for padding: by the mask, by the lengths, or by how many ids are not the padding id."""
    if attention_mask is not None:
        return attention_mask
    texts, pad = input_ids if inputs_embeds is None else inputs_embeds, config.pad_token_id
    B, S = texts.shape[:2]
    if lengths is None and input_ids is not None and pad is not None:
        lengths = (input_ids != pad).sum(1)
    if lengths is None:
        return torch.ones(B, S, device=texts.device)
    return torch.arange(S, device=texts.device) < lengths[:, None]


def seen_before(read: int, count: int, device: Any) -> Tensor:
    """Return which of that many keys each query from `read` on comes behind, or is: [T, S]."""
    keys = torch.arange(count, device=device)
    return keys[read:, None] >= keys


def keys_by_mask(attention_mask: Maybe, causal: bool, read: int, hidden: Tensor) -> Seen:
    """Return which keys [S] the queries of hidden [B, T, D] see, behind `read` others.

    A mask [B, S] hides keys from all queries, beside what `causal` hides; one [B, T, S] says all.
    """
    if attention_mask is not None and attention_mask.dim() == 3:
        return _seeing((attention_mask != 0)[:, None], hidden)
    unpadded = None if attention_mask is None else (attention_mask != 0)[:, None, None]  # [B, 1, 1, S]
    if not causal or hidden.shape[1] == 1:
        return Seen(None) if unpadded is None else _seeing(unpadded, hidden)
    behind = seen_before(read, read + hidden.shape[1], hidden.device)
    return Seen(behind) if unpadded is None else _seeing(behind & unpadded, hidden)


def _seeing(visible: Tensor, hidden: Tensor) -> Seen:
    """Return which keys are seen, [B, 1, 1 or T, S], all of them where none is, and which queries see some."""
    some = visible.any(-1, keepdim=True)
    sees = some.transpose(1, 2).to(hidden.dtype)  # [B, 1 or T, 1, 1]
    return Seen(visible | ~some, sees)


def visible_keys(config: Any, keep: Tensor, read: int) -> Maybe:
    """Return which keys [S] each query from `read` on sees, [T, S] or [B, 1, 1 or T, S]; None if it sees all.

    One that comes before it, with `config.causal`, and then padding, too, unless `config.hide_padding`.
    """
    unpadded = (keep != 0)[:, None, None]  # [B, 1, 1, S]
    if not config.causal:
        return unpadded
    behind = seen_before(read, keep.shape[1], keep.device)
    if config.hide_padding:
        return behind & unpadded
    return None if behind.shape[0] == 1 else behind


def encoded_source(
    where: str, config: Any, hidden: Tensor, states: Maybe, mask: Maybe, pasts: list[tuple[Tensor, ...]]
) -> Source | None:
    """Return what layers read of an encoder for hidden [B, T, D]: its states, or what was kept of them before.

    Raises:
        ConfigError, ShapeError: where there is nothing to read, or nothing that reads it, or for other shapes.
    """
    kept = bool(pasts) and len(pasts[0]) > 2
    if states is None and not kept:
        if mask is not None:
            raise ConfigError(f"{where}: encoder_hidden_states must be given with encoder_attention_mask, got none")
        return None
    for key in ("is_decoder", "add_cross_attention"):
        if not getattr(config, key):
            raise ConfigError(f"{where}: {key} must be true to read encoder_hidden_states, got false")
    sizes = dict(zip("BTD", hidden.shape, strict=True)) | ({"M": pasts[0][2].shape[1]} if kept else {})
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    ENCODED.check(where, sizes, given, Tensor)
    if mask is None:
        return Source(states, None)
    visible = mask != 0
    visible = visible[:, None] if mask.dim() == 3 else visible[:, None, None]
    return Source(states, *_seeing(visible, hidden))


def source_of(where: str, config: Any, rows: int, src_enc: Maybe, src_len: Maybe) -> Source | None:
    """Return what is read of an encoder, for texts in that many rows.

    Raises:
        ConfigError, ShapeError: where there is no decoder to read it, or for other shapes.
    """
    if src_enc is None and src_len is None:
        return None
    if config.is_encoder:
        raise ConfigError(f"{where}: is_encoder must be false to read src_enc, got true")
    given = {"src_enc": src_enc, "src_len": src_len}
    SOURCE.check(where, {"B": rows, "D": config.hidden_size}, given, Tensor)
    if src_enc is None:
        raise ConfigError(f"{where}: src_enc must be given with src_len, got none")
    if src_len is None:
        return Source(src_enc, None)
    M = src_enc.shape[1]
    require_ids(where, src_len, M + 1, "src_len")
    counted = torch.arange(M, device=src_len.device) < src_len[:, None]
    return Source(src_enc, counted[:, None, None])
