"""How many windows for pretraining XLNet are made in a second, on one core?

    python benchmarks/permutation_data.py --windows 320

Windows of 512 tokens with 85 predictions, as the authors' large model has them, from a random text: the authors' rules
as the library computes them, the same rules in plain loops over tokens (the result must be equal), and the rules of
transformers' collator, by ours and by itself. Prints a table and writes `benchmarks/results/permutation_data.json`.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from xlcore.tasks.permutation_lm import SPAN_SHARES  # noqa: E402
from xlcore.tasks.permutation_windows import PermutationBatches, PermutationSettings, TokenStream  # noqa: E402

V, B, N = 32000, 16, 512


def data() -> PermutationBatches:
    """Make batches from a text of two million random ids in sentences of about 25."""
    rng = np.random.default_rng(0)
    text = TokenStream(rng.integers(9, V, 2_000_000, dtype="int32"), np.cumsum(rng.random(2_000_000) < 1 / 25) % 2 == 0)
    return PermutationBatches([text], rng.random(V) < 0.7, B, PermutationSettings(bi_data=False))


def plain_targets(starts: list[bool], goal: int, spans: list[list[float]], lots: list[float]) -> list[bool]:
    """Choose targets in one half, token by token."""
    marked, place, done, number = [False] * len(starts), 0, 0, 0
    while place < len(starts) and done < goal:
        length = min(1 + sum(share <= spans[number][0] for share in SPAN_SHARES), goal - done)
        before = int(spans[number][1] * length * 6)
        number += 1
        begin = place + before
        while begin < len(starts) and not starts[begin]:
            begin += 1
        if begin + length >= len(starts):
            break
        for position in range(begin, begin + length):
            marked[position] = True
        done += length
        place = begin + length + length * 6 - before
    while done < goal:
        marked[min((position for position, mark in enumerate(marked) if not mark), key=lots.__getitem__)] = True
        done += 1
    return marked


def plain_batch(batches: PermutationBatches, number: int) -> dict[str, np.ndarray]:
    """Make the targets and masks of a batch pair by pair, from the library's windows and draws."""
    s, half = batches.settings, N // 2
    rows, rng = batches._rows(0), batches._chance(0, number, 1)
    ids, _ = batches._window(rows, number, batches._segments(rows, 0, number))
    mask, targets = np.zeros((B, N, N), "float32"), np.zeros((B, N), bool)
    mask[:, :half, half:] = 1
    for at, goal in ((0, 43), (half, 42)):
        spans, lots = rng.random((B, half, 2)).tolist(), rng.random((B, half)).tolist()
        orders = rng.permuted(np.tile(np.arange(half), (B, 1)), axis=1).tolist()
        for row in range(B):
            window, order = ids[row, at : at + half].tolist(), orders[row]
            chosen = plain_targets(batches.word_starts[window].tolist(), goal, spans[row], lots[row])
            for i in range(half):
                functional = window[i] in (s.sep_id, s.cls_id)
                targets[row, at + i] = chosen[i] and not functional
                for j in range(half):
                    if chosen[j] or window[j] in (s.sep_id, s.cls_id):
                        earlier = (chosen[i] or functional) and order[j] < order[i]
                        mask[row, at + i, at + j] = not (earlier or (i == j and functional))
    return {"perm_mask": mask, "targets": targets}


def timed(make: Callable[[int], Any], count: int) -> float:
    """Return windows a second of the fastest of three runs over `count` batches."""
    make(0)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for number in range(count):
            make(number)
        times.append(time.perf_counter() - began)
    return count * B / min(times)


def collators() -> dict[str, Callable[[int], Any]]:
    """Return ours and transformers' collator on windows of random ids."""
    import torch
    from transformers.data.data_collator import DataCollatorForPermutationLanguageModeling as Theirs

    from xl_torch.pretraining import DataCollatorForPermutationLanguageModeling as Ours

    torch.set_num_threads(1)
    special = {"mask_token": "<mask>", "mask_token_id": 6, "pad_token": "<pad>", "pad_token_id": 5}
    rest = {"padding_side": "left", "all_special_ids": list(range(9))}
    tokenizer = SimpleNamespace(**special, **rest)
    tokenizer.get_special_tokens_mask = lambda ids, already_has_special_tokens: [int(each < 9) for each in ids]
    windows = list(torch.randint(0, V, (B, N)))
    found = {f"transformers {version('transformers')} collator": Theirs(tokenizer), "our collator": Ours(tokenizer)}
    torch.manual_seed(0)
    one = found["our collator"](windows)
    torch.manual_seed(0)
    assert all(torch.equal(value, one[name]) for name, value in next(iter(found.values()))(windows).items())
    return {name: lambda number, make=make: make(windows) for name, make in found.items()}


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=320)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/permutation_data.json")
    given = parser.parse_args()
    batches, count = data(), max(1, given.windows // B)
    ours, plain = batches.batch(0), plain_batch(batches, 0)
    assert np.array_equal(ours["perm_mask"], plain["perm_mask"])
    assert np.array_equal(ours["target_mapping"].any(axis=1), plain["targets"])
    speeds = {
        "authors' rules": timed(batches.batch, count),
        "the same in plain loops": timed(lambda number: plain_batch(batches, number), 1),
    } | {name: timed(make, count) for name, make in collators().items()}
    for name, speed in speeds.items():
        print(f"{name:32} {speed:8.0f} windows/s")
    known = {"machine": platform.machine(), "numpy": np.__version__, "tokens": N, "batch": B, "predictions": 85}
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(known | {"windows_per_second": speeds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
