"""Continuing a text."""

from typing import Any

import numpy as np
from keras import ops

from xl_tf.model import Model
from xlcore.tasks.language_modeling import choose_next


def generate(
    model: Model,
    input_ids: Any,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    eos_token_id: int | None = None,
) -> Any:
    """Continue texts word by word; the memory carries what was read, so that each step reads one word.

    Args:
        model: a language model with memory.
        input_ids: [B, T], texts of one length.
        max_new_tokens: words to add at the most.
        temperature, top_k, seed: see `xlcore.tasks.language_modeling.choose_next`; temperature 0 is greedy.
        eos_token_id: ends a text; all end with the first batch in which every text has met it. None goes on.

    Returns:
        [B, T + new], the texts with what was added. After its end a text is filled up with `eos_token_id`.
    """
    rng = np.random.default_rng(seed)
    texts, read, mems = ops.convert_to_tensor(input_ids), ops.convert_to_tensor(input_ids), None
    ended = np.zeros(len(input_ids), bool)
    for _ in range(max_new_tokens):
        output = model(read, mems=mems, logits_to_keep=1, training=False)
        chosen = choose_next(ops.convert_to_numpy(ops.cast(output.logits[:, -1], "float32")), temperature, top_k, rng)
        if eos_token_id is not None:
            chosen = np.where(ended, eos_token_id, chosen)
            ended |= chosen == eos_token_id
        mems, read = output.mems, ops.cast(chosen[:, None], texts.dtype)
        texts = ops.concatenate([texts, read], axis=1)
        if ended.all():
            break
    return texts
