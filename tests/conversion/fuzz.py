"""A harness for readers of files from strangers: damaged files by the hundred, read where nothing can happen.

`survive` reads files in a process of its own, whose memory and time are limited and in which nothing can be run,
imported anew or written; the reader is named, so that any format can be tested. Only `FormatError` may come out.
"""

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

ROOM, SECONDS = 300 << 20, 240  # beyond what the process has when it begins
ROOT = Path(__file__).parents[2]
NUMBERS = [b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff" * 8, b"\0\0\0\x80", b"\xff" * 7 + b"\x7f", b"\x01\0\0\0\0\0\0\0"]


def damaged(content: bytes, count: int, seed: int = 0, within: tuple[int, int] | None = None) -> Iterator[bytes]:
    """Yield files like one, each damaged another way: bits and bytes, lying numbers, cut off, pieces moved or twice.

    Args:
        within: the stretch in which most of the damage is done, where a file's structure stands.
    """
    first, last = within or (0, len(content))
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        made = bytearray(content)
        for _ in range(rng.choice([1, 1, 2, 8, 40])):
            low, high = (first, min(last, len(made))) if rng.random() < 0.9 else (0, len(made))
            at = rng.randrange(low, high) if low < high else 0
            _damage(made, at, rng)
        yield bytes(made)


def _damage(made: bytearray, at: int, rng: random.Random) -> None:
    way = rng.choice(["bit", "bit", "byte", "byte", "number", "number", "cut", "drop", "twice"])
    if not made:
        return
    if way == "bit":
        made[at] ^= 1 << rng.randrange(8)
    elif way == "byte":
        made[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif way == "number":
        number = rng.choice(NUMBERS)
        made[at : at + len(number)] = number
    elif way == "cut" and rng.random() < 0.3:
        del made[at:]
    elif way == "drop":
        del made[at : at + rng.choice([1, 8, 64])]
    elif way == "twice":
        made[at:at] = made[at : at + rng.choice([1, 8, 64])]


def with_one_damaged(files: Sequence[Path], count: int) -> list[Path]:
    """Make folders beside files, which hold them all, the last one damaged another way in each."""
    *whole, last = files
    folders = []
    for number, content in enumerate(damaged(last.read_bytes(), count)):
        folders.append(last.parent / str(number))
        folders[-1].mkdir()
        for file in whole:
            (folders[-1] / file.name).hardlink_to(file)
        (folders[-1] / last.name).write_bytes(content)
    return folders


def survive(reader: str, paths: Iterable[Path], folder: Path) -> list[str]:
    """Read files, all their tensors too, and return for each what came of it: `read`, or the message of the refusal.

    Args:
        reader: what opens a path, as `module:name`.
        folder: where nothing may appear while they are read.

    Raises:
        AssertionError: if anything but FormatError came out, anything was run or written, or the process did not
            survive within its limits.
    """
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-W", "ignore", __file__, reader]
    listed = "\n".join(str(path) for path in paths)
    done = subprocess.run(
        command, input=listed, capture_output=True, text=True, timeout=SECONDS * 2, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-300:]}{done.stderr[-3000:]}"
    assert sorted(folder.rglob("*")) == before
    told: list[str] = json.loads(done.stdout)
    assert len(told) == len(listed.splitlines())
    return told


# ---------------------------------------------------------------------------------------------- in the other process


def _limit() -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    for limit, value in ((resource.RLIMIT_AS, most), (resource.RLIMIT_CPU, SECONDS)):
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))  # a reader's own process sets its own


def _watch() -> None:
    """End the process as soon as anything happens that reading has no need of."""
    import os

    def hook(event: str, arguments: tuple) -> None:
        child = event in ("subprocess.Popen", "os.posix_spawn") and "h5_child.py" in str(arguments)
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        forbidden = event.startswith(("os.system", "os.exec", "os.spawn", "os.fork", "socket.", "shutil.", "ctypes."))
        forbidden |= event in ("subprocess.Popen", "os.posix_spawn", "exec", "compile", "os.remove", "os.rename")
        if (forbidden and not child) or writes:
            os.write(2, f"forbidden: {event} {arguments}\n".encode())
            os._exit(77)

    sys.addaudithook(hook)


def _read_all(reader, path: Path) -> str:
    from xlcore.errors import FormatError

    try:
        opened = reader(path)
        for name in opened:
            entry = opened[name]
            array = opened.read(name)
            assert (array.shape, array.dtype) == (entry.shape, entry.dtype)
    except FormatError as error:
        told = str(error)
    else:
        return "read"
    assert str(path.parent) in told or told.startswith("pickle: "), told
    return told


def main(name: str) -> None:
    """Read every path of standard input with the named reader; print what came of it."""
    module, _, attribute = name.partition(":")
    reader = getattr(import_module(module), attribute)
    b"x".decode("cp437")  # what `zipfile` imports when it first meets a name in it
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    _limit()
    _watch()
    told = []
    for path in paths:
        try:
            told.append(_read_all(reader, path))
        except BaseException:
            print(f"at {path}", file=sys.stderr)
            raise
    print(json.dumps(told))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1])
