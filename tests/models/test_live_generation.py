"""Texts continued as by the transformers that is installed (PyTorch): beams, penalties, ends; and its rules."""

import warnings

import numpy as np
import pytest

from tests.helpers import ROBERTA, TORCH, XLM
from tests.models import test_live_xlm, test_live_xlm_roberta_xl
from tests.models.test_live_xlnet_generation import lively_pair
from xlcore.tasks.generation import likely, penalised

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logits_process = pytest.importorskip("transformers.generation.logits_process")

PROMPTS = [[8, 9, 10, 11], [12, 13, 14, 15], [16, 17, 18, 19]]


def decoders():
    case = ROBERTA["decoder_lm"]
    return test_live_xlm_roberta_xl.pair(case, case.config(is_decoder=True, max_position_embeddings=40), 3)


def guessers():
    case = XLM["word_lm"]
    return test_live_xlm.pair(case, case.config(mask_token_id=5, lang_id=2, max_position_embeddings=40), 4)


PAIRS = {"decoder": decoders, "two streams": lambda: lively_pair(mem_len=None), "mask": guessers}
SEARCHES = [
    {"num_beams": 3},
    {"num_beams": 4, "length_penalty": 0.0, "num_return_sequences": 4},
    {"num_beams": 3, "length_penalty": 2.5, "early_stopping": "never", "num_return_sequences": 3},
    {"num_beams": 2, "length_penalty": -1.5, "early_stopping": True},
    {"num_beams": 4, "repetition_penalty": 1.6, "early_stopping": False, "num_return_sequences": 2},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.7},
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PAIRS)
def test_texts_are_those_of_transformers(kind):
    """Without ends, with one and with several, which they reach at different lengths.

    Positions of the decoder are told, for transformers 5 counts them from 0 here, and from behind `pad_token_id` else.
    """
    ours, theirs = PAIRS[kind]()
    ids, lengths = torch.tensor(PROMPTS), set()
    positions = {"position_ids": torch.arange(2, 6).repeat(3, 1)} if kind == "decoder" else {}
    for keys in SEARCHES:
        free = TORCH.towers.generate(ours, ids, 9, **keys)[:3, 4:].tolist()
        for ends in (None, free[0][5], [free[1][8], free[0][4], free[2][2]]):
            told = {"max_new_tokens": 9, "eos_token_id": ends, "pad_token_id": 6, **keys}
            wanted = theirs.generate(ids, do_sample=False, **told, **positions).numpy()
            found = TORCH.towers.generate(ours, ids, **told).numpy()
            np.testing.assert_array_equal(found, wanted, err_msg=f"{keys} {ends}")
            lengths |= {(row != 6).sum() for row in found}
    assert len(lengths) > 3


@pytest.mark.parametrize("seed", range(5))
def test_words_are_left_out_by_the_rules_of_transformers(seed):
    """Penalty, temperature, the likeliest, those with most of the mass: each, and all in their order."""
    rng = np.random.default_rng(seed)
    scores, texts = rng.normal(0, 3, (4, 23)), rng.integers(0, 23, (4, 6))
    penalty, heat, top_k, top_p = (
        rng.uniform(0.5, 2),
        rng.uniform(0.5, 2),
        int(rng.integers(2, 20)),
        rng.uniform(0.2, 1),
    )
    chain = [
        (logits_process.RepetitionPenaltyLogitsProcessor(penalty), lambda each: penalised(each, texts, penalty)),
        (logits_process.TemperatureLogitsWarper(heat), lambda each: each / heat),
        (logits_process.TopKLogitsWarper(top_k), lambda each: likely(each, top_k, 1.0)),
        (logits_process.TopPLogitsWarper(top_p), lambda each: likely(each, 0, top_p)),
    ]
    wanted, found = torch.tensor(scores), scores
    for theirs, ours in chain:
        np.testing.assert_allclose(ours(scores), theirs(torch.tensor(texts), torch.tensor(scores)).numpy())
        wanted, found = theirs(torch.tensor(texts), wanted), ours(found)
        np.testing.assert_allclose(found, wanted.numpy())
    np.testing.assert_allclose(likely(penalised(scores, texts, penalty) / heat, top_k, top_p), wanted.numpy())
