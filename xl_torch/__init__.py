"""The models in PyTorch."""

from xl_torch.generation import generate
from xl_torch.layers.adaptive import AdaptiveEmbedding, ProjectedAdaptiveLogSoftmax
from xl_torch.layers.cache import KeyValueCache
from xl_torch.layers.graphs import compiled_reader
from xl_torch.layers.key_values import KeyValueMemory
from xl_torch.model import Model
from xl_torch.pretraining import (
    CrossLingualDataset,
    DataCollatorForPermutationLanguageModeling,
    PermutationLanguageModelingDataset,
)
from xl_torch.scoring import score, score_sentences
from xl_torch.transfo_xl import (
    TransfoXLForSequenceClassification,
    TransfoXLLMHeadModel,
    TransfoXLModel,
)
from xl_torch.xlm import (
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMWithLMHeadModel,
)
from xl_torch.xlm_roberta_xl import (
    XLMRobertaXLForCausalLM,
    XLMRobertaXLForMaskedLM,
    XLMRobertaXLForMultipleChoice,
    XLMRobertaXLForQuestionAnswering,
    XLMRobertaXLForSequenceClassification,
    XLMRobertaXLForTokenClassification,
    XLMRobertaXLModel,
)
from xl_torch.xlnet import (
    XLNetForMultipleChoice,
    XLNetForQuestionAnswering,
    XLNetForQuestionAnsweringSimple,
    XLNetForSequenceClassification,
    XLNetForTokenClassification,
    XLNetLMHeadModel,
    XLNetModel,
)
from xlcore.families.transfo_xl import TransfoXLConfig
from xlcore.families.xlm import XLMConfig
from xlcore.families.xlm_roberta_xl import XLMRobertaXLConfig
from xlcore.families.xlnet import XLNetConfig

__all__ = [
    "AdaptiveEmbedding",
    "CrossLingualDataset",
    "DataCollatorForPermutationLanguageModeling",
    "KeyValueCache",
    "KeyValueMemory",
    "Model",
    "PermutationLanguageModelingDataset",
    "ProjectedAdaptiveLogSoftmax",
    "TransfoXLConfig",
    "TransfoXLForSequenceClassification",
    "TransfoXLLMHeadModel",
    "TransfoXLModel",
    "XLMConfig",
    "XLMForMultipleChoice",
    "XLMForQuestionAnswering",
    "XLMForQuestionAnsweringSimple",
    "XLMForSequenceClassification",
    "XLMForTokenClassification",
    "XLMModel",
    "XLMRobertaXLConfig",
    "XLMRobertaXLForCausalLM",
    "XLMRobertaXLForMaskedLM",
    "XLMRobertaXLForMultipleChoice",
    "XLMRobertaXLForQuestionAnswering",
    "XLMRobertaXLForSequenceClassification",
    "XLMRobertaXLForTokenClassification",
    "XLMRobertaXLModel",
    "XLMWithLMHeadModel",
    "XLNetConfig",
    "XLNetForMultipleChoice",
    "XLNetForQuestionAnswering",
    "XLNetForQuestionAnsweringSimple",
    "XLNetForSequenceClassification",
    "XLNetForTokenClassification",
    "XLNetLMHeadModel",
    "XLNetModel",
    "compiled_reader",
    "generate",
    "score",
    "score_sentences",
]
