"""Relative attention in one kernel on a GPU, in Triton: nothing as large as queries x keys is ever in memory.

The scores are those of `attend`: content, distance and segment, masked; then softmax, dropout, values. A tile of T x S
scores needs T + S distances; each query takes its own of them, which is the relative shift, without leaving the chip.
The backward pass computes probabilities anew (Dao et al., 2022, section 3.1).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

UNSEEN = tl.constexpr(-1e30)  # the score of a key that a query does not see


class Looks(NamedTuple):
    """Who sees what, and what is dropped."""

    behind: int = 0  # keys are seen that stand 0, ..., behind - 1 places behind their query; 0: anywhere
    visible: Tensor | None = None  # [B or 1, T or 1, S], true for keys that a query sees
    crosses: Tensor | None = None  # [B, T, S], true for keys of another segment
    dropout: float = 0.0


def fused_attention(
    content: Tensor,
    located: Tensor,
    key: Tensor,
    value: Tensor,
    position: Tensor,
    by_segment: Tensor | None,
    looks: Looks,
) -> Tensor:
    """Attend with softmax((content . key + located . position + by_segment where a key crosses) / sqrt(H)).

    Args:
        content, located: [B, N, T, H], the queries with the biases of content and of position.
        key, value: [B, N, S, H]. The queries 0, ..., T - 1 are the last T of the S places.
        position: [G, N, R, H], keys of the distances S, S - 1, ..., each for its share of the batch.
        by_segment: [B, N, T], what is added for keys of another segment, if `looks` tells of any.
        looks: a query that sees no key attends to all alike.

    Returns:
        [B, T, N H].
    """
    tensors = [each if each.stride(-1) == 1 else each.contiguous() for each in (content, located, key, value, position)]
    return _Fused.apply(*tensors, by_segment, looks).flatten(-2)


class _Fused(torch.autograd.Function):
    """The kernels, with gradients by all tensors."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        """Return [B, T, N, H]; keep for the gradient what is no larger."""
        content, looks = given[0], given[-1]
        B, N, T, H = content.shape
        out = content.new_empty(B, T, N, H).transpose(1, 2)
        rows = content.new_empty(2, B, N, T, dtype=_exact(content))  # largest score and sum of each query
        ctx.seed = int(torch.randint(2**31 - 1, ())) if looks.dropout else 0
        ctx.looks = looks
        _run(_forward, given, ctx.seed, T, _view(out), _view(rows[0]), _view(rows[1]))
        ctx.save_for_backward(out, rows, *given[:-1])
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients; those of positions add up in whatever order the tiles are done."""
        out, rows, *tensors = ctx.saved_tensors
        given, by_segment = (*tensors, ctx.looks), tensors[-1]
        content, located, key, value, position = tensors[:-1]
        of_out = of_out.transpose(1, 2).contiguous()  # [B, N, T, H]
        even = (of_out.to(rows.dtype) * out).sum(-1)  # [B, N, T]
        of_content, of_located, of_key, of_value = (torch.empty_like(each) for each in (content, located, key, value))
        of_position = torch.zeros(position.shape, dtype=rows.dtype, device=rows.device)
        of_segment = torch.zeros_like(even)
        known = _Known(*map(_view, (of_out, rows[0], rows[1], even)))
        of_queries = tuple(map(_view, (of_content, of_located, of_position, of_segment)))
        _run(_of_queries, given, ctx.seed, content.shape[2], known, of_queries)
        _run(_of_keys, given, ctx.seed, key.shape[2], known, (_view(of_key), _view(of_value)))
        segment = None if by_segment is None else of_segment.to(by_segment.dtype)
        return of_content, of_located, of_key, of_value, of_position.to(position.dtype), segment, None


def _tile(like: Tensor) -> int:
    """Return how many queries and keys a tile has, a power of two, so that what it needs fits on the chip."""
    return 64 if like.element_size() == 2 else 32


def _exact(like: Tensor) -> torch.dtype:
    """Return the dtype in which is added up."""
    return torch.promote_types(like.dtype, torch.float32)


