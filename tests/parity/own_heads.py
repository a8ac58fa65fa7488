"""A head of somebody's own in both frameworks, and one that is wrong."""

import keras
import torch

from xl_tf import TFTransfoXLModel
from xl_torch import TransfoXLModel


class TaggedModel(TransfoXLModel):
    """The body with a tag for each word, in PyTorch."""

    def __init__(self, config):
        super().__init__(config)
        self.tagger = torch.nn.Linear(config.d_model, 5)
        self.tagger_norm = torch.nn.LayerNorm(5)

    def forward(self, *inputs, **keys):
        output = super().forward(*inputs, **keys)
        output["last_hidden_state"] = self.tagger_norm(self.tagger(output.last_hidden_state))
        return output


class TFTaggedModel(TFTransfoXLModel):
    """The same in Keras."""

    def __init__(self, config, **keys):
        super().__init__(config, **keys)
        self.tagger = keras.layers.Dense(5, dtype=self.dtype_policy)
        self.tagger.build((None, config.d_model))
        self.tagger_norm = keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy)
        self.tagger_norm.build((None, 5))

    def call(
        self,
        input_ids=None,
        mems=None,
        head_mask=None,
        inputs_embeds=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        training=None,
    ):
        output = super().call(
            input_ids, mems, head_mask, inputs_embeds, output_attentions, output_hidden_states, return_dict, training
        )
        output["last_hidden_state"] = self.tagger_norm(self.tagger(output.last_hidden_state))
        return output


class TFWrongModel(TFTaggedModel):
    """The same with another epsilon: a difference of a few parts in a million."""

    def __init__(self, config, **keys):
        super().__init__(config, **keys)
        self.tagger_norm.epsilon = 1.1e-5
