"""The fixture `parity`, which comes by itself where the package is installed, and one thread for a process."""

import importlib.metadata
import os

# Before torch and numpy are imported, here and in processes that tests start: the threads of two workers on two cores
# would wait for each other far longer than models this small compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not [point for point in importlib.metadata.entry_points(group="pytest11") if point.name == "xlbridge"]:
    pytest_plugins = ["conversion.parity.pytest_plugin"]