def _run(kernel: Any, given: tuple[Any, ...], seed: int, count: int, *more: Any) -> None:
    """Run a kernel: a program for each tile of `count` rows, each text and each head."""
    content, key, position, by_segment, looks = given[0], given[2], *given[4:]
    (B, N, T, H), S, tile = content.shape, key.shape[2], _tile(content)
    masks = (looks.visible, None if by_segment is None else looks.crosses)
    masks = [None if each is None else each.view(torch.uint8).expand(B, T, S)[:, None] for each in masks]
    views = _Given(*(_view(content if each is None else each) for each in (*given[:5], *masks, by_segment)))
    share = B // position.shape[0]
    call = _Call(N, T, S, position.shape[2], share, H**-0.5, looks.behind, looks.dropout, seed)
    kernel[(triton.cdiv(count, tile), B * N)](
        views, call, *more, H=H, P=max(16, triton.next_power_of_2(H)), TILE=tile,
        SEEN=masks[0] is not None, CROSSED=masks[1] is not None, DROPPED=looks.dropout > 0,
        EXACT=tl.float64 if content.dtype == torch.float64 else tl.float32,
        PRECISION="tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee",
    )  # fmt: skip


class _View(NamedTuple):
    """A tensor [B, N, T, H], or without the last axis, as kernels take it."""

    data: Any
    batch: Any
    head: Any
    row: Any


class _Given(NamedTuple):
    """Views of what a call is given; anything stands in place of what it is not."""

    content: Any
    located: Any
    key: Any
    value: Any
    position: Any
    visible: Any
    crosses: Any
    by_segment: Any


class _Known(NamedTuple):
    """Views of what the backward pass knows."""

    of_out: Any
    peaks: Any
    sums: Any
    even: Any


class _Call(NamedTuple):
    """The numbers of a call: sizes, and those of `Looks`."""

    N: Any
    T: Any
    S: Any
    R: Any
    share: Any  # texts that share their distances
    scale: Any
    behind: Any
    dropout: Any
    seed: Any


def _view(tensor: Tensor) -> _View:
    return _View(tensor, *tensor.stride()[:3])


# -------------------------------------------------------------------------------------------------------- kernels


@triton.jit
def _load(view, b, n, rows, count, H: tl.constexpr, P: tl.constexpr):
    """Load rows of [B, N, count, H], zeros where there are none."""
    columns = tl.arange(0, P)[None, :]
    places = view.data + b * view.batch + n * view.head + rows[:, None] * view.row + columns
    return tl.load(places, mask=(rows >= 0)[:, None] & (rows < count)[:, None] & (columns < H), other=0.0)


@triton.jit
def _store(view, b, n, rows, count, values, H: tl.constexpr, P: tl.constexpr):
    """Store rows of [B, N, count, H]."""
    columns = tl.arange(0, P)[None, :]
    places = view.data + b * view.batch + n * view.head + rows[:, None] * view.row + columns
    tl.store(places, values.to(view.data.dtype.element_ty), mask=(rows < count)[:, None] & (columns < H))


@triton.jit
def _row(view, b, n, rows):
    """Return the places of rows of [B, N, T]."""
    return view.data + b * view.batch + n * view.head + rows * view.row


@triton.jit
def _flags(view, call, b, t, s):
    """Load a tile of [B, T, S], of zeros and ones."""
    places = view.data + b * view.batch + t[:, None] * view.row + s[None, :]
    return tl.load(places, mask=(t < call.T)[:, None] & (s < call.S)[None, :], other=0) > 0


