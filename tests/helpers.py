"""What the tests of models share: the one tolerance table, tiny models, and both frameworks behind one door.

A framework is imported when a test first uses it; where it is not installed the test is skipped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from xlcore import FAMILIES
from xlcore.config import Config
from xlcore.heads import Family, Head
from xlcore.maps import HF
from xlcore.maps.keras import is_turned
from xlcore.shapes import Array, Contract
from xlcore.weightmap import to_ours

Arrays = dict[str, np.ndarray]

# ------------------------------------------------------------------------------------------ the one tolerance table

TOLERANCE = {
    "golden": 2e-5,  # to what the reference implementation computed in float32
    "float64": 1e-9,  # between the twins
    "equal": 2e-6,  # between two ways through one float32 model that are the same mathematics
    "float16": 2e-2,  # of a model in half precision to itself in float32
    "bfloat16": 1e-1,
}
# Between the twins in float32: FACTOR times what either side is away from its own float64 result, which itself must be
# rounding and nothing worse: at most ROUNDING steps of the format at the array's own scale.
FACTOR, ROUNDING = 2.0, 64


def assert_close(got: Any, wanted: Any, kind: str, what: str = "") -> None:
    """Compare arrays, or dictionaries of arrays that must have the same keys; differences count from scale 1 upward."""
    if isinstance(wanted, Mapping):
        assert got.keys() == wanted.keys(), what
        for name in wanted:
            assert_close(got[name], wanted[name], kind, f"{what} {name}")
        return
    got, wanted = np.asarray(got, "float64"), np.asarray(wanted, "float64")
    assert got.shape == wanted.shape, what
    assert np.isfinite(got).all(), what
    assert far(got, wanted) <= TOLERANCE[kind] * scale(wanted), f"{what}: {far(got, wanted)}"


def assert_rounding_apart(singles: tuple[Arrays, Arrays], doubles: tuple[Arrays, Arrays]) -> None:
    """Hold the float32 results of two sides against each other, and each against its own float64 result."""
    assert singles[0].keys() == singles[1].keys() == doubles[0].keys() == doubles[1].keys()
    for name in singles[0]:
        own = [far(single[name], double[name]) for single, double in zip(singles, doubles, strict=True)]
        step = float(np.finfo("float32").eps) * scale(doubles[0][name])
        assert max(own) <= ROUNDING * step, f"{name}: a side is {max(own) / step} steps from its float64 result"
        assert far(singles[0][name], singles[1][name]) <= FACTOR * max(own) + step, name


def far(one: Any, other: Any) -> float:
    """Return the largest difference of two arrays."""
    difference = np.abs(np.asarray(one, "float64") - np.asarray(other, "float64"))
    return float(difference.max()) if difference.size else 0.0


def scale(array: Any) -> float:
    """Return the largest value of an array, but at least 1."""
    return max(1.0, float(np.abs(array).max())) if np.size(array) else 1.0


# ------------------------------------------------------------------------------------------------------ tiny models

TINY: dict[str, dict[str, Any]] = {
    "transfo-xl": {
        "vocab_size": 31, "cutoffs": [9, 17], "d_model": 12, "d_embed": 16, "n_head": 3, "d_head": 5, "d_inner": 20,
        "div_val": 2, "n_layer": 2, "mem_len": 5, "clamp_len": 7, "num_labels": 3, "pad_token_id": 1,
    },
    "xlnet": {
        "vocab_size": 31, "d_model": 12, "n_head": 3, "d_inner": 20, "n_layer": 2, "mem_len": 5, "num_labels": 3,
        "start_n_top": 3, "end_n_top": 2, "pad_token_id": 1,
    },
    "xlm": {
        "vocab_size": 31, "emb_dim": 12, "n_heads": 3, "n_layers": 2, "n_langs": 3, "max_position_embeddings": 16,
        "num_labels": 3, "start_n_top": 3, "end_n_top": 2, "pad_token_id": 1, "summary_activation": "tanh",
    },
    "xlm-roberta-xl": {
        "vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20,
        "max_position_embeddings": 18, "type_vocab_size": 3, "num_labels": 3, "pad_token_id": 1,
    },
}  # fmt: skip

# What each variant changes of the tiny model of its family. T = 6 in `inputs_for`, so that T > mem_len happens too.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "transfo-xl": {
        "default": {},
        "div_val_4": {"div_val": 4},
        "one_table": {"div_val": 1, "d_embed": 10},
        "no_projection": {"div_val": 1, "d_embed": 12},
        "no_cutoffs": {"div_val": 1, "cutoffs": []},
        "pre_lnorm": {"pre_lnorm": True},
        "shared_biases": {"untie_r": False},
        "any_length": {"same_length": False},
        "no_clamp": {"clamp_len": -1},
        "no_memory": {"mem_len": 0},
        "untied": {"tie_word_embeddings": False, "proj_share_all_but_first": False},
        "tied_projections": {"tie_projs": [True, True, True]},
        "tf1_window": {"window_rule": "tf1"},
        "empty_start": {"initial_memory": "empty"},
    },
    "xlnet": {
        "default": {},
        "one_way": {"attn_type": "uni", "clamp_len": 3, "summary_type": "first"},
        "same_length": {"attn_type": "uni", "same_length": True, "mem_len": None},
        "backwards": {"bi_data": True, "clamp_len": 4, "summary_type": "mean"},
        "reuse": {"reuse_len": 2, "ff_activation": "gelu_new", "summary_use_proj": False},
        "untied": {"tie_word_embeddings": False, "ff_activation": "relu", "summary_activation": None},
        "authors": {"start_major": True, "soft_start": True, "summary_type": "cls_index", "untie_r": False},
    },
    "xlm": {
        "default": {},
        "one_way": {"causal": True, "gelu_activation": False, "summary_type": "last"},
        "hidden_padding": {"causal": True, "hide_padding": True, "summary_type": "mean", "summary_activation": None},
        "clusters": {"asm": True, "asm_cutoffs": [9, 17], "asm_div_value": 2.0, "n_langs": 1},
        "pruned": {"pruned_heads": {0: [1]}, "use_lang_emb": False},
        "untied": {"tie_word_embeddings": False, "summary_type": "cls_index"},
    },
    "xlm-roberta-xl": {
        "default": {},
        "decoder": {"is_decoder": True, "hidden_act": "gelu_new", "use_cache": False},
        "by_distance": {"position_embedding_type": "relative_key", "hidden_act": "relu"},
        "of_keys_too": {"position_embedding_type": "relative_key_query", "is_decoder": True, "use_cache": False},
        "pruned": {"pruned_heads": {0: [1]}, "add_pooling_layer": False},
        "untied": {"tie_word_embeddings": False, "pad_token_id": 4},
    },
}


@dataclass(frozen=True)
class Case:
    """One model: a family, a head, and what the variant changes."""

    family: Family
    head: Head
    variant: str = "default"

    def config(self, **keys: Any) -> Config:
        """Make the config, with some keys changed."""
        name = self.family.config.model_type
        return self.family.config(**{**TINY[name], **VARIANTS[name][self.variant], **keys})

    def __str__(self) -> str:
        return f"{self.head.name}-{self.variant}"


# Heads that need not be run in every variant, because others have shown what those change of the body.
FEW: dict[str, list[str]] = {
    "XLNetForSequenceClassification": ["default", "one_way", "backwards", "reuse", "untied", "authors"],
    "XLNetForTokenClassification": ["default"],
    "XLNetForMultipleChoice": ["default", "reuse"],
    "XLNetForQuestionAnsweringSimple": ["default"],
    "XLNetForQuestionAnswering": ["default", "authors"],
    "XLMForSequenceClassification": ["default", "one_way", "hidden_padding", "untied"],
    "XLMForTokenClassification": ["default"],
    "XLMForMultipleChoice": ["default"],
    "XLMForQuestionAnsweringSimple": ["default"],
    "XLMForQuestionAnswering": ["default"],
    "XLMRobertaXLForCausalLM": ["decoder", "of_keys_too", "untied"],
    "XLMRobertaXLForSequenceClassification": ["default"],
    "XLMRobertaXLForTokenClassification": ["default"],
    "XLMRobertaXLForMultipleChoice": ["default"],
    "XLMRobertaXLForQuestionAnswering": ["default"],
}
HEADS = [Case(family, head) for family in FAMILIES.values() for head in family.heads]
CASES = [
    Case(each.family, each.head, name)
    for each in HEADS
    for name in FEW.get(each.head.name, VARIANTS[each.family.config.model_type])
]
BODY, LM, CLASSIFIER = HEADS[:3]  # of Transformer-XL
XLNET = {case.head.kind: case for case in HEADS if case.family.config.model_type == "xlnet"}
XLM = {case.head.kind: case for case in HEADS if case.family.config.model_type == "xlm"}
ROBERTA = {case.head.kind: case for case in HEADS if case.family.config.model_type == "xlm-roberta-xl"}
# Biases that reach all scores of a softmax alike: no loss depends on them.
IDLE = {
    "XLNetForMultipleChoice": {"score.bias"},
    "XLNetForQuestionAnsweringSimple": {"spans.bias", "blocks.1.feed_forward_norm.bias"},
    "XLNetForQuestionAnswering": {"start.score.bias", "end.score.bias", "end.norm.bias"},
    **{case.head.name: {f"blocks.{layer}.attention.key.bias" for layer in (0, 1)} for case in XLM.values()},
}
IDLE |= {case.head.name: {f"blocks.{layer}.attention.key.bias" for layer in (0, 1)} for case in ROBERTA.values()}
IDLE["XLMRobertaXLModel"] |= {"pooler.weight", "pooler.bias"}  # of an output beside the one that is looked at
IDLE["XLMRobertaXLForMultipleChoice"] |= {"classifier.bias"}
IDLE["XLMRobertaXLForQuestionAnswering"] |= {"spans.bias", "final_norm.bias"}
IDLE["XLMForMultipleChoice"] |= {"score.bias"}
IDLE["XLMForQuestionAnsweringSimple"] |= {"spans.bias", "blocks.1.feed_forward_norm.bias"}
IDLE["XLMForQuestionAnswering"] |= {"start.score.bias", "end.score.bias", "end.norm.bias"}


def idle_in(case: Case, config: Config) -> set[str]:
    """Return the parameters on which no loss depends, or not the output that is looked at."""
    by_distance = getattr(config, "position_embedding_type", "absolute") != "absolute"
    return IDLE.get(case.head.name, set()) | ({"embedding_of_positions.weight"} if by_distance else set())


each_head = pytest.mark.parametrize("case", HEADS, ids=str)
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def random_weights(case: Case, config: Config, seed: int = 1) -> Arrays:
    """Draw every parameter anew, biases and norms too, large enough that nothing is near uniform; float32 values."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, param in case.family.params(config, case.head).items():
        center = 1.0 if param.kind == "norm" and name.endswith("weight") else 0.0
        drawn[name] = (center + 0.3 * rng.standard_normal(param.shape)).astype("float32")
    return drawn


