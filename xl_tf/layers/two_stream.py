"""Attention of two streams (Yang et al., 2019): who sees what, and how one or both attend."""

from typing import Any, NamedTuple

import keras
from keras import ops

from xl_tf.checks import one_each
from xl_tf.layers.attention import Keys, attend, by_head, distance_encodings, relative_shift
from xl_tf.layers.basic import FeedForward, layer_norm, linear, parameter
from xl_tf.layers.key_values import KeptLayer


class Sight(NamedTuple):
    """What the queries of one stream see; the same in all layers."""

    visible: Any  # [B or 1, 1, T, S], true for keys that a query sees; None if all see all
    crosses: Any  # [B, 1, T, S], 1 for keys of another segment; None if there is one only
    places: Any = None  # [B, 1, P, S], where among the distances each key stands; None for the queries 0, ..., T - 1
    awake: Any = None  # [B, 1, T, 1], 0 for queries that see nothing


class Scene(NamedTuple):
    """What all layers share in one call."""

    distances: Any  # [1, R, D]; [2, R, D] if half of the texts run backwards
    content: Sight
    target: Sight | None = None  # of the second stream, if there is one
    mapping: Any = None  # [B, P, T], if it is no plain choice of positions
    known: Any = None  # [B, P, 1], 0 for targets that name no position


