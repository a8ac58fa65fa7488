"""XLM-RoBERTa-XL in Keras (Goyal et al., 2021). What it is stands in `xlcore/families/xlm_roberta_xl.py`."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_ids
from xl_tf.heads import PrunableModel, all_texts, chosen_positions
from xl_tf.layers.basic import layer_norm, linear
from xl_tf.layers.cache import KeyValueCache, Past, grown, past_layers
from xl_tf.layers.plain_attention import encoded_source, keys_by_mask
from xl_tf.layers.roberta import HeadTransform, TextClassifier, XLMRobertaXLBlock, word_positions
from xl_tf.layers.shared_table import one_gradient
from xl_tf.layers.vocabulary import Embedding, WordScores
from xl_tf.losses import classification_loss, entry_loss, span_loss
from xl_tf.model import Model
from xlcore.errors import ShapeError
from xlcore.families.xlm_roberta_xl import XLMRobertaXLConfig, require_cross_attention
from xlcore.shapes import IGNORED_LABEL


class TFXLMRobertaXLModel(PrunableModel, Model):
    """The body: embeddings and layers, and a map of the first position's state; no head.

    Args:
        add_pooling_layer: whether there is that map; as the config has it if None.
    """

    def __init__(
        self, config: XLMRobertaXLConfig, add_pooling_layer: bool | None = None, *, dtype: Any = None, **more: Any
    ) -> None:
        if add_pooling_layer is not None:
            config = config.copy(add_pooling_layer=add_pooling_layer)
        super().__init__(config, dtype=dtype, **more)
        require_cross_attention(type(self).__name__, config)
        D, pad = config.hidden_size, config.pad_token_id
        self.embedding = Embedding(config.vocab_size, D, pad, dtype=dtype)
        self.embedding_of_positions = Embedding(config.max_position_embeddings, D, pad, dtype=dtype)
        self.embedding_of_types = Embedding(config.type_vocab_size, D, dtype=dtype)
        self.blocks = [XLMRobertaXLBlock(config, number, dtype=dtype) for number in range(config.num_layers)]
        self.final_norm = layer_norm(D, config.layer_norm_eps, dtype=dtype)
        self.pooler = linear(D, D, dtype=dtype) if config.add_pooling_layer else None
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        encoder_hidden_states: Any = None, encoder_attention_mask: Any = None, past_key_values: Past = None,
        use_cache: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Read texts.

        Args:
            input_ids: [B, T], or inputs_embeds: [B, T, D].
            attention_mask: [B, S], 0 for words that no query sees; a decoder's queries see none that comes later,
                either. Or [B, T, S], 1 for what each query sees, later words too. All are seen if None, padding too.
            token_type_ids: [B, T], the kind of segment of each word; 0 if None.
            position_ids: [B, T], [1, T] or [T]; if None words count from `config.pad_token_id + 1` on, padding left
                out.
            head_mask: [N] or [L, N], 0 for heads to leave out.
            encoder_hidden_states, encoder_attention_mask: [B, M, D] and [B, M] or [B, T, M], for a decoder with cross
                attention: states of an encoder, and 0 for those that are not seen.
            past_key_values: what a decoder returned for the words before these, M of S: for each layer keys and values
                [B, N, M, H], and those of the encoder's states. Or a `KeyValueCache`, which grows in place.
            use_cache: whether a decoder returns them; as the config has it if None.
            output_attentions, output_hidden_states, return_dict: as the config has them if None.

        Returns:
            `XLMRobertaXLModelOutput`, or a tuple of its fields, `past_key_values` before `hidden_states`.

        Raises:
            ShapeError: for other shapes, ids outside their range, both or none of ids and embeddings, too long texts.
            ConfigError: for what only a decoder reads where the model is none.
        """
        config, where = self.config, type(self).__name__
        need_probabilities = config.output_attentions if output_attentions is None else output_attentions
        need_hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        pasts, read = past_layers(where, config, past_key_values)
        self._check(
            read, pasts[0][0].shape[0] if pasts else None, position_ids, input_ids=input_ids, head_mask=head_mask,
            attention_mask=attention_mask, token_type_ids=token_type_ids, inputs_embeds=inputs_embeds,
        )  # fmt: skip
        positions = word_positions(where, config, read, input_ids, inputs_embeds, attention_mask, position_ids)
        hidden = self._embedded(input_ids, inputs_embeds, token_type_ids, positions)
        seen = keys_by_mask(attention_mask, config.is_decoder, read, hidden)
        source = encoded_source(where, config, hidden, encoder_hidden_states, encoder_attention_mask, pasts)
        if use_cache is None:
            use_cache = config.use_cache or isinstance(past_key_values, KeyValueCache)
        keeps, length = use_cache and config.is_decoder, read + ops.shape(hidden)[1]
        hidden_states, attentions, cross_attentions, layers = [], [], [], []
        for number, block in enumerate(self.blocks):
            hidden_states += [hidden] if need_hidden else []
            head = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[number]
            past = pasts[number] if pasts else None
            hidden, *probabilities, kept = block(
                hidden, seen, source, head, past, need_probabilities=need_probabilities
            )
            attentions += probabilities[:1] if need_probabilities else []
            cross_attentions += probabilities[1:] if need_probabilities else []
            layers += [kept] if keeps else []
        hidden = self.final_norm(hidden)
        output = self.head.output(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else ops.tanh(self.pooler(hidden[:, 0])),
            hidden_states=(*hidden_states, hidden) if need_hidden else None,
            past_key_values=grown(past_key_values, layers, length) if keeps else None,
            attentions=tuple(attentions) if need_probabilities else None,
            cross_attentions=tuple(cross_attentions) if need_probabilities and source is not None else None,
        )
        return self._returned(output, return_dict, "last_hidden_state", "pooler_output", "past_key_values")

    def _check(self, read: Any, rows: int | None, position_ids: Any, **given: Any) -> None:
        """Hold the inputs against the contract, and against what the config allows, behind `read` words."""
        config, where = self.config, type(self).__name__
        alike = position_ids is not None and len(position_ids.shape) == 2 and position_ids.shape[0] == 1
        found = self._check_text(position_ids=position_ids[0] if alike else position_ids, **given)
        T = found.get("T")
        total = read + T if isinstance(read, int) and T is not None else found.get("S")
        if rows is not None and rows != found.get("B", rows):
            raise ShapeError(f"{where}: texts must be the {rows} of past_key_values, got {found['B']}")
        if found.get("S", total) != total:
            what = f"attention_mask must have an entry for each of {total} words, {read} read before"
            raise ShapeError(f"{where}: {what}, got {found['S']}")
        limited = (("token_type_ids", given["token_type_ids"], config.type_vocab_size),)
        limited += (("position_ids", position_ids, config.max_position_embeddings),)
        for name, value, limit in limited:
            if value is not None:
                require_ids(where, value, limit, name)

    def _embedded(self, input_ids: Any, inputs_embeds: Any, types: Any, positions: Any) -> Any:
        """Return the sum of all embeddings, [B, T, D]."""
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        kinds = (
            ops.cast(self.embedding_of_types.weight, hidden.dtype)[0]
            if types is None
            else self.embedding_of_types(types)
        )
        hidden = hidden + kinds
        if self.config.position_embedding_type == "absolute":
            hidden = hidden + self.embedding_of_positions(positions)
        return self.dropout(hidden)


