"""XLNet continues texts as the transformers that is installed does (PyTorch)."""

import numpy as np
import pytest

from tests.helpers import TORCH, XLNET
from tests.models.test_live_xlnet import pair, torch

LM = XLNET["permutation_lm"]
ALL = {"mem_len": None}


def lively_pair(**keys):
    """Build both with weights so large that texts do not end in one word again and again."""
    ours, theirs = pair(LM, LM.config(**keys), seed=7)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            value.mul_(0 if name.endswith("bias") else 2)
            if name.endswith("layer_norm.weight"):
                value.fill_(1)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def continued(theirs, ids, count, **keys):
    """Return what transformers adds to texts; ends and filling must be told, or it takes those of the config."""
    keys = {"eos_token_id": None, "pad_token_id": 5, **keys}
    return theirs.generate(ids, max_new_tokens=count, do_sample=False, **keys).numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("P", [1, 5])
@pytest.mark.parametrize(
    "keys", [ALL, {"mem_len": 6}, {"mem_len": 4, "reuse_len": 3}, {"mem_len": 2}, {"bi_data": True}], ids=str
)
def test_generation_equals_that_of_transformers(keys, P):
    """Word by word, with memory and without."""
    ours, theirs = lively_pair(**keys)
    ids = torch.as_tensor(np.random.default_rng(P).integers(6, 31, (2, P)))
    for use_mems in (True, False):
        found = TORCH.towers.generate(ours, ids, 16, use_mems=use_mems).numpy()
        np.testing.assert_array_equal(found, continued(theirs, ids, 16, use_mems=use_mems))


@pytest.mark.filterwarnings("ignore")
def test_a_text_that_has_ended_is_filled_up_as_in_transformers():
    ours, theirs = lively_pair(**ALL)
    ids = torch.as_tensor(np.random.default_rng(2).integers(6, 31, (3, 4)))
    ends = {"eos_token_id": int(continued(theirs, ids, 16)[1, 7]), "pad_token_id": 5}
    wanted = continued(theirs, ids, 16, **ends)
    assert (wanted[:, 4:] == 5).any()
    np.testing.assert_array_equal(TORCH.towers.generate(ours, ids, 16, **ends).numpy(), wanted)