@triton.jit
def _scores(
    given, call, b, n, t, s, content, located, keys, positions,
    TILE: tl.constexpr, SEEN: tl.constexpr, CROSSED: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the scores of a tile, which of its keys are seen, and which are of another segment."""
    by_distance = tl.dot(located, tl.trans(positions), input_precision=PRECISION, out_dtype=EXACT)  # [TILE, 2 TILE]
    here = tl.arange(0, TILE)
    own = TILE - 1 - here[:, None] + here[None, :]  # where each key stands among the distances of the tile
    scores = tl.dot(content, tl.trans(keys), input_precision=PRECISION, out_dtype=EXACT)
    scores += tl.gather(by_distance, own, 1)
    crosses = tl.zeros([TILE, TILE], tl.int1)
    if CROSSED:
        crosses = _flags(given.crosses, call, b, t, s)
        by_segment = tl.load(_row(given.by_segment, b, n, t), mask=t < call.T, other=0.0)
        scores += tl.where(crosses, by_segment[:, None], 0.0)
    seen = (t < call.T)[:, None] & (s < call.S)[None, :]
    if call.behind > 0:
        far = call.S - call.T + t[:, None] - s[None, :]
        seen = seen & (far >= 0) & (far < call.behind)
    if SEEN:
        seen = seen & _flags(given.visible, call, b, t, s)
    scores = tl.where(seen, scores * call.scale, UNSEEN)
    return tl.where((s < call.S)[None, :], scores, -float("inf")), seen, crosses


@triton.jit
def _kept(call, b, n, t, s, DROPPED: tl.constexpr, TILE: tl.constexpr, EXACT: tl.constexpr):
    """Return by what probabilities are multiplied: 0 for those that are dropped."""
    kept = tl.full([TILE, TILE], 1.0, EXACT)
    if DROPPED:
        drawn = tl.rand(call.seed, ((b * call.N + n) * call.T + t[:, None]) * call.S + s[None, :])
        kept = tl.where(drawn >= call.dropout, 1.0 / (1.0 - call.dropout), 0.0).to(EXACT)
    return kept


@triton.jit
def _forward(
    given, call, out, peaks, sums,
    H: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, SEEN: tl.constexpr, CROSSED: tl.constexpr,
    DROPPED: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from a tile of queries, key tile by key tile."""
    b, n, first = (tl.program_id(1) // call.N).to(tl.int64), tl.program_id(1) % call.N, tl.program_id(0) * TILE
    t = first + tl.arange(0, TILE)
    content, located = _load(given.content, b, n, t, call.T, H, P), _load(given.located, b, n, t, call.T, H, P)
    peak, mass = tl.full([TILE], -float("inf"), EXACT), tl.zeros([TILE], EXACT)
    mixed = tl.zeros([TILE, P], EXACT)
    start, stop = _keys_of(first, call, TILE)
    for begin in range(start, stop, TILE):
        s, near = begin + tl.arange(0, TILE), call.T - first - TILE + 1 + begin + tl.arange(0, 2 * TILE)
        keys, values = _load(given.key, b, n, s, call.S, H, P), _load(given.value, b, n, s, call.S, H, P)
        positions = _load(given.position, b // call.share, n, near, call.R, H, P)
        scores, _, _ = _scores(
            given, call, b, n, t, s, content, located, keys, positions, TILE, SEEN, CROSSED, EXACT, PRECISION
        )
        highest = tl.maximum(peak, tl.max(scores, 1))
        shares, before = tl.exp(scores - highest[:, None]), tl.exp(peak - highest)
        peak, mass = highest, mass * before + tl.sum(shares, 1)
        shares *= _kept(call, b, n, t, s, DROPPED, TILE, EXACT)
        mixed *= before[:, None]
        mixed += tl.dot(shares.to(values.dtype), values, input_precision=PRECISION, out_dtype=EXACT)
    _store(out, b, n, t, call.T, mixed / mass[:, None], H, P)
    tl.store(_row(peaks, b, n, t), peak, mask=t < call.T)
    tl.store(_row(sums, b, n, t), mass, mask=t < call.T)


@triton.jit
def _keys_of(first, call, TILE: tl.constexpr):
    """Return where the keys start and stop that a tile of queries may see."""
    start, stop = 0, call.S
    if call.behind > 0:
        start = tl.maximum(0, call.S - call.T + first - call.behind + 1) // TILE * TILE
        stop = tl.minimum(call.S, call.S - call.T + first + TILE)
    return start, stop


@triton.jit
def _changes(
    given, call, known, b, n, t, s, content, located, keys, positions, values, of_out, DROPPED: tl.constexpr,
    TILE: tl.constexpr, SEEN: tl.constexpr, CROSSED: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return of a tile the gradient of its scores, before scaling, its probabilities after dropout, what crosses."""
    scores, seen, crosses = _scores(
        given, call, b, n, t, s, content, located, keys, positions, TILE, SEEN, CROSSED, EXACT, PRECISION
    )
    peak = tl.load(_row(known.peaks, b, n, t), mask=t < call.T, other=0.0)
    mass = tl.load(_row(known.sums, b, n, t), mask=t < call.T, other=1.0)
    even = tl.load(_row(known.even, b, n, t), mask=t < call.T, other=0.0)
    shares = tl.where((t < call.T)[:, None], tl.exp(scores - peak[:, None]) / mass[:, None], 0.0)
    kept = _kept(call, b, n, t, s, DROPPED, TILE, EXACT)
    of_shares = tl.dot(of_out, tl.trans(values), input_precision=PRECISION, out_dtype=EXACT) * kept
    of_scores = tl.where(seen, shares * (of_shares - even[:, None]) * call.scale, 0.0)
    return of_scores, shares * kept, crosses


@triton.jit
def _of_queries(
    given, call, known, found,
    H: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, SEEN: tl.constexpr, CROSSED: tl.constexpr,
    DROPPED: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile of queries, and its part of those of positions."""
    b, n, first = (tl.program_id(1) // call.N).to(tl.int64), tl.program_id(1) % call.N, tl.program_id(0) * TILE
    here, columns = tl.arange(0, TILE), tl.arange(0, P)[None, :]
    t = first + here
    content, located = _load(given.content, b, n, t, call.T, H, P), _load(given.located, b, n, t, call.T, H, P)
    of_out = _load(known.of_out, b, n, t, call.T, H, P)
    of_content, of_located = tl.zeros([TILE, P], EXACT), tl.zeros([TILE, P], EXACT)
    of_segment = tl.zeros([TILE], EXACT)
    back = tl.arange(0, 2 * TILE)[None, :] - (TILE - 1 - here[:, None])  # the key that stands at each distance
    start, stop = _keys_of(first, call, TILE)
    for begin in range(start, stop, TILE):
        s, near = begin + here, call.T - first - TILE + 1 + begin + tl.arange(0, 2 * TILE)
        keys, values = _load(given.key, b, n, s, call.S, H, P), _load(given.value, b, n, s, call.S, H, P)
        positions = _load(given.position, b // call.share, n, near, call.R, H, P)
        of_scores, _, crosses = _changes(
            given, call, known, b, n, t, s, content, located, keys, positions, values, of_out,
            DROPPED, TILE, SEEN, CROSSED, EXACT, PRECISION,
        )  # fmt: skip
        of_content += tl.dot(of_scores.to(keys.dtype), keys, input_precision=PRECISION, out_dtype=EXACT)
        by_distance = tl.gather(of_scores, tl.minimum(tl.maximum(back, 0), TILE - 1), 1)  # [TILE, 2 TILE]
        by_distance = tl.where((back >= 0) & (back < TILE), by_distance, 0.0).to(keys.dtype)
        of_located += tl.dot(by_distance, positions, input_precision=PRECISION, out_dtype=EXACT)
        part = tl.dot(tl.trans(by_distance), located, input_precision=PRECISION, out_dtype=EXACT)
        places = _row(found[2], b // call.share, n, near)[:, None] + columns
        tl.atomic_add(places, part, mask=(near >= 0)[:, None] & (near < call.R)[:, None] & (columns < H))
        of_segment += tl.sum(tl.where(crosses, of_scores, 0.0), 1)
    _store(found[0], b, n, t, call.T, of_content, H, P)
    _store(found[1], b, n, t, call.T, of_located, H, P)
    tl.store(_row(found[3], b, n, t), of_segment, mask=t < call.T)


@triton.jit
def _of_keys(
    given, call, known, found,
    H: tl.constexpr, P: tl.constexpr, TILE: tl.constexpr, SEEN: tl.constexpr, CROSSED: tl.constexpr,
    DROPPED: tl.constexpr, EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of a tile of keys and values."""
    b, n, begin = (tl.program_id(1) // call.N).to(tl.int64), tl.program_id(1) % call.N, tl.program_id(0) * TILE
    s = begin + tl.arange(0, TILE)
    keys, values = _load(given.key, b, n, s, call.S, H, P), _load(given.value, b, n, s, call.S, H, P)
    of_key, of_value = tl.zeros([TILE, P], EXACT), tl.zeros([TILE, P], EXACT)
    start, stop = 0, call.T
    if call.behind > 0:
        start = tl.maximum(0, begin - (call.S - call.T)) // TILE * TILE
        stop = tl.minimum(call.T, begin + TILE - 1 + call.behind - (call.S - call.T))
    for first in range(start, stop, TILE):
        t, near = first + tl.arange(0, TILE), call.T - first - TILE + 1 + begin + tl.arange(0, 2 * TILE)
        content, located = _load(given.content, b, n, t, call.T, H, P), _load(given.located, b, n, t, call.T, H, P)
        positions = _load(given.position, b // call.share, n, near, call.R, H, P)
        of_out = _load(known.of_out, b, n, t, call.T, H, P)
        of_scores, shares, _ = _changes(
            given, call, known, b, n, t, s, content, located, keys, positions, values, of_out,
            DROPPED, TILE, SEEN, CROSSED, EXACT, PRECISION,
        )  # fmt: skip
        of_key += tl.dot(tl.trans(of_scores).to(keys.dtype), content, input_precision=PRECISION, out_dtype=EXACT)
        of_value += tl.dot(tl.trans(shares).to(keys.dtype), of_out, input_precision=PRECISION, out_dtype=EXACT)
    _store(found[0], b, n, s, call.S, of_key, H, P)
    _store(found[1], b, n, s, call.S, of_value, H, P)
