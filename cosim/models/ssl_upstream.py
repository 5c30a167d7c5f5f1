"""The network that wav2vec2, HuBERT and WavLM share, its CTC head and the graph capture takes.

Symbols: `samples` at 16 kHz. The encoder's positions follow from the convolutions.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from cosim.errors import CosimError
from cosim.models import GraphSpec
from cosim.models.channels import Channels, Place, inputs, outputs
from cosim.models.ssl_dimensions import UpstreamDimensions
from cosim.models.ssl_layers import (
    EncoderLayer,
    FeatureEncoder,
    FeatureProjection,
    GatedAttention,
    PositionalConvolution,
    SelfAttention,
)

MakeAttention = Callable[[int], SelfAttention]
_READERS = ("lm_head", "project_hid", "final_proj")  # layers of heads that read hidden vectors
EXAMPLE_POSITIONS = 20  # lengths of 0 and 1 would be specialised by torch.export


class Encoder(nn.Module):
    """Positional convolution, norm and Transformer layers."""

    def __init__(self, dimensions: UpstreamDimensions, make_attention: MakeAttention) -> None:
        super().__init__()
        self.is_norm_first = dimensions.is_norm_first
        self.pos_conv_embed = PositionalConvolution(dimensions)
        self.layer_norm = nn.LayerNorm(dimensions.width, eps=dimensions.epsilon)
        self.layers = nn.ModuleList(
            EncoderLayer(dimensions, make_attention(index)) for index in range(dimensions.layers)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the input of each layer and the output, [1, positions, width] each."""
        x = x + self.pos_conv_embed(x)
        if not self.is_norm_first:
            x = self.layer_norm(x)
        layers = list(cast("Iterable[EncoderLayer]", self.layers))
        first = layers[0].attention
        distances = first.distances(x) if isinstance(first, GatedAttention) else None
        states: list[Tensor] = []
        for layer in layers:
            states.append(x)
            x = layer(x, distances)
        return (*states, self.layer_norm(x) if self.is_norm_first else x)


class Upstream(nn.Module):
    """Samples to hidden vectors; the network without a head."""

    def __init__(
        self, dimensions: UpstreamDimensions, make_attention: MakeAttention | None = None
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.feature_extractor = FeatureEncoder(dimensions)
        self.feature_projection = FeatureProjection(dimensions)
        self.encoder = Encoder(dimensions, make_attention or (lambda _: SelfAttention(dimensions)))
        if dimensions.has_mask_vector:
            self.masked_spec_embed = nn.Parameter(torch.zeros(dimensions.width))

    def states(self, samples: Tensor) -> tuple[Tensor, ...]:
        """Return the input of each Transformer layer and the output, [1, positions, width] each."""
        result: tuple[Tensor, ...] = self.encoder(
            self.feature_projection(self.feature_extractor(samples))
        )
        return result

    def forward(self, samples: Tensor) -> Tensor:
        """Return hidden vectors [1, positions, width] of samples [1, samples]."""
        return self.states(samples)[-1]

    def channels(self) -> tuple[Channels, ...]:
        """Return those of the last convolution, which the projection normalises and reads."""
        extractor = self.feature_extractor
        found = extractor.made(len(extractor.conv_layers) - 1).under("feature_extractor")
        norm, reader = outputs("feature_projection.layer_norm"), "feature_projection.projection"
        return (replace(found, places=(*found.places, *norm, inputs(reader)), is_exact=False),)

    def hidden(self) -> Channels:
        """Return the units of the width between projection and heads (Peng et al. 2023, d).

        The norms take their statistics over them, and the positional convolution has them in
        groups. CosimError where attention has a gate for each head's part of the width.
        """
        layers = list(cast("Iterable[EncoderLayer]", self.encoder.layers))
        if any(isinstance(layer.attention, GatedAttention) for layer in layers):
            raise CosimError(
                "hidden: gates of attention read the width in parts of equal size, one a head"
            )
        convolution = "encoder.pos_conv_embed.conv"
        places = [
            *outputs("feature_projection.projection"),
            Place(f"{convolution}.bias"),
            *outputs("encoder.layer_norm"),
            Place("masked_spec_embed"),
        ]
        for number in range(len(layers)):
            block = f"encoder.layers.{number}"
            readers = (
                *(f"attention.{key}_proj" for key in "qkv"),
                "feed_forward.intermediate_dense",
            )
            writers = ("attention.out_proj", "layer_norm", "feed_forward.output_dense")
            places += [inputs(f"{block}.{name}") for name in readers]
            for name in (*writers, "final_layer_norm"):
                places += outputs(f"{block}.{name}")
        return Channels(
            "encoder",
            tuple(places),
            is_exact=False,
            grouped=f"{convolution}.weight",
            groups=self.dimensions.position_groups,
        )

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder`: `samples` to `hidden`."""
        return (encoder_graph(self, self.dimensions, "hidden"),)


class HeadedNetwork(nn.Module):
    """An upstream with heads that only pretraining uses: they are stored and in no graph.

    The upstream's parameters are named after its family.
    """

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self.dimensions = upstream.dimensions
        self.add_module(self.dimensions.layout.family, upstream)

    @property
    def upstream(self) -> Upstream:
        """The network below the heads."""
        return cast("Upstream", self.get_submodule(self.dimensions.layout.family))

    def hidden(self) -> Channels:
        """Return the units of the upstream's width, which the heads read too."""
        found = self.upstream.hidden().under(self.dimensions.layout.family)
        readers = [key for key in _READERS if hasattr(self, key)]
        return replace(found, places=(*found.places, *map(inputs, readers)))

    def states(self, samples: Tensor) -> tuple[Tensor, ...]:
        """Return what the upstream's `states` does."""
        return self.upstream.states(samples)

    def forward(self, samples: Tensor) -> Tensor:
        """Return hidden vectors [1, positions, width] of samples [1, samples]."""
        result: Tensor = self.upstream(samples)
        return result

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder`: `samples` to `hidden`."""
        return (encoder_graph(self, self.dimensions, "hidden"),)


class CtcNetwork(HeadedNetwork):
    """An upstream with a linear layer to the tokens of CTC."""

    def __init__(self, upstream: Upstream, vocabulary: int) -> None:
        super().__init__(upstream)
        self.lm_head = nn.Linear(self.dimensions.width, vocabulary)

    def forward(self, samples: Tensor) -> Tensor:
        """Return logits [1, positions, vocabulary] of samples [1, samples]."""
        result: Tensor = self.lm_head(self.upstream(samples))
        return result

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder`: `samples` to `logits`."""
        return (encoder_graph(self, self.dimensions, "logits"),)


def encoder_graph(
    module: nn.Module,
    dimensions: UpstreamDimensions,
    *outputs: str,
    least: int = 2,
    example: int = EXAMPLE_POSITIONS,
) -> GraphSpec:
    """Return the graph `encoder` of a module that takes samples of any length.

    `least` is the number of positions that the shortest input must give, `example` that of the one
    with which the module is exported.
    """
    return GraphSpec(
        name="encoder",
        module=module,
        examples=(torch.zeros(1, dimensions.samples(example)),),
        inputs=("samples",),
        shapes=((1, "samples"),),
        outputs=outputs,
        dynamic_shapes={"samples": {1: Dim.DYNAMIC(min=dimensions.samples(least))}},
        states=(),
    )
