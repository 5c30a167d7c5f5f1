"""What methods need that edit a module: places, names of tensors, and parameters of new values."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cosim.compress.network import F32, Layer, State

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(state: State) -> "nn.Module":
    """Return the module that a state holds for editing; ValueError where there is none."""
    if state.module is None:
        raise ValueError("found a state without a module, expected one of a network in torch")
    return state.module


def tensors(module: "nn.Module") -> dict[str, "Tensor"]:
    """Return float parameters and buffers under the names that `scan` gives, each once."""
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in stored.items() if tensor.is_floating_point()}


def names_of(module: "nn.Module") -> dict[int, str]:
    """Return the one name of each float parameter and buffer, by its identity."""
    return {id(tensor): name for name, tensor in tensors(module).items()}


def put(module: "nn.Module", path: str, value: object) -> None:
    """Put a submodule, parameter or buffer in the place of the one at a dotted path."""
    owner, _, key = path.rpartition(".")
    setattr(module.get_submodule(owner), key, value)


def parameter(values: F32) -> "nn.Parameter":
    """Return a parameter with values of its own, not to be trained."""
    import torch  # noqa: PLC0415, slow to import

    fresh = torch.from_numpy(np.array(values, np.float32))
    return torch.nn.Parameter(fresh, requires_grad=False)


def like(tensor: "Tensor", values: F32) -> "Tensor":
    """Return values as a parameter, or as a buffer where the tensor is one."""
    from torch import nn  # noqa: PLC0415, slow to import

    fresh = parameter(values)
    return fresh if isinstance(tensor, nn.Parameter) else fresh.data


def refit(module: "nn.Module") -> None:
    """Make every layer say the sizes that its weight has, in place.

    A convolution of every channel by itself stays one; other groups stay as many.
    """
    from torch import nn  # noqa: PLC0415, slow to import

    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.Conv1d | nn.Conv2d):
            outputs, inputs = layer.weight.shape[:2]
            if layer.groups > 1 and layer.groups == layer.out_channels:
                layer.groups = outputs
            layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
        elif isinstance(layer, nn.LayerNorm):
            layer.normalized_shape = tuple(layer.weight.shape)
        elif isinstance(layer, nn.GroupNorm):
            if layer.num_groups == layer.num_channels:
                layer.num_groups = len(layer.weight)
            layer.num_channels = len(layer.weight)
        elif isinstance(layer, nn.BatchNorm1d):
            layer.num_features = len(layer.weight)


def by_weight(layers: Iterable[Layer]) -> Mapping[str, list[Layer]]:
    """Return the layers that use each weight; layers without one are left out."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.weight:
            found.setdefault(layer.weight, []).append(layer)
    return found
