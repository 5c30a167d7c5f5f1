"""The weight norm of the positional convolution: one weight here, two tensors in checkpoints.

Checkpoints hold a direction v [out, in / groups, taps] and a magnitude g [1, 1, taps] for
w = g v / |v|, the norm taken per tap (Salimans and Kingma 2016, equation 2; `dim=2` in torch).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cosim.errors import CosimError
from cosim.models.ssl_dimensions import UpstreamDimensions

_CONVOLUTION = "encoder.pos_conv_embed.conv"
# Names of (magnitude, direction): torch's parametrisation, and the function before it.
_PAIRS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)


def magnitudes(dimensions: UpstreamDimensions, prefix: str) -> dict[str, int]:
    """Return the number of parameters that folding takes out of the network, by name."""
    return {f"{prefix}{_CONVOLUTION} (weight-norm magnitudes)": dimensions.position_taps}


def folded(tensors: Mapping[str, Tensor], prefix: str, *, source: str) -> dict[str, Tensor]:
    """Return the tensors with magnitude and direction folded into `weight`, in fp32.

    `prefix` stands before the upstream's names. Raises CosimError when they are not both there or
    their shapes do not belong together.
    """
    place = f"{prefix}{_CONVOLUTION}"
    pairs = [(f"{place}.{first}", f"{place}.{second}") for first, second in _PAIRS]
    pair = next((pair for pair in pairs if any(name in tensors for name in pair)), pairs[0])
    missing = [f"{source}: {name}: missing" for name in pair if name not in tensors]
    if missing:
        raise CosimError(missing)
    magnitude, direction = (tensors[name] for name in pair)
    wanted = [1, 1, *direction.shape[2:]]
    if direction.dim() != 3 or list(magnitude.shape) != wanted:
        raise CosimError(
            f"{source}: {pair[0]}: found shape {list(magnitude.shape)}, expected {wanted} beside "
            f"{pair[1]} of shape {list(direction.shape)}"
        )
    rest = {name: tensor for name, tensor in tensors.items() if name not in pair}
    return {**rest, f"{place}.weight": _fold(magnitude.float(), direction.float())}


def split(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors as a checkpoint has them: folding the result gives the same weight.

    The direction is the weight itself and the magnitude its norm, so that their ratio is exactly 1.
    A tap without weight has magnitude 0 and a direction of ones: 0 / 0 would be no number.
    """
    place = f"{prefix}{_CONVOLUTION}"
    result = {name: tensor.contiguous() for name, tensor in tensors.items()}
    weight = result.pop(f"{place}.weight")
    norm = _norm(weight)
    first, second = (f"{place}.{name}" for name in _PAIRS[0])
    direction = torch.where(norm == 0, torch.ones_like(weight), weight)
    return {**result, first: norm, second: direction}


def _norm(weight: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(weight, dim=(0, 1), keepdim=True)
    return norm


def _fold(magnitude: Tensor, direction: Tensor) -> Tensor:
    return direction * (magnitude / _norm(direction))
