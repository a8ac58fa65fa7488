"""A conversion that is killed, whenever, goes on when it is started again, and ends in the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conversion.convert import convert, plan
from tests.conversion.models import save, tree

ROOT = Path(__file__).parents[2]
KEYS = {"n_layer": 4, "d_model": 16, "d_inner": 64}
OPTIONS = {
    "hf": {"dtype": "bfloat16", "max_shard_size": "4KB"},
    "torch": {"to": "torch", "max_shard_size": "4KB"},
    "tf_model.h5": {"to": "tf_model.h5"},
    "keras": {"to": "keras"},
}

# For each line with a destination, forks a process that converts, and tells its number and how it ended.
SERVER = """
    import json, os, sys, time
    from conversion.convert import Plan, convert, plan

    source, options, pause, steps = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3]), sys.argv[4].split(",")
    true = Plan._make
    def make(self, entry):
        time.sleep(pause)  # so that there is time to be killed
        return true(self, entry)
    Plan._make = make

    def guarded(true, left):
        def step(*arguments, **keys):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return true(*arguments, **keys)
        return step

    for line in sys.stdin:
        destination, stop = line.rsplit(maxsplit=1)
        child = os.fork()
        if not child:
            if int(stop):  # end without a word, as a killed process does, at the n-th step that touches the disk
                left = [int(stop)]
                for name in steps:
                    setattr(os, name, guarded(getattr(os, name), left))
            resumed = convert(plan(source, destination, **options), batch=0).resumed
            os._exit(100 + (resumed > 0))
        print(child, flush=True)
        sys.stdin.readline()  # until it is asked for how it ended, its number is its own
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = "pwrite,fsync,fdatasync,rename,posix_fallocate,ftruncate"
DONE, RESUMED, STOPPED = 100, 101, 9


class Server:
    """Starts conversions, each in a process of its own."""

    def __init__(self, child: subprocess.Popen) -> None:
        self._child = child

    def start(self, destination: Path, stop: int = 0) -> int:
        """Start a conversion that ends itself at a step, or by itself; return the number of its process."""
        return self._ask(f"{destination} {stop}")

    def end(self) -> int:
        """Wait for its end; return how it ended."""
        return self._ask("end")

    def _ask(self, line: str) -> int:
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()
        return int(self._child.stdout.readline())


@contextmanager
def serving(source: Path, options: str, pause: float = 0.0) -> Iterator[Server]:
    command = [sys.executable, "-c", textwrap.dedent(SERVER), source, options, str(pause), STEPS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield Server(child)
        child.stdin.close()
        assert child.wait() == 0


@pytest.mark.parametrize(("to", "kills"), [("hf", 20), ("torch", 5), ("tf_model.h5", 3), ("keras", 3)])
def test_killed_at_random_moments_it_ends_in_the_same_bytes_each_time(to, kills, tmp_path):
    save(tmp_path / "model", **KEYS)
    moments, ends = random.Random(to), []
    with serving(tmp_path / "model", json.dumps(OPTIONS[to]), pause=0.002) as server:
        began = time.monotonic()
        server.start(tmp_path / "whole")
        assert server.end() == DONE
        whole, seconds = tree(tmp_path / "whole"), time.monotonic() - began
        while len(ends) < kills:
            out = tmp_path / f"out-{len(ends)}"
            began = time.monotonic()
            process = server.start(out)
            time.sleep(moments.random() * seconds)
            os.kill(process, signal.SIGKILL)
            killed = server.end() == -signal.SIGKILL
            assert not out.exists() or tree(out) == whole, "the destination must appear whole or not at all"
            if not killed:  # it was faster this time
                seconds = min(seconds, time.monotonic() - began)
                shutil.rmtree(out)
                continue
            server.start(out)
            ends.append(server.end())
            assert tree(out) == whole
    assert set(ends) <= {DONE, RESUMED}
    assert RESUMED in ends or kills < 20
    assert sorted(os.listdir(tmp_path)) == sorted(["model", "whole", *(f"out-{number}" for number in range(kills))])


def test_stopped_at_any_step_that_touches_the_disk_it_ends_in_the_same_bytes(tmp_path):
    save(tmp_path / "model", n_layer=1)
    convert(plan(tmp_path / "model", tmp_path / "whole", max_shard_size="1KB"))
    whole, ends, again = tree(tmp_path / "whole"), [], []
    with serving(tmp_path / "model", '{"max_shard_size": "1KB"}') as server:
        while DONE not in ends:
            out = tmp_path / f"out-{len(ends)}"
            server.start(out, stop=1 + 3 * len(ends))
            ends.append(server.end())
            assert not out.exists() or tree(out) == whole
            server.start(out)
            again.append(server.end())
            assert tree(out) == whole
            assert not list(tmp_path.glob(".out*"))
    assert set(ends[:-1]) == {STOPPED}
    assert set(again) == {DONE, RESUMED}
    assert len(ends) > 15