def body_of(config: XLMRobertaXLConfig, dtype: Any) -> TFXLMRobertaXLModel:
    """Make the body of a model with a head, which shares its config and has no map of the first position's state."""
    body = TFXLMRobertaXLModel(config, add_pooling_layer=False, dtype=dtype)
    body.config = config
    return body


class TFXLMRobertaXLForMaskedLM(PrunableModel, Model):
    """The body with a score for each word, of standing where it was masked."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        V, D = config.vocab_size, config.hidden_size
        self.transform = HeadTransform(D, config.layer_norm_eps, dtype=dtype)
        self.lm_head = WordScores(
            V, D, self.roberta.embedding.weight if config.tie_word_embeddings else None, dtype=dtype
        )
        self.finish()

    @one_gradient
    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        encoder_hidden_states: Any = None, encoder_attention_mask: Any = None, labels: Any = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, output_scores: bool = False, logits_to_keep: Any = 0,
        training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Predict words.

        Takes what `TFXLMRobertaXLModel.call` takes but what was read before, and:

        Args:
            labels: [B, T], the word at each position; nothing is shifted. -100 is ignored.
            output_scores: give `logits` beside the loss, too; they cost time and memory.
            logits_to_keep: scores of that many last positions only, 0 for all; or of these positions, [P].

        Returns:
            `XLMRobertaXLForMaskedLMOutput`, or a tuple of its fields. With labels the `loss`; without, `logits`.
        """
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, use_cache=False, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        where, hidden = type(self).__name__, body.last_hidden_state
        loss, logits = None, None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = self.lm_head.mean_loss(where, self.transform(hidden), labels)
        if labels is None or output_scores:
            logits = self.lm_head(self.transform(chosen_positions(where, hidden, logits_to_keep)))
        return self._headed(body, return_dict, loss=loss, logits=logits)

    def get_output_embeddings(self) -> keras.Layer:
        """Return the scores of words."""
        return self.lm_head


