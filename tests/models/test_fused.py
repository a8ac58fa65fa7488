"""Relative attention in one kernel: Triton's interpreter against the plain computation, and its compiler for a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Triton lies apart (see the Makefile): it and TensorFlow, which both hold a compiler of their own, abort a process that
# loads one after the other. It decides when it is imported whether it interprets.
KERNELS = Path(sys.prefix, "kernels")
INTERPRETED = "TRITON_INTERPRET" in os.environ
ROOT = Path(__file__).parents[2]

if not KERNELS.is_dir() and importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if INTERPRETED:
    from xl_torch.layers.attention import relative_shift
    from xl_torch.layers.fused import Looks, fused_attention

interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter, in a process of its own")

# B, N, T, M, H, G, and how many distances are ahead of their query: several tiles, sizes that fill none of them
SHAPES = {
    "memory": (2, 2, 37, 20, 12, 1, False),
    "short": (2, 3, 5, 0, 16, 1, False),
    "both ways": (2, 1, 35, 9, 20, 2, True),
}


def drawn(shape, dtype):
    """Draw queries, keys, values, positions, as models have them: some lie in memory in another order."""
    B, N, T, M, H, G, ahead = SHAPES[shape]
    S = T + M
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes):
        return torch.randn(*sizes, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    queries, keys = [draw(B, T, N, H), draw(B, T, N, H)], [draw(B, S, N, H), draw(B, S, N, H)]
    return [*queries, *keys, draw(G, S + 1 + (T - 1 if ahead else 0), N, H), draw(B, N, T)]


def plain(content, located, key, value, position, by_segment, looks, kept=1.0):
    """Do the same step by step."""
    T, S, H = content.shape[2], *key.shape[2:]
    by_distance = torch.einsum("gbnth,gnrh->gbntr", located.unflatten(0, (position.shape[0], -1)), position)
    scores = content @ key.transpose(-1, -2) + relative_shift(by_distance.flatten(0, 1))[..., :S]
    if by_segment is not None:
        scores = scores + by_segment[..., None] * looks.crosses[:, None]
    far = S - T + torch.arange(T)[:, None] - torch.arange(S)
    seen = (far >= 0) & (far < looks.behind) if looks.behind else torch.ones(T, S, dtype=torch.bool)
    seen = seen if looks.visible is None else seen & looks.visible[:, None]
    scores = torch.where(seen, scores * H**-0.5, torch.finfo(scores.dtype).min)
    return ((scores.softmax(-1) * kept) @ value).transpose(1, 2).flatten(-2)


def turned(tensors):
    """Turn [B, T, N, H] into the [B, N, T, H] that both take."""
    *tensors, by_segment = tensors
    return [*(each.transpose(1, 2) for each in tensors), by_segment]


def looks_of(name, shape):
    """Return who sees what, and whether segments count."""
    B, _, T, M, *_ = SHAPES[shape]
    generator = torch.Generator().manual_seed(1)
    visible, crosses = (torch.rand(2, B, T, T + M, generator=generator) > 0.4).unbind()
    visible[0, 3] = False  # a query that sees nothing
    known = {
        "everything": Looks(),
        "what is behind": Looks(behind=T + M),
        "a window": Looks(behind=7),
        "masks": Looks(visible=visible, crosses=crosses),
        "one mask for all": Looks(visible=visible[:1, :1]),
    }
    return known[name], name == "masks"


CASES = [
    ("memory", "what is behind"), ("memory", "a window"), ("short", "what is behind"), ("both ways", "everything"),
    ("both ways", "masks"), ("both ways", "one mask for all"),
]  # fmt: skip


@interpreted
@pytest.mark.parametrize(("shape", "sight"), CASES)
def test_outputs_and_gradients(shape, sight):
    """In float64, where nothing hides behind rounding."""
    looks, segments = looks_of(sight, shape)
    tensors = drawn(shape, torch.float64)
    given = turned(tensors) if segments else [*turned(tensors)[:-1], None]
    found, wanted = fused_attention(*given, looks), plain(*given, looks)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(wanted.shape, dtype=wanted.dtype, generator=torch.Generator().manual_seed(2))
    sources = tensors if segments else tensors[:-1]
    pairs = zip(*(torch.autograd.grad(each, sources, upstream) for each in (found, wanted)), strict=True)
    for source, (ours, theirs) in zip(sources, pairs, strict=True):
        assert theirs.any()
        assert (ours - theirs).abs().max() < 1e-9, source.shape


@interpreted
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float16, 3e-3)])
def test_lower_precision_strays_no_further_than_the_plain_way(dtype, bound):
    """Sums are in float32, whatever the inputs are."""
    looks, _ = looks_of("masks", "both ways")
    exact = plain(*turned([each.double() for each in drawn("both ways", dtype)]), looks)
    found = fused_attention(*turned(drawn("both ways", dtype)), looks)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() < bound


@interpreted
def test_dropout():
    """What is dropped is zero, what is kept grows; the gradient knows which; another call drops others."""
    shape, dropped = SHAPES["short"], 0.3
    content, located, key, value, position, _ = drawn("short", torch.float64)
    looks = Looks(behind=5, dropout=dropped)
    torch.manual_seed(0)
    one = torch.eye(5, 16, dtype=torch.float64)[None, None].expand(shape[0], shape[1], -1, -1)  # shows probabilities
    given = [*turned([content, located, key, value, position, None])[:-1], None]
    shares = plain(*given[:3], one, given[4], None, looks).unflatten(-1, (3, 16))[..., :5].detach()
    found = fused_attention(*given[:3], one, given[4], None, looks).unflatten(-1, (3, 16))[..., :5].detach()
    kept = (found / shares).nan_to_num().transpose(1, 2)  # [B, N, T, S]
    seen = shares.transpose(1, 2) > 0
    zero, grown = kept.abs() < 1e-9, (kept - 1 / (1 - dropped)).abs() < 1e-6
    assert (zero | grown | ~seen).all()
    assert 0.1 < zero[seen].double().mean() < 0.5
    torch.manual_seed(0)
    again = fused_attention(*given, looks)
    wanted = plain(*given, looks, kept)
    torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-9)
    sources = (content, located, key, value, position)
    for ours, theirs in zip(*(torch.autograd.grad(each.sum(), sources) for each in (again, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert not torch.equal(fused_attention(*given, looks), again)


@interpreted
@pytest.mark.parametrize("family", ["transfo-xl", "xlnet", "xlnet, both ways"])
def test_models_compute_the_same_with_it(family, monkeypatch):
    """Hidden states and gradients of a whole model, to which the kernel is given as on a GPU."""
    import xl_torch
    from xl_torch.layers import two_stream

    torch.manual_seed(0)
    if family == "transfo-xl":
        sizes = {"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "d_inner": 32, "n_layer": 2, "mem_len": 5}
        config = xl_torch.TransfoXLConfig(vocab_size=30, cutoffs=[10], div_val=1, same_length=True, **sizes)
        model, more = xl_torch.TransfoXLModel(config), {}
    else:
        sizes = {"d_model": 16, "n_head": 2, "d_inner": 32, "n_layer": 2, "bi_data": "both" in family}
        model = xl_torch.XLNetModel(xl_torch.XLNetConfig(vocab_size=30, **sizes))
        padding = torch.ones(2, 7)
        padding[0, 4:] = 0
        more = {"attention_mask": padding, "token_type_ids": torch.arange(7).expand(2, 7) // 4}
    model = model.double().eval()
    ids, results, calls = torch.randint(30, (2, 7)), [], []
    mems = [torch.randn(4, 2, 16, dtype=torch.float64) for _ in range(2)]
    for fits in (False, True):
        for module in (xl_torch.transfo_xl, two_stream):
            monkeypatch.setattr(module, "kernel_fits", lambda *given, fits=fits: calls.append(fits) or fits)
        hidden = model(ids, mems=mems, **more).last_hidden_state
        gradients = torch.autograd.grad(hidden.square().mean(), list(model.parameters()), materialize_grads=True)
        results.append([hidden, *gradients])
    assert calls == [False, False, True, True]
    for plainly, by_kernel in zip(*results, strict=True):
        torch.testing.assert_close(by_kernel, plainly, rtol=1e-9, atol=1e-12)


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from xl_torch.layers import fused

def view(kind):
    return fused._View(f"*{kind}", "i64", "i64", "i64")

views = fused._Given(*[view("bf16")] * 5, view("u8"), view("u8"), view("bf16"))
known = fused._Known(view("bf16"), view("fp32"), view("fp32"), view("fp32"))
call = fused._Call(*["i32"] * 5, "fp32", "i32", "fp32", "i32")
more = {
    "_forward": {"out": view("bf16"), "peaks": view("fp32"), "sums": view("fp32")},
    "_of_queries": {"known": known, "found": (view("bf16"), view("bf16"), view("fp32"), view("fp32"))},
    "_of_keys": {"known": known, "found": (view("bf16"), view("bf16"))},
}[sys.argv[1]]
constants = {"H": 64, "P": 64, "TILE": 64, "SEEN": True, "CROSSED": True, "DROPPED": True}
constants |= {"EXACT": triton.language.float32, "PRECISION": "ieee"}
signature = {"given": views, "call": call, **more}
source = ASTSource(getattr(fused, sys.argv[1]), signature | dict.fromkeys(constants, "constexpr"), constants)
print(triton.compile(source, target=GPUTarget("cuda", 90, 32)).metadata.shared)
"""


def run(*command, **environment):
    """Run Python in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(KERNELS)]), **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.skipif(INTERPRETED, reason="is itself what runs there")
def test_in_the_interpreter():
    done = run("-m", "pytest", "-rA", "-p", "no:cacheprovider", __file__, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CASES) + 6} passed" in done.stdout


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("kernel", ["_forward", "_of_queries", "_of_keys"])
def test_it_compiles_for_a_gpu(kernel, tmp_path):
    """Down to machine code, for which no GPU is needed; what it keeps on the chip must fit there."""
    done = run("-c", COMPILE, kernel, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 227 * 1024
