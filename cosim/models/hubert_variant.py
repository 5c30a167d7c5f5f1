"""HuBERT with other encoders (Jeon et al. 2024, "Attention or convolution").

A light convolutional front end (Wu et al. 2022) feeds HuBERT's positional convolution and one of
three stacks: Transformer, dense or with block-sparse attention (Sparseformer), Conformer, or
Squeezeformer. The graph returns hidden vectors, or logits where there is a CTC head.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn

from cosim.errors import CosimError, collect
from cosim.models import CtcRules, FrontEnd, GraphSpec, LoadedModel, ModelConfig, model
from cosim.models.espnet_attention import MultiHeadAttention
from cosim.models.espnet_layers import ConvolutionModule, FeedForward
from cosim.models.marks import block_attention
from cosim.models.own_folder import open_own
from cosim.models.squeezeformer import Scale, SqueezeformerLayer, SqueezeformerStack
from cosim.models.ssl_dimensions import Size, UpstreamDimensions
from cosim.models.ssl_layers import (
    EncoderLayer,
    FeatureEncoder,
    FeatureProjection,
    PositionalConvolution,
    SelfAttention,
)
from cosim.models.ssl_upstream import encoder_graph
from cosim.patterns import from_text


@dataclass(frozen=True)
class TransformerBlocks:
    """HuBERT's own blocks. `patterns` are texts of `AttentionPattern`: none is dense attention.

    One is for all layers, else there is one for each.
    """

    kind: Literal["transformer"]
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConformerBlocks:
    """Macaron blocks with plain attention, as positions come from HuBERT's convolution.

    `taps` are those of the depthwise convolution; the convolutions of a block have no biases.
    """

    kind: Literal["conformer"]
    taps: Size = 31


@dataclass(frozen=True)
class SqueezeformerBlocks:
    """See `cosim.models.squeezeformer`; `reduced` and `recovered` count blocks from 0."""

    kind: Literal["squeezeformer"]
    taps: Size = 31
    expansion: Size = 2
    is_scaled: bool = True
    has_convolution_bias: bool = True
    reduced: Annotated[int, Ge(0)] = 7
    recovered: Annotated[int, Ge(0)] = 15


@dataclass(frozen=True, kw_only=True)
class VariantDimensions(UpstreamDimensions):
    """Sizes of one network. Where the last of `channels` is `width` there is no projection.

    `projected` is the width of pretraining's final projection, which is stored and in no graph.
    """

    blocks: TransformerBlocks | ConformerBlocks | SqueezeformerBlocks
    projected: Size | None = None

    def __post_init__(self) -> None:
        problems: list[str] = []
        collect(problems, super().__post_init__)
        blocks = self.blocks
        if isinstance(blocks, TransformerBlocks):
            if len(blocks.patterns) not in (0, 1, self.layers):
                problems.append(
                    f"blocks.patterns: found {len(blocks.patterns)}, expected none, one, or one "
                    f"for each of {self.layers} layers"
                )
            for text in blocks.patterns:
                collect(problems, partial(from_text, text))
        elif blocks.taps % 2 == 0:
            problems.append(f"blocks.taps: found {blocks.taps}, expected an odd number")
        if isinstance(blocks, SqueezeformerBlocks) and not (
            blocks.reduced < blocks.recovered <= self.layers
        ):
            problems.append(
                f"blocks.reduced, blocks.recovered: found {blocks.reduced} and {blocks.recovered}, "
                f"expected the first below the second, and that at most {self.layers} layers"
            )
        if not isinstance(blocks, TransformerBlocks) and self.is_norm_first:
            problems.append("is_norm_first: found true, expected it for transformer blocks alone")
        if problems:
            raise CosimError(problems)


class PatternAttention(SelfAttention):
    """Self-attention over the keys that a pattern keeps (Child et al. 2019)."""

    takes_codes = False

    def __init__(self, dimensions: UpstreamDimensions, pattern: str) -> None:
        super().__init__(dimensions)
        self.pattern = pattern

    def forward(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return [1, positions, width]; ValueError for a bias, which patterns do not take."""
        if bias is not None:
            raise ValueError("pattern attention: found a bias of the scores, expected none")
        y: Tensor = block_attention(self.split(self.q_proj(x)), k, v, self.pattern)
        result: Tensor = self.out_proj(self.join(y))
        return result


class TransformerStack(nn.Module):
    """Transformer layers, dense or sparse."""

    def __init__(self, dimensions: UpstreamDimensions, patterns: tuple[str, ...]) -> None:
        super().__init__()
        of_layers = patterns if len(patterns) == dimensions.layers else patterns * dimensions.layers
        attentions: list[SelfAttention] = [PatternAttention(dimensions, p) for p in of_layers]
        if not patterns:
            attentions = [SelfAttention(dimensions) for _ in range(dimensions.layers)]
        self.layers = nn.ModuleList(EncoderLayer(dimensions, each) for each in attentions)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        for layer in self.layers:
            x = layer(x, None)
        return x


