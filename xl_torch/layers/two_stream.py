"""Attention of two streams (Yang et al., 2019): who sees what, and how one or both attend."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xl_torch.checks import one_each
from xl_torch.layers.attention import attend, distance_encodings, relative_shift
from xl_torch.layers.basic import FeedForward, layer_norm, linear, parameter

Maybe = Tensor | None


class Sight(NamedTuple):
    """What the queries of one stream see; the same in all layers."""

    visible: Maybe  # [B or 1, 1, T, S], true for keys that a query sees; None if all see all
    crosses: Maybe  # [B, 1, T, S], 1 for keys of another segment; None if there is one only
    places: Maybe = None  # [B, 1, P, S], where among the distances each key stands; None for the queries 0, ..., T - 1
    awake: Maybe = None  # [B, T, 1, 1], 0 for queries that see nothing


class Scene(NamedTuple):
    """What all layers share in one call."""

    distances: Tensor  # [1, R, D]; [2, R, D] if half of the texts run backwards
    content: Sight
    target: Sight | None = None  # of the second stream, if there is one
    mapping: Maybe = None  # [B, P, T], if it is no plain choice of positions
    known: Maybe = None  # [B, P, 1], 0 for targets that name no position


class Keys(NamedTuple):
    """What queries are held against, and what they get for it."""

    key: Tensor  # [B, S, N, H]
    value: Tensor  # [B, S, N, H]
    position: Tensor  # [G, R, N, H]


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
        """Return keys and values [B, S, N, H] of context [B, S, D]."""
        return self.key(context).unflatten(-1, self.heads), self.value(context).unflatten(-1, self.heads)

    def positions(self, distances: Tensor) -> Tensor:
        """Return the keys [G, R, N, H] of distances [G, R, D]."""
        return self.position(distances).unflatten(-1, self.heads)

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
            query = self.query(hidden).unflatten(-1, self.heads)  # [B, T, N, H]
            attended, probabilities = self._look(query, scene.content, keys, head_mask, need_probabilities)
            attended = self.out(attended)
        if guess is not None:
            query = self.query(guess).unflatten(-1, self.heads)  # [B, P, N, H]
            if scene.mapping is not None:
                query = torch.einsum("bpt,bpnh->btnh", scene.mapping, query)
            guessed, of_guess = self._look(query, scene.target, keys, head_mask, need_probabilities)
            if scene.mapping is not None:
                guessed = torch.einsum("bpt,btd->bpd", scene.mapping, guessed)
            guessed = self.out(guessed if scene.known is None else guessed * scene.known)
            probabilities = (probabilities, of_guess) if need_probabilities else None
        return attended, guessed, probabilities

    def _look(
        self,
        query: Tensor,
        sight: Sight,
        keys: Keys,
        head_mask: Maybe,
        need_probabilities: bool,
    ) -> tuple[Tensor, Maybe]:
        """Attend from query [B, T, N, H]; returns [B, T, N H] and the probabilities."""
        S, dtype = keys.key.shape[1], query.dtype
        by_distance = _by_distance(query + self.position_bias.to(dtype), keys.position)  # [B, N, T, R]
        if sight.places is None:
            bias = relative_shift(by_distance)[..., :S]  # [B, N, T, S]
        else:
            bias = by_distance.gather(-1, sight.places.expand(-1, query.shape[2], -1, -1))  # [B, N, P, S]
        if sight.crosses is not None:
            # what every key of a query shares makes no difference to the softmax, so only the step to another segment
            step = (self.segment_embedding[1] - self.segment_embedding[0]).to(dtype)
            by_segment = torch.einsum("btnh,nh->bnt", query + self.segment_bias.to(dtype), step)
            bias = torch.addcmul(bias, sight.crosses.to(dtype), by_segment[..., None])
        query = query + self.content_bias.to(dtype)
        if sight.awake is not None:
            query = query * sight.awake.to(dtype)
        dropout = self.dropout if self.training else 0.0
        return attend(query, keys.key, keys.value, bias, sight.visible, dropout, head_mask, need_probabilities)


def _by_distance(query: Tensor, position: Tensor) -> Tensor:
    """Score queries [B, T, N, H] by distances [G, R, N, H] as [B, N, T, R]; each of G has its share of the batch."""
    query = query.unflatten(0, (position.shape[0], -1))  # [G, B / G, T, N, H]
    return torch.einsum("gbtnh,grnh->gbntr", query, position).flatten(0, 1)


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

    def forward(
        self,
        hidden: Maybe,
        guess: Maybe,
        context: Tensor,
        scene: Scene,
        head_mask: Maybe,
        need_probabilities: bool,
    ) -> tuple[Maybe, Maybe, Any]:
        """Map hidden [B, T, D] and guess [B, P, D] to the same shapes, by what they see of context [B, S, D]."""
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
        distances: as `encoded_distances` gives them. blocked: as `blocked_keys` gives it.
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
    places = places.clamp(max=distances.shape[1] - 1)
    target = _sight(_at_rows(visible, rows), _at_rows(crosses, rows), places)
    return Scene(distances, content, target, known=known)


def _sight(visible: Maybe, crosses: Maybe, places: Maybe = None) -> Sight:
    """Return what the second stream sees, where a query may see nothing at all."""
    awake = None if visible is None else visible.any(-1)[..., None, None]
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
