"""The parts of XLM-RoBERTa-XL: its layers, where its words stand, and what its heads put before scores."""

from typing import Any

import torch
from torch import Tensor, nn

from xl_torch.checks import require_ids, surely_above
from xl_torch.layers.basic import FeedForward, gelu, layer_norm, linear
from xl_torch.layers.plain_attention import DistanceScores, Maybe, PlainAttention
from xlcore.errors import ShapeError


class XLMRobertaXLBlock(nn.Module):
    """One layer: attention, in some decoders attention to an encoder, and feed-forward; each normalised before it."""

    def __init__(self, config: Any, number: int) -> None:
        super().__init__()
        D, epsilon, kind = config.hidden_size, config.layer_norm_eps, config.position_embedding_type
        sizes = (config.max_position_embeddings, config.head_dim)
        distances = None if kind == "absolute" else DistanceScores(*sizes, kind == "relative_key_query")
        crossed = config.add_cross_attention
        self.attention_norm = layer_norm(D, epsilon)
        self.attention = PlainAttention(config, config.kept_heads(number), distances)
        self.cross_attention_norm = layer_norm(D, epsilon) if crossed else None
        self.cross_attention = PlainAttention(config, list(range(config.num_heads))) if crossed else None
        self.feed_forward_norm = layer_norm(D, epsilon)
        sizes = (D, config.intermediate_size)
        self.feed_forward = FeedForward(*sizes, config.ffn_output_dropout, config.hidden_act, drop_inner=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden: Tensor, seen: Any, source: Any, head_mask: Maybe, past: Any, need_probabilities: bool
    ) -> tuple[Tensor, Maybe, Maybe, tuple[Tensor, ...]]:
        """Map hidden [B, T, D] to the same shape.

        Args:
            seen: which keys a query sees. source: what is read of an encoder. head_mask: [N].
            past: keys and values of what has been read before, and of the source; None if nothing has.

        Returns:
            Hidden states, probabilities [B, N, T, S] and those of the source [B, N, T, M] or None, and keys and values
            of all that has been read.
        """
        options = (head_mask, need_probabilities)
        normed = self.attention_norm(hidden)
        key, value = self.attention.keys(normed)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=1), torch.cat([past[1], value], dim=1)  # [B, S, N, H]
        attended, probabilities = self.attention(normed, key, value, seen.visible, *options, seen.sees)
        hidden = hidden + self.dropout(attended)
        kept, crossed = (key, value), None
        if source is not None:
            normed = self.cross_attention_norm(hidden)
            key, value = past[2:] if past is not None and past[2:] else self.cross_attention.keys(source.states)
            attended, crossed = self.cross_attention(normed, key, value, source.visible, *options, source.sees)
            hidden = hidden + self.dropout(attended)
            kept = (*kept, key, value)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden)), probabilities, crossed, kept


class HeadTransform(nn.Module):
    """What hidden states go through before words are scored: a linear map, exact GELU, a norm."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.inner = linear(size, size)
        self.norm = layer_norm(size, epsilon)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.norm(gelu(self.inner(hidden)))


class TextClassifier(nn.Module):
    """Scores of labels from the state of the first position: two linear maps, tanh between them."""

    def __init__(self, size: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.inner = linear(size, size)
        self.score = linear(size, labels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """Score [B, T, D] as [B, K]."""
        inner = torch.tanh(self.inner(self.dropout(hidden[:, 0])))
        return self.score(self.dropout(inner))


def word_positions(
    where: str,
    config: Any,
    read: int,
    input_ids: Maybe,
    inputs_embeds: Maybe,
    attention_mask: Maybe,
    position_ids: Maybe,
) -> Maybe:
    """Return the position of each word, [B, T], [1, T] or [T], behind `read` words; padding counts for none.

    None where distances count, not positions.

    Raises:
        ShapeError: for more words than there are positions for.
    """
    texts = input_ids if inputs_embeds is None else inputs_embeds
    pad, T, most = config.pad_token_id, texts.shape[1], config.max_position_embeddings
    if config.position_embedding_type != "absolute" and surely_above(read + T, most):
        raise ShapeError(f"{where}: a text must have at most {most} words, got {read + T}")
    if position_ids is not None or config.position_embedding_type != "absolute":
        return position_ids
    if input_ids is None:
        positions = torch.arange(read + 1, read + T + 1, device=texts.device) + pad
    else:
        words, before = (input_ids != pad).long(), read
        if attention_mask is not None and attention_mask.dim() == 2:
            before = (attention_mask[:, :read] != 0).sum(1, keepdim=True)
        positions = (words.cumsum(1) + before) * words + pad
    if surely_above(read + T, config.most_words):
        also = f", for at most {config.most_words} words"
        require_ids(where, positions, most, "position_ids", also)
    return positions
