"""Layers of wav2vec2-type networks; parameter names are those of Hugging Face checkpoints.

Baevski et al. 2020 (wav2vec 2.0), Hsu et al. 2021 (HuBERT), Chen et al. 2022 (WavLM).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cosim.models.attention import Attention
from cosim.models.channels import Channels, Place, inputs, outputs
from cosim.models.marks import rel_shift, relative_buckets
from cosim.models.ssl_dimensions import UpstreamDimensions

GATES = 8  # Chen et al. 2022, section 3.2: two gates, each the sum of four projections


class ConvolutionLayer(nn.Module):
    """Convolution over time, a norm of its own kind or none, GELU."""

    def __init__(self, dimensions: UpstreamDimensions, index: int) -> None:
        super().__init__()
        channels = dimensions.channels[index]
        self.conv = nn.Conv1d(
            dimensions.channels[index - 1] if index else 1,
            channels,
            kernel_size=dimensions.taps[index],
            stride=dimensions.strides[index],
            bias=dimensions.convolution_bias,
        )
        self.layer_norm: nn.Module = nn.Identity()
        if dimensions.convolution_norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)
        elif index == 0:
            self.layer_norm = nn.GroupNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, channels, positions] of x [1, channels before, length]."""
        x = self.conv(x)
        if isinstance(self.layer_norm, nn.LayerNorm):  # over channels, which must come last
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        else:
            x = self.layer_norm(x)
        return F.gelu(x)


class FeatureEncoder(nn.Module):
    """Samples to feature vectors, one for each 20 ms at the published strides."""

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(
            ConvolutionLayer(dimensions, index) for index in range(len(dimensions.channels))
        )

    def forward(self, samples: Tensor) -> Tensor:
        """Return [1, positions, channels] of samples [1, samples]."""
        x = samples.unsqueeze(1)
        for layer in self.conv_layers:
            x = layer(x)
        return x.transpose(1, 2)

    def channels(self) -> tuple[Channels, ...]:
        """Return those of each convolution but the last, which is read outside."""
        return tuple(
            self.made(number, inputs(f"conv_layers.{number + 1}.conv"))
            for number in range(len(self.conv_layers) - 1)
        )

    def made(self, number: int, *readers: Place) -> Channels:
        """Return the channels of one convolution with who reads them.

        A layer norm takes its statistics over them; a group norm here has a group for each.
        """
        name = f"conv_layers.{number}"
        norm = self.get_submodule(f"{name}.layer_norm")
        places = (*outputs(f"{name}.conv"), *outputs(f"{name}.layer_norm"), *readers)
        return Channels(f"{name}.conv", places, is_exact=not isinstance(norm, nn.LayerNorm))


