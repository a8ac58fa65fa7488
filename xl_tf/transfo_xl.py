"""Transformer-XL in Keras (Dai et al., 2019). What it is stands in `xlcore/families/transfo_xl.py`."""

import warnings
from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_labels
from xl_tf.layers.adaptive import AdaptiveBin, TFAdaptiveEmbedding, TFProjectedAdaptiveLogSoftmax
from xl_tf.layers.attention import Keys, attend, by_head, distance_encodings, relative_shift
from xl_tf.layers.basic import FeedForward, layer_norm, linear, parameter
from xl_tf.layers.key_values import KeptLayer, KeyValueMemory, known_mems
from xl_tf.layers.memory import CarriedMemory, Memory, MemoryThroughBody, turned
from xl_tf.layers.shared_table import one_gradient
from xl_tf.losses import classification_loss, mean_over
from xl_tf.model import Model
from xlcore.errors import ShapeError
from xlcore.families.transfo_xl import TransfoXLConfig, resized

Memories = list[Any]


class RelativeAttention(keras.Layer):
    """Attention by content and by distance (Dai et al., 2019, section 3.3).

    score(t, s) = ((query_t + content_bias) . key_s + (query_t + position_bias) . position_{t-s}) / sqrt(H)
    """

    def __init__(self, config: TransfoXLConfig, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        D, N, H = config.hidden_size, config.num_heads, config.head_dim
        self.heads = (N, H)
        self.dropout = keras.layers.Dropout(config.dropatt, dtype=dtype)
        self.query = linear(D, N * H, bias=False, dtype=dtype)
        self.key = linear(D, N * H, bias=False, dtype=dtype)
        self.value = linear(D, N * H, bias=False, dtype=dtype)
        self.position = linear(D, N * H, bias=False, dtype=dtype)
        self.out = linear(N * H, D, bias=False, dtype=dtype)
        # without `untie_r` the model gives all layers the same
        self.content_bias = parameter(self, "content_bias", N, H) if config.untie_r else None
        self.position_bias = parameter(self, "position_bias", N, H) if config.untie_r else None
        self.built = True

    def keys(self, context: Any) -> tuple[Any, Any]:
        """Return keys and values [B, N, S, H] of context [B, S, D]."""
        return self._by_head(self.key(context)), self._by_head(self.value(context))

    def positions(self, distances: Any) -> Any:
        """Return the keys [N, R, H] of distances [R, D]."""
        return self._by_head(self.position(distances)[None])[0]

    def call(
        self,
        hidden: Any,
        keys: Keys,
        visible: Any,
        head_mask: Any,
        need_probabilities: bool,
    ) -> tuple[Any, Any]:
        """Attend from hidden [B, T, D] to S keys, of which it is the last T; visible [T, S]."""
        query = self._by_head(self.query(hidden))  # [B, N, T, H]
        located = (query + self._each(self.position_bias)) * query.shape[-1] ** -0.5
        by_distance = ops.matmul(located, ops.swapaxes(keys.position, -1, -2))
        bias = relative_shift(by_distance)  # [B, N, T, S]
        query = query + self._each(self.content_bias)
        dropout = self.dropout
        attended, probabilities = attend(
            query, keys.key, keys.value, bias, visible, dropout, head_mask, need_probabilities
        )
        return self.out(attended), probabilities

    def _by_head(self, projected: Any) -> Any:
        """Turn [B, S, N H] into [B, N, S, H]."""
        B, S, _ = ops.shape(projected)
        return by_head(ops.reshape(projected, (B, S, *self.heads)))

    def _each(self, bias: Any) -> Any:
        """Return a bias [N, H] to be added to each query, as [N, 1, H]."""
        return ops.expand_dims(bias, 1)


class TransfoXLBlock(keras.Layer):
    """One layer: attention and feed-forward, each with a residual path; normalised before or after (`pre_lnorm`)."""

    def __init__(self, config: TransfoXLConfig, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        self.pre_lnorm = config.pre_lnorm
        self.attention = RelativeAttention(config, dtype=dtype)
        self.attention_norm = layer_norm(config.hidden_size, config.layer_norm_epsilon, dtype=dtype)
        self.feed_forward = FeedForward(config.hidden_size, config.feed_forward_size, config.dropout, dtype=dtype)
        self.feed_forward_norm = layer_norm(config.hidden_size, config.layer_norm_epsilon, dtype=dtype)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.built = True

    def call(
        self,
        hidden: Any,
        memory: Any,
        distances: Any,
        visible: Any,
        head_mask: Any,
        need_probabilities: bool,
    ) -> tuple[Any, Any]:
        """Map hidden [B, T, D] to the same shape.

        Args:
            memory: [B, M, D]; or the keys of memory and hidden, if they are there already.
            distances: [S + 1, D]. The rest as in `RelativeAttention`.
        """
        residual, hidden, keys = hidden, self.seen(hidden), memory
        if not isinstance(memory, Keys):
            context = ops.concatenate([ops.cast(self.seen(memory), hidden.dtype), hidden], axis=1)  # [B, S, D]
            keys = Keys(*self.attention.keys(context), self.attention.positions(distances))
        attended, probabilities = self.attention(
            hidden, keys, visible, head_mask, need_probabilities=need_probabilities
        )
        hidden = residual + self.dropout(attended)
        if self.pre_lnorm:
            return hidden + self.feed_forward(self.feed_forward_norm(hidden)), probabilities
        hidden = self.attention_norm(hidden)
        return self.feed_forward_norm(hidden + self.feed_forward(hidden)), probabilities

    def seen(self, hidden: Any) -> Any:
        """Return what attention sees of hidden states."""
        return self.attention_norm(hidden) if self.pre_lnorm else hidden


class TFTransfoXLModel(Memory, Model):
    """The body: embeddings, layers with memory, no head."""

    def __init__(self, config: TransfoXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.mem_len = config.mem_len
        sizes = (config.vocab_size, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.embedding = TFAdaptiveEmbedding(*sizes, dtype=dtype)
        if not config.untie_r:
            self.content_bias = parameter(self, "content_bias", config.n_head, config.d_head)
            self.position_bias = parameter(self, "position_bias", config.n_head, config.d_head)
        self.blocks = [TransfoXLBlock(config, dtype=dtype) for _ in range(config.n_layer)]
        for block in self.blocks if not config.untie_r else ():
            block.attention.content_bias = self.content_bias
            block.attention.position_bias = self.position_bias
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.carried = CarriedMemory()
        self.finish()

    def call(
        self,
        input_ids: Any = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> Any:
        """Read a segment after the memory of earlier ones.

        Args:
            input_ids: [B, T], or inputs_embeds: [B, T, D], already scaled.
            mems: L x [M, B, D], as an earlier call gave them, of any length; None starts as the config says, or takes
                what `carry_memory` carries. In evaluation a `KeyValueMemory` is faster.
            head_mask: [N] or [L, N], 0 for heads to leave out.
            output_attentions, output_hidden_states, return_dict: as the config has them if None.

        Returns:
            `TransfoXLModelOutput`, or a tuple of its fields.

        Raises:
            ShapeError: for inputs of other shapes, ids outside the vocabulary, or both or none of ids and embeddings.
        """
        known = known_mems(mems, len(self.blocks))  # some keep the last output, too
        self._check(input_ids=input_ids, mems=known, head_mask=head_mask, inputs_embeds=inputs_embeds)
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        hidden = self.dropout(hidden)
        memories, M = self._opened(mems, known, hidden, training)
        T, read_on = ops.shape(hidden)[1], isinstance(mems, KeyValueMemory)
        distances = None if read_on else self.dropout(self.encoded_distances(T, M, hidden))
        visible = self._visible(T, M, mems.absent if read_on else 0)
        need_probabilities = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states, attentions = [], []
        for number, block in enumerate(self.blocks):
            head = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[number]
            hidden_states.append(hidden)
            hidden, probabilities = self._run(
                block, hidden, memories[number], distances, visible, head, need_probabilities=need_probabilities
            )
            attentions.append(probabilities)
        hidden = self.dropout(hidden)
        mems = self._after(mems, memories, hidden_states)
        hidden_states.append(hidden)
        need_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = self.head.output(
            last_hidden_state=hidden,
            mems=mems,
            hidden_states=tuple(hidden_states) if need_hidden else None,
            attentions=tuple(attentions) if need_probabilities else None,
        )
        return self._returned(output, return_dict)

    def _check(self, **given: Any) -> None:
        """Hold the inputs against the contract."""
        where = type(self).__name__
        if (given["input_ids"] is None) == (given["inputs_embeds"] is None):
            got = "none" if given["input_ids"] is None else "both"
            raise ShapeError(f"{where}: input must be either input_ids or inputs_embeds, got {got}")
        sizes = {"D": self.config.d_model, "N": self.config.n_head, "L": len(self.blocks)}
        if self.head.inputs.check(where, sizes, given).get("T") == 0:
            raise ShapeError(f"{where}: a segment must have at least one position, got 0")

    def _run(self, block: TransfoXLBlock, hidden: Any, memory: Any, *rest: Any, need_probabilities: bool) -> Any:
        if isinstance(memory, KeptLayer):
            keys = memory.keys(block.attention, ops.stop_gradient(hidden), block.seen)
            hidden, probabilities = block(hidden, keys, *rest, need_probabilities=need_probabilities)
            return ops.stop_gradient(hidden), probabilities
        return block(hidden, memory, *rest, need_probabilities=need_probabilities)

    def _visible(self, T: Any, M: Any, absent: Any = 0) -> Any:
        """Return [T, S]: true where a key stands at or before its query and within the window, and is not absent."""
        queries = ops.arange(M, M + T)
        behind = queries[:, None] - ops.arange(M + T)[None, :]
        visible = behind >= 0
        if self.config.same_length and self.mem_len > 0:
            window = self.mem_len if self.config.window_rule == "hf" else M - absent + 1
            visible = visible & (behind < window)
        return visible & (ops.arange(M + T) >= absent)

    # ------------------------------------------------------------------------------------------------------- memory

    def start_length(self) -> int:
        """Return how many positions a text without `mems` remembers at its start, zeros all of them."""
        return max(self.mem_len, 0) if self.config.initial_memory == "zeros" else 0

    def encoded_distances(self, T: Any, M: Any, like: Any) -> Any:
        """Encode the distances between T queries and M + T keys, and one more, as [S + 1, D]."""
        return distance_encodings(M + T + 1, self.config.d_model, self.config.clamp_len, like)

    def _from_start(self, known: Memories | None, hidden: Any) -> Memories:
        """Return the memory of each layer batch first, L x [B, M, D]."""
        if known is not None:
            return [turned(memory) for memory in known]
        zeros = ops.zeros((ops.shape(hidden)[0], self.start_length(), hidden.shape[2]), dtype=hidden.dtype)
        return [zeros] * len(self.blocks)

    def _after(self, mems: Any, memories: Any, hidden_states: list[Any]) -> Any:
        """Leave for the next call what is kept now that the layers read hidden states, and return it as `mems`."""
        if isinstance(mems, KeyValueMemory):
            return mems.keep(self, hidden_states[0].shape[1], max(self.mem_len, 0))
        kept = [self._kept(memory, hidden) for memory, hidden in zip(memories, hidden_states, strict=True)]
        self._carry(mems, kept)
        return [turned(memory) for memory in kept] if mems is not None or self.mem_len > 0 else None

    def _kept(self, memory: Any, hidden: Any) -> Any:
        """Return the last `mem_len` of memory and segment, cut off from the gradient."""
        both = ops.stop_gradient(ops.concatenate([ops.cast(memory, hidden.dtype), hidden], axis=1))
        return both[:, -self.mem_len :] if self.mem_len > 0 else both[:, :0]

    # --------------------------------------------------------------------------------------------------- embeddings

    def get_input_embeddings(self) -> TFAdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.embedding

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> TFAdaptiveEmbedding:
        """Grow or shrink one bin so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.embedding


class TFTransfoXLLMHeadModel(MemoryThroughBody, Model):
    """The body with an adaptive softmax over the next word."""

    def __init__(self, config: TransfoXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFTransfoXLModel(config, dtype=dtype)
        sizes = (config.vocab_size, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        ties = {"tie_weight": config.tie_word_embeddings, "tie_projs": config.tie_projs}
        self.crit = TFProjectedAdaptiveLogSoftmax(*sizes, embedding=self.transformer.embedding, **ties, dtype=dtype)
        self.finish()

    @one_gradient
    def call(
        self,
        input_ids: Any = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_scores: bool = False,
        logits_to_keep: int = 0,
        training: bool | None = None,
    ) -> Any:
        """Predict each next word.

        Takes what `TFTransfoXLModel.call` takes, and:

        Args:
            labels: [B, T], the input itself (position t predicts label t + 1), or [B, T + 1], whose last column the
                last position predicts. -100 is ignored. Never changed.
            output_scores: give `prediction_scores` beside the losses, too.
            logits_to_keep: scores of that many last positions only; 0 for all.

        Returns:
            `TransfoXLLMHeadModelOutput`, or a tuple of its fields. With labels `losses` [B, U - 1] by position, zero
            where the label is ignored, and their mean `loss` over those that are not; without, `prediction_scores`.
        """
        body = self.transformer(
            input_ids,
            mems=mems,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = body.last_hidden_state
        losses, loss, scores = None, None, ()
        if logits_to_keep < 0:
            where = type(self).__name__
            raise ShapeError(f"{where}: logits_to_keep must be at least 0 (0 for all), got {logits_to_keep}")
        if labels is not None:
            following = self._following(labels, hidden)
            read = ops.reshape(hidden[:, : ops.shape(following)[1]], (-1, hidden.shape[2]))
            losses = self.crit.token_losses(read, ops.ravel(following))
            losses = ops.reshape(losses, ops.shape(following))  # [B, U - 1]
            loss = mean_over(losses, (following >= 0) & (following < self.config.vocab_size))
        if labels is None or output_scores:
            scores = self.crit.log_prob(hidden[:, -logits_to_keep:])
        rest = {name: body.get(name) for name in ("mems", "hidden_states", "attentions")}
        output = self.head.output(losses=losses, prediction_scores=scores, loss=loss, **rest)
        return self._returned(output, return_dict, "loss" if self.config.trainer_compatible else "")

    def _following(self, labels: Any, hidden: Any) -> Any:
        """Return [B, U - 1], the label that each position predicts."""
        where, T = type(self).__name__, hidden.shape[1]
        self.head.inputs.check(where, {"B": hidden.shape[0]}, {"labels": labels})
        if None not in (labels.shape[1], T) and (labels.shape[1] not in (T, T + 1) or labels.shape[1] < 2):
            raise ShapeError(
                f"{where}: labels must have {T} columns, or {T + 1} with the word after the last, and at least 2, "
                f"got {labels.shape[1]}"
            )
        require_labels(where, labels, self.config.vocab_size)
        return ops.cast(labels[:, 1:], "int32")

    def get_input_embeddings(self) -> TFAdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.transformer.embedding

    def get_output_embeddings(self) -> AdaptiveBin:
        """Return the output table of the last bin."""
        return self.crit.bins[-1]

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> TFAdaptiveEmbedding:
        """Grow or shrink one bin, in and out, so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.transformer.embedding


class TFTransfoXLForSequenceClassification(MemoryThroughBody, Model):
    """The body with a score for each label, read at the last position of each text."""

    def __init__(self, config: TransfoXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFTransfoXLModel(config, dtype=dtype)
        self.score = linear(config.d_model, config.num_labels, bias=False, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = None,
    ) -> Any:
        """Score each label for each text.

        Takes what `TFTransfoXLModel.call` takes, and:

        Args:
            labels: [B] classes (-100 is ignored), [B] numbers or [B, K] zeros and ones; `config.problem_type` or,
                without it, number of labels and dtype decide which.

        Returns:
            `TransfoXLSequenceClassifierOutputWithPast`, or a tuple of its fields. A text is read at the position before
            its first `pad_token_id`, at its last position if there is none or padding comes first.
        """
        body = self.transformer(
            input_ids,
            mems=mems,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        hidden = body.last_hidden_state
        self.head.inputs.check(type(self).__name__, {"B": hidden.shape[0]}, {"labels": labels})
        last = ops.cast(self._last_positions(input_ids, hidden), "int32")
        logits = self.score(ops.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])  # [B, K]
        if self.config.pad_token_id is None:  # a graph that knows the size of no batch cannot refuse one of several
            logits = ops.where(ops.equal(ops.shape(logits)[0], 1), logits, ops.cast(float("nan"), logits.dtype))
        loss = (
            None
            if labels is None
            else classification_loss(type(self).__name__, logits, labels, self.config.problem_type)
        )
        rest = {name: body.get(name) for name in ("mems", "hidden_states", "attentions")}
        return self._returned(self.head.output(loss=loss, logits=logits, **rest), return_dict)

    def _last_positions(self, input_ids: Any, hidden: Any) -> Any:
        """Return [B], where each text ends."""
        where, pad = type(self).__name__, self.config.pad_token_id
        B, T, _ = ops.shape(hidden)
        if pad is None and isinstance(B, int) and B > 1:
            raise ShapeError(f"{where}: a batch must have one row without config.pad_token_id, got {B}")
        if pad is not None and input_ids is None:
            warnings.warn(f"{where}: padding cannot be seen in inputs_embeds; the last position is read", stacklevel=2)
        if pad is None or input_ids is None:
            return ops.full((B,), T - 1)
        padding = ops.cast(ops.equal(input_ids, pad), "int32")
        return (ops.argmax(padding, axis=-1) - 1) % T  # no padding, or padding first: the last position

    def get_input_embeddings(self) -> TFAdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.transformer.embedding

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> TFAdaptiveEmbedding:
        """Grow or shrink one bin so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.transformer.embedding
