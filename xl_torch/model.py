"""The base of every model: how it starts, loads, saves, and understands foreign state dicts."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from conversion import checkpoint
from xlcore.config import Config
from xlcore.errors import ConfigError, WeightError
from xlcore.families import FAMILIES, find_head
from xlcore.files import named_folder
from xlcore.heads import Family, Head
from xlcore.maps import HF
from xlcore.outputs import ModelOutput
from xlcore.params import Init, require_described, sinusoid
from xlcore.weightmap import Place, to_ours

# False while a model is built only to be filled from a file.
_starting = ContextVar("_starting", default=True)


for _family in FAMILIES.values():
    for _head in _family.heads:  # so that torch.export and functorch look into outputs as into dictionaries
        register_pytree_node(
            _head.output,
            lambda output: (list(output.values()), list(output)),
            lambda values, names, output=_head.output: output(zip(names, values, strict=True)),
            serialized_type_name=f"xlbridge.{_head.output.__name__}",
        )


class Model(nn.Module):
    """A model of one family with one head; subclasses build their parts and then call `finish`.

    The parameters are named as the specification names them, those of the body behind the family's prefix in a
    model with a head.
    """

    family: ClassVar[Family]
    head: ClassVar[Head]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.family, cls.head = find_head(cls)

    def __init__(self, config: Config) -> None:
        self._require(config)
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self._register_load_state_dict_pre_hook(self._translate)

    @classmethod
    def _require(cls, config: Any) -> None:
        """Refuse what is no config of the family."""
        if not isinstance(config, cls.family.config):
            wanted = cls.family.config.__name__
            raise ConfigError(f"{cls.__name__}: config must be a {wanted}, got {type(config).__name__}")

    def finish(self) -> None:
        """Start the parameters that this class adds, by the table of the specification, from torch's random state."""
        if _starting.get():
            own = self.head.params(self.config)
            self._start({**self.family.body(self.config), **own} if self.head.kind == "base" else own)

    def canonical_parameters(self) -> dict[str, nn.Parameter]:
        """Return every parameter once, by its canonical name."""
        prefix = f"{self.family.prefix}."
        return {name.removeprefix(prefix): value for name, value in self.named_parameters()}

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
            if name in names and name in table:
                _fill(value, table[name].init)

    # ------------------------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        config: Config | None = None,
        dtype: torch.dtype | str | None = None,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        shard: Callable[["Model"], Any] | None = None,
        mmap: bool = False,
        **overrides: Any,
    ) -> Any:
        """Load a model from a folder, in evaluation mode.

        Args:
            path: a checkpoint of any format and origin: a folder, a file, or the prefix of a TensorFlow one.
            config: a config to take in place of the folder's.
            dtype: of the parameters, or its name; `"auto"` for that of the file, float32 if not given.
            strict: raise if tensors are missing or unexpected; else warn, and start the missing ones anew. A head that
                the file lacks as a whole is started anew with a warning in either case.
            ignore_mismatched_sizes: start tensors anew whose shape differs, with a warning.
            output_loading_info: return the model and the `LoadingInfo`.
            shard: called with the model before it has values, to deal it out to several devices: each process then
                keeps only its own part of each tensor (see `xl_torch.sharding`).
            mmap: map the file in place of reading it, where it is safetensors and holds a parameter as the model has
                it, in the same dtype: the model is there at once, and is read as it computes, so that its first answer
                takes longer; several processes share what none has changed, and no file is. NaN is not looked for, and
                a file that is cut off meanwhile kills the process; one that is replaced does not.
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
        if mmap and shard is not None:
            raise ConfigError(f"{cls.__name__}: mmap must be off where shard deals the model out, got True")
        opened = checkpoint.Checkpoint(path, config, cls.head)
        opened.settle(strict=strict, ignore_mismatched_sizes=ignore_mismatched_sizes)
        with unstarted(), _made_in(_dtype_of(cls.__name__, opened.dtype if dtype == "auto" else dtype)):
            model = cls(config)
        if shard is not None:
            shard(model)
        parameters = model.canonical_parameters()
        model._start(parameters.keys() - opened.names)
        with torch.no_grad():
            for name, array in opened.tensors(but=_mapped(parameters, opened) if mmap else ()):
                _set(parameters[name], _to_torch(array))
        model.eval()
        return (model, opened.info) if output_loading_info else model

    def save_pretrained(self, path: str | Path, max_shard_size: int | str = "5GB") -> None:
        """Write config.json and model.safetensors (or shards with an index), whole or not at all.

        Args:
            path: the folder; files in it that are no weights stay.
            max_shard_size: bytes a file, as a number or such as `"200MB"`.

        Of a model that is dealt out to several processes all must call it; the first writes.

        Raises:
            WeightError: if the config does not describe the parameters, for a key was changed since they were made, or
                a subclass adds some.
        """
        path = named_folder("save_pretrained", path)
        self._require_described()
        parameters = self.canonical_parameters()
        read = {name: lambda value=value: _to_numpy(value) for name, value in parameters.items()}
        dtypes = {name: _numpy_dtype(value.dtype) for name, value in parameters.items()}
        checkpoint.save(path, self.config, self.head, read, dtypes, max_shard_size, write=_writes(parameters.values()))
        _wait_for_all(parameters.values())

    def _require_described(self) -> None:
        """Refuse to write a config beside parameters that it does not describe."""
        shapes = {name: tuple(value.shape) for name, value in self.canonical_parameters().items()}
        require_described(type(self).__name__, self.family.params(self.config, self.head), shapes)

    def _translate(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Turn a state dict under HuggingFace's names into one under ours, before torch reads it."""
        own = {prefix + name for name in self.state_dict(keep_vars=True)}
        foreign = [name for name in state if name.startswith(prefix) and name not in own]
        if not foreign:
            return
        weights, body = HF[self.config.model_type], f"{self.family.prefix}."
        keys = {name.removeprefix(prefix).removeprefix(body): name for name in own}
        table = {name: param for name, param in self._table().items() if name in keys}
        places, ties = weights.places(table), self.family.ties_within(self.config, self.head)
        for name in foreign:
            if not weights.knows(name.removeprefix(prefix)):
                continue
            tensor = state.pop(name)
            for part in weights.ours(name.removeprefix(prefix)):
                part = part if part in keys else ties.get(part, part)
                if part in places:
                    state[keys[part]] = self._cut(name, tensor, *places[part])
        for alias, first in ties.items():
            if alias in keys and keys[alias] not in state and keys[first] in state:
                state[keys[alias]] = state[keys[first]]

    def _cut(self, name: str, tensor: Tensor, place: Place) -> Tensor:
        """Return the part of a foreign tensor that is one parameter of ours."""
        if not isinstance(tensor, Tensor):
            raise WeightError(f"{type(self).__name__}: {name!r} must be a tensor, got {type(tensor).__name__}")
        tensor = to_ours(tensor, place.layout, self.config.sizes)
        rows = tensor.shape[0] if tensor.dim() else 1
        if rows != place.rows:
            raise WeightError(f"{type(self).__name__}: {name!r} must have {place.rows} rows, got {rows}")
        return tensor[place.start : place.stop] if tensor.dim() else tensor

    def _table(self) -> dict[str, Any]:
        params = self.family.params(self.config, self.head)
        ties = self.family.ties_within(self.config, self.head)
        return {**params, **{alias: params[first] for alias, first in ties.items()}}

    # ---------------------------------------------------------------------------------------------------- settings

    def gradient_checkpointing_enable(self) -> None:
        """Keep only the inputs of layers in training, and compute the rest again on the way back."""
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep all activations in training."""
        self._set_checkpointing(False)

    def _set_checkpointing(self, on: bool) -> None:
        for module in self.modules():
            if isinstance(module, Model):
                module.gradient_checkpointing = on

    def _become(self, config: Config) -> None:
        """Take another config in place: rows that both have stay, new rows start anew, all settings stay.

        Parameters that change are new objects: an optimizer that knew them must be made anew.
        """
        other = type(self)(config)
        made: dict[nn.Parameter, nn.Parameter] = {}  # a tied parameter stays one
        for module, new in zip(self.modules(), other.modules(), strict=True):
            if all(map(_alike, module.parameters(), new.parameters())):
                continue
            if isinstance(module, Model):
                module.config = new.config
            else:  # such as the borders of bins
                found = {name: value for name, value in vars(new).items() if name[0] != "_" and name != "training"}
                vars(module).update(found)
            for name, value in new.named_parameters(recurse=False):
                old = getattr(module, name)
                if not _alike(value, old):
                    made[value] = made[value] if value in made else _with_rows_of(old, value)
                    setattr(module, name, made[value])


@contextmanager
def unstarted() -> Iterator[None]:
    """Make models whose parameters are still to be set."""
    token = _starting.set(False)
    try:
        yield
    finally:
        _starting.reset(token)


@contextmanager
def _made_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Make parameters in a dtype if one is given, so that none is touched before it is set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _dtype_of(where: str, dtype: Any) -> torch.dtype | None:
    """Return the dtype that a name stands for, and refuse what no model computes in."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and str(found).removeprefix("torch.") not in checkpoint.COMPUTED:
        wanted = ", ".join(checkpoint.COMPUTED)
        raise ConfigError(f"{where}: dtype must be 'auto' or one of {wanted}, got {dtype!r}")
    return found


