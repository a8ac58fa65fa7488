"""The models in Keras 3. Nothing but Keras is used, so that any of its backends computes them."""

from xl_tf.generation import generate
from xl_tf.layers.adaptive import TFAdaptiveEmbedding, TFProjectedAdaptiveLogSoftmax
from xl_tf.layers.cache import KeyValueCache
from xl_tf.layers.key_values import KeyValueMemory, compiled_reader
from xl_tf.model import Model
from xl_tf.pretraining import (
    CrossLingualDataset,
    DataCollatorForPermutationLanguageModeling,
    PermutationLanguageModelingDataset,
)
from xl_tf.scoring import score, score_sentences
from xl_tf.training import CarryMemory
from xl_tf.transfo_xl import (
    TFTransfoXLForSequenceClassification,
    TFTransfoXLLMHeadModel,
    TFTransfoXLModel,
)
from xl_tf.xlm import (
    TFXLMForMultipleChoice,
    TFXLMForQuestionAnswering,
    TFXLMForQuestionAnsweringSimple,
    TFXLMForSequenceClassification,
    TFXLMForTokenClassification,
    TFXLMModel,
    TFXLMWithLMHeadModel,
)
from xl_tf.xlm_roberta_xl import (
    TFXLMRobertaXLForCausalLM,
    TFXLMRobertaXLForMaskedLM,
    TFXLMRobertaXLForMultipleChoice,
    TFXLMRobertaXLForQuestionAnswering,
    TFXLMRobertaXLForSequenceClassification,
    TFXLMRobertaXLForTokenClassification,
    TFXLMRobertaXLModel,
)
from xl_tf.xlnet import (
    TFXLNetForMultipleChoice,
    TFXLNetForQuestionAnswering,
    TFXLNetForQuestionAnsweringSimple,
    TFXLNetForSequenceClassification,
    TFXLNetForTokenClassification,
    TFXLNetLMHeadModel,
    TFXLNetModel,
)
from xlcore.families.transfo_xl import TransfoXLConfig
from xlcore.families.xlm import XLMConfig
from xlcore.families.xlm_roberta_xl import XLMRobertaXLConfig
from xlcore.families.xlnet import XLNetConfig

__all__ = [
    "CarryMemory",
    "CrossLingualDataset",
    "DataCollatorForPermutationLanguageModeling",
    "KeyValueCache",
    "KeyValueMemory",
    "Model",
    "PermutationLanguageModelingDataset",
    "TFAdaptiveEmbedding",
    "TFProjectedAdaptiveLogSoftmax",
    "TFTransfoXLForSequenceClassification",
    "TFTransfoXLLMHeadModel",
    "TFTransfoXLModel",
    "TFXLMForMultipleChoice",
    "TFXLMForQuestionAnswering",
    "TFXLMForQuestionAnsweringSimple",
    "TFXLMForSequenceClassification",
    "TFXLMForTokenClassification",
    "TFXLMModel",
    "TFXLMRobertaXLForCausalLM",
    "TFXLMRobertaXLForMaskedLM",
    "TFXLMRobertaXLForMultipleChoice",
    "TFXLMRobertaXLForQuestionAnswering",
    "TFXLMRobertaXLForSequenceClassification",
    "TFXLMRobertaXLForTokenClassification",
    "TFXLMRobertaXLModel",
    "TFXLMWithLMHeadModel",
    "TFXLNetForMultipleChoice",
    "TFXLNetForQuestionAnswering",
    "TFXLNetForQuestionAnsweringSimple",
    "TFXLNetForSequenceClassification",
    "TFXLNetForTokenClassification",
    "TFXLNetLMHeadModel",
    "TFXLNetModel",
    "TransfoXLConfig",
    "XLMConfig",
    "XLMRobertaXLConfig",
    "XLNetConfig",
    "compiled_reader",
    "generate",
    "score",
    "score_sentences",
]
