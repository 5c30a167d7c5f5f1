"""Squeezeformer blocks (Kim et al. 2022): attention, feed-forward, convolution, feed-forward.

Every module adds to its input and is normalised afterwards; a learned scale and shift per channel
stands where a Conformer normalises first. Half-way the time axis is reduced by two, and recovered
before the last block by repeating each position and adding what was there before.
"""

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cosim.models.channels import Channels, inputs, outputs
from cosim.models.espnet_attention import RelativeAttention, distances_of
from cosim.models.espnet_layers import FeedForward, batch_norm

REDUCTION = 2
_REDUCTION_TAPS = 5  # Kim et al. 2022, section 3.1.1, and their TimeReductionLayer


class Scale(nn.Module):
    """A learned scale and shift of each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        return x * self.weight + self.bias


class Convolution(nn.Module):
    """Pointwise and swish, depthwise, norm and swish, pointwise: there is no gate.

    The first pointwise convolution widens by `expansion`; the depthwise one has as many channels.
    """

    def __init__(self, width: int, *, taps: int, expansion: int, has_bias: bool) -> None:
        super().__init__()
        inner = width * expansion
        self.pointwise_conv1 = nn.Conv1d(width, inner, 1, bias=has_bias)
        self.depthwise_conv = nn.Conv1d(
            inner, inner, taps, padding=taps // 2, groups=inner, bias=has_bias
        )
        self.norm = nn.BatchNorm1d(inner)
        self.norm.num_batches_tracked = None  # says nothing once training is over
        self.pointwise_conv2 = nn.Conv1d(inner, width, 1, bias=has_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        y = self.depthwise_conv(F.silu(self.pointwise_conv1(x.transpose(1, 2))))
        result: Tensor = self.pointwise_conv2(F.silu(self.norm(y))).transpose(1, 2)
        return result

    def channels(self) -> tuple[Channels, ...]:
        """Return those between the pointwise convolutions."""
        places = (
            *outputs("pointwise_conv1"),
            *outputs("depthwise_conv"),
            *batch_norm("norm"),
            inputs("pointwise_conv2"),
        )
        return (Channels("pointwise_conv1", places),)


class SqueezeformerLayer(nn.Module):
    """One block; without `is_scaled` its modules take their input as it is."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        taps: int,
        expansion: int,
        is_scaled: bool,
        has_convolution_bias: bool,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return Scale(width) if is_scaled else nn.Identity()

        self.scale_attention = scale()
        self.attention = RelativeAttention(width, heads)
        self.norm_attention = nn.LayerNorm(width)
        self.scale_feed_forward1 = scale()
        self.feed_forward1 = FeedForward(width, hidden, "swish")
        self.norm_feed_forward1 = nn.LayerNorm(width)
        self.scale_convolution = scale()
        self.convolution = Convolution(
            width, taps=taps, expansion=expansion, has_bias=has_convolution_bias
        )
        self.norm_convolution = nn.LayerNorm(width)
        self.scale_feed_forward2 = scale()
        self.feed_forward2 = FeedForward(width, hidden, "swish")
        self.norm_feed_forward2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Return [1, T, width] of x [1, T, width] and the sinusoids of `distances_of(x)`."""
        x = self.norm_attention(x + self.attention(self.scale_attention(x), distances))
        x = self.norm_feed_forward1(x + self.feed_forward1(self.scale_feed_forward1(x)))
        x = self.norm_convolution(x + self.convolution(self.scale_convolution(x)))
        result: Tensor = self.norm_feed_forward2(
            x + self.feed_forward2(self.scale_feed_forward2(x))
        )
        return result


class Reduction(nn.Module):
    """Half as many positions, rounded up: a depthwise convolution of stride 2, and a pointwise one.

    The authors' layer pads one zero less and puts a zero vector where the last of an odd number of
    positions is missing; here that position is computed.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv1d(
            width, width, _REDUCTION_TAPS, stride=REDUCTION, groups=width
        )
        self.pointwise_conv = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, (T - 1) // 2 + 1, width] of x [1, T, width]."""
        padded = F.pad(x.transpose(1, 2), (0, _REDUCTION_TAPS - REDUCTION + 1))
        result: Tensor = self.pointwise_conv(self.depthwise_conv(padded)).transpose(1, 2)
        return result


class SqueezeformerStack(nn.Module):
    """Blocks with a reduction before block `reduced` and a recovery before block `recovered`.

    Both count from 0: so many blocks stand before it.
    """

    def __init__(
        self, width: int, layers: Iterable[SqueezeformerLayer], *, reduced: int, recovered: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.reduced = reduced
        self.recovered = recovered
        self.reduction = Reduction(width)
        self.recovery = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        layers = list(cast("Iterable[SqueezeformerLayer]", self.layers))
        whole, distances = x, distances_of(x)
        for layer in layers[: self.reduced]:
            whole = layer(whole, distances)
        x = self.reduction(whole)
        coarse = distances_of(x)
        for layer in layers[self.reduced : self.recovered]:
            x = layer(x, coarse)
        repeated = x.repeat_interleave(REDUCTION, dim=1)[:, : whole.shape[1]]
        x = whole + self.recovery(repeated)
        for layer in layers[self.recovered :]:
            x = layer(x, distances)
        return x
