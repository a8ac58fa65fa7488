"""Tokenizers: text to ids and back, in plain Python, under the names that users of transformers 4.34 know."""

from xlcore.tokenizers.added import AddedToken
from xlcore.tokenizers.base import Tokenizer
from xlcore.tokenizers.batch import BatchEncoding
from xlcore.tokenizers.encodings import FastEncoding
from xlcore.tokenizers.transfo_xl import TransfoXLTokenizer
from xlcore.tokenizers.transfo_xl_files import Vocabulary, read_corpus
from xlcore.tokenizers.xlm import XLMTokenizer
from xlcore.tokenizers.xlm_roberta import XLMRobertaTokenizer, XLMRobertaTokenizerFast
from xlcore.tokenizers.xlnet import XLNetTokenizer, XLNetTokenizerFast

__all__ = [
    "AddedToken",
    "BatchEncoding",
    "FastEncoding",
    "Tokenizer",
    "TransfoXLTokenizer",
    "Vocabulary",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "XLMTokenizer",
    "XLNetTokenizer",
    "XLNetTokenizerFast",
    "read_corpus",
]
