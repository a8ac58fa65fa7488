"""Weights of linear maps in eight bits, for computing on a CPU, by PyTorch's own product of such matrices.

Keras has `model.quantize("int8")` for it.
"""

import torch
from torch import Tensor, nn

from xl_torch.model import Model
from xlcore.errors import ConfigError


class SmallLinear(nn.Module):
    """A linear map whose weight is int8, with a scale for each output (Dettmers et al., 2022, section 2.1).

    Args:
        linear: the map as it was.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)  # [out]
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        rows = hidden.flatten(0, -2)
        if rows.dtype == torch.bfloat16:
            mapped = torch._weight_int8pack_mm(rows.contiguous(), self.weight, self.scale.to(rows.dtype))
        else:  # the kernel takes other dtypes, too, but thirty times as long as products of a matrix made for the while
            mapped = (rows @ self.weight.to(rows.dtype).T) * self.scale.to(rows.dtype)
        mapped = mapped.unflatten(0, hidden.shape[:-1])
        return mapped if self.bias is None else mapped + self.bias.to(mapped.dtype)


@torch.no_grad()
def quantize(model: Model) -> Model:
    """Keep the weights of linear maps as int8; what goes in stays as exact as it is.

    Maps are changed one after the other, so that no more memory is needed than the model takes already. All else, such
    as the table of words, keeps its dtype. The model can then be called only: not trained, and not saved.

    Args:
        model: on a CPU; changed in place.

    Returns:
        The model, in evaluation mode.

    Raises:
        ConfigError: if the model lies on another device, or is dealt out to several.
    """
    for value in model.parameters():
        if value.device.type != "cpu" or hasattr(value, "full_tensor"):
            place = "several devices" if hasattr(value, "full_tensor") else str(value.device)
            raise ConfigError(f"{type(model).__name__}: parameters must lie on one CPU for int8, got {place}")
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Linear):
                setattr(module, name, SmallLinear(part))
    return model.eval()