@torch.no_grad()
def _fill(value: nn.Parameter, init: Init) -> None:
    if init.kind == "normal":
        value.normal_(init.center, init.spread)
    elif init.kind == "uniform":
        low, high = init.center - init.spread, init.center + init.spread
        value.uniform_(low, high)
    elif init.kind == "sinusoid":
        value.copy_(torch.from_numpy(sinusoid(*value.shape)))
    else:
        value.fill_(init.center)
    if init.zero_row is not None:
        value[init.zero_row] = 0.0


def _is_dealt_out(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor, whose module takes long to import


def _writes(values: Iterable[Tensor]) -> bool:
    """Tell whether this process writes what several may hold together."""
    return not any(map(_is_dealt_out, values)) or torch.distributed.get_rank() == 0


def _wait_for_all(values: Iterable[Tensor]) -> None:
    """Wait until all processes have come here, if they hold something together."""
    if any(map(_is_dealt_out, values)):
        torch.distributed.barrier()


def _set(value: nn.Parameter, tensor: Tensor) -> None:
    """Give a parameter a value, of which each process takes its own part if it is dealt out."""
    if _is_dealt_out(value):
        from torch.distributed.tensor import distribute_tensor

        tensor = distribute_tensor(tensor.to(value.dtype), value.device_mesh, value.placements, src_data_rank=None)
    value.copy_(tensor)


def _mapped(parameters: dict[str, nn.Parameter], opened: checkpoint.Checkpoint) -> set[str]:
    """Lay parameters where a file holds them as they are; return their names."""
    dtype = next(iter(parameters.values())).dtype
    arrays = opened.mapped(str(dtype).removeprefix("torch."))
    for name, array in arrays.items():
        parameters[name].data = _to_torch(array)
    return set(arrays)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape


@torch.no_grad()
def _with_rows_of(old: nn.Parameter, new: nn.Parameter) -> nn.Parameter:
    """Return the new parameter as the old one was set, with all entries of the old one for which it has room."""
    value = new.to(old.device, old.dtype, copy=True)
    common = tuple(slice(min(sizes)) for sizes in zip(value.shape, old.shape, strict=True))
    value[common] = old[common]
    return nn.Parameter(value, requires_grad=old.requires_grad)


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == torch.bfloat16 else np.dtype(str(dtype).removeprefix("torch."))


def _to_numpy(value: Tensor) -> np.ndarray[Any, Any]:
    value = (value.full_tensor() if _is_dealt_out(value) else value).detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:  # numpy knows it by an extension only
        return value.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


def _to_torch(array: np.ndarray[Any, Any]) -> Tensor:
    array = np.require(array, requirements=["C", "W"])
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array)
    bits = torch.from_numpy(array.view(f"uint{8 * array.dtype.itemsize}"))  # numpy knows it by an extension only
    return bits.view(getattr(torch, array.dtype.name))