def inputs_for(
    case: Case, config: Config, *names: str, seed: int = 2, B: int = 2, T: int = 6, M: int = 3, U: int | None = None
) -> dict[str, Any]:
    """Draw random inputs of these names; ids without the padding id, so that every text has its whole length.

    `"labels"` stands for all that a loss is computed from. Three positions are predicted where `target_mapping` is
    drawn, else all; two choices stand for each example that has choices.
    """
    wanted = [name for name in names if name in case.head.inputs and name != "labels"]
    wanted += case.head.targets if "labels" in names else ()
    sizes = {"B": B, "T": T, "M": M, "U": U or T, "D": config.hidden_size, "N": config.num_heads}
    sizes |= {"L": config.num_layers, "V": config.vocab_size, "K": config.num_labels}
    sizes |= {"C": 2, "G": 2 * B, "P": min(3, T) if "target_mapping" in wanted else T, "S": T}
    drawn = case.head.inputs.draw(sizes, seed, wanted)
    if "input_ids" in drawn and config.pad_token_id is not None:
        drawn["input_ids"] = np.where(drawn["input_ids"] == config.pad_token_id, 2, drawn["input_ids"])
    return drawn


# What a family's models may read at once, so that every parameter takes part.
EVERYTHING_READ = ("input_ids", "mems", "perm_mask", "target_mapping", "token_type_ids", "langs", "position_ids")


