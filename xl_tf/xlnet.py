"""XLNet in Keras (Yang et al., 2019). What it is stands in `xlcore/families/xlnet.py`."""

from typing import Any

import keras
from keras import ops

from xl_tf.checks import require_targets
from xl_tf.heads import TextModel, chosen_positions
from xl_tf.layers.attention import Keys
from xl_tf.layers.basic import linear, parameter
from xl_tf.layers.key_values import KeyValueMemory, known_mems
from xl_tf.layers.memory import CarriedMemory, Memory, MemoryThroughBody, turned
from xl_tf.layers.summary import AnswerScore, EndScores, SequenceSummary, StartScores, answer_loss, best_answers
from xl_tf.layers.two_stream import XLNetBlock, blocked_keys, encoded_distances, scene_of
from xl_tf.layers.vocabulary import Embedding, WordScores
from xl_tf.losses import classification_loss, entry_loss, span_loss
from xl_tf.model import Model
from xlcore.errors import ShapeError
from xlcore.families.xlnet import XLNetConfig

Memories = list[Any] | None


class TFXLNetModel(Memory, TextModel, Model):
    """The body: embeddings, layers with memory, one stream or two, no head."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.embedding = Embedding(config.vocab_size, config.d_model, dtype=dtype)
        self.mask_embedding = parameter(self, "mask_embedding", 1, 1, config.d_model)
        self.blocks = [XLNetBlock(config, dtype=dtype) for _ in range(config.n_layer)]
        self.dropout = keras.layers.Dropout(config.dropout, dtype=dtype)
        self.mem_len = config.mem_len or 0
        self.carried = CarriedMemory()
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, use_mems: bool | None = None, output_attentions: bool | None = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Read a text, or a segment of one after the memory of earlier ones.

        Args:
            input_ids: [B, T], or inputs_embeds: [B, T, D].
            attention_mask: [B, T], 0 for padding; or input_mask: [B, T], 1 for padding. Numbers or truth values.
            mems: L x [M, B, D], as an earlier call gave them, of any length; None takes what `carry_memory` carries.
                In evaluation a `KeyValueMemory` is faster.
            perm_mask: [B, T, T], 1 where position i may not see what stands at position j.
            target_mapping: [B, P, T], a row for each prediction, 1 at its position; or [B, P] whole numbers, the
                positions, -1 for none, which costs less in compiled code and on accelerators. Switches the second
                stream on, which knows where it stands but not what stands there.
            token_type_ids: [B, T], numbers of segments; only whether two are equal counts, and memory is of segment 0.
            head_mask: [N] or [L, N], 0 for heads to leave out.
            use_mems: return memory; as `config.use_mems_train` or `config.use_mems_eval` says if None. What `mems`
                holds is read in any case.
            output_attentions, output_hidden_states, return_dict: as the config has them if None.

        Returns:
            `XLNetModelOutput`, or a tuple of its fields.

        Raises:
            ShapeError: for inputs of other shapes, ids outside the vocabulary, both or none of ids and embeddings, both
                masks of padding, or an odd number of texts with `bi_data`.
        """
        known = known_mems(mems)
        known = None if known is None or all(memory is None for memory in known) else known
        mems = mems if isinstance(mems, KeyValueMemory) else known
        need_probabilities = self.config.output_attentions if output_attentions is None else output_attentions
        need_hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        self._check(
            input_ids=input_ids, attention_mask=attention_mask, mems=known, perm_mask=perm_mask,
            target_mapping=target_mapping, token_type_ids=token_type_ids, input_mask=input_mask, head_mask=head_mask,
            inputs_embeds=inputs_embeds,
        )  # fmt: skip
        hidden = self.dropout(self.embedding(input_ids) if inputs_embeds is None else inputs_embeds)
        guess = None if target_mapping is None else self._guess(target_mapping, hidden)
        memories, M = self._opened(mems, known, hidden, training)
        T, config, read_on = ops.shape(hidden)[1], self.config, isinstance(mems, KeyValueMemory)
        distances = hidden if read_on else self.dropout(self.encoded_distances(T, M, hidden))  # one for all rows
        blocked = blocked_keys(M, attention_mask, input_mask, perm_mask)
        blocked = mems.blocked(T, blocked) if read_on else blocked
        scene = scene_of(config, distances, T, M, blocked, token_type_ids, target_mapping, need_probabilities)
        need_mems = read_on or self._need_mems(training) if use_mems is None else use_mems
        hidden_states, attentions, contexts = [], [], []
        for number, block in enumerate(self.blocks):
            head = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[number]
            context = block.context(hidden, None if memories is None else memories[number])
            hidden_states += [hidden] if guess is None else [hidden, guess]
            contexts += [context] if need_mems or self._carries(mems) else []
            last = number + 1 == len(self.blocks) and guess is not None and not (need_hidden or need_probabilities)
            hidden = None if last else hidden  # nobody reads what it would become
            hidden, guess, probabilities = self._run(
                block, hidden, guess, context, scene, head, need_probabilities=need_probabilities
            )
            attentions.append(probabilities)
        hidden_states += [hidden] if guess is None else [hidden, guess]
        mems = self._after(mems, contexts, M, T) if need_mems or self._carries(mems) else None
        output = self.head.output(
            last_hidden_state=self.dropout(hidden if guess is None else guess),
            mems=mems if need_mems else None,
            hidden_states=tuple(hidden_states) if need_hidden else None,
            attentions=tuple(attentions) if need_probabilities else None,
        )
        return self._returned(output, return_dict)

    def _check(self, **given: Any) -> None:
        """Hold the inputs against the contract, and against each other."""
        found = self._check_text(**given)
        where = type(self).__name__
        if given["attention_mask"] is not None and given["input_mask"] is not None:
            raise ShapeError(f"{where}: padding must be told by attention_mask or by input_mask, got both")
        if self.config.bi_data and found.get("B", 0) % 2:
            raise ShapeError(f"{where}: a batch must have an even number of texts with bi_data, got {found['B']}")
        if given["target_mapping"] is not None:
            require_targets(where, given["target_mapping"], found.get("T"))

    def _run(self, block: XLNetBlock, *inputs: Any, need_probabilities: bool) -> Any:
        hidden, guess, probabilities = block(*inputs, need_probabilities=need_probabilities)
        if isinstance(inputs[2], Keys):
            hidden = None if hidden is None else ops.stop_gradient(hidden)
            guess = None if guess is None else ops.stop_gradient(guess)
        return hidden, guess, probabilities

    def _guess(self, target_mapping: Any, hidden: Any) -> Any:
        """Return where the second stream starts, [B, P, D]: the same everywhere."""
        B, P = ops.shape(target_mapping)[:2]
        return self.dropout(ops.broadcast_to(ops.cast(self.mask_embedding, hidden.dtype), (B, P, hidden.shape[2])))

    # ------------------------------------------------------------------------------------------------------- memory

    def start_length(self) -> int:
        """Return how many positions a text remembers at its start if memory is carried, zeros all of them."""
        return max(self.mem_len, 0)

    def encoded_distances(self, T: Any, M: Any, like: Any) -> Any:
        """Encode the distances between T queries and M + T keys, and one more, as [G, R, D]."""
        return encoded_distances(self.config, T, M, like)

    def _from_start(self, known: Memories, hidden: Any) -> Memories:
        """Return the memory that was given batch first, L x [B, M, D]; None if there is none."""
        return None if known is None else [ops.cast(turned(memory), hidden.dtype) for memory in known]

    def _after(self, mems: Any, contexts: list[Any], M: Any, T: Any) -> Any:
        """Leave for the next call what is kept of what the layers saw, and return it as `mems`."""
        if isinstance(mems, KeyValueMemory):
            most = self.mem_len if self.mem_len > 0 else None
            fill = not (self.config.attn_type == "uni" and self.config.same_length)  # which counts keys from the first
            return mems.keep(self, min(T, self.config.reuse_len or T), most, fill)
        kept = [self._kept(context, M) for context in contexts]
        self._carry(mems, kept)
        return tuple(turned(memory) for memory in kept)

    def _need_mems(self, training: bool | None) -> bool:
        return self.config.use_mems_train if training else self.config.use_mems_eval

    def _kept(self, context: Any, M: int) -> Any:
        """Return what is kept of memory and segment, cut off from the gradient; a view."""
        reuse_len = self.config.reuse_len or 0
        kept = ops.stop_gradient(context)
        kept = kept[:, : M + reuse_len] if reuse_len else kept
        return kept[:, -self.mem_len :] if self.mem_len > 0 else kept


