"""How many words a second do we read and train on, beside the tables that NVIDIA published for Transformer-XL?

    python benchmarks/nvidia.py                               # on the GPU at hand
    python benchmarks/nvidia.py read --device cpu --cut       # where there is none: shows that it runs, no more

The shapes are NVIDIA's: its base is 512 wide (the paper's 410), in 16 layers; 192 words after as many in training, 64
after 640 in reading; large is 1,024 wide, in 18 layers; 384 after as many, 128 after 1,600. Words are drawn as texts
have them (Zipf's law). `read` counts the loss of each next word, each call waits for its value; `eager` is a plain
`KeyValueMemory`, `graph` `compiled_reader`, which starts the body as one CUDA graph. `train` takes steps of AdamW with
automatic mixed precision where it is not in float32. float32 may use TF32, as on the A100 there. Theirs are those of
one GPU of the kind that is named, with TorchScript in reading and LAMB in training, from the README of
https://github.com/NVIDIA/DeepLearningExamples, PyTorch/LanguageModeling/Transformer-XL (container 20.06; V100 of DGX-1
with 16 GB, of DGX-2H with 32). They were not run here, and a ratio beside another kind of GPU tells of both. A row that
takes more memory than there is says so. `--out` keeps all as JSON.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sides import keep, leave_folder, zipf
from tqdm import tqdm

WORDS = {"vocab_size": 267735, "cutoffs": [19997, 39997, 199997]}
SHAPES: dict[str, dict[str, Any]] = {
    "base": {"d_model": 512, "d_embed": 512, "n_head": 8, "d_head": 64, "d_inner": 2048, "n_layer": 16, "div_val": 1,
             "dropout": 0.1, "dropatt": 0.0},
    "large": {"d_model": 1024, "d_embed": 1024, "n_head": 16, "d_head": 64, "d_inner": 4096, "n_layer": 18,
              "div_val": 4, "dropout": 0.2, "dropatt": 0.2},
}  # fmt: skip
CUT = {"d_model": 64, "d_embed": 64, "n_head": 2, "d_head": 32, "d_inner": 64, "n_layer": 2,
       "vocab_size": 1000, "cutoffs": [100, 200, 600]}  # fmt: skip
CLAMPED = {"base": 400, "large": 1000}  # distances in reading
LENGTHS = {  # words of a call, and positions before them
    ("train", "base"): (192, 192),
    ("train", "large"): (384, 384),
    ("read", "base"): (64, 640),
    ("read", "large"): (128, 1600),
}


class Row(NamedTuple):
    """A line of NVIDIA's tables: words a second by kind of GPU."""

    what: str
    shape: str
    dtype: str
    batch: int
    theirs: dict[str, int]


TABLES = (
    Row("read", "base", "float16", 1, {"A100": 6936, "V100 16 GB": 5200, "T4": 6133}),
    Row("read", "base", "float16", 32, {"A100": 107082, "V100 16 GB": 66956, "T4": 16158}),
    Row("read", "base", "float32", 1, {"A100": 6085, "V100 16 GB": 4974, "T4": 2486}),
    Row("read", "base", "float32", 32, {"A100": 71124, "V100 16 GB": 22289, "T4": 5163}),
    Row("read", "large", "float16", 1, {"A100": 11068, "V100 16 GB": 8718, "T4": 3066}),
    Row("read", "large", "float16", 32, {"A100": 32162, "V100 16 GB": 17154, "T4": 4118}),
    Row("read", "large", "float32", 1, {"A100": 9084, "V100 16 GB": 3319, "T4": 793}),
    Row("read", "large", "float32", 32, {"A100": 20079, "V100 16 GB": 4965, "T4": 1102}),
    Row("train", "base", "float16", 16, {"V100 16 GB": 26639, "V100 32 GB": 32875}),
    Row("train", "base", "float16", 32, {"A100": 59961, "V100 16 GB": 36692}),
    Row("train", "base", "float32", 16, {"V100 16 GB": 13981, "V100 32 GB": 16150}),
    Row("train", "base", "float32", 32, {"A100": 41527}),
    Row("train", "large", "float16", 2, {"V100 16 GB": 6907}),
    Row("train", "large", "float16", 4, {"V100 16 GB": 10210}),
    Row("train", "large", "float16", 8, {"A100": 21554, "V100 32 GB": 14787}),
    Row("train", "large", "float16", 16, {"A100": 25084}),
    Row("train", "large", "float32", 2, {"V100 16 GB": 3558}),
    Row("train", "large", "float32", 8, {"A100": 14497, "V100 32 GB": 5169}),
)


