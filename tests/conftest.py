"""The fixture `parity`, which comes by itself where the package is installed."""

import importlib.metadata

if not [point for point in importlib.metadata.entry_points(group="pytest11") if point.name == "xlbridge"]:
    pytest_plugins = ["conversion.parity.pytest_plugin"]