class TFXLNetLMHeadModel(MemoryThroughBody, TextModel, Model):
    """The body with a score for each word."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        table = self.transformer.embedding.weight if config.tie_word_embeddings else None
        self.lm_head = WordScores(config.vocab_size, config.d_model, table, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, use_mems: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, logits_to_keep: Any = 0, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Predict words: those at the positions that `target_mapping` names, or all, from what each position may see.

        Takes what `TFXLNetModel.call` takes, and:

        Args:
            labels: [B, P], the words at the positions that are predicted; nothing is shifted. -100 is ignored.
            logits_to_keep: scores of that many last positions only, 0 for all; or [P], of these positions.

        Returns:
            `XLNetLMHeadModelOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden, where = body.last_hidden_state, type(self).__name__
        hidden = hidden if labels is not None else chosen_positions(where, hidden, logits_to_keep)
        logits = self.lm_head(hidden)  # [B, P, V]
        loss = None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = entry_loss(type(self).__name__, logits, labels)
            logits = chosen_positions(where, logits, logits_to_keep)
        return self._headed(body, return_dict, loss=loss, logits=logits)

    def get_output_embeddings(self) -> WordScores:
        """Return the scores of words."""
        return self.lm_head


class TFXLNetForSequenceClassification(MemoryThroughBody, TextModel, Model):
    """The body with a score for each label of a text."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        self.sequence_summary = SequenceSummary(config, config.d_model, config.d_model, dtype=dtype)
        self.score = linear(config.d_model, config.num_labels, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, use_mems: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each text.

        Takes what `TFXLNetModel.call` takes, and:

        Args:
            labels: [B] classes (-100 is ignored), [B] numbers or [B, K] zeros and ones; `config.problem_type` or,
                without it, number of labels and dtype decide which, anew in each call.

        Returns:
            `XLNetForSequenceClassificationOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.score(self.sequence_summary(hidden))  # [B, K]
        loss = None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = classification_loss(type(self).__name__, logits, labels, self.config.problem_type)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLNetForTokenClassification(MemoryThroughBody, TextModel, Model):
    """The body with a score for each label of a word."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        self.classifier = linear(config.d_model, config.num_labels, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, use_mems: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each label for each word.

        Takes what `TFXLNetModel.call` takes, and:

        Args:
            labels: [B, P] classes; -100 is ignored.

        Returns:
            `XLNetForTokenClassificationOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        logits = self.classifier(hidden)  # [B, P, K]
        loss = None
        if labels is not None:
            self._check_targets(hidden, labels=labels)
            loss = entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


class TFXLNetForMultipleChoice(MemoryThroughBody, TextModel, Model):
    """The body with a score for each of several texts, of which one is right."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        self.sequence_summary = SequenceSummary(config, config.d_model, config.d_model, dtype=dtype)
        self.score = linear(config.d_model, 1, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, token_type_ids: Any = None, input_mask: Any = None, attention_mask: Any = None,
        mems: Memories = None, perm_mask: Any = None, target_mapping: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, labels: Any = None, use_mems: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score each choice.

        Takes what `TFXLNetModel.call` takes, in another order, and with an axis for the choices: input_ids,
        token_type_ids, input_mask and attention_mask [B, C, T], inputs_embeds [B, C, T, D]. The rest has all texts in
        one axis of B C: mems, perm_mask, target_mapping.

        Args:
            labels: [B], the right choice; -100 is ignored.

        Returns:
            `XLNetForMultipleChoiceOutput`, or a tuple of its fields.
        """
        self._check_given(
            {}, input_ids=input_ids, token_type_ids=token_type_ids, input_mask=input_mask,
            attention_mask=attention_mask, inputs_embeds=inputs_embeds, labels=labels,
        )  # fmt: skip
        texts = input_ids if inputs_embeds is None else inputs_embeds
        given = (input_ids, token_type_ids, input_mask, attention_mask, inputs_embeds)
        input_ids, token_type_ids, input_mask, attention_mask, inputs_embeds = (_texts(each) for each in given)
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        scores = self.score(self.sequence_summary(body.last_hidden_state))  # [G, 1]
        logits = ops.reshape(scores, ops.shape(texts)[:2])  # [B, C]
        loss = None if labels is None else entry_loss(type(self).__name__, logits, labels)
        return self._headed(body, return_dict, loss=loss, logits=logits)


def _texts(values: Any) -> Any:
    """Turn [B, C, ...] into one axis of all texts, [G, ...]."""
    return None if values is None else ops.reshape(values, (-1, *ops.shape(values)[2:]))


class TFXLNetForQuestionAnsweringSimple(MemoryThroughBody, TextModel, Model):
    """The body with a score for each position, of being the start and of being the end of an answer."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        self.spans = linear(config.d_model, 2, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, start_positions: Any = None, end_positions: Any = None,
        use_mems: bool | None = None, output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Score starts and ends of answers.

        Takes what `TFXLNetModel.call` takes, and:

        Args:
            start_positions, end_positions: [B] or [B, 1], where the answer stands; both for a loss. Positions behind
                the end, of answers that were cut off, and -100 are ignored.

        Returns:
            `XLNetForQuestionAnsweringSimpleOutput`, or a tuple of its fields.
        """
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        hidden = body.last_hidden_state
        self._check_targets(hidden, start_positions=start_positions, end_positions=end_positions)
        starts, ends = ops.unstack(self.spans(hidden), 2, axis=-1)  # [B, P]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(type(self).__name__, starts, ends, ops.ravel(start_positions), ops.ravel(end_positions))
        return self._headed(body, return_dict, loss=loss, start_logits=starts, end_logits=ends)


class TFXLNetForQuestionAnswering(MemoryThroughBody, TextModel, Model):
    """The body with a search for the likeliest starts of answers and, for each, its likeliest ends."""

    def __init__(self, config: XLNetConfig, *, dtype: Any = None, **more: Any) -> None:
        super().__init__(config, dtype=dtype, **more)
        self.transformer = TFXLNetModel(config, dtype=dtype)
        self.start = StartScores(config.d_model, dtype=dtype)
        self.end = EndScores(config.d_model, config.layer_norm_eps, dtype=dtype)
        self.answer = AnswerScore(config.d_model, config.answer_dropout, dtype=dtype)
        self.finish()

    def call(
        self,
        input_ids: Any = None, attention_mask: Any = None, mems: Memories = None, perm_mask: Any = None,
        target_mapping: Any = None, token_type_ids: Any = None, input_mask: Any = None, head_mask: Any = None,
        inputs_embeds: Any = None, start_positions: Any = None, end_positions: Any = None,
        is_impossible: Any = None, cls_index: Any = None, p_mask: Any = None, use_mems: bool | None = None,
        output_attentions: bool | None = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, training: bool | None = None,
    ) -> Any:  # fmt: skip
        """Learn from answers, or find them.

        Takes what `TFXLNetModel.call` takes, and:

        Args:
            start_positions, end_positions: [B] or [B, 1], where the answer stands; both for a loss. Positions behind
                the end, of answers that were cut off, and -100 are ignored.
            is_impossible: [B] or [B, 1], 1 where there is no answer; counts with `cls_index` only.
            cls_index: [B] or [B, 1], the position that stands for the text; the last if None.
            p_mask: [B, P], 1 where no answer can stand.

        Returns:
            `XLNetForQuestionAnsweringOutput`, or a tuple of its fields: the loss, or without labels what was found.
        """
        body = self.transformer(
            input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, head_mask,
            inputs_embeds, use_mems=use_mems, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True,
        )  # fmt: skip
        where, hidden, config = type(self).__name__, body.last_hidden_state, self.config
        targets = {"start_positions": start_positions, "end_positions": end_positions, "cls_index": cls_index}
        self._check_targets(hidden, **targets, is_impossible=is_impossible, p_mask=p_mask)
        impossible, index = (None if each is None else ops.ravel(each) for each in (is_impossible, cls_index))
        scorers = (self.start, self.end, self.answer)
        if start_positions is None or end_positions is None:
            tops = (config.start_n_top, config.end_n_top)
            found = best_answers(where, scorers, hidden, index, p_mask, tops, config.start_major)
            return self._headed(body, return_dict, **found)
        positions = (ops.ravel(start_positions), ops.ravel(end_positions))
        loss = answer_loss(where, scorers, hidden, *positions, impossible, index, p_mask, config.soft_start)
        return self._headed(body, return_dict, loss=loss)
