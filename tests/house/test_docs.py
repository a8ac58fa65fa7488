"""Every Python block of the README and the documentation runs, in order, page by page."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    space: dict = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        code = compile("\n" * line + block[1], str(page), "exec")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(code, space)
    assert space.keys() > {"__name__"}


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