class FeatureProjection(nn.Module):
    """Feature vectors, normalised, in the width of the Transformer."""

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dimensions.channels[-1], eps=dimensions.epsilon)
        self.projection = nn.Linear(dimensions.channels[-1], dimensions.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x [1, positions, channels]."""
        result: Tensor = self.projection(self.layer_norm(x))
        return result


class PositionalConvolution(nn.Module):
    """A wide grouped convolution whose output tells positions apart.

    Checkpoints hold its weight as direction and magnitude per tap (weight norm); here it is one.
    """

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__()
        self.taps = dimensions.position_taps
        self.conv = nn.Conv1d(
            dimensions.width,
            dimensions.width,
            kernel_size=self.taps,
            padding=self.taps // 2,
            groups=dimensions.position_groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        y = self.conv(x.transpose(1, 2))
        if self.taps % 2 == 0:  # padding of half the taps at both ends is one position too many
            y = y[:, :, :-1]
        return F.gelu(y).transpose(1, 2)


class SelfAttention(Attention):
    """Attention with a bias in the key projection, and one of the scores where it is given."""

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__(dimensions.width, dimensions.heads)
        self.k_proj = nn.Linear(dimensions.width, dimensions.width)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [1, positions, width]; `bias` [1, heads, positions, positions] adds to scores."""
        q = self.split(self.q_proj(x))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        result: Tensor = self.out_proj(self.join(y))
        return result


class GatedAttention(SelfAttention):
    """Attention whose scores have a bias by distance, gated by the query (Chen et al. 2022).

    The first layer of a stack has the table of biases, which all layers use. It has a column for
    every head that a layer began with; `kept` are those heads that are still there.
    """

    takes_codes = False

    def __init__(self, dimensions: UpstreamDimensions, *, buckets: int, furthest: int) -> None:
        super().__init__(dimensions)
        self.buckets = buckets
        self.furthest = furthest
        self.first_heads = self.heads
        self.kept = tuple(range(self.heads))
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(self.head_dim, GATES)

    def add_table(self) -> None:
        """Give this layer the table of biases, one number per bucket of distances and head."""
        self.rel_attn_embed = nn.Embedding(self.buckets, self.first_heads)

    def distances(self, x: Tensor) -> Tensor:
        """Return the biases by distance [1, first heads, T, T] of x [1, T, _].

        Each head's row of 2 positions - 1 distances is shifted into place for every query.
        """
        by_distance = self.rel_attn_embed(relative_buckets(x, self.buckets, self.furthest))
        rows = by_distance.transpose(0, 1).unsqueeze(0).unsqueeze(2)
        result: Tensor = rel_shift(rows.expand(1, self.first_heads, x.shape[1], rows.shape[3]))
        return result

    def keep_heads(self, numbers: Sequence[int]) -> None:
        """Say which heads are left, counted among those that were before."""
        super().keep_heads(numbers)
        self.kept = tuple(self.kept[number] for number in numbers)

    def of_kept(self, y: Tensor) -> Tensor:
        """Return [1, heads, ...] of y [1, first heads, ...]."""
        if len(self.kept) == self.first_heads:
            return y
        parts = [y[:, start:stop] for start, stop in _runs(self.kept)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor [1, heads, positions, 1] of each query's biases (Chen et al. eq. 5).

        A head is gated by its own part of x [1, positions, first heads * head_dim].
        """
        pieces = x.view(1, x.shape[1], self.first_heads, self.head_dim).transpose(1, 2)
        projected = self.gru_rel_pos_linear(self.of_kept(pieces))
        sums = projected.view(1, self.heads, x.shape[1], 2, GATES // 2).sum(-1)
        gates = torch.sigmoid(sums)
        update, reset = gates[..., :1], gates[..., 1:]
        return update * (reset * self.gru_rel_pos_const - 1.0) + 2.0


def _runs(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return where consecutive numbers begin and end."""
    starts = [n for n in numbers if n - 1 not in numbers]
    stops = [n + 1 for n in numbers if n + 1 not in numbers]
    return list(zip(starts, stops, strict=True))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(dimensions.width, dimensions.hidden)
        self.output_dense = nn.Linear(dimensions.hidden, dimensions.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        result: Tensor = self.output_dense(F.gelu(self.intermediate_dense(x)))
        return result


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual and a norm before or after it."""

    def __init__(self, dimensions: UpstreamDimensions, attention: SelfAttention) -> None:
        super().__init__()
        self.is_norm_first = dimensions.is_norm_first
        self.attention = attention
        self.layer_norm = nn.LayerNorm(dimensions.width, eps=dimensions.epsilon)
        self.feed_forward = FeedForward(dimensions)
        self.final_layer_norm = nn.LayerNorm(dimensions.width, eps=dimensions.epsilon)

    def forward(self, x: Tensor, distances: Tensor | None) -> Tensor:
        """Return [1, positions, width] of x of the same shape.

        `distances` [1, heads, positions, positions] are the biases of gated attention.
        """
        if self.is_norm_first:
            x = x + self.attend(self.layer_norm(x), distances)
            x = x + self.feed_forward(self.final_layer_norm(x))
        else:
            x = self.layer_norm(x + self.attend(x, distances))
            x = self.final_layer_norm(x + self.feed_forward(x))
        return x

    def attend(self, x: Tensor, distances: Tensor | None) -> Tensor:
        """Return what attention makes of x."""
        k, v = self.attention.keys_values(x)
        bias = None
        if distances is not None and isinstance(self.attention, GatedAttention):
            bias = self.attention.gate(x) * self.attention.of_kept(distances)
        result: Tensor = self.attention(x, k, v, bias)
        return result
