"""XLM in Keras (Lample and Conneau, 2019). What it is stands in `xlcore/families/xlm.py`."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.heads import PrunableModel, all_texts, chosen_positions
from xl_tf.layers.adaptive import TFProjectedAdaptiveLogSoftmax
from xl_tf.layers.basic import FeedForward, layer_norm, linear
from xl_tf.layers.cache import KeyValueCache
from xl_tf.layers.plain_attention import PlainAttention, kept_positions, source_of, visible_keys
from xl_tf.layers.shared_table import one_gradient
from xl_tf.layers.summary import AnswerScore, EndScores, SequenceSummary, StartScores, answer_loss, best_answers
from xl_tf.layers.vocabulary import Embedding, WordScores
from xl_tf.losses import classification_loss, entry_loss, span_loss
from xl_tf.model import Model
from xlcore.errors import ShapeError
from xlcore.families.xlm import XLMConfig, require_summary


class XLMBlock(keras.Layer):
    """One layer: attention, in a decoder attention to an encoder, and feed-forward; each normalised after it."""

    def __init__(self, config: XLMConfig, number: int, *, dtype: Any = None) -> None:
        super().__init__(dtype=dtype)
        D, epsilon = config.hidden_size, config.layer_norm_eps
        self.attention = PlainAttention(config, config.kept_heads(number), dtype=dtype)
        self.attention_norm = layer_norm(D, epsilon, dtype=dtype)
        self.cross_attention = (
            None if config.is_encoder else PlainAttention(config, list(range(config.n_heads)), dtype=dtype)
        )
        self.cross_attention_norm = None if config.is_encoder else layer_norm(D, epsilon, dtype=dtype)
        sizes = (D, config.feed_forward_size)
        self.feed_forward = FeedForward(*sizes, config.dropout, config.activation, drop_inner=False, dtype=dtype)
        self.feed_forward_norm = layer_norm(D, epsilon, dtype=dtype)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.built = True

    def call(
        self, hidden: Any, visible: Any, source: Any, head_mask: Any, past: Any, need_probabilities: bool
    ) -> tuple[Any, Any, tuple[Any, ...]]:
        """Map hidden [B, T, D] to the same shape.

        Args:
            visible: [T, S] or [B, 1, 1 or T, S], true for keys that a query sees; None if it sees all.
            source: what is read of an encoder. head_mask: [N].
            past: keys and values of what has been read before, and of the source; None if nothing has.

        Returns:
            Hidden states, probabilities [B, N, T, S] or None, and keys and values of all that has been read.
        """
        key, value = self.attention.keys(hidden)
        if past is not None:
            key, value = (ops.concatenate(each, axis=1) for each in ((past[0], key), (past[1], value)))  # [B, S, N, H]
        attended, probabilities = self.attention(
            hidden, key, value, visible, head_mask, need_probabilities=need_probabilities
        )
        hidden = self.attention_norm(hidden + self.dropout(attended))
        kept = (key, value)
        if source is not None:
            key, value = self.cross_attention.keys(source.states) if past is None else past[2:]
            attended, _ = self.cross_attention(hidden, key, value, source.visible, None, need_probabilities=False)
            hidden = self.cross_attention_norm(hidden + self.dropout(attended))
            kept = (*kept, key, value)
        return self.feed_forward_norm(hidden + self.feed_forward(hidden)), probabilities, kept


class TFXLMModel(PrunableModel, Model):
    """The body: embeddings and layers, no head."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        D = config.emb_dim
        self.embedding = Embedding(config.vocab_size, D, config.pad_token_id, dtype=dtype)
        self.embedding_of_positions = Embedding(config.max_position_embeddings, D, dtype=dtype)
        self.embedding_of_languages = Embedding(config.n_langs, D, dtype=dtype) if config.has_languages else None
        self.embedding_norm = layer_norm(D, config.layer_norm_eps, dtype=dtype)
        self.blocks = [XLMBlock(config, number, dtype=dtype) for number in range(config.n_layers)]
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        if config.sinusoidal_embeddings:
            self.embedding_of_positions.trainable = False
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, src_enc: Any = None, src_len: Any = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Read texts.

        Args:
            input_ids: [B, T], or inputs_embeds: [B, T, D].
            attention_mask: [B, T], 0 for padding. Or lengths: [B], how many positions of each text count; if neither is
                given, as many as are not `config.pad_token_id`. With `causal` padding is seen by later words all the
                same, unless `config.hide_padding` says otherwise. States of padding are zero.
            langs: [B, T], the language of each word; ignored by a model without embeddings of languages.
            token_type_ids: [B, T], ids whose embeddings are added, as other implementations do.
            position_ids: [B, T]; 0, 1, ... if None.
            cache: what a causal model has read of these texts; only what is new is read, and returned.
            head_mask: [N] or [L, N], 0 for heads to leave out.
            output_attentions, output_hidden_states, return_dict: as the config has them if None.
            src_enc, src_len: [B, M, D] and [B], for a decoder: states of an encoder, and how many of them count.

        Returns:
            `XLMModelOutput`, or a tuple of its fields.

        Raises:
            ShapeError: for other shapes, ids outside their range, both or none of ids and embeddings, too long texts.
            ConfigError: for a cache where the model is not causal, or `src_enc` where it is no decoder.
        """
        need_probabilities = self.config.output_attentions if output_attentions is None else output_attentions
        need_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        self._check(
            input_ids=input_ids, attention_mask=attention_mask, langs=langs, token_type_ids=token_type_ids,
            position_ids=position_ids, lengths=lengths, head_mask=head_mask, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        read = 0 if cache is None else cache.length
        keep = kept_positions(self.config, input_ids, inputs_embeds, attention_mask, lengths)  # [B, S]
        source = source_of(type(self).__name__, self.config, keep.shape[0], src_enc, src_len)
        if cache is not None:
            cache.require(type(self).__name__, self.config, keep, source)
        visible = visible_keys(self.config, keep, read, None if cache is None else cache.absent)
        hidden = self._embedded(read, input_ids, inputs_embeds, langs, token_type_ids, position_ids)
        keep = ops.cast(keep[:, read:, None], hidden.dtype)
        hidden = self.dropout(self.embedding_norm(hidden)) * keep
        hidden_states, attentions, layers = [hidden], [], []
        for number, block in enumerate(self.blocks):
            head = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[number]
            past = None if cache is None else cache.past(number)
            hidden, probabilities, kept = block(
                hidden, visible, source, head, past, need_probabilities=need_probabilities
            )
            hidden = hidden * keep
            hidden_states += [hidden] if need_hidden else []
            attentions += [probabilities] if need_probabilities else []
            layers += [] if cache is None else [kept]
        if cache is not None:
            cache.keep(layers, read + hidden.shape[1])
        output = self.head.output(
            last_hidden_state=hidden,
            hidden_states=tuple(hidden_states) if need_hidden else None,
            attentions=tuple(attentions) if need_probabilities else None,
        )
        return self._returned(output, return_dict)

    def _check(self, **given: Any) -> None:
        """Hold the inputs against the contract, and against what the config allows."""
        found, config, where = self._check_text(**given), self.config, type(self).__name__
        T, most = found.get("T"), config.max_position_embeddings
        if given["position_ids"] is None and T is not None and most < T:
            raise ShapeError(f"{where}: a text must have at most {most} positions, got {T}; give position_ids")
        last = None if T is None else T + 1
        limits = {"langs": config.n_langs if config.has_languages else None, "position_ids": most, "lengths": last}
        for name, limit in limits.items():
            if given[name] is not None and limit is not None:
                require_ids(where, given[name], limit, name)

    def _embedded(self, read: int, input_ids: Any, inputs_embeds: Any, langs: Any, types: Any, positions: Any) -> Any:
        """Return the sum of all embeddings of what is new, [B, T, D]."""
        given = (input_ids, inputs_embeds, langs, types, positions)
        ids, hidden, langs, types, positions = (None if each is None else each[:, read:] for each in given)
        hidden = self.embedding(ids) if hidden is None else hidden
        if positions is None:
            places = ops.cast(self.embedding_of_positions.weight, hidden.dtype)[read : read + ops.shape(hidden)[1]]
        else:
            places = self.embedding_of_positions(positions)
        hidden = hidden + places
        if langs is not None and self.embedding_of_languages is not None:
            hidden = hidden + self.embedding_of_languages(langs)
        return hidden if types is None else hidden + self.embedding(types)


class TFXLMWithLMHeadModel(PrunableModel, Model):
    """The body with a score for each word."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLMModel(config, dtype=dtype)
        V, D = config.vocab_size, config.emb_dim
        table = self.transformer.embedding.weight if config.tie_word_embeddings else None
        self.lm_head = None if config.asm else WordScores(V, D, table, dtype=dtype)
        clusters = (config.asm_cutoffs, config.asm_div_value)
        self.crit = TFProjectedAdaptiveLogSoftmax(V, D, D, *clusters, plain=True, dtype=dtype) if config.asm else None
        self.finish()

    @one_gradient
    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, output_scores: bool = False,
        logits_to_keep: Any = 0, src_enc: Any = None, src_len: Any = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Predict words.

        Takes what `TFXLMModel.call` takes, and:

        Args:
            labels: [B, P], the word at each position that is new; nothing is shifted. -100 is ignored.
            output_scores: give `logits` beside the loss, too; they cost time and memory.
            logits_to_keep: scores of that many last positions only, 0 for all; or of these positions, [P].

        Returns:
            `XLMWithLMHeadModelOutput`, or a tuple. With labels `loss`; without, `logits`, logarithms if `config.asm`.
        """
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True, src_enc=src_enc, src_len=src_len,
        )  # fmt: skip
        where, hidden = type(self).__name__, body.last_hidden_state
        loss, logits = None, None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = (self.lm_head or self.crit).mean_loss(where, hidden, labels)
        if labels is None or output_scores:
            hidden = chosen_positions(where, hidden, logits_to_keep)
            logits = self.crit.log_prob(hidden) if self.lm_head is None else self.lm_head(hidden)
        return self._headed(body, return_dict, loss=loss, logits=logits)

    def get_output_embeddings(self) -> keras.Layer:
        """Return the scores of words."""
        return self.lm_head or self.crit


class TFXLMForSequenceClassification(PrunableModel, Model):
    """The body with a score for each label of a text."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        require_summary(type(self).__name__, config)
        self.transformer = TFXLMModel(config, dtype=dtype)
        self.sequence_summary = SequenceSummary(config, config.emb_dim, config.num_labels, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each text.

        Takes what `TFXLMModel.call` takes, and:

        Args:
            labels: [B] classes (-100 is ignored), [B] numbers or [B, K] zeros and ones; `config.problem_type` or,
                without it, number of labels and dtype decide which, anew in each call.

        Returns:
            `XLMForSequenceClassificationOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.sequence_summary(hidden)  # [B, K]
        self._check_targets(hidden, labels=labels)
        where, problem = type(self).__name__, self.config.problem_type
        loss = None if labels is None else classification_loss(where, logits, labels, problem)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMForTokenClassification(PrunableModel, Model):
    """The body with a score for each label of a word."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLMModel(config, dtype=dtype)
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.classifier = linear(config.emb_dim, config.num_labels, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each word.

        Takes what `TFXLMModel.call` takes, and:

        Args:
            labels: [B, P] classes; -100 is ignored.

        Returns:
            `XLMForTokenClassificationOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.classifier(self.dropout(hidden))  # [B, P, K]
        self._check_targets(hidden, labels=labels)
        loss = None if labels is None else entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMForMultipleChoice(PrunableModel, Model):
    """The body with a score for each of several texts, of which one is right."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        require_summary(type(self).__name__, config)
        self.transformer = TFXLMModel(config, dtype=dtype)
        self.sequence_summary = SequenceSummary(config, config.emb_dim, config.num_labels, dtype=dtype)
        self.score = linear(config.num_labels, 1, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each choice.

        Takes what `TFXLMModel.call` takes, with an axis for the choices: input_ids and what goes with it [B, C, T],
        lengths [B, C], inputs_embeds [B, C, T, D].

        Args:
            labels: [B], the right choice; -100 is ignored.

        Returns:
            `XLMForMultipleChoiceOutput`, or a tuple of its fields.
        """
        self._check_given(
            {}, input_ids=input_ids, attention_mask=attention_mask, langs=langs, token_type_ids=token_type_ids,
            position_ids=position_ids, lengths=lengths, inputs_embeds=inputs_embeds, labels=labels,
        )  # fmt: skip
        texts = input_ids if inputs_embeds is None else inputs_embeds
        given = (input_ids, attention_mask, langs, token_type_ids, position_ids, lengths)
        input_ids, attention_mask, langs, token_type_ids, position_ids, lengths = (all_texts(each) for each in given)
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=all_texts(inputs_embeds), output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        scores = self.score(self.sequence_summary(body.last_hidden_state))  # [G, 1]
        logits = ops.reshape(scores, ops.shape(texts)[:2])  # [B, C]
        loss = None if labels is None else entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMForQuestionAnsweringSimple(PrunableModel, Model):
    """The body with a score for each position, of being the start and of being the end of an answer."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLMModel(config, dtype=dtype)
        self.spans = linear(config.emb_dim, 2, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, start_positions: Any = None, end_positions: Any = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score starts and ends of answers.

        Takes what `TFXLMModel.call` takes, and:

        Args:
            start_positions, end_positions: [B] or [B, 1], where the answer stands; both for a loss. Positions behind
                the end, of answers that were cut off, and -100 are ignored.

        Returns:
            `XLMForQuestionAnsweringSimpleOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        self._check_targets(hidden, start_positions=start_positions, end_positions=end_positions)
        starts, ends = ops.unstack(self.spans(hidden), 2, axis=-1)  # [B, P]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(type(self).__name__, starts, ends, ops.ravel(start_positions), ops.ravel(end_positions))
        return self._headed(body, return_dict, loss=loss, start_logits=starts, end_logits=ends)


class TFXLMForQuestionAnswering(PrunableModel, Model):
    """The body with a search for the likeliest starts of answers and, for each, its likeliest ends."""

    def __init__(self, config: XLMConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLMModel(config, dtype=dtype)
        self.start = StartScores(config.emb_dim, dtype=dtype)
        self.end = EndScores(config.emb_dim, config.layer_norm_eps, dtype=dtype)
        self.answer = AnswerScore(config.emb_dim, 0.0, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, langs: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, lengths: Any = None, cache: KeyValueCache | None = None, head_mask: Any = None,
        inputs_embeds: Any = None, start_positions: Any = None, end_positions: Any = None,
        is_impossible: Any = None, cls_index: Any = None, p_mask: Any = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Learn from answers, or find them.

        Takes what `TFXLMModel.call` takes, and:

        Args:
            start_positions, end_positions: [B] or [B, 1], where the answer stands; both for a loss. Positions behind
                the end, of answers that were cut off, and -100 are ignored.
            is_impossible: [B] or [B, 1], 1 where there is no answer; counts with `cls_index` only.
            cls_index: [B] or [B, 1], the position that stands for the text; the last if None, where XLM's is the first.
            p_mask: [B, P], 1 where no answer can stand.

        Returns:
            `XLMForQuestionAnsweringOutput`, or a tuple of its fields: the loss, or without labels what was found.
        """
        body = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache=cache, head_mask=head_mask,
            inputs_embeds=inputs_embeds, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        where, hidden, config = type(self).__name__, body.last_hidden_state, self.config
        targets = {"start_positions": start_positions, "end_positions": end_positions, "cls_index": cls_index}
        self._check_targets(hidden, **targets, is_impossible=is_impossible, p_mask=p_mask)
        impossible, index = (None if each is None else ops.ravel(each) for each in (is_impossible, cls_index))
        scorers = (self.start, self.end, self.answer)
        if start_positions is None or end_positions is None:
            tops = (config.start_n_top, config.end_n_top)
            found = best_answers(where, scorers, hidden, index, p_mask, tops, False)
            return self._headed(body, return_dict, **found)
        positions = (ops.ravel(start_positions), ops.ravel(end_positions))
        loss = answer_loss(where, scorers, hidden, *positions, impossible, index, p_mask, False)
        return self._headed(body, return_dict, loss=loss)