class ConformerLayer(nn.Module):
    """Half feed-forward, plain self-attention, convolution, half feed-forward, and a norm."""

    def __init__(self, dimensions: UpstreamDimensions, *, taps: int) -> None:
        super().__init__()
        d = dimensions
        self.norm_feed_forward1 = nn.LayerNorm(d.width, eps=d.epsilon)
        self.feed_forward1 = FeedForward(d.width, d.hidden, "swish")
        self.norm_attention = nn.LayerNorm(d.width, eps=d.epsilon)
        self.attention = MultiHeadAttention(d.width, d.heads)
        self.norm_convolution = nn.LayerNorm(d.width, eps=d.epsilon)
        self.convolution = ConvolutionModule(d.width, taps)
        self.norm_feed_forward2 = nn.LayerNorm(d.width, eps=d.epsilon)
        self.feed_forward2 = FeedForward(d.width, d.hidden, "swish")
        self.norm_final = nn.LayerNorm(d.width, eps=d.epsilon)
        for layer in self.convolution.children():
            if isinstance(layer, nn.Conv1d):
                layer.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        x = x + self.feed_forward1(self.norm_feed_forward1(x)) * 0.5
        h = self.norm_attention(x)
        x = x + self.attention(h, *self.attention.keys_values(h))
        x = x + self.convolution(self.norm_convolution(x))
        x = x + self.feed_forward2(self.norm_feed_forward2(x)) * 0.5
        result: Tensor = self.norm_final(x)
        return result


class ConformerStack(nn.Module):
    """Conformer layers."""

    def __init__(self, dimensions: UpstreamDimensions, *, taps: int) -> None:
        super().__init__()
        layers = (ConformerLayer(dimensions, taps=taps) for _ in range(dimensions.layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x


def stack(dimensions: VariantDimensions) -> nn.Module:
    """Return the blocks that the dimensions name."""
    d, blocks = dimensions, dimensions.blocks
    if isinstance(blocks, TransformerBlocks):
        return TransformerStack(d, blocks.patterns)
    if isinstance(blocks, ConformerBlocks):
        return ConformerStack(d, taps=blocks.taps)
    layers = [
        SqueezeformerLayer(
            d.width,
            d.heads,
            d.hidden,
            taps=blocks.taps,
            expansion=blocks.expansion,
            is_scaled=blocks.is_scaled,
            has_convolution_bias=blocks.has_convolution_bias,
        )
        for _ in range(d.layers)
    ]
    return SqueezeformerStack(d.width, layers, reduced=blocks.reduced, recovered=blocks.recovered)


class FeatureNorm(nn.Module):
    """The norm of feature vectors that have the stack's width already."""

    def __init__(self, dimensions: UpstreamDimensions) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(dimensions.width, eps=dimensions.epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        result: Tensor = self.layer_norm(x)
        return result


class HubertVariant(nn.Module):
    """Samples to hidden vectors, or to logits where there is a vocabulary."""

    def __init__(self, dimensions: VariantDimensions) -> None:
        super().__init__()
        d = self.dimensions = dimensions
        self.feature_extractor = FeatureEncoder(d)
        is_projected = d.channels[-1] != d.width
        self.feature_projection = FeatureProjection(d) if is_projected else FeatureNorm(d)
        self.pos_conv_embed = PositionalConvolution(d)
        self.layer_norm = nn.LayerNorm(d.width, eps=d.epsilon)
        self.stack = stack(d)
        if d.has_mask_vector:
            self.masked_spec_embed = nn.Parameter(torch.zeros(d.width))
        if d.projected is not None:
            self.final_proj = nn.Linear(d.width, d.projected)
        self.lm_head = nn.Linear(d.width, d.vocabulary) if d.vocabulary is not None else None

    def forward(self, samples: Tensor) -> Tensor:
        """Return hidden vectors or logits [1, positions, ...] of samples [1, samples]."""
        x = self.feature_projection(self.feature_extractor(samples))
        x = x + self.pos_conv_embed(x)
        if not self.dimensions.is_norm_first:
            x = self.layer_norm(x)
        x = self.stack(x)
        if self.dimensions.is_norm_first:
            x = self.layer_norm(x)
        result: Tensor = x if self.lm_head is None else self.lm_head(x)
        return result

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder`: `samples` to `hidden` or `logits`."""
        output = "hidden" if self.lm_head is None else "logits"
        return (encoder_graph(self, self.dimensions, output),)


def binarizable(network: HubertVariant) -> dict[str, int]:
    """Return the elements of every weight that the paper makes binary, by parameter name.

    These are the linear layers and convolutions of the blocks (section 3.4); all else, biases and
    norms of the blocks too, stays in floating point.
    """
    layers = cast("Iterable[nn.Module]", network.stack.get_submodule("layers"))
    return {
        f"stack.layers.{index}.{name}.weight": layer.weight.numel()
        for index, block in enumerate(layers)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d)
    }


@model("hubert_variant")
def load_hubert_variant(config: ModelConfig) -> LoadedModel:
    """Return a variant from a folder that `save_own` wrote, or with drawn weights.

    Raises CosimError for dimensions or tensors that do not fit together.
    """
    own = open_own(config, VariantDimensions, HubertVariant)
    d = own.dimensions
    if own.is_random:
        _reset_scales(own.module)
    notes = () if d.vocabulary is not None else ("the encoder returns hidden vectors, no text",)
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=own.module,
        source=own.source,
        front=FrontEnd("waveform", is_normalized=d.is_normalized),
        decoding=CtcRules(blank=d.blank),
        tokens=own.tokens,
        is_random=own.is_random,
        folded_parameters={"pos_conv_embed.conv (weight-norm magnitudes)": d.position_taps},
        notes=notes,
    )


def _reset_scales(network: nn.Module) -> None:
    """Make drawn scales the identity that they are before training."""
    for module in network.modules():
        if isinstance(module, Scale) and not module.weight.is_meta:
            module.weight.fill_(1.0)
            module.bias.fill_(0.0)
