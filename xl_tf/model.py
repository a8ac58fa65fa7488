"""The base of every model: how it starts, loads, saves, and trains with `fit`."""

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from conversion import checkpoint
from xl_tf.backend import give_value, give_values, share_of_replica, without_values
from xl_tf.layers.key_values import KeyValueMemory
from xl_tf.naming import layers_by_name, parameters, turned, variables_by_name
from xl_tf.ops import know_output
from xlcore.config import Config
from xlcore.errors import ConfigError, ShapeError, XLError
from xlcore.families import FAMILIES, find_head
from xlcore.files import named_folder
from xlcore.heads import Family, Head
from xlcore.maps.keras import is_turned
from xlcore.outputs import ModelOutput
from xlcore.params import Init, require_described, sinusoid

# False while a model is built only to be filled from a file.
_starting = ContextVar("_starting", default=True)

for _family in FAMILIES.values():
    for _head in _family.heads:
        know_output(_head.output)


class Model(keras.Model):
    """A model of one family with one head; subclasses build their parts and then call `finish`.

    The parameters exist from the start. `canonical_parameters` names them as the specification does.
    """

    family: ClassVar[Family]
    head: ClassVar[Head]
    carrier: Any = None  # the callback that has this model carry its memory, while it does

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.family, cls.head = find_head(cls)
        if cls.__module__.split(".")[0] == __name__.split(".")[0]:
            keras.saving.register_keras_serializable("xlbridge")(cls)

    def __init__(self, config: Config, *, dtype: Any = None, **more: Any) -> None:
        self._require(config)
        super().__init__(dtype=dtype, **more)
        self.config = config
        self._made_by = config.copy()  # what the parameters are by, whatever becomes of the config
        self.step_function: Any = (None, None)  # what the compiled step of `generate` is made for, and it

    @classmethod
    def _require(cls, config: Any) -> None:
        """Refuse what is no config of the family."""
        if not isinstance(config, cls.family.config):
            wanted = cls.family.config.__name__
            raise ConfigError(f"{cls.__name__}: config must be a {wanted}, got {type(config).__name__}")

    def finish(self) -> None:
        """Start the parameters that this class adds, by the table of the specification, from Keras' random state."""
        self.built = True
        if _starting.get():
            own = self.head.params(self.config)
            self._start({**self.family.body(self.config), **own} if self.head.kind == "base" else own)

    def canonical_parameters(self) -> dict[str, Any]:
        """Return every parameter once, by its canonical name. Kernels are the other way round than the name says."""
        return variables_by_name(self, self.family.params(self._made_by, self.head))

    def body(self) -> "Model":
        """The model without its head, which may be itself."""
        return getattr(self, self.family.prefix, self)

    def _returned(self, output: ModelOutput, return_dict: bool | None, *first: str) -> Any:
        """Return an output as it is, or as a tuple, those of the fields `first` in front that are there."""
        if self.config.return_dict if return_dict is None else return_dict:
            return output
        names = sorted(output, key=lambda name: name not in first)  # a stable sort: the rest keeps its order
        return tuple(output[name] for name in names)

    def _start(self, names: Container[str]) -> None:
        table = self.family.params(self.config, self.head)
        for name, value in self.canonical_parameters().items():
            if name in names:
                _fill(value, table[name].init)

    # ------------------------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: Config | None = None,
        dtype: Any = None,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        shard: Callable[["Model"], Any] | None = None,
        mmap: bool = False,
        **overrides: Any,
    ) -> Any:
        """Load a model from a folder.

        Args:
            path: a checkpoint of any format and origin: a folder, a file, or the prefix of a TensorFlow one.
            config: a config to take in place of the folder's.
            dtype: dtype or policy of the model, or its name; `"auto"` for the dtype of the file, Keras' global policy
                if not given.
            strict: raise if tensors are missing or unexpected; else warn, and start the missing ones anew. A head that
                the file lacks as a whole is started anew with a warning in either case.
            ignore_mismatched_sizes: start tensors anew whose shape differs, with a warning.
            output_loading_info: return the model and the `LoadingInfo`.
            shard: called with the model before it has values, to deal it out to several devices: each device then
                keeps only its own part of each tensor (see `xl_tf.sharding`).
            mmap: PyTorch's only: Keras keeps kernels the other way round than files do, so that it must read them.
            overrides: config keys.

        Raises:
            FormatError, ConfigError, WeightError: name what does not fit, and where.
        """
        if "torch_dtype" in overrides:
            raise ConfigError(f"{cls.__name__}: torch_dtype must be given as dtype, got {overrides['torch_dtype']!r}")
        if config is None:
            config = checkpoint.read_config(path, **overrides)
        cls._require(config)
        config = config.copy(**overrides)
        if mmap:
            raise ConfigError(f"{cls.__name__}: mmap must be off, got True; only models of xl_torch can map a file")
        opened = checkpoint.Checkpoint(path, config, cls.head)
        opened.settle(strict=strict, ignore_mismatched_sizes=ignore_mismatched_sizes)
        with unstarted(), without_values():
            model = cls(config, dtype=opened.dtype if dtype == "auto" else dtype)
        if shard is not None:
            shard(model)
        parameters = model.canonical_parameters()
        give_values(model.variables, map(parameters.get, opened.names))
        model._start(parameters.keys() - opened.names)
        table = cls.family.params(config, cls.head)
        for name, array in opened.tensors():
            give_value(parameters[name], array, is_turned(name, table[name]))
        return (model, opened.info) if output_loading_info else model

    def save_pretrained(self, path: str | Path, max_shard_size: int | str = "5GB") -> None:
        """Write config.json and model.safetensors (or shards with an index), whole or not at all.

        Args:
            path: the folder; files in it that are no weights stay.
            max_shard_size: bytes a file, as a number or such as `"200MB"`.

        Raises:
            WeightError: if the config does not describe the parameters, for a key was changed since they were made, or
                a subclass adds some.
        """
        path = named_folder("save_pretrained", path)
        self._require_described()
        parameters = self.canonical_parameters()
        flips = {name: turned(self, name) for name in parameters}
        read = {name: lambda value=value, t=flips[name]: _to_numpy(value, t) for name, value in parameters.items()}
        dtypes = {name: np.dtype(value.dtype) for name, value in parameters.items()}
        checkpoint.save(path, self.config, self.head, read, dtypes, max_shard_size)

    def _require_described(self) -> None:
        """Refuse to write a config beside parameters that it does not describe."""
        shapes = {name: tuple(value.shape) for name, value in parameters(self).items()}
        shapes = {name: shape[::-1] if turned(self, name) else shape for name, shape in shapes.items()}
        require_described(type(self).__name__, self.family.params(self.config, self.head), shapes)

    def get_config(self) -> dict[str, Any]:
        """Return what makes this model again, as JSON can hold it.

        Raises:
            WeightError: if a key was changed since the parameters were made, and would make other ones.
        """
        made = {name: param.shape for name, param in self.family.params(self._made_by, self.head).items()}
        require_described(type(self).__name__, self.family.params(self.config, self.head), made)
        policy = keras.saving.serialize_keras_object(self.dtype_policy)
        return {"name": self.name, "dtype": policy, "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> Self:
        """Make a model again from what `get_config` gave."""
        keys = dict(config)
        dtype = keras.saving.deserialize_keras_object(keys.pop("dtype"))
        return cls(cls.family.config.from_dict(keys.pop("config")), dtype=dtype, **keys)

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: Any = None,
        **more: Any,
    ) -> None:
        """Write the model for serving: ids [B, T] in, every output by its name out, lists as `mems_0`, `mems_1`.

        Takes what `keras.Model.export` takes, whose own SavedModel cannot hold lists.
        """
        if format != "tf_saved_model":
            super().export(filepath, format, verbose, input_signature, **more)
            return
        archive = keras.export.ExportArchive()
        archive.track(self)
        signature = input_signature or [keras.InputSpec(shape=(None, None), dtype="int32", name="input_ids")]
        archive.add_endpoint("serve", lambda *inputs: self(*inputs, return_dict=True).flat("_"), signature, **more)
        archive.write_out(filepath, verbose=verbose)

    # ---------------------------------------------------------------------------------------------------- training

    def __call__(self, *inputs: Any, **keys: Any) -> Any:
        """Call the model; inputs may come as one dictionary, as `fit` gives them."""
        inputs, keys = _memory_by_name(self.call, *_spread(inputs, keys))
        if isinstance(inputs[0], list | tuple):  # Keras would take each number for an input
            where, kind = type(self).__name__, type(inputs[0]).__name__
            raise ShapeError(f"{where}: input_ids must be an array, got {kind}; numpy.array(...) makes one")
        try:
            return super().__call__(*inputs, **keys)
        except XLError as error:
            plain = _plain(error)
        raise plain

    def stateless_call(self, variables: Any, other_variables: Any, *inputs: Any, **keys: Any) -> Any:
        """Call the model with the values of its variables, as JAX does it."""
        inputs, keys = _spread(inputs, keys)
        return super().stateless_call(variables, other_variables, *inputs, **keys)

    def fit(self, *inputs: Any, **keys: Any) -> Any:
        """Train as Keras does. A memory that a callback carries ends with it, even where training is broken off."""
        try:
            return super().fit(*inputs, **keys)
        finally:
            if self.carrier is not None:
                self.carrier.let_go()

    def evaluate(self, *inputs: Any, **keys: Any) -> Any:
        """Evaluate as Keras does, alone or within `fit`; carried memory as there."""
        try:
            return super().evaluate(*inputs, **keys)
        finally:
            if self.carrier is not None and not self.carrier.training:
                self.carrier.let_go()

    def train_step(self, *state_and_data: Any) -> Any:
        """Train on one batch; labels stand in the inputs or beside them."""
        *state, data = state_and_data
        return super().train_step(*state, self._with_labels(data))

    def test_step(self, *state_and_data: Any) -> Any:
        """Evaluate one batch; labels stand in the inputs or beside them."""
        *state, data = state_and_data
        return super().test_step(*state, self._with_labels(data))

    def predict_step(self, *state_and_data: Any) -> Any:
        """Predict for one batch: everything that has a row for each of its rows, which `mems` has not."""
        *state, data = state_and_data
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        result = super().predict_step(*state, (self._by_name(x),))
        if isinstance(result, tuple):  # with the state that JAX hands around
            return self._by_row(result[0]), *result[1:]
        return self._by_row(result)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss that the model computes from its labels, or the one it was compiled with."""
        if self.loss is not None:
            return super().compute_loss(x, y, _named_in(y_pred, y), sample_weight, training)
        loss = y_pred.get("loss") if isinstance(y_pred, ModelOutput) else None
        if loss is None:
            where = type(self).__name__
            names = ", ".join(map(repr, self.head.targets)) or "'labels'"
            raise ShapeError(f"{where}: fit must get labels, in the inputs under {names} or as y, got neither")
        return share_of_replica(loss + sum(self.losses) if self.losses else loss)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the metrics that the model was compiled with, of the outputs that labels name.

        Raises:
            ConfigError: for metrics without a loss: the model's own takes labels by names of its own.
        """
        if self.loss is None and self._compile_metrics is not None:
            where = type(self).__name__
            raise ConfigError(
                f"{where}: compile must get a loss where it gets metrics, got none; loss={{'logits': ...}}"
            )
        return super().compute_metrics(x, y, _named_in(y_pred, y), sample_weight)

    def _with_labels(self, data: Any) -> Any:
        """Move labels that stand beside the inputs, alone or by name, into them, for the model has its own loss."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if self.loss is not None:
            return keras.utils.pack_x_y_sample_weight(self._by_name(x), y, weight)
        if weight is not None:
            raise ShapeError(f"{type(self).__name__}: fit must get no sample_weight; labels of -100 weigh nothing")
        labels = y if isinstance(y, Mapping) else {} if y is None else {"labels": y}
        return ({**self._by_name(x), **labels},)

    def _by_name(self, x: Any) -> dict[str, Any]:
        """Return the inputs of a batch by name; steps need the output by name, too, whatever the config has."""
        by_name = x if isinstance(x, Mapping) else {"input_ids": x}
        return {**by_name, **({} if self.config.return_dict else {"return_dict": True})}

    def _by_row(self, output: Any) -> Any:
        """Return an output without what is there to read on, in the form that the config has."""
        rest = output.without("mems", "past_key_values") if isinstance(output, ModelOutput) else output
        return self._returned(rest, None) if isinstance(rest, ModelOutput) else rest

    def forget_traces(self) -> None:
        """Have `fit`, `evaluate` and `predict` compile anew, after a change that compiled steps would not see."""
        self.train_function = self.test_function = self.predict_function = None

    def keep_settings(self, before: "Model") -> None:
        """Take over what is set on a model and stands in no config; families add to it."""

    def _become(self, config: Config) -> None:
        """Take another config in place: rows that both have stay, new rows start anew.

        Name, policy, what is trained, and what families set stay, too. All variables are new ones: compile again.
        """
        other = type(self)(config, dtype=self.dtype_policy, name=self.name)
        old = self.canonical_parameters()
        for name, value in other.canonical_parameters().items():
            if name in old:
                array = ops.convert_to_numpy(value).copy()
                common = tuple(slice(min(sizes)) for sizes in zip(array.shape, old[name].shape, strict=True))
                array[common] = ops.convert_to_numpy(old[name])[common]
                value.assign(array)
        other._take_settings(self)
        self.__dict__.update(other.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        make, given = self.__reduce__()  # as Keras copies models: through a file in memory, which holds no settings
        other = memo[id(self)] = make(*given)
        other._take_settings(self)
        return other

    def _take_settings(self, before: "Model") -> None:
        layers = layers_by_name(self, ""), layers_by_name(before, "")
        for module, old in zip(*(each.values() for each in layers), strict=True):
            module.trainable = old.trainable
            if isinstance(module, Model):
                module.keep_settings(old)


def _spread(inputs: tuple[Any, ...], keys: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a first input that is a dictionary into arguments by name."""
    if inputs and isinstance(inputs[0], Mapping):
        keys = {**inputs[0], **keys}
        inputs = (keys.pop("input_ids", None), *inputs[1:])
    return inputs or (keys.pop("input_ids", None),), keys


