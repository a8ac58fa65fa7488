"""What transformers 4.34.0 made of texts with Transformer-XL's tokenizer, and small vocabularies of one's own."""

import json
from pathlib import Path
from typing import Any

from xlcore.tokenizers import TransfoXLTokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "tokenizers" / "transfo_xl"
CASES = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
TEXTS = [case["args"][0] for case in CASES["cases"] if case["call"] == "tokenize"]


def made(symbols: str, folder: Path, **kwargs: Any) -> TransfoXLTokenizer:
    """Make a tokenizer of these symbols, most frequent first."""
    file = folder / "made.txt"
    file.write_text("\n".join(symbols.split()) + "\n", encoding="utf-8")
    return TransfoXLTokenizer(vocab_file=file, **kwargs)
