"""Transformer-XL in PyTorch (Dai et al., 2019). What it is stands in `xlcore/families/transfo_xl.py`."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xl_torch.checks import require_labels
from xl_torch.layers.adaptive import AdaptiveBin, AdaptiveEmbedding, ProjectedAdaptiveLogSoftmax
from xl_torch.layers.attention import Keys, attend, by_head, distance_encodings, fused, kernel_fits, relative_shift
from xl_torch.layers.basic import FeedForward, layer_norm, linear, parameter
from xl_torch.layers.key_values import KeptLayer, KeyValueMemory, known_mems
from xl_torch.layers.memory import CarriedMemory, Memory, MemoryThroughBody, turned
from xl_torch.layers.shared_table import one_gradient
from xl_torch.losses import classification_loss, mean_over
from xl_torch.model import Model
from xlcore.errors import ShapeError
from xlcore.families.transfo_xl import TransfoXLConfig, resized

Memories = list[Tensor]


class RelativeAttention(nn.Module):
    """Attention by content and by distance (Dai et al., 2019, section 3.3).

    score(t, s) = ((query_t + content_bias) . key_s + (query_t + position_bias) . position_{t-s}) / sqrt(H)
    """

    def __init__(self, config: TransfoXLConfig) -> None:
        super().__init__()
        D, N, H = config.hidden_size, config.num_heads, config.head_dim
        self.heads = (N, H)
        self.dropout = config.dropatt
        self.query = linear(D, N * H, bias=False)
        self.key = linear(D, N * H, bias=False)
        self.value = linear(D, N * H, bias=False)
        self.position = linear(D, N * H, bias=False)
        self.out = linear(N * H, D, bias=False)
        self.content_bias = parameter(N, H) if config.untie_r else None  # else the model gives all layers the same
        self.position_bias = parameter(N, H) if config.untie_r else None

    def keys(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, N, S, H] of context [B, S, D]."""
        return self._by_head(self.key(context)), self._by_head(self.value(context))

    def positions(self, distances: Tensor) -> Tensor:
        """Return the keys [N, R, H] of distances [R, D]."""
        return self._by_head(self.position(distances))

    def forward(
        self,
        hidden: Tensor,
        keys: Keys,
        visible: Tensor,
        head_mask: Tensor | None,
        need_probabilities: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from hidden [B, T, D] to S keys, of which it is the last T; visible [T, S]."""
        query = self._by_head(self.query(hidden))  # [B, N, T, H]
        if kernel_fits(query, head_mask, need_probabilities):
            return self.out(self._fused(query, keys, visible)), None
        located = (query + self._each(self.position_bias, query)) * query.shape[-1] ** -0.5
        by_distance = torch.einsum("bnth,nrh->bntr", located, keys.position)
        bias = relative_shift(by_distance)  # [B, N, T, S]
        query = query + self._each(self.content_bias, query)
        dropout = self.dropout if self.training else 0.0
        attended, probabilities = attend(
            query, keys.key, keys.value, bias, visible, dropout, head_mask, need_probabilities
        )
        return self.out(attended), probabilities

    def _fused(self, query: Tensor, keys: Keys, visible: Tensor) -> Tensor:
        """Attend from query [B, N, T, H] in one kernel; returns [B, T, N H]."""
        content, located = (query + self._each(bias, query) for bias in (self.content_bias, self.position_bias))
        dropout, S = self.dropout if self.training else 0.0, keys.key.shape[2]
        return fused(content, located, keys, visible[None], dropout, behind=S)

    def _by_head(self, projected: Tensor) -> Tensor:
        """Turn [.., S, N H] into [.., N, S, H]."""
        return by_head(projected.unflatten(-1, self.heads))

    def _each(self, bias: Tensor, query: Tensor) -> Tensor:
        """Return a bias [N, H] to be added to each query, as [N, 1, H]."""
        return bias.to(query.dtype)[:, None]


class TransfoXLBlock(nn.Module):
    """One layer: attention and feed-forward, each with a residual path; normalised before or after (`pre_lnorm`)."""

    def __init__(self, config: TransfoXLConfig) -> None:
        super().__init__()
        self.pre_lnorm = config.pre_lnorm
        self.attention = RelativeAttention(config)
        self.attention_norm = layer_norm(config.hidden_size, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config.hidden_size, config.feed_forward_size, config.dropout)
        self.feed_forward_norm = layer_norm(config.hidden_size, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden: Tensor,
        memory: Tensor | Keys,
        distances: Tensor | None,
        visible: Tensor,
        head_mask: Tensor | None,
        need_probabilities: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Map hidden [B, T, D] to the same shape.

        Args:
            memory: [B, M, D]; or the keys of memory and hidden, if they are there already.
            distances: [S + 1, D]. The rest as in `RelativeAttention`.
        """
        residual, hidden, keys = hidden, self.seen(hidden), memory
        if not isinstance(memory, Keys):
            context = torch.cat([self.seen(memory).to(hidden.dtype), hidden], dim=1)  # [B, S, D]
            keys = Keys(*self.attention.keys(context), self.attention.positions(distances))
        attended, probabilities = self.attention(hidden, keys, visible, head_mask, need_probabilities)
        hidden = residual + self.dropout(attended)
        if self.pre_lnorm:
            return hidden + self.feed_forward(self.feed_forward_norm(hidden)), probabilities
        hidden = self.attention_norm(hidden)
        return self.feed_forward_norm(hidden + self.feed_forward(hidden)), probabilities

    def seen(self, hidden: Tensor) -> Tensor:
        """Return what attention sees of hidden states."""
        return self.attention_norm(hidden) if self.pre_lnorm else hidden


class TransfoXLModel(Memory, Model):
    """The body: embeddings, layers with memory, no head."""

    def __init__(self, config: TransfoXLConfig) -> None:
        super().__init__(config)
        self.mem_len = config.mem_len
        sizes = (config.vocab_size, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        self.embedding = AdaptiveEmbedding(*sizes)
        if not config.untie_r:
            self.content_bias = parameter(config.n_head, config.d_head)
            self.position_bias = parameter(config.n_head, config.d_head)
        self.blocks = nn.ModuleList(TransfoXLBlock(config) for _ in range(config.n_layer))
        for block in self.blocks if not config.untie_r else ():
            block.attention.content_bias = self.content_bias
            block.attention.position_bias = self.position_bias
        self.dropout = nn.Dropout(config.dropout)
        self.carried = CarriedMemory()
        self.finish()

    def forward(
        self,
        input_ids: Tensor | None = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
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
        memories, M = self._opened(mems, known, hidden)
        T, read_on = hidden.shape[1], isinstance(mems, KeyValueMemory)
        distances = None if read_on else self.dropout(self.encoded_distances(T, M, hidden))
        visible = self._visible(T, M, hidden)
        need_probabilities = self.config.output_attentions if output_attentions is None else output_attentions
        hidden_states, attentions = [], []
        for number, block in enumerate(self.blocks):
            head = head_mask if head_mask is None or head_mask.dim() == 1 else head_mask[number]
            hidden_states.append(hidden)
            hidden, probabilities = self._run(
                block, hidden, memories[number], distances, visible, head, need_probabilities
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
        if self.head.inputs.check(where, sizes, given, Tensor).get("T") == 0:
            raise ShapeError(f"{where}: a segment must have at least one position, got 0")

    def _run(self, block: TransfoXLBlock, hidden: Tensor, memory: Any, *rest: Any) -> Any:
        if isinstance(memory, KeptLayer):
            with torch.no_grad():
                return block(hidden, memory.keys(block.attention, hidden, block.seen), *rest)
        inputs = (hidden, memory, *rest)
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _visible(self, T: int, M: int, hidden: Tensor) -> Tensor:
        """Return [T, S]: true where a key stands at or before its query and within the window."""
        queries = torch.arange(M, M + T, device=hidden.device)
        behind = queries[:, None] - torch.arange(M + T, device=hidden.device)[None, :]
        visible = behind >= 0
        if self.config.same_length and self.mem_len > 0:
            window = self.mem_len if self.config.window_rule == "hf" else M + 1
            visible = visible & (behind < window)
        return visible

    # ------------------------------------------------------------------------------------------------------- memory

    def start_length(self) -> int:
        """Return how many positions a text without `mems` remembers at its start, zeros all of them."""
        return max(self.mem_len, 0) if self.config.initial_memory == "zeros" else 0

    def encoded_distances(self, T: int, M: int, like: Tensor) -> Tensor:
        """Encode the distances between T queries and M + T keys, and one more, as [S + 1, D]."""
        return distance_encodings(M + T + 1, self.config.d_model, self.config.clamp_len, like)

    def _from_start(self, known: Memories | None, hidden: Tensor) -> Memories:
        """Return the memory of each layer batch first, L x [B, M, D]."""
        if known is not None:
            return [turned(memory) for memory in known]
        return [hidden.new_zeros(hidden.shape[0], self.start_length(), hidden.shape[2])] * len(self.blocks)

    def _after(self, mems: Any, memories: Any, hidden_states: list[Tensor]) -> Any:
        """Leave for the next call what is kept now that the layers read hidden states, and return it as `mems`."""
        if isinstance(mems, KeyValueMemory):
            return mems.keep(self, hidden_states[0].shape[1], max(self.mem_len, 0))
        kept = [self._kept(memory, hidden) for memory, hidden in zip(memories, hidden_states, strict=True)]
        self._carry(mems, kept)
        return [turned(memory) for memory in kept] if mems is not None or self.mem_len > 0 else None

    def _kept(self, memory: Tensor, hidden: Tensor) -> Tensor:
        """Return the last `mem_len` of memory and segment, cut off from the gradient."""
        both = torch.cat([memory.to(hidden.dtype), hidden], dim=1).detach()
        return both[:, max(0, both.shape[1] - max(self.mem_len, 0)) :]

    # --------------------------------------------------------------------------------------------------- embeddings

    def get_input_embeddings(self) -> AdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.embedding

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> AdaptiveEmbedding:
        """Grow or shrink one bin so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.embedding


class TransfoXLLMHeadModel(MemoryThroughBody, Model):
    """The body with an adaptive softmax over the next word."""

    def __init__(self, config: TransfoXLConfig) -> None:
        super().__init__(config)
        self.transformer = TransfoXLModel(config)
        sizes = (config.vocab_size, config.d_embed, config.d_model, config.cutoffs, config.div_val)
        ties = {"tie_weight": config.tie_word_embeddings, "tie_projs": config.tie_projs}
        self.crit = ProjectedAdaptiveLogSoftmax(*sizes, embedding=self.transformer.embedding, **ties)
        self.finish()

    @one_gradient
    def forward(
        self,
        input_ids: Tensor | None = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        output_scores: bool = False,
        logits_to_keep: int = 0,
    ) -> Any:
        """Predict each next word.

        Takes what `TransfoXLModel.forward` takes, and:

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
            input_ids, mems, head_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        hidden = body.last_hidden_state
        losses, loss, scores = None, None, ()
        if logits_to_keep < 0:
            where = type(self).__name__
            raise ShapeError(f"{where}: logits_to_keep must be at least 0 (0 for all), got {logits_to_keep}")
        if labels is not None:
            following = self._following(labels, hidden)
            losses = self.crit.token_losses(hidden[:, : following.shape[1]].flatten(0, 1), following.flatten())
            losses = losses.unflatten(0, following.shape)  # [B, U - 1]
            loss = mean_over(losses, (following >= 0) & (following < self.config.vocab_size))
        if labels is None or output_scores:
            scores = self.crit.log_prob(hidden[:, -logits_to_keep:])
        rest = {name: body.get(name) for name in ("mems", "hidden_states", "attentions")}
        output = self.head.output(losses=losses, prediction_scores=scores, loss=loss, **rest)
        return self._returned(output, return_dict, "loss" if self.config.trainer_compatible else "")

    def _following(self, labels: Tensor, hidden: Tensor) -> Tensor:
        """Return [B, U - 1], the label that each position predicts."""
        where, T = type(self).__name__, hidden.shape[1]
        self.head.inputs.check(where, {"B": hidden.shape[0]}, {"labels": labels}, Tensor)
        if labels.shape[1] not in (T, T + 1) or labels.shape[1] < 2:
            raise ShapeError(
                f"{where}: labels must have {T} columns, or {T + 1} with the word after the last, and at least 2, "
                f"got {labels.shape[1]}"
            )
        require_labels(where, labels, self.config.vocab_size)
        return labels[:, 1:].long()

    def get_input_embeddings(self) -> AdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.transformer.embedding

    def get_output_embeddings(self) -> AdaptiveBin:
        """Return the output table of the last bin."""
        return self.crit.bins[-1]

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> AdaptiveEmbedding:
        """Grow or shrink one bin, in and out, so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.transformer.embedding


class TransfoXLForSequenceClassification(MemoryThroughBody, Model):
    """The body with a score for each label, read at the last position of each text."""

    def __init__(self, config: TransfoXLConfig) -> None:
        super().__init__(config)
        self.transformer = TransfoXLModel(config)
        self.score = linear(config.d_model, config.num_labels, bias=False)
        self.finish()

    def forward(
        self,
        input_ids: Tensor | None = None,
        mems: Memories | KeyValueMemory | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Score each label for each text.

        Takes what `TransfoXLModel.forward` takes, and:

        Args:
            labels: [B] classes (-100 is ignored), [B] numbers or [B, K] zeros and ones; `config.problem_type` or,
                without it, number of labels and dtype decide which.

        Returns:
            `TransfoXLSequenceClassifierOutputWithPast`, or a tuple of its fields. A text is read at the position before
            its first `pad_token_id`, at its last position if there is none or padding comes first.
        """
        body = self.transformer(
            input_ids, mems, head_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict=True
        )
        hidden = body.last_hidden_state
        self.head.inputs.check(type(self).__name__, {"B": hidden.shape[0]}, {"labels": labels}, Tensor)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        logits = self.score(hidden[rows, self._last_positions(input_ids, hidden)])  # [B, K]
        loss = (
            None
            if labels is None
            else classification_loss(type(self).__name__, logits, labels, self.config.problem_type)
        )
        rest = {name: body.get(name) for name in ("mems", "hidden_states", "attentions")}
        return self._returned(self.head.output(loss=loss, logits=logits, **rest), return_dict)

    def _last_positions(self, input_ids: Tensor | None, hidden: Tensor) -> Tensor:
        """Return [B], where each text ends."""
        where, pad, T = type(self).__name__, self.config.pad_token_id, hidden.shape[1]
        if pad is None and hidden.shape[0] > 1:
            raise ShapeError(f"{where}: a batch must have one row without config.pad_token_id, got {hidden.shape[0]}")
        if pad is not None and input_ids is None:
            warnings.warn(f"{where}: padding cannot be seen in inputs_embeds; the last position is read", stacklevel=2)
        if pad is None or input_ids is None:
            return torch.full((hidden.shape[0],), T - 1, device=hidden.device)
        padding = (input_ids == pad).int()
        return (padding.argmax(-1) - 1) % T  # no padding, or padding first: the last position

    def get_input_embeddings(self) -> AdaptiveEmbedding:
        """Return the embedding of all bins."""
        return self.transformer.embedding

    def resize_token_embeddings(self, new_num_tokens: int, layer: int = -1) -> AdaptiveEmbedding:
        """Grow or shrink one bin so that the vocabulary has `new_num_tokens`; see `resized`."""
        self._become(resized(self.config, new_num_tokens, layer))
        return self.transformer.embedding
