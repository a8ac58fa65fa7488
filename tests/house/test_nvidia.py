"""The benchmark beside NVIDIA's tables, which runs where a GPU is: here cut down, so that it runs when one is there."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nvidia.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("nvidia") / "found.json"
    command = [sys.executable, SCRIPT, "--device", "cpu", "--cut", "--calls", "2", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())


def test_every_row_is_measured_each_way(found):
    ways = [(row["what"], row["shape"], row["dtype"], row["batch"], row["way"]) for row in found["rows"]]
    assert len(set(ways)) == len(ways) == 2 * 8 + 10
    for row in found["rows"]:
        assert row["words a second"] > 0
        # drawn weights know nothing yet: a word is one of 100 and 3 clusters, and of up to 400 in a cluster
        assert math.log(103) - 0.2 < row["loss"] < math.log(103) + math.log(400) + 0.2, row


def test_both_ways_of_reading_compute_the_same(found):
    losses = {}
    for row in found["rows"]:
        if row["what"] == "read":
            losses.setdefault((row["shape"], row["dtype"], row["batch"]), []).append(row["loss"])
    for eager, graph in losses.values():
        assert eager == graph


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--device cuda must have a GPU, found none; --device cpu --cut shows that it runs"),
        (["--device", "gpu"], "--device must name a device, such as cuda:1 or cpu, got gpu"),
        (["--calls", "0"], "--calls must be at least 1, got 0"),
        (["write"], "what must be read or train, got write"),
    ],
)
def test_what_it_refuses(options, told):
    command, hidden = [sys.executable, SCRIPT, *options], os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert done.returncode
    assert done.stderr.splitlines()[-1].endswith(told)
