"""The models in Keras 3. Nothing but Keras is used, so that any of its backends computes them."""

from xl_tf.generation import generate
from xl_tf.layers.adaptive import TFAdaptiveEmbedding, TFProjectedAdaptiveLogSoftmax
from xl_tf.model import Model
from xl_tf.training import CarryMemory
from xl_tf.transfo_xl import (
    TFTransfoXLForSequenceClassification,
    TFTransfoXLLMHeadModel,
    TFTransfoXLModel,
)
from xlcore.families.transfo_xl import TransfoXLConfig

__all__ = [
    "CarryMemory",
    "Model",
    "TFAdaptiveEmbedding",
    "TFProjectedAdaptiveLogSoftmax",
    "TFTransfoXLForSequenceClassification",
    "TFTransfoXLLMHeadModel",
    "TFTransfoXLModel",
    "TransfoXLConfig",
    "generate",
]
