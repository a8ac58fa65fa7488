"""The models in PyTorch."""

from xl_torch.generation import generate
from xl_torch.layers.adaptive import AdaptiveEmbedding, ProjectedAdaptiveLogSoftmax
from xl_torch.model import Model
from xl_torch.transfo_xl import (
    TransfoXLForSequenceClassification,
    TransfoXLLMHeadModel,
    TransfoXLModel,
)
from xlcore.families.transfo_xl import TransfoXLConfig

__all__ = [
    "AdaptiveEmbedding",
    "Model",
    "ProjectedAdaptiveLogSoftmax",
    "TransfoXLConfig",
    "TransfoXLForSequenceClassification",
    "TransfoXLLMHeadModel",
    "TransfoXLModel",
    "generate",
]
