"""Tokenizers: text to ids and back, in plain Python, under the names that users of transformers 4.34 know."""

from xlcore.tokenizers.added import AddedToken
from xlcore.tokenizers.base import Tokenizer
from xlcore.tokenizers.batch import BatchEncoding
from xlcore.tokenizers.transfo_xl import TransfoXLTokenizer
from xlcore.tokenizers.transfo_xl_files import Vocabulary, read_corpus

__all__ = ["AddedToken", "BatchEncoding", "Tokenizer", "TransfoXLTokenizer", "Vocabulary", "read_corpus"]