class TFXLMRobertaXLForCausalLM(PrunableModel, Model):
    """The body with a score for each word, of coming next; the config makes it a decoder."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        V, D = config.vocab_size, config.hidden_size
        self.transform = HeadTransform(D, config.layer_norm_eps, dtype=dtype)
        self.lm_head = WordScores(
            V, D, self.roberta.embedding.weight if config.tie_word_embeddings else None, dtype=dtype
        )
        self.finish()

    @one_gradient
    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        encoder_hidden_states: Any = None, encoder_attention_mask: Any = None, labels: Any = None,
        past_key_values: Past = None, use_cache: bool | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, output_scores: bool = False,
        logits_to_keep: Any = 0, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Predict the next words.

        Takes what `TFXLMRobertaXLModel.call` takes, and:

        Args:
            labels: [B, T], the words themselves, for each is predicted where the one before it stands. -100 is ignored.
                With labels nothing is kept to read on.
            output_scores: give `logits` beside the loss, too; they cost time and memory.
            logits_to_keep: scores of that many last positions only, 0 for all; or of these positions, [P].

        Returns:
            `XLMRobertaXLForCausalLMOutput`, or a tuple of its fields. With labels the `loss`; without, `logits`.
        """
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, past_key_values=past_key_values, use_cache=use_cache if labels is None else False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        where, hidden = type(self).__name__, body.last_hidden_state
        loss, logits = None, None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = self.lm_head.mean_loss(where, self.transform(hidden[:, :-1]), labels[:, 1:])
        if labels is None or output_scores:
            logits = self.lm_head(self.transform(chosen_positions(where, hidden, logits_to_keep)))
        return self._headed(body, return_dict, loss=loss, logits=logits)

    def get_output_embeddings(self) -> keras.Layer:
        """Return the scores of words."""
        return self.lm_head


