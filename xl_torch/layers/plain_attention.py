"""Attention by content alone (Vaswani et al., 2017): its layer, and who sees what."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xl_torch.checks import require_ids
from xl_torch.layers.attention import attend
from xl_torch.layers.basic import linear
from xlcore.errors import ConfigError
from xlcore.heads import SOURCE

Maybe = Tensor | None


class Source(NamedTuple):
    """What a decoder reads of an encoder."""

    states: Tensor  # [B, M, D]
    visible: Maybe  # [B, 1, 1, M], true for those that count; None if all do


class PlainAttention(nn.Module):
    """Attention with several heads (Vaswani et al., 2017, section 3.2.2), of which some may be taken out.

    Args:
        kept: the heads that there are, by the numbers that they had at first.
    """

    def __init__(self, config: Any, kept: list[int]) -> None:
        super().__init__()
        D, N, H = config.hidden_size, len(kept), config.head_dim
        self.heads, self.kept = (N, H), kept
        self.dropout = config.attention_dropout
        self.query = linear(D, N * H)
        self.key = linear(D, N * H)
        self.value = linear(D, N * H)
        self.out = linear(N * H, D)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, S, N, H] of context [B, S, D]."""
        return self.key(context).unflatten(-1, self.heads), self.value(context).unflatten(-1, self.heads)

    def forward(
        self, hidden: Tensor, key: Tensor, value: Tensor, visible: Maybe, head_mask: Maybe, need_probabilities: bool
    ) -> tuple[Tensor, Maybe]:
        """Attend from hidden [B, T, D] to keys and values; head_mask [N] counts the heads that were there at first."""
        query = self.query(hidden).unflatten(-1, self.heads)  # [B, T, N, H]
        head_mask = None if head_mask is None else head_mask[self.kept]
        dropout = self.dropout if self.training else 0.0
        attended, probabilities = attend(query, key, value, None, visible, dropout, head_mask, need_probabilities)
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


def visible_keys(config: Any, keep: Tensor, read: int) -> Maybe:
    """Return which keys [S] each query from `read` on sees, [T, S] or [B, 1, 1 or T, S]; None if it sees all.

    One that comes before it, with `config.causal`, and then padding, too, unless `config.hide_padding`.
    """
    unpadded = (keep != 0)[:, None, None]  # [B, 1, 1, S]
    if not config.causal:
        return unpadded
    keys = torch.arange(keep.shape[1], device=keep.device)
    behind = keys[read:, None] >= keys  # [T, S]
    if config.hide_padding:
        return behind & unpadded
    return None if behind.shape[0] == 1 else behind


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
