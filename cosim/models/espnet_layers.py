"""Layers that ESPnet's encoders and decoders are made of, under ESPnet's parameter names.

All of them work on one utterance of its true length: nothing is padded, so nothing is masked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cosim.models.channels import Channels, Place, inputs, outputs

LAYER_NORM_EPSILON = 1e-12  # ESPnet's LayerNorm, transformer/layer_norm.py
Activation = Literal["relu", "swish"]
SubsamplingKind = Literal["conv2d", "conv2d1", "conv2d2", "conv2d6"]
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "swish": F.silu}


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a normalisation over the last axis with ESPnet's epsilon."""
    return nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, hidden)
        self.w_2 = nn.Linear(hidden, width)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        result: Tensor = self.w_2(self.activation(self.w_1(x)))
        return result


def depthwise(channels: int, taps: int) -> nn.Conv1d:
    """Return a convolution of every channel by itself that keeps the length; `taps` is odd."""
    return nn.Conv1d(channels, channels, taps, padding=(taps - 1) // 2, groups=channels)


def depthwise_places(module: nn.Module, name: str) -> tuple[Place, ...]:
    """Return where channels stand in a depthwise convolution, alone or behind a padding."""
    if isinstance(module, nn.Sequential):
        return outputs(f"{name}.{len(module) - 1}")
    return outputs(name)


def batch_norm(name: str) -> tuple[Place, ...]:
    """Return where channels stand in a batch normalisation."""
    return (*outputs(name), Place(f"{name}.running_mean"), Place(f"{name}.running_var"))


class ConvolutionModule(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution, norm, swish, pointwise convolution.

    Gulati et al. 2020, section 2.2, without the layer norm before it, which is the layer's.
    """

    def __init__(self, width: int, taps: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(width, 2 * width, 1)
        self.depthwise_conv = depthwise(width, taps)
        self.norm = nn.BatchNorm1d(width)
        self.norm.num_batches_tracked = None  # counts batches in training, says nothing afterwards
        self.pointwise_conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        y = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        y = self.pointwise_conv2(F.silu(self.norm(self.depthwise_conv(y))))
        result: Tensor = y.transpose(1, 2)
        return result

    def channels(self) -> tuple[Channels, ...]:
        """Return those between the pointwise convolutions; the first makes each and its gate."""
        places = (
            Place("pointwise_conv1.weight", copies=2),
            Place("pointwise_conv1.bias", copies=2),
            *depthwise_places(self.depthwise_conv, "depthwise_conv"),
            *batch_norm("norm"),
            inputs("pointwise_conv2"),
        )
        return (Channels("pointwise_conv1", places),)


class SpatialGate(nn.Module):
    """One half of the channels times the other half, normalised and convolved over time.

    The convolutional spatial gating unit of Sakuma, Komatsu and Scheibler 2022, as Peng et al.
    2022, section 3.3, have it: no linear layer behind the convolution, no activation of the gate.
    """

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.kept = channels // 2
        self.norm = layer_norm(self.kept)
        self.conv = depthwise(self.kept, taps)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, channels / 2] of x [1, positions, channels]."""
        kept, gate = x[:, :, : self.kept], x[:, :, self.kept :]
        result: Tensor = kept * self.conv(self.norm(gate).transpose(1, 2)).transpose(1, 2)
        return result


class GatingMlp(nn.Module):
    """A feed-forward layer with a spatial gate in its middle (Peng et al. 2022, section 3.3)."""

    def __init__(self, width: int, hidden: int, taps: int) -> None:
        super().__init__()
        self.channel_proj1 = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
        self.csgu = SpatialGate(hidden, taps)
        self.channel_proj2 = nn.Linear(hidden // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        result: Tensor = self.channel_proj2(self.csgu(self.channel_proj1(x)))
        return result


@dataclass(frozen=True)
class Window:
    """Kernel size and stride of a convolution without padding, the same on both axes."""

    taps: int
    stride: int

    def positions(self, length: int) -> int:
        """Return how many windows fit into `length`; 0 or less when none does."""
        return (length - self.taps) // self.stride + 1

    def length(self, positions: int) -> int:
        """Return the least length into which that many windows fit."""
        return (positions - 1) * self.stride + self.taps


# espnet/nets/pytorch_backend/transformer/subsampling.py: Conv2dSubsampling and its relatives
SUBSAMPLINGS: Mapping[SubsamplingKind, tuple[Window, Window]] = {
    "conv2d": (Window(3, 2), Window(3, 2)),
    "conv2d1": (Window(3, 1), Window(3, 1)),
    "conv2d2": (Window(3, 2), Window(3, 1)),
    "conv2d6": (Window(3, 2), Window(5, 3)),
}


class Subsampling(nn.Module):
    """Two convolutions over time and features, and a linear layer over what is left of features."""

    def __init__(self, features: int, width: int, kind: SubsamplingKind) -> None:
        super().__init__()
        first, second = self.windows = SUBSAMPLINGS[kind]
        self.conv = nn.Sequential(
            nn.Conv2d(1, width, first.taps, first.stride),
            nn.ReLU(),
            nn.Conv2d(width, width, second.taps, second.stride),
            nn.ReLU(),
        )
        bands = second.positions(first.positions(features))
        self.bands = bands
        self.out = nn.Sequential(nn.Linear(width * bands, width))

    def least(self, positions: int) -> int:
        """Return the fewest frames that give so many positions."""
        first, second = self.windows
        return first.length(second.length(positions))

    def forward(self, features: Tensor) -> Tensor:
        """Return [1, positions, width] of features [1, frames, features]."""
        x = self.conv(features.unsqueeze(1))
        _, channels, positions, bands = x.shape
        result: Tensor = self.out(x.transpose(1, 2).reshape(1, positions, channels * bands))
        return result

    def channels(self) -> tuple[Channels, ...]:
        """Return those of both convolutions; the linear layer reads the second's for every band."""
        return (
            Channels("conv.0", (*outputs("conv.0"), inputs("conv.2"))),
            Channels("conv.2", (*outputs("conv.2"), inputs("out.0", self.bands))),
        )
