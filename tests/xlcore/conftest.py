"""Tokenizers of Transformer-XL that several files test."""

from pathlib import Path

import pytest

from tests.xlcore.transfo_xl_cases import GOLDEN, made
from xlcore.tokenizers import TransfoXLTokenizer


@pytest.fixture(scope="module")
def golden() -> TransfoXLTokenizer:
    return TransfoXLTokenizer(vocab_file=GOLDEN / "vocab.txt", pad_token="<eos>")


@pytest.fixture
def small(tmp_path: Path) -> TransfoXLTokenizer:
    return made("<eos> <unk> the cat 's café , . @-@ @,@ 5 000", tmp_path)
