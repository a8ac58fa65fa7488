"""What models share that have one table of embeddings, and a head over a body or none."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xl_torch.layers.vocabulary import Embedding
from xlcore.errors import ConfigError, ShapeError


class TextModel:
    """The methods of such a model; its body has the table as `embedding`."""

    def get_input_embeddings(self) -> Embedding:
        """Return the embedding of words."""
        return self.body().embedding

    def resize_token_embeddings(self, new_num_tokens: int) -> Embedding:
        """Grow or shrink the vocabulary at its end; new words start as all parameters start."""
        self._become(self.config.copy(vocab_size=new_num_tokens))
        return self.get_input_embeddings()

    def _check_text(self, **given: Any) -> dict[str, int]:
        """Hold all inputs of a body against the contract, and return the sizes of their axes."""
        where = type(self).__name__
        if (given["input_ids"] is None) == (given["inputs_embeds"] is None):
            got = "none" if given["input_ids"] is None else "both"
            raise ShapeError(f"{where}: input must be either input_ids or inputs_embeds, got {got}")
        found = self.head.inputs.check(where, self.config.sizes, given, Tensor)
        if found.get("T") == 0:
            raise ShapeError(f"{where}: a segment must have at least one position, got 0")
        return found

    def _check_given(self, sizes: dict[str, int], **given: Any) -> None:
        """Hold some of the inputs against the contract."""
        self.head.inputs.check(type(self).__name__, sizes, given, Tensor)

    def _check_targets(self, hidden: Tensor, **given: Any) -> None:
        """Hold labels and the like against the contract, for hidden states [B, P, D]."""
        self._check_given({"B": hidden.shape[0], "P": hidden.shape[1]}, **given)

    def _headed(self, body: Any, return_dict: bool | None, **first: Any) -> Any:
        """Return what a head found, and the rest of what its body returned."""
        names = ("mems", "past_key_values", "hidden_states", "attentions", "cross_attentions")
        rest = {name: body.get(name) for name in names if name in body and name in self.head.output.fields}
        return self._returned(self.head.output(**first, **rest), return_dict)


class PrunableModel(TextModel):
    """The methods of a model whose heads can be taken out."""

    def prune_heads(self, heads_to_prune: Mapping[int, Iterable[int]]) -> None:
        """Take heads out: layer -> heads, by the numbers that they had at first. Those that are out stay out.

        Raises:
            ConfigError: for layers or heads that there are not, or all heads of a layer.
        """
        config = self.config.without_heads(heads_to_prune)
        for number, block in enumerate(self.body().blocks):
            block.attention.bring_forward(config.kept_heads(number))
        self._become(config)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def all_texts(values: Tensor | None) -> Tensor | None:
    """Turn [B, C, ...] into one axis of all texts, [G, ...]."""
    return None if values is None else values.flatten(0, 1)


def chosen_positions(where: str, hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Return of [B, T, D] that many last positions, 0 for all; or those that are named, [P].

    Raises:
        ShapeError: for less than none.
        ConfigError: for what is neither a number nor a tensor.
    """
    if isinstance(logits_to_keep, bool) or not (
        isinstance(logits_to_keep, Integral) or hasattr(logits_to_keep, "shape")
    ):
        raise ConfigError(f"{where}: logits_to_keep must be a number or a tensor of positions, got {logits_to_keep!r}")
    if not isinstance(logits_to_keep, Integral):
        return hidden[:, logits_to_keep]
    if logits_to_keep < 0:
        raise ShapeError(f"{where}: logits_to_keep must be at least 0 (0 for all), got {logits_to_keep}")
    return hidden[:, -logits_to_keep:]
