"""Models on several devices, by PyTorch's own engines; how each parameter is dealt out stands in `xlcore/plans.py`.

A mesh is made by `torch.distributed.device_mesh.init_device_mesh`. A model that is dealt out is called, trained, saved
and loaded as any other; every process must do the same. To load one that no device holds alone, give `from_pretrained`
one of these functions: `shard=lambda model: shard_fully(model, mesh)`.
"""

from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from xl_torch.model import Model
from xlcore.errors import ConfigError
from xlcore.plans import plan_for


def shard_fully(model: Model, mesh: DeviceMesh | None = None, **how: Any) -> Model:
    """Deal out every parameter evenly, and gather those of a layer when its turn comes (Rajbhandari et al., 2020).

    Each process reads texts of its own. The optimizer is made afterwards: its state is dealt out with the parameters.

    Args:
        model: changed in place.
        mesh: of one dimension; all processes if None.
        how: what PyTorch's `fully_shard` takes, such as `mp_policy` or `reshard_after_forward`.

    Returns:
        The model.

    Raises:
        ConfigError: if layers share parameters (`untie_r=False`).
    """
    body = model.body()
    if not getattr(model.config, "untie_r", True) and hasattr(body, "content_bias"):
        raise ConfigError(f"{type(model).__name__}: untie_r must be true to deal out layers, got false")
    for block in body.blocks:
        fully_shard(block, mesh=mesh, **how)
    fully_shard(model, mesh=mesh, **how)  # the tables and what else is left, with its ties
    return model


def split(model: Model, mesh: DeviceMesh) -> Model:
    """Cut every layer into equal parts, some heads and inner units each (Shoeybi et al., 2019, section 3).

    All processes read the same texts, and must draw the same random numbers. Tables of words stay whole. What a model
    returns of single heads, `attentions` and keys and values, are those of the process's own heads; read on with a
    `KeyValueCache`.

    Args:
        model: changed in place.
        mesh: of one dimension.

    Returns:
        The model.

    Raises:
        ConfigError: if heads or inner units cannot be dealt out evenly.
    """
    plan = plan_for(type(model).__name__, model.family, model.config, model.head, mesh.size())
    styles: dict[str, ParallelStyle] = {}
    for name, cut in plan.items():
        if cut.role in ("output", "input"):
            styles[name.rpartition(".")[0]] = ColwiseParallel() if cut.role == "output" else RowwiseParallel()
    parallelize_module(model.body(), mesh, styles, src_data_rank=None)
    for module in model.modules():
        if hasattr(module, "heads"):
            _keep_own_heads(module, mesh)
    return model


def _keep_own_heads(module: nn.Module, mesh: DeviceMesh) -> None:
    """Have an attention layer compute with some of its heads, the same number on each device."""
    (N, H), rank = module.heads, mesh.get_local_rank()
    mine = slice(rank * N // mesh.size(), (rank + 1) * N // mesh.size())
    module.heads = (N // mesh.size(), H)
    if hasattr(module, "kept"):
        module.kept = module.kept[mine]
    for name, value in list(module.named_parameters(recurse=False)):
        dealt_out = distribute_tensor(value, mesh, [Shard(value.dim() - 2)], src_data_rank=None)  # [..., N, H]
        module.register_parameter(name, nn.Parameter(dealt_out))
    _use_own_part(module, lambda value: value.to_local())
    module.register_forward_pre_hook(lambda *call: _with_own_heads(*call, mine), with_kwargs=True)
    if getattr(module, "distances", None) is not None:
        _use_own_part(module.distances, lambda value: _summed_back(value, mesh))


def _use_own_part(module: nn.Module, part: Any) -> None:
    """Have a module compute with a part of each of its own parameters; they keep their names and their whole shapes."""
    names = [name for name, _ in module.named_parameters(recurse=False)]

    def put(module: nn.Module, *_: Any) -> None:
        for name in names:
            vars(module)[name] = part(module._parameters[name])  # found before the parameter itself

    def take(module: nn.Module, *_: Any) -> None:
        for name in names:
            vars(module).pop(name, None)

    if names:
        module.register_forward_pre_hook(put)
        module.register_forward_hook(take, always_call=True)


def _summed_back(value: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return a value that all have, so that its gradient is the sum over what each of them computed with it."""
    return DTensor.from_local(value, mesh, [Replicate()]).to_local(grad_placements=[Partial()])


def _with_own_heads(
    module: nn.Module, inputs: tuple[Any, ...], keys: dict[str, Any], mine: slice
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Cut the head mask of a call to the device's own heads, unless the layer does so by the heads that it has kept."""
    call = signature(module.forward).bind(*inputs, **keys)
    mask = call.arguments.get("head_mask")
    if mask is None or hasattr(module, "kept"):
        return None
    call.arguments["head_mask"] = mask[mine]
    return call.args, call.kwargs
