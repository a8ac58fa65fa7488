"""The specification of the model families: configurations, contracts, parameters, names; no framework."""

from xlcore.config import Config
from xlcore.errors import ConfigError, FormatError, ParityError, ShapeError, TokenizerError, WeightError, XLError
from xlcore.families import FAMILIES
from xlcore.families.transfo_xl import TransfoXLConfig
from xlcore.families.xlm import XLMConfig
from xlcore.families.xlm_roberta_xl import XLMRobertaXLConfig
from xlcore.families.xlnet import XLNetConfig
from xlcore.outputs import ModelOutput
from xlcore.tokenizers import (
    TransfoXLTokenizer,
    XLMRobertaTokenizer,
    XLMRobertaTokenizerFast,
    XLMTokenizer,
    XLNetTokenizer,
    XLNetTokenizerFast,
)

__version__ = "0.1.0"
__all__ = [
    "FAMILIES",
    "Config",
    "ConfigError",
    "FormatError",
    "ModelOutput",
    "ParityError",
    "ShapeError",
    "TokenizerError",
    "TransfoXLConfig",
    "TransfoXLTokenizer",
    "WeightError",
    "XLError",
    "XLMConfig",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "XLMRobertaXLConfig",
    "XLMTokenizer",
    "XLNetConfig",
    "XLNetTokenizer",
    "XLNetTokenizerFast",
    "__version__",
]
