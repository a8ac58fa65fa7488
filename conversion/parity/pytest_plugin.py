"""The fixture `parity` and the marker of the same name, for tests of your own models.

@pytest.mark.parity(seeds=3)
def test_my_head(parity):
    parity(MyConfig(...), torch=MyHead, keras=TFMyHead)
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conversion.parity.results import Report
    from conversion.parity.sides import Side


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--parity-report`."""
    group = parser.getgroup("xlbridge")
    group.addoption(
        "--parity-report", metavar="FOLDER", help="write an HTML and a JSON report of each parity test there"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    text = "parity(seeds=1, modes=('eager',), dtypes=('float32',), ...): options for the fixture `parity`"
    config.addinivalue_line("markers", text)


@pytest.fixture(scope="session")
def parity_sides() -> Iterator["dict[str, Side]"]:
    """Keep the process of each framework for the whole run: starting one takes seconds."""
    sides: dict[str, Side] = {}
    yield sides
    for side in sides.values():
        side.__exit__(None, None, None)


@pytest.fixture
def parity(request: pytest.FixtureRequest, parity_sides: "dict[str, Side]") -> "Callable[..., Report]":
    """Give `assert_parity`, with the options of the test's marker, and processes that are shared by all tests."""
    from conversion.parity.asserting import assert_parity
    from conversion.parity.reports import write_html, write_json
    from conversion.parity.sides import Side

    marker = request.node.get_closest_marker("parity")
    folder = request.config.getoption("--parity-report")

    def check(model: Any, *, frameworks: tuple[str, str] = ("torch", "tensorflow"), **options: Any) -> "Report":
        for name in frameworks:
            if name not in parity_sides:
                parity_sides[name] = Side(name)
        options = {**(marker.kwargs if marker else {}), **options}
        report = assert_parity(model, frameworks=frameworks, sides=parity_sides, **options)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for write, ending in ((write_html, "html"), (write_json, "json")):
                write(report, Path(folder) / f"{request.node.name}.{ending}")
        return report

    return check
