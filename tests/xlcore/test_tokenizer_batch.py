"""Cutting rows, over random rows."""

from hypothesis import given
from hypothesis import strategies as st

from xlcore.tokenizers.batch import cut_off, cuts, truncate_pair

IDS = st.lists(st.integers(0, 9), max_size=9)
STRATEGIES, SIDES = st.sampled_from(["longest_first", "only_first"]), st.sampled_from(["left", "right"])


@given(IDS, st.none() | IDS, st.integers(0, 20), STRATEGIES, SIDES, st.integers(0, 4))
def test_truncation_takes_what_it_says(ids, pair, remove, strategy, side, stride) -> None:
    first, second, over = truncate_pair(ids, pair, remove, strategy, side, stride)
    assert first == (ids[: len(first)] if side == "right" else ids[len(ids) - len(first) :])
    gone = len(ids) - len(first)
    if pair is not None:
        assert second == (pair[: len(second)] if side == "right" else pair[len(pair) - len(second) :])
        gone += len(pair) - len(second)
    if strategy == "longest_first" and pair is not None:
        assert gone == min(remove, len(ids + pair))
    else:
        assert gone == (remove if len(ids) > remove else 0)
    if pair is None or strategy == "only_first":
        window = min(len(ids), gone + stride) if gone else 0
        assert over == (ids[len(ids) - window :] if side == "right" else ids[:window])
    if strategy == "longest_first" and pair is not None and 0 < gone < len(ids + pair):
        assert len(first) - len(second) <= max(1, len(ids) - len(pair), 0) or len(second) == 0
    assert cuts(len(ids), 3, 0, strategy) == (0, 0)
    assert cut_off(ids, 0, side, stride) == []