def _memory_by_name(call: Any, inputs: tuple[Any, ...], keys: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn inputs behind the first into arguments by name, if a memory is one: Keras takes nothing but arrays there."""
    if not any(isinstance(each, KeyValueMemory) for each in inputs[1:]):
        return inputs, keys
    named = inspect.signature(call).bind(*inputs, **keys).arguments
    return (named.pop("input_ids"),), named


def _named_in(y_pred: Any, y: Any) -> Any:
    """Return of a model's outputs those that a dictionary of labels names, as Keras' losses and metrics want them."""
    if not isinstance(y_pred, ModelOutput):
        return y_pred
    return {name: y_pred[name] for name in y} if isinstance(y, Mapping) else dict(y_pred)


def _plain(error: XLError) -> XLError:
    """Return an error as it was raised: Keras wraps it once a layer into a report of all arguments."""
    while isinstance(error.__context__, XLError):
        error = error.__context__
    return error


@contextmanager
def unstarted() -> Iterator[None]:
    """Make models whose parameters are still to be set."""
    token = _starting.set(False)
    try:
        yield
    finally:
        _starting.reset(token)


def _fill(value: Any, init: Init) -> None:
    if init.kind == "normal":
        value.assign(keras.random.normal(value.shape, init.center, init.spread, dtype=value.dtype))
    elif init.kind == "uniform":
        low, high = init.center - init.spread, init.center + init.spread
        value.assign(keras.random.uniform(value.shape, low, high, dtype=value.dtype))
    elif init.kind == "sinusoid":
        value.assign(sinusoid(*value.shape))
    else:
        value.assign(ops.full(value.shape, init.center, dtype=value.dtype))
    if init.zero_row is not None:
        value.assign(ops.slice_update(value.value, (init.zero_row, 0), ops.zeros((1, value.shape[1]), value.dtype)))


def _to_numpy(value: Any, turned: bool) -> np.ndarray[Any, Any]:
    value = ops.convert_to_numpy(value)
    return value.T if turned else value