class TFXLMRobertaXLForSequenceClassification(PrunableModel, Model):
    """The body with a score for each label of a text."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        self.classifier = TextClassifier(config.hidden_size, config.num_labels, config.label_dropout, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        labels: Any = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each text.

        Takes what `TFXLMRobertaXLModel.call` takes of one text, and:

        Args:
            labels: [B] classes (-100 is ignored), [B] numbers or [B, K] zeros and ones; `config.problem_type` or,
                without it, number of labels and dtype decide which, anew in each call.

        Returns:
            `XLMRobertaXLForSequenceClassificationOutput`, or a tuple of its fields.
        """
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, use_cache=False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.classifier(hidden)  # [B, K]
        self._check_targets(hidden, labels=labels)
        where, problem = type(self).__name__, self.config.problem_type
        loss = None if labels is None else classification_loss(where, logits, labels, problem)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMRobertaXLForTokenClassification(PrunableModel, Model):
    """The body with a score for each label of a word."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        self.dropout = keras.layers.Dropout(config.label_dropout, dtype=dtype)
        self.classifier = linear(config.hidden_size, config.num_labels, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        labels: Any = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each word.

        Takes what `TFXLMRobertaXLModel.call` takes of one text, and:

        Args:
            labels: [B, T] classes; -100 is ignored, and so are words that a mask [B, T] hides.

        Returns:
            `XLMRobertaXLForTokenClassificationOutput`, or a tuple of its fields.
        """
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, use_cache=False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.classifier(self.dropout(hidden))  # [B, T, K]
        self._check_targets(hidden, labels=labels)
        if labels is not None and attention_mask is not None and len(attention_mask.shape) == 2:
            labels = ops.where(ops.not_equal(attention_mask, 0), labels, IGNORED_LABEL)
        loss = None if labels is None else entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMRobertaXLForMultipleChoice(PrunableModel, Model):
    """The body with a score for each of several texts, of which one is right."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        D = config.hidden_size
        self.pooler = linear(D, D, dtype=dtype)
        self.dropout = keras.layers.Dropout(config.hidden_dropout_prob, dtype=dtype)
        self.classifier = linear(D, 1, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, token_type_ids: Any = None, attention_mask: Any = None, labels: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each choice.

        Takes what `TFXLMRobertaXLModel.call` takes of one text, with an axis for the choices: input_ids and what goes
        with it [B, C, T], inputs_embeds [B, C, T, D].

        Args:
            labels: [B], the right choice; -100 is ignored.

        Returns:
            `XLMRobertaXLForMultipleChoiceOutput`, or a tuple of its fields.
        """
        self._check_given(
            {}, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, labels=labels,
        )  # fmt: skip
        texts = input_ids if inputs_embeds is None else inputs_embeds
        given = (input_ids, attention_mask, token_type_ids, position_ids)
        input_ids, attention_mask, token_type_ids, position_ids = (all_texts(each) for each in given)
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, all_texts(inputs_embeds),
            use_cache=False, output_attentions=output_attentions, output_hidden_states=output_hidden_states,
            return_dict=True,
        )  # fmt: skip
        pooled = ops.tanh(self.pooler(body.last_hidden_state[:, 0]))  # [G, D]
        logits = ops.reshape(self.classifier(self.dropout(pooled)), ops.shape(texts)[:2])  # [B, C]
        loss = None if labels is None else entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLMRobertaXLForQuestionAnswering(PrunableModel, Model):
    """The body with a score for each position, of being the start and of being the end of an answer."""

    def __init__(self, config: XLMRobertaXLConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.roberta = body_of(config, dtype)
        self.spans = linear(config.hidden_size, 2, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None,
        position_ids: Any = None, head_mask: Any = None, inputs_embeds: Any = None,
        start_positions: Any = None, end_positions: Any = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score starts and ends of answers.

        Takes what `TFXLMRobertaXLModel.call` takes of one text, and:

        Args:
            start_positions, end_positions: [B] or [B, 1], where the answer stands; both for a loss. Positions behind
                the end, of answers that were cut off, and -100 are ignored.

        Returns:
            `XLMRobertaXLForQuestionAnsweringOutput`, or a tuple of its fields.
        """
        body = self.roberta(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds, use_cache=False,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        self._check_targets(hidden, start_positions=start_positions, end_positions=end_positions)
        starts, ends = ops.unstack(self.spans(hidden), 2, axis=-1)  # [B, T]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(type(self).__name__, starts, ends, ops.ravel(start_positions), ops.ravel(end_positions))
        return self._headed(body, return_dict, loss=loss, start_logits=starts, end_logits=ends)