def rows_of(contract: Contract, arrays: Mapping[str, Any], chosen: list[int]) -> dict[str, Any]:
    """Return the chosen examples of inputs or outputs, by the axes that their contract names."""
    return {name: _rows(contract[name.split(".")[0]], value, chosen) for name, value in arrays.items()}


def _rows(array: Array, value: Any, chosen: list[int]) -> Any:
    if isinstance(value, list):
        return [_rows(array, each, chosen) for each in value]
    axes = next((form for form in array.forms() if len(form) == np.ndim(value)), [])
    if "G" in axes:  # two choices for each example
        return np.take(value, [2 * row + choice for row in chosen for choice in (0, 1)], axis=axes.index("G"))
    return np.take(value, chosen, axis=axes.index("B")) if "B" in axes else value


def flat(output: Any, to_numpy: Any = np.asarray) -> Arrays:
    """Return an output as one dictionary of arrays, `mems.0` and so on for lists."""
    found = {}
    for name, value in output.items():
        if isinstance(value, list | tuple):
            found |= flat({f"{name}.{number}": each for number, each in enumerate(value)}, to_numpy)
        else:
            found[name] = to_numpy(value)
    return found


# ------------------------------------------------------------------------------------- both frameworks, one door


class Torch:
    """The PyTorch side."""

    def __str__(self) -> str:
        return "torch"

    @property
    def towers(self) -> Any:
        """The package of the models."""
        pytest.importorskip("torch")
        import xl_torch

        return xl_torch

    def model_class(self, case: Case) -> Any:
        """Return the public class."""
        return getattr(self.towers, case.head.name)

    def model(self, case: Case, config: Config | None = None, *, dtype: str = "float32", weights: Any = None) -> Any:
        """Build a model in evaluation mode with random weights, or with those given."""
        config = config or case.config()
        model = self.model_class(case)(config)
        self.set(model, weights or random_weights(case, config))
        return model.to(self.dtype(dtype)).eval()

    def dtype(self, name: str) -> Any:
        """Return the framework's dtype."""
        import torch

        return getattr(torch, name)

    def set(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Give a model these weights, by canonical name."""
        import torch

        parameters = model.canonical_parameters()
        assert parameters.keys() == weights.keys()
        with torch.no_grad():
            for name, array in weights.items():
                parameters[name].copy_(torch.tensor(array))

    def weights(self, model: Any) -> Arrays:
        """Return the weights of a model by canonical name."""
        return {name: self.numpy(value).copy() for name, value in model.canonical_parameters().items()}

    def native(self, value: Any, dtype: Any = None) -> Any:
        """Turn arrays into tensors, real ones of the given dtype."""
        import torch

        if isinstance(value, list | tuple):
            return [self.native(each, dtype) for each in value]
        if not isinstance(value, np.ndarray):
            return value
        tensor = torch.tensor(value)
        return tensor.to(dtype) if tensor.is_floating_point() and dtype is not None else tensor

    def numpy(self, value: Any) -> np.ndarray:
        """Turn a tensor into an array; bfloat16 into float32."""
        value = value.detach()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()

    def ready(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Turn all inputs into what the model takes."""
        dtype = next(model.parameters()).dtype
        return {name: self.native(value, dtype) for name, value in inputs.items()}

    def call(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Any:
        """Call a model and return what it returns."""
        model.train(training)
        return model(**self.ready(model, inputs))

    def run(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Arrays:
        """Call a model and return all outputs as arrays."""
        import torch

        with torch.no_grad():
            return flat(self.call(model, inputs, training), self.numpy)

    def gradients(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Arrays:
        """Return the gradient of the loss, or of a random direction of the hidden states, for weights and inputs."""
        return self.both(model, inputs, training)[1]

    def both(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> tuple[Arrays, Arrays]:
        """Return outputs and gradients of one call."""
        import torch

        ready = self.ready(model.train(training), inputs)
        reals = {name: value.requires_grad_() for name, value in _tensors(ready) if value.is_floating_point()}
        targets = {**model.canonical_parameters(), **reals}
        output = model(**ready)
        if "loss" in output:
            objective = output.loss
        else:
            objective = (output[0] * self.native(direction(output[0].shape), output[0].dtype)).sum()
        found = torch.autograd.grad(objective, list(targets.values()), allow_unused=True)
        gradients = {
            name: self.numpy(torch.zeros_like(value) if gradient is None else gradient)
            for (name, value), gradient in zip(targets.items(), found, strict=True)
        }
        return flat(output, self.numpy), gradients

    def descend(self, model: Any, gradients: Arrays, rate: float) -> None:
        """Take one step of plain gradient descent."""
        import torch

        with torch.no_grad():
            for name, value in model.canonical_parameters().items():
                value -= rate * torch.tensor(gradients[name])


class Keras:
    """The Keras side."""

    def __str__(self) -> str:
        return "keras"

    @property
    def towers(self) -> Any:
        """The package of the models."""
        pytest.importorskip("keras")
        pytest.importorskip("tensorflow")
        import xl_tf

        return xl_tf

    def model_class(self, case: Case) -> Any:
        """Return the public class."""
        return getattr(self.towers, f"TF{case.head.name}")

    def model(self, case: Case, config: Config | None = None, *, dtype: str = "float32", weights: Any = None) -> Any:
        """Build a model with random weights, or with those given."""
        config = config or case.config()
        model = self.model_class(case)(config, dtype=dtype)
        self.set(model, weights or random_weights(case, config))
        return model

    def dtype(self, name: str) -> str:
        """Return the framework's dtype."""
        return name

    def set(self, model: Any, weights: Mapping[str, np.ndarray]) -> None:
        """Give a model these weights, by canonical name."""
        parameters, table = model.canonical_parameters(), model.family.params(model.config, model.head)
        assert parameters.keys() == weights.keys()
        for name, array in weights.items():
            parameters[name].assign(array.T if is_turned(name, table[name]) else array)

    def weights(self, model: Any) -> Arrays:
        """Return the weights of a model by canonical name, as the specification lays them."""
        return self._turned(model, {name: self.numpy(v).copy() for name, v in model.canonical_parameters().items()})

    def _turned(self, model: Any, arrays: Arrays) -> Arrays:
        table = model.family.params(model.config, model.head)
        return {
            name: each.T if name in table and is_turned(name, table[name]) else each for name, each in arrays.items()
        }

    def native(self, value: Any, dtype: Any = None) -> Any:
        """Turn arrays into tensors, real ones of the given dtype."""
        from keras import ops

        if isinstance(value, list | tuple):
            return [self.native(each, dtype) for each in value]
        if not isinstance(value, np.ndarray):
            return value
        return ops.convert_to_tensor(value, dtype=dtype if value.dtype.kind == "f" else None)

    def numpy(self, value: Any) -> np.ndarray:
        """Turn a tensor into an array; bfloat16 into float32."""
        from keras import ops

        array = ops.convert_to_numpy(value)
        return array.astype("float32") if array.dtype.name == "bfloat16" else array

    def ready(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Turn all inputs into what the model takes."""
        return {name: self.native(value, model.compute_dtype) for name, value in inputs.items()}

    def call(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Any:
        """Call a model and return what it returns."""
        return model(self.ready(model, inputs), training=training)

    def run(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Arrays:
        """Call a model and return all outputs as arrays."""
        return flat(self.call(model, inputs, training), self.numpy)

    def gradients(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> Arrays:
        """Return the gradient of the loss, or of a random direction of the hidden states, for weights and inputs."""
        return self.both(model, inputs, training)[1]

    def both(self, model: Any, inputs: Mapping[str, Any], training: bool = False) -> tuple[Arrays, Arrays]:
        """Return outputs and gradients of one call."""
        import tensorflow as tf
        from keras import ops

        ready = self.ready(model, inputs)
        reals = {name: value for name, value in _tensors(ready) if value.dtype.is_floating}
        parameters = {name: variable.value for name, variable in model.canonical_parameters().items()}
        with tf.GradientTape() as tape:
            tape.watch(list(reals.values()))
            output = model(ready, training=training)
            if "loss" in output:
                objective = output.loss
            else:
                objective = ops.sum(output[0] * self.native(direction(output[0].shape), output[0].dtype))
        targets = {**parameters, **reals}
        found = tape.gradient(objective, targets, unconnected_gradients="zero")
        gradients = {name: self.numpy(tf.convert_to_tensor(each)) for name, each in found.items()}
        return flat(output, self.numpy), self._turned(model, gradients)

    def descend(self, model: Any, gradients: Arrays, rate: float) -> None:
        """Take one step of plain gradient descent."""
        turned = self._turned(model, gradients)
        for name, variable in model.canonical_parameters().items():
            variable.assign_sub(rate * turned[name])


TORCH, KERAS = Torch(), Keras()
each_side = pytest.mark.parametrize("side", [TORCH, KERAS], ids=str)


def direction(shape: Any) -> np.ndarray:
    """Return a random direction, always the same for a shape."""
    return np.random.default_rng(9).standard_normal(tuple(shape)).astype("float32")


def _tensors(inputs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """List the tensors among inputs that gradients can be asked for: real arguments, not what only selects."""
    found = []
    for name in ("mems", "inputs_embeds", "head_mask"):
        value = inputs.get(name)
        if isinstance(value, list):
            found += [(f"inputs/{name}.{number}", each) for number, each in enumerate(value)]
        elif value is not None:
            found.append((f"inputs/{name}", value))
    return found


# ------------------------------------------------------------------------------------------------ golden reference

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Golden:
    """One case of the reference implementation: config, weights, inputs, outputs, gradients, in canonical names."""

    case: Case
    config: Config
    weights: Arrays
    inputs: dict[str, Any]
    options: dict[str, Any]
    outputs: Arrays
    grads: Arrays
    foreign: Arrays  # the weights under the reference's own names


def golden_files() -> list[Path]:
    """List the files of all families that there are."""
    prefixes = tuple(f"{name.replace('-', '_')}-" for name in FAMILIES)
    return sorted(path for path in GOLDEN.glob("*.safetensors") if path.name.startswith(prefixes))


def read_golden(path: Path) -> Golden:
    """Read one case."""
    with safe_open(path, "np") as file:
        told = json.loads(file.metadata()["case"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    parts = {kind: _under(arrays, kind) for kind in ("weights", "inputs", "outputs", "grads")}
    case = next(case for case in HEADS if case.head.name == told["head"])
    config = case.family.config(**told["config"])
    lists = {name.split(".")[0] for name in parts["inputs"] if "." in name}
    inputs: dict[str, Any] = {name: value for name, value in parts["inputs"].items() if "." not in name}
    for name in lists:
        inputs[name] = [value for key, value in sorted(parts["inputs"].items()) if key.startswith(f"{name}.")]
    weights, grads = (_canonical(case, config, parts[kind]) for kind in ("weights", "grads"))
    assert weights.keys() == case.family.params(config, case.head).keys()
    if grads:  # none for what takes no part
        grads = {name: grads.get(name, np.zeros_like(value)) for name, value in weights.items()}
    return Golden(case, config, weights, inputs, told["kwargs"], parts["outputs"], grads, parts["weights"])


def _under(arrays: Arrays, kind: str) -> Arrays:
    return {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")}


def _canonical(case: Case, config: Config, foreign: Arrays) -> Arrays:
    """Give foreign tensors their canonical names; of tied ones any copy will do."""
    table, ties = case.family.params(config, case.head), case.family.ties_within(config, case.head)
    weights = HF[config.model_type]
    full = {weights.full_name(name): array for name, array in foreign.items()}
    places = weights.places({**table, **{alias: table[first] for alias, first in ties.items()}})
    found = {}
    for name, (place,) in places.items():
        if place.name in full:
            found[ties.get(name, name)] = to_ours(full[place.name], place.layout, config.sizes)[
                place.start : place.stop
            ]
    return found
