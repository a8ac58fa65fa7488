"""The fixture `parity`, which comes by itself where the package is installed; one thread, and little collecting."""

import gc
import importlib.metadata
import itertools
import os

import pytest

# Before torch and numpy are imported, here and in processes that tests start: the threads of two workers on two cores
# would wait for each other far longer than models this small compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not [point for point in importlib.metadata.entry_points(group="pytest11") if point.name == "xlbridge"]:
    pytest_plugins = ["conversion.parity.pytest_plugin"]

OFTEN = 25  # tests
COUNT = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Collect what tests left behind, now and then, and never look at the rest again.

    Frameworks leave millions of objects that live on; to look through them at each collection took a sixth of the time.
    """
    if next(COUNT) % OFTEN == 0:
        gc.collect()
        gc.freeze()