class Subject:
    """The model of one shape and the words of one row.

    Args:
        cut: with widths, layers, words and lengths cut so that any machine can run it.
    """

    def __init__(self, row: Row, device: str, cut: bool) -> None:
        import torch

        import xl_torch
        import xlcore

        T, M = (length // 8 if cut else length for length in LENGTHS[row.what, row.shape])
        keys = SHAPES[row.shape] | WORDS | {"clamp_len": -1} | (CUT if cut else {})
        if row.what == "read":
            keys |= {"clamp_len": CLAMPED[row.shape], "same_length": True}
        config = xlcore.TransfoXLConfig(**keys, mem_len=M)
        torch.manual_seed(0)
        self.torch, self.row, self.device = torch, row, torch.device(device)
        with self.device:
            self.model = xl_torch.TransfoXLLMHeadModel(config)
        self.memory, self.reader = xl_torch.KeyValueMemory(), xl_torch.compiled_reader
        drawn = zipf(config.vocab_size, (8, row.batch, T + 1))
        self.segments = [torch.tensor(words, device=self.device) for words in drawn]
        self.full = -(-M // T)  # calls after which the memory is full

    def read(self, way: str) -> Iterator[Any]:
        """Yield the mean loss of each segment, read one after the other."""
        model = self.model.eval().to(getattr(self.torch, self.row.dtype))

        def states(memory: Any, ids: Any) -> Any:
            return model.transformer(ids, mems=memory).last_hidden_state

        read = self.reader(model, states) if way == "graph" else states
        with self.torch.inference_mode():
            while True:
                for words in self.segments:
                    hidden = read(self.memory, words[:, :-1])
                    yield model.crit.mean_loss("nvidia.py", hidden, words[:, 1:])

    def train(self, way: str) -> Iterator[Any]:
        """Yield the loss of each training step."""
        model, mems, torch = self.model.train(), None, self.torch
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        mixed = self.row.dtype == "float16"
        scaler = torch.amp.GradScaler(self.device.type, enabled=mixed and self.device.type == "cuda")
        while True:
            for words in self.segments:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(self.device.type, torch.float16, enabled=mixed):
                    output = model(words[:, :-1], mems=mems, labels=words)
                mems = output.mems
                scaler.scale(output.loss).backward()
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
                scaler.step(optimizer)
                scaler.update()
                yield output.loss

    def timed(self, way: str, calls: int) -> dict[str, Any]:
        """Return words a second, the median time of a call in ms, the last loss, and the most memory in MiB."""
        found, seconds, cuda = getattr(self, self.row.what)(way), [], self.device.type == "cuda"
        warm = 3 + (self.full if self.row.what == "read" else 1)  # 3: a graph is made in the second call
        for _ in range(warm):
            loss = float(next(found))
        if cuda:
            self.torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(calls):
            start = time.perf_counter()
            loss = float(next(found))  # waits
            seconds.append(time.perf_counter() - start)
        words = self.segments[0].shape
        peak = self.torch.cuda.max_memory_allocated(self.device) / 2**20 if cuda else None
        rate = words[0] * (words[1] - 1) * calls / sum(seconds)
        return {"words a second": rate, "ms": 1e3 * statistics.median(seconds), "loss": loss, "MiB": peak}


def measured(row: Row, way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return what is found of one row, one way; without times where there is too little memory."""
    import torch

    known = {**row._asdict(), "way": way}
    try:
        return known | Subject(row, given.device, given.cut).timed(way, given.calls)
    except torch.OutOfMemoryError:
        return known | {"words a second": None}


def told(found: dict[str, Any], cut: bool) -> str:
    """Return one line about one way of one row; nothing to compare where it was cut down."""
    ours, way, beside = found["words a second"], found["way"], {} if cut else found["theirs"]
    what = f"{found['what']} {found['shape']} {found['dtype']} x{found['batch']}"
    if ours is None:
        return f"{what:26}{way:7}takes more memory than there is"
    theirs = ", ".join(f"{kind} {rate:,} ({ours / rate:.2f}x)" for kind, rate in beside.items())
    peak = "" if found["MiB"] is None else f"{found['MiB']:8,.0f} MiB"
    return f"{what:26}{way:7}{ours:10,.0f} words/s{found['ms']:9.2f} ms{peak}   {theirs}"


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="read or train; both if not given")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--calls", type=int, default=50, help="that are timed, of each row")
    parser.add_argument("--cut", action="store_true", help="cut all sizes down: nothing that is timed counts then")
    parser.add_argument("--out", type=Path, help="a file for what was found, as JSON")
    given = parser.parse_args()
    if set(given.what) - {"read", "train"}:
        parser.error(f"what must be read or train, got {' '.join(given.what)}")
    if given.calls < 1:
        parser.error(f"--calls must be at least 1, got {given.calls}")
    leave_folder()
    import torch

    try:
        kind = torch.device(given.device).type
    except RuntimeError:
        parser.error(f"--device must name a device, such as cuda:1 or cpu, got {given.device}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit("nvidia.py: --device cuda must have a GPU, found none; --device cpu --cut shows that it runs")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    on = torch.cuda.get_device_name(given.device) if kind == "cuda" else given.device
    print(
        f"{on}, PyTorch {torch.__version__}; theirs, as published, by kind of GPU, and how many times as fast ours is"
    )
    rows: list[dict[str, Any]] = []
    wanted = [row for row in TABLES if row.what in (given.what or ("read", "train"))]
    ways = [(row, way) for row in wanted for way in (("eager", "graph") if row.what == "read" else ("eager",))]
    for row, way in tqdm(ways, unit="way"):
        rows.append(measured(row, way, given))
        tqdm.write(told(rows[-1], given.cut))
        keep(given.out, {"device": on, "torch": torch.__version__, "cut": given.cut, "rows": rows})


if __name__ == "__main__":
    main()