class RelativeAttention(keras.Layer):
    """Attention by content, distance and segment (Yang et al., 2019, sections 2.3 to 2.5), of one stream or of both.

    score(t, s) = ((query_t + content_bias) . key_s + (query_t + position_bias) . position_{t-s}
                   + (query_t + segment_bias) . segment_{t,s}) / sqrt(H)
    """

    def __init__(self, config: Any, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        D, N, H = config.hidden_size, config.num_heads, config.head_dim
        self.heads = (N, H)
        self.dropout = keras.layers.Dropout(config.dropout if config.dropatt is None else config.dropatt, dtype=dtype)
        self.query = linear(D, N * H, bias=False, dtype=dtype)
        self.key = linear(D, N * H, bias=False, dtype=dtype)
        self.value = linear(D, N * H, bias=False, dtype=dtype)
        self.position = linear(D, N * H, bias=False, dtype=dtype)
        self.out = linear(N * H, D, bias=False, dtype=dtype)
        self.content_bias = parameter(self, "content_bias", N, H)
        self.position_bias = parameter(self, "position_bias", N, H)
        self.segment_bias = parameter(self, "segment_bias", N, H)
        self.segment_embedding = parameter(self, "segment_embedding", 2, N, H)
        self.built = True

    def keys(self, context: Any) -> tuple[Any, Any]:
        """Return keys and values [B, N, S, H] of context [B, S, D]."""
        return self._by_head(self.key(context)), self._by_head(self.value(context))

    def positions(self, distances: Any) -> Any:
        """Return the keys [G, N, R, H] of distances [G, R, D]."""
        return self._by_head(self.position(distances))

    def call(
        self,
        hidden: Any,
        guess: Any,
        keys: Keys,
        scene: Scene,
        head_mask: Any,
        need_probabilities: bool,
    ) -> tuple[Any, Any, Any]:
        """Attend to keys from hidden [B, T, D] and from guess [B, P, D], either of which may be missing."""
        attended, guessed, probabilities = None, None, None
        if hidden is not None:
            query = self._by_head(self.query(hidden))  # [B, N, T, H]
            attended, probabilities = self._look(query, scene.content, keys, head_mask, need_probabilities)
            attended = self.out(attended)
        if guess is not None:
            query = self._by_head(self.query(guess))  # [B, N, P, H]
            if scene.mapping is not None:
                query = ops.einsum("bpt,bnph->bnth", scene.mapping, query)
            guessed, of_guess = self._look(query, scene.target, keys, head_mask, need_probabilities)
            if scene.mapping is not None:
                guessed = ops.einsum("bpt,btd->bpd", scene.mapping, guessed)
            guessed = self.out(guessed if scene.known is None else guessed * scene.known)
            probabilities = (probabilities, of_guess) if need_probabilities else None
        return attended, guessed, probabilities

    def _by_head(self, projected: Any) -> Any:
        """Turn [B, S, N H] into [B, N, S, H]."""
        B, S, _ = ops.shape(projected)
        return by_head(ops.reshape(projected, (B, S, *self.heads)))

    def _each(self, bias: Any) -> Any:
        """Return a bias [N, H] to be added to each query, as [N, 1, H]."""
        return ops.expand_dims(bias, 1)

    def _look(
        self,
        query: Any,
        sight: Sight,
        keys: Keys,
        head_mask: Any,
        need_probabilities: bool,
    ) -> tuple[Any, Any]:
        """Attend from query [B, N, T, H]; returns [B, T, N H] and the probabilities."""
        S, dtype = ops.shape(keys.key)[2], query.dtype
        scale = query.shape[-1] ** -0.5
        located = (query + self._each(self.position_bias)) * scale
        by_distance = _by_distance(located, keys.position)  # [B, N, T, R]
        if sight.places is None:
            bias = relative_shift(by_distance)[..., :S]  # [B, N, T, S]
        else:
            bias = ops.take_along_axis(by_distance, sight.places, axis=-1)  # [B, N, P, S]
        if sight.crosses is not None:
            bias = bias + ops.cast(sight.crosses, dtype) * (self._by_segment(query) * scale)[..., None]
        query = query + self._each(self.content_bias)
        if sight.awake is not None:
            query = query * ops.cast(sight.awake, dtype)
        dropout = self.dropout
        return attend(query, keys.key, keys.value, bias, sight.visible, dropout, head_mask, need_probabilities)

    def _by_segment(self, query: Any) -> Any:
        """Return what is added to the scores of queries [B, N, T, H] for keys of another segment, [B, N, T]."""
        # what every key of a query shares makes no difference to the softmax, so only the step to another segment
        step = self.segment_embedding[1] - self.segment_embedding[0]
        return ops.einsum("bnth,nh->bnt", query + self._each(self.segment_bias), step)


def _by_distance(query: Any, position: Any) -> Any:
    """Score queries [B, N, T, H] by distances [G, N, R, H] as [B, N, T, R]; each of G has its share of the batch."""
    B, N, T, H = ops.shape(query)
    G, R = position.shape[0], ops.shape(position)[2]
    query = ops.reshape(query, (G, B // G, N, T, H))
    return ops.reshape(ops.matmul(query, ops.swapaxes(position[:, None], -1, -2)), (B, N, T, R))


class XLNetBlock(keras.Layer):
    """One layer: attention and feed-forward, each with a residual path, normalised after it."""

    def __init__(self, config: Any, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.attention = RelativeAttention(config, dtype=dtype)
        self.attention_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype=dtype)
        sizes = (config.hidden_size, config.feed_forward_size)
        self.feed_forward = FeedForward(*sizes, config.dropout, config.ff_activation, dtype=dtype)
        self.feed_forward_norm = layer_norm(config.hidden_size, config.layer_norm_eps, dtype=dtype)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.built = True

    def context(self, hidden: Any, memory: Any) -> Any:
        """Return what hidden [B, T, D] sees behind memory [B, M, D], [B, S, D]; or the keys of it if they are kept."""
        if isinstance(memory, KeptLayer):
            return memory.keys(self.attention, hidden, lambda hidden: hidden)
        return hidden if memory is None else ops.concatenate([memory, hidden], axis=1)

    def call(
        self,
        hidden: Any,
        guess: Any,
        context: Any,
        scene: Scene,
        head_mask: Any,
        need_probabilities: bool,
    ) -> tuple[Any, Any, Any]:
        """Map hidden [B, T, D] and guess [B, P, D] to the same shapes, by what they see.

        Args:
            context: [B, S, D]; or its keys, if they are there already.
        """
        keys = context
        if not isinstance(context, Keys):
            keys = Keys(*self.attention.keys(context), self.attention.positions(scene.distances))
        return self.look(hidden, guess, keys, scene, head_mask, need_probabilities)

    def look(
        self, hidden: Any, guess: Any, keys: Keys, scene: Scene, head_mask: Any, need_probabilities: bool
    ) -> tuple[Any, Any, Any]:
        """Do the same by keys; arguments as in `RelativeAttention`."""
        attended, guessed, probabilities = self.attention(
            hidden, guess, keys, scene, head_mask, need_probabilities=need_probabilities
        )
        hidden = None if hidden is None else self._after(hidden, attended)
        guess = None if guess is None else self._after(guess, guessed)
        return hidden, guess, probabilities

    def _after(self, hidden: Any, attended: Any) -> Any:
        """Go on from what was attended to."""
        hidden = self.attention_norm(hidden + self.dropout(attended))
        return self.feed_forward_norm(hidden + self.feed_forward(hidden))


# --------------------------------------------------------------------------------------------------- who sees what


def encoded_distances(config: Any, T: Any, M: Any, like: Any) -> Any:
    """Encode the distances between T queries and M + T keys, and one more, as [1, R, D].

    With `bi_data` they are [2, R, D], the second of texts that run backwards.
    """
    ahead = 0 if config.attn_type == "uni" else T - 1
    distances = distance_encodings(M + T + 1 + ahead, config.hidden_size, config.clamp_len, like, ahead)
    if not config.bi_data:
        return distances[None]
    half = config.hidden_size // 2
    backwards = ops.concatenate([-distances[:, :half], distances[:, half:]], axis=-1)  # sines change their sign
    return ops.stack([distances, backwards])


def blocked_keys(M: Any, attention_mask: Any, input_mask: Any, perm_mask: Any) -> Any:
    """Return [B or 1, 1 or T, S], true for keys that are hidden from a query; None if nothing hides any."""
    blocked = None
    if attention_mask is not None:
        blocked = (ops.cast(attention_mask, "float32") < 1)[:, None]
    if input_mask is not None:
        blocked = (ops.cast(input_mask, "float32") > 0)[:, None]
    if perm_mask is not None:
        hidden = ops.cast(perm_mask, "float32") > 0
        blocked = hidden if blocked is None else blocked | hidden
    return None if blocked is None else _after_memory(blocked, M)


def scene_of(
    config: Any,
    distances: Any,
    T: Any,
    M: Any,
    blocked: Any,
    token_type_ids: Any,
    target_mapping: Any,
    need_probabilities: bool,
) -> Scene:
    """Return what all layers share, for T queries and M + T keys.

    Args:
        distances: as `encoded_distances` gives them, or anything of their dtype where keys know their own.
        blocked: as `blocked_keys` gives it.
        token_type_ids, target_mapping, need_probabilities: as `TFXLNetModel` takes them.
    """
    behind = ops.arange(M, M + T)[:, None] - ops.arange(M + T)
    if config.attn_type == "uni":
        ahead = _ahead(behind, config.same_length)  # [T, S]
        blocked = ahead[None] if blocked is None else blocked | ahead
    crosses = None if token_type_ids is None else ops.cast(_crosses(token_type_ids, M), distances.dtype)  # [B, T, S]
    # in the first stream every position sees itself, padding too; in the second that would be the answer
    visible = None if blocked is None else ops.logical_not(blocked) | ops.equal(behind, 0)  # [B or 1, T, S]
    content = Sight(_for_heads(visible), _for_heads(crosses))
    if target_mapping is None:
        return Scene(distances, content)
    visible = None if blocked is None else ops.logical_not(blocked)  # [B or 1, 1 or T, S]
    rows = ops.cast(target_mapping, "int32") if len(target_mapping.shape) == 2 else None
    if rows is None and not need_probabilities:
        rows = one_each(target_mapping)
    if rows is None:
        return Scene(distances, content, _sight(visible, crosses), mapping=ops.cast(target_mapping, distances.dtype))
    known = ops.cast(rows >= 0, distances.dtype)[..., None]
    rows = ops.maximum(rows, 0)
    # the distance of key s from query t stands T - t + s along the encodings; with "uni" what lies ahead has none
    places = T - rows[..., None] + ops.arange(M + T)  # [B, P, S]
    places = ops.minimum(places, M + T + (0 if config.attn_type == "uni" else T - 1))
    target = _sight(_at_rows(visible, rows), _at_rows(crosses, rows), places)
    return Scene(distances, content, target, known=known)


def _sight(visible: Any, crosses: Any, places: Any = None) -> Sight:
    """Return what the second stream sees, where a query may see nothing at all."""
    awake = None if visible is None else ops.any(visible, axis=-1)[:, None, :, None]
    return Sight(_for_heads(visible), _for_heads(crosses), _for_heads(places), awake)


def _for_heads(values: Any) -> Any:
    """Give [B, T, S] an axis for heads: [B, 1, T, S]."""
    return None if values is None else values[:, None]


def _ahead(behind: Any, same_length: bool) -> Any:
    """Return [T, S], true for keys that one-way attention hides, by how far each stands behind its query."""
    T, S = ops.shape(behind)
    ahead = behind < 0
    if same_length:  # as the authors' code draws it: the first T keys, whatever memory there is
        queries, keys = ops.arange(T)[:, None], ops.arange(S)
        ahead = ahead | ((keys < T) & (keys < queries))
    return ahead


def _after_memory(values: Any, M: Any) -> Any:
    """Put M zeros, or values that are false, before the last axis of [B, X, T]."""
    B, X, _ = ops.shape(values)
    return ops.concatenate([ops.zeros((B, X, M), dtype=values.dtype), values], axis=-1)


def _crosses(token_type_ids: Any, M: Any) -> Any:
    """Return [B, T, S], true for keys of another segment than the query's; memory is of segment 0."""
    segments = _after_memory(token_type_ids[:, None], M)
    return ops.not_equal(token_type_ids[:, :, None], segments)


def _at_rows(values: Any, rows: Any) -> Any:
    """Return of [B or 1, T, S] the rows [B, P], [B, P, S]; what is one row for all stays so."""
    if values is None or values.shape[1] == 1:
        return values
    values = ops.broadcast_to(values, (ops.shape(rows)[0], *ops.shape(values)[1:]))
    return ops.take_along_axis(values, rows[..., None], axis=1)
