"""Attention of two streams (Yang et al., 2019): who sees what, and how one or both attend."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xl_torch.checks import one_each
from xl_torch.layers.attention import Keys, attend, by_head, distance_encodings, fused, kernel_fits, relative_shift
from xl_torch.layers.basic import FeedForward, layer_norm, linear, parameter
from xl_torch.layers.key_values import KeptLayer

Maybe = Tensor | None


class Sight(NamedTuple):
    """What the queries of one stream see; the same in all layers."""

    visible: Maybe  # [B or 1, 1, T, S], true for keys that a query sees; None if all see all
    crosses: Maybe  # [B, 1, T, S], 1 for keys of another segment; None if there is one only
    places: Maybe = None  # [B, 1, P, S], where among the distances each key stands; None for the queries 0, ..., T - 1
    awake: Maybe = None  # [B, 1, T, 1], 0 for queries that see nothing


class Scene(NamedTuple):
    """What all layers share in one call."""

    distances: Tensor  # [1, R, D]; [2, R, D] if half of the texts run backwards
    content: Sight
    target: Sight | None = None  # of the second stream, if there is one
    mapping: Maybe = None  # [B, P, T], if it is no plain choice of positions
    known: Maybe = None  # [B, P, 1], 0 for targets that name no position


class RelativeAttention(nn.Module):
    """Attention by content, distance and segment (Yang et al., 2019, sections 2.3 to 2.5), of one stream or of both.

    score(t, s) = ((query_t + content_bias) . key_s + (query_t + position_bias) . position_{t-s}
                   + (query_t + segment_bias) . segment_{t,s}) / sqrt(H)
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        D, N, H = config.hidden_size, config.num_heads, config.head_dim
        self.heads = (N, H)
        self.dropout = config.dropout if config.dropatt is None else config.dropatt
        self.query = linear(D, N * H, bias=False)
        self.key = linear(D, N * H, bias=False)
        self.value = linear(D, N * H, bias=False)
        self.position = linear(D, N * H, bias=False)
        self.out = linear(N * H, D, bias=False)
        self.content_bias = parameter(N, H)
        self.position_bias = parameter(N, H)
        self.segment_bias = parameter(N, H)
        self.segment_embedding = parameter(2, N, H)

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, N, S, H] of context [B, S, D]."""
        return self._by_head(self.key(context)), self._by_head(self.value(context))

    def positions(self, distances: Tensor) -> Tensor:
        """Return the keys [G, N, R, H] of distances [G, R, D]."""
        return self._by_head(self.position(distances))

    def forward(
        self,
        hidden: Maybe,
        guess: Maybe,
        keys: Keys,
        scene: Scene,
        head_mask: Maybe,
        need_probabilities: bool,
    ) -> tuple[Maybe, Maybe, Any]:
        """Attend to keys from hidden [B, T, D] and from guess [B, P, D], either of which may be missing."""
        attended, guessed, probabilities = None, None, None
        if hidden is not None:
            query = self._by_head(self.query(hidden))  # [B, N, T, H]
            attended, probabilities = self._look(query, scene.content, keys, head_mask, need_probabilities)
            attended = self.out(attended)
        if guess is not None:
            query = self._by_head(self.query(guess))  # [B, N, P, H]
            if scene.mapping is not None:
                query = torch.einsum("bpt,bnph->bnth", scene.mapping, query)
            guessed, of_guess = self._look(query, scene.target, keys, head_mask, need_probabilities)
            if scene.mapping is not None:
                guessed = torch.einsum("bpt,btd->bpd", scene.mapping, guessed)
            guessed = self.out(guessed if scene.known is None else guessed * scene.known)
            probabilities = (probabilities, of_guess) if need_probabilities else None
        return attended, guessed, probabilities

    def _by_head(self, projected: Tensor) -> Tensor:
        """Turn [.., S, N H] into [.., N, S, H]."""
        return by_head(projected.unflatten(-1, self.heads))

    def _each(self, bias: Tensor, query: Tensor) -> Tensor:
        """Return a bias [N, H] to be added to each query, as [N, 1, H]."""
        return bias.to(query.dtype)[:, None]

    def _look(
        self,
        query: Tensor,
        sight: Sight,
        keys: Keys,
        head_mask: Maybe,
        need_probabilities: bool,
    ) -> tuple[Tensor, Maybe]:
        """Attend from query [B, N, T, H]; returns [B, T, N H] and the probabilities."""
        S, dtype = keys.key.shape[2], query.dtype
        if sight.places is None and kernel_fits(query, head_mask, need_probabilities):
            return self._fused(query, sight, keys), None
        scale = query.shape[-1] ** -0.5
        located = (query + self._each(self.position_bias, query)) * scale
        by_distance = _by_distance(located, keys.position)  # [B, N, T, R]
        if sight.places is None:
            bias = relative_shift(by_distance)[..., :S]  # [B, N, T, S]
        else:
            bias = by_distance.gather(-1, sight.places.expand(-1, query.shape[1], -1, -1))  # [B, N, P, S]
        if sight.crosses is not None:
            bias = torch.addcmul(bias, sight.crosses.to(dtype), (self._by_segment(query) * scale)[..., None])
        query = query + self._each(self.content_bias, query)
        if sight.awake is not None:
            query = query * sight.awake.to(dtype)
        dropout = self.dropout if self.training else 0.0
        return attend(query, keys.key, keys.value, bias, sight.visible, dropout, head_mask, need_probabilities)

    def _by_segment(self, query: Tensor) -> Tensor:
        """Return what is added to the scores of queries [B, N, T, H] for keys of another segment, [B, N, T]."""
        # what every key of a query shares makes no difference to the softmax, so only the step to another segment
        step = (self.segment_embedding[1] - self.segment_embedding[0]).to(query.dtype)
        return torch.einsum("bnth,nh->bnt", query + self._each(self.segment_bias, query), step)

    def _fused(self, query: Tensor, sight: Sight, keys: Keys) -> Tensor:
        """Attend from query [B, N, T, H] in one kernel; returns [B, T, N H]."""
        content, located = (query + self._each(bias, query) for bias in (self.content_bias, self.position_bias))
        seen, crosses = (None if each is None else each[:, 0] > 0 for each in (sight.visible, sight.crosses))
        by_segment = None if crosses is None else self._by_segment(query)
        dropout = self.dropout if self.training else 0.0
        return fused(content, located, keys, seen, dropout, by_segment=by_segment, crosses=crosses)


def _by_distance(query: Tensor, position: Tensor) -> Tensor:
    """Score queries [B, N, T, H] by distances [G, N, R, H] as [B, N, T, R]; each of G has its share of the batch."""
    query = query.unflatten(0, (position.shape[0], -1))  # [G, B / G, N, T, H]
    return torch.einsum("gbnth,gnrh->gbntr", query, position).flatten(0, 1)


class XLNetBlock(nn.Module):
    """One layer: attention and feed-forward, each with a residual path, normalised after it."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.attention_norm = layer_norm(config.hidden_size, config.layer_norm_eps)
        sizes = (config.hidden_size, config.feed_forward_size)
        self.feed_forward = FeedForward(*sizes, config.dropout, config.ff_activation)
        self.feed_forward_norm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def context(self, hidden: Tensor, memory: Any) -> Tensor | Keys:
        """Return what hidden [B, T, D] sees behind memory [B, M, D], [B, S, D]; or the keys of it if they are kept."""
        if isinstance(memory, KeptLayer):
            return memory.keys(self.attention, hidden, lambda hidden: hidden)
        return hidden if memory is None else torch.cat([memory, hidden], dim=1)

    def forward(
        self,
        hidden: Maybe,
        guess: Maybe,
        context: Tensor | Keys,
        scene: Scene,
        head_mask: Maybe,
        need_probabilities: bool,
    ) -> tuple[Maybe, Maybe, Any]:
        """Map hidden [B, T, D] and guess [B, P, D] to the same shapes, by what they see.

        Args:
            context: [B, S, D]; or its keys, if they are there already.
        """
        keys = context
        if not isinstance(context, Keys):
            keys = Keys(*self.attention.keys(context), self.attention.positions(scene.distances))
        return self.look(hidden, guess, keys, scene, head_mask, need_probabilities)

    def look(
        self, hidden: Maybe, guess: Maybe, keys: Keys, scene: Scene, head_mask: Maybe, need_probabilities: bool
    ) -> tuple[Maybe, Maybe, Any]:
        """Do the same by keys; arguments as in `RelativeAttention`."""
        attended, guessed, probabilities = self.attention(hidden, guess, keys, scene, head_mask, need_probabilities)
        hidden = None if hidden is None else self._after(hidden, attended)
        guess = None if guess is None else self._after(guess, guessed)
        return hidden, guess, probabilities

    def _after(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Go on from what was attended to."""
        hidden = self.attention_norm(hidden + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


# --------------------------------------------------------------------------------------------------- who sees what


def encoded_distances(config: Any, T: int, M: int, like: Tensor) -> Tensor:
    """Encode the distances between T queries and M + T keys, and one more, as [1, R, D].

    With `bi_data` they are [2, R, D], the second of texts that run backwards.
    """
    ahead = 0 if config.attn_type == "uni" else T - 1
    distances = distance_encodings(M + T + 1 + ahead, config.hidden_size, config.clamp_len, like, ahead)
    if not config.bi_data:
        return distances[None]
    half = config.hidden_size // 2
    backwards = torch.cat([-distances[:, :half], distances[:, half:]], dim=-1)  # sines change their sign
    return torch.stack([distances, backwards])


def blocked_keys(M: int, attention_mask: Maybe, input_mask: Maybe, perm_mask: Maybe) -> Maybe:
    """Return [B or 1, 1 or T, S], true for keys that are hidden from a query; None if nothing hides any."""
    blocked = None
    if attention_mask is not None:
        blocked = (attention_mask < 1)[:, None]
    if input_mask is not None:
        blocked = (input_mask > 0)[:, None]
    if perm_mask is not None:
        hidden = perm_mask > 0
        blocked = hidden if blocked is None else blocked | hidden
    return None if blocked is None else _after_memory(blocked, M)


def scene_of(
    config: Any,
    distances: Tensor,
    T: int,
    M: int,
    blocked: Maybe,
    token_type_ids: Maybe,
    target_mapping: Maybe,
    need_probabilities: bool,
) -> Scene:
    """Return what all layers share, for T queries and M + T keys.

    Args:
        distances: as `encoded_distances` gives them, or anything of their dtype where keys know their own.
        blocked: as `blocked_keys` gives it.
        token_type_ids, target_mapping, need_probabilities: as `XLNetModel` takes them.
    """
    behind = torch.arange(M, M + T, device=distances.device)[:, None] - torch.arange(M + T, device=distances.device)
    if config.attn_type == "uni":
        ahead = _ahead(behind, config.same_length)  # [T, S]
        blocked = ahead[None] if blocked is None else blocked | ahead
    crosses = None if token_type_ids is None else _crosses(token_type_ids, M).to(distances.dtype)  # [B, T, S]
    # in the first stream every position sees itself, padding too; in the second that would be the answer
    visible = None if blocked is None else ~blocked | (behind == 0)  # [B or 1, T, S]
    content = Sight(_for_heads(visible), _for_heads(crosses))
    if target_mapping is None:
        return Scene(distances, content)
    visible = None if blocked is None else ~blocked  # [B or 1, 1 or T, S]
    rows = target_mapping.long() if target_mapping.dim() == 2 else None
    if rows is None and not need_probabilities:
        rows = one_each(target_mapping)
    if rows is None:
        return Scene(distances, content, _sight(visible, crosses), mapping=target_mapping.to(distances.dtype))
    known = (rows >= 0)[..., None].to(distances.dtype)
    rows = rows.clamp(min=0)
    # the distance of key s from query t stands T - t + s along the encodings; with "uni" what lies ahead has none
    places = T - rows[..., None] + torch.arange(M + T, device=rows.device)  # [B, P, S]
    places = places.clamp(max=M + T + (0 if config.attn_type == "uni" else T - 1))
    target = _sight(_at_rows(visible, rows), _at_rows(crosses, rows), places)
    return Scene(distances, content, target, known=known)


def _sight(visible: Maybe, crosses: Maybe, places: Maybe = None) -> Sight:
    """Return what the second stream sees, where a query may see nothing at all."""
    awake = None if visible is None else visible.any(-1)[:, None, :, None]
    return Sight(_for_heads(visible), _for_heads(crosses), _for_heads(places), awake)


def _for_heads(values: Maybe) -> Maybe:
    """Give [B, T, S] an axis for heads: [B, 1, T, S]."""
    return None if values is None else values[:, None]


def _ahead(behind: Tensor, same_length: bool) -> Tensor:
    """Return [T, S], true for keys that one-way attention hides, by how far each stands behind its query."""
    T, S = behind.shape
    ahead = behind < 0
    if same_length:  # as the authors' code draws it: the first T keys, whatever memory there is
        queries, keys = torch.arange(T, device=behind.device)[:, None], torch.arange(S, device=behind.device)
        ahead = ahead | ((keys < T) & (keys < queries))
    return ahead


def _after_memory(values: Tensor, M: int) -> Tensor:
    """Put M zeros, or values that are false, before the last axis of [B, X, T]."""
    return F.pad(values, (M, 0))


def _crosses(token_type_ids: Tensor, M: int) -> Tensor:
    """Return [B, T, S], true for keys of another segment than the query's; memory is of segment 0."""
    segments = _after_memory(token_type_ids[:, None], M)
    return token_type_ids[:, :, None] != segments


def _at_rows(values: Maybe, rows: Tensor) -> Maybe:
    """Return of [B or 1, T, S] the rows [B, P], [B, P, S]; what is one row for all stays so."""
    if values is None or values.shape[1] == 1:
        return values
    values = values.expand(rows.shape[0], -1, -1)
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
