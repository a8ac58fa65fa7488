"""Each kind of head once: what it adds to a body in parameters, labels and output fields, and its loss rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlcore.config import Config
from xlcore.errors import ConfigError, ShapeError
from xlcore.outputs import ModelOutput
from xlcore.params import Init, Param, Params, layer_norm, linear
from xlcore.shapes import Array, Contract

# What a decoder reads of an encoder: its states, and how many of them count.
SOURCE = Contract(src_enc=Array("B M D"), src_len=Array("B", "lengths"))
# The same by other names: its states, and which of them count.
ENCODED = Contract(encoder_hidden_states=Array("B M D"), encoder_attention_mask=Array("B T M | B M", "keep"))
# What a decoder keeps of R words in each layer, and of an encoder's states.
LAYER_PAST = Contract(
    key=Array("B N R H"), value=Array("B N R H"), cross_key=Array("B N M H"), cross_value=Array("B N M H")
)
# The inputs that a loss is computed from.
TARGETS = ("labels", "start_positions", "end_positions", "is_impossible", "cls_index")


@dataclass(frozen=True)
class Head:
    """One public model class of a family.

    Args:
        name: the name of its class in PyTorch; Keras puts TF before it.
        kind: which of the known kinds of head it is; `"base"` for the body alone.
        inputs: what a call takes.
        output: the class of what a call returns, fields in order.
        params: from a config to the parameters that the head adds to the body.
    """

    name: str
    kind: str
    inputs: Contract
    output: type[ModelOutput]
    params: Callable[[Any], Params]

    @property
    def targets(self) -> tuple[str, ...]:
        """The inputs that a loss is computed from."""
        return tuple(name for name in TARGETS if name in self.inputs)


@dataclass(frozen=True)
class Family:
    """One family of models.

    Args:
        config: its configuration class, which names the `model_type`.
        prefix: the attribute under which a model with a head keeps its body.
        body: from a config to the parameters of the body, by canonical name.
        ties: from a config to the canonical names that are second names of a tensor: second to first.
        heads: its public model classes, the body alone first.
        released: configs of published checkpoints by name.
        examples: tiny configs by name that together use every key that changes the computation.
    """

    config: type[Config]
    prefix: str
    body: Callable[[Any], Params]
    ties: Callable[[Any], Mapping[str, str]]
    heads: tuple[Head, ...]
    released: Mapping[str, Mapping[str, Any]]
    examples: Mapping[str, Mapping[str, Any]]

    def params(self, config: Config, head: Head) -> Params:
        """List all parameters of a model: the body's and the head's, each tensor once."""
        return {**self.body(config), **head.params(config)}

    def ties_within(self, config: Config, head: Head) -> dict[str, str]:
        """Return the ties whose second name belongs to a part that the model has."""
        names = self.params(config, head)
        parts = {name.split(".")[0] for name in names}
        return {alias: name for alias, name in self.ties(config).items() if alias.split(".")[0] in parts}


def no_params(config: Any) -> Params:
    """List the parameters of a head that has none."""
    return {}


def score_params(size: int, labels: int, init: Init) -> dict[str, Param]:
    """List the parameters of a sequence classifier without bias: one row a label."""
    return {"score.weight": Param((labels, size), init, "linear")}


def summary_params(size: int, outputs: int, init: Init) -> dict[str, Param]:
    """List the parameters of a text's summary in one vector: its projection."""
    return linear("sequence_summary.projection", size, outputs, init)


def beam_params(size: int, init: Init) -> dict[str, Param]:
    """List the parameters of question answering by beam search: scores of starts, of ends, and of an answer at all."""
    return {
        **linear("start.score", size, 1, init),
        **linear("end.inner", 2 * size, size, init),
        **layer_norm("end.norm", size),
        **linear("end.score", size, 1, init),
        **linear("answer.inner", 2 * size, size, init),
        **linear("answer.score", size, 1, init, bias=False),
    }


def classification_problem(problem_type: str | None, num_labels: int, integer_labels: bool) -> str:
    """Tell which loss a sequence classifier has for its labels.

    A problem type that the config names wins; else one label means regression, whole numbers mean classes
    (cross entropy, -100 ignored), and anything else independent labels (binary cross entropy).
    """
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return "regression"
    return "single_label_classification" if integer_labels else "multi_label_classification"


def require_class_labels(where: str, problem: str, shape: Sequence[int | None], logits: Sequence[int | None]) -> None:
    """Refuse labels whose shape is not that of the problem: [B] classes, else a number for each of [B, K].

    Raises:
        ShapeError: names the problem and both shapes.
    """
    wanted = [logits[0]] if problem == "single_label_classification" else list(logits)
    alike = [wanted] + ([[logits[0]]] if logits[-1] == 1 else [])
    if not any(len(shape) == len(form) and all(map(_may_equal, shape, form)) for form in alike):
        raise ShapeError(f"{where}: labels must have shape {wanted} for {problem}, got {list(shape)}")


def _may_equal(size: int | None, other: int | None) -> bool:
    return size is None or other is None or size == other


def require_decoder(where: str, config: Any) -> None:
    """Raise ConfigError for a model that cannot read on where it stopped, for it is no decoder."""
    if not config.is_decoder:
        raise ConfigError(f"{where}: is_decoder must be true to read on from past_key_values, got false")


def require_past(where: str, config: Any, past: Any) -> None:
    """Refuse what no decoder of that config has returned as `past_key_values`.

    Raises:
        ShapeError: names the layer, and what must stand there.
    """
    L, what = config.num_layers, "past_key_values"
    if not isinstance(past, Sequence) or len(past) != L:
        got = len(past) if isinstance(past, Sequence) else type(past).__name__
        raise ShapeError(f"{where}: {what} must be a list of {L} layers, got {got}")
    found: dict[str, int] = {}
    for number, layer in enumerate(past):
        if len(layer) not in (2, 4) or len(layer) != len(past[0]):
            got = f"got {len(layer)} arrays"
            raise ShapeError(f"{where}: {what}[{number}] must be a key and a value, or two of each, {got}")
        sizes = found | {"N": len(config.kept_heads(number)), "H": config.head_dim}
        found = LAYER_PAST.check(f"{where}: {what}[{number}]", sizes, dict(zip(LAYER_PAST, layer, strict=False)))
