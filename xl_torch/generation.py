"""Continuing a text."""

import numpy as np
import torch
from torch import Tensor

from xl_torch.model import Model
from xlcore.tasks.language_modeling import choose_next


@torch.no_grad()
def generate(
    model: Model,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    eos_token_id: int | None = None,
) -> Tensor:
    """Continue texts word by word; the memory carries what was read, so that each step reads one word.

    Args:
        model: a language model with memory, in evaluation mode.
        input_ids: [B, T], texts of one length.
        max_new_tokens: words to add at the most.
        temperature, top_k, seed: see `xlcore.tasks.language_modeling.choose_next`; temperature 0 is greedy.
        eos_token_id: ends a text; all end with the first batch in which every text has met it. None goes on.

    Returns:
        [B, T + new], the texts with what was added. After its end a text is filled up with `eos_token_id`.
    """
    rng = np.random.default_rng(seed)
    texts, read, mems = input_ids, input_ids, None
    ended = np.zeros(len(input_ids), bool)
    for _ in range(max_new_tokens):
        output = model(read, mems=mems, logits_to_keep=1)
        chosen = choose_next(output.logits[:, -1].float().cpu().numpy(), temperature, top_k, rng)
        if eos_token_id is not None:
            chosen = np.where(ended, eos_token_id, chosen)
            ended |= chosen == eos_token_id
        mems, read = output.mems, torch.as_tensor(chosen[:, None], dtype=input_ids.dtype, device=input_ids.device)
        texts = torch.cat([texts, read], dim=1)
        if ended.all():
            break
    return texts
