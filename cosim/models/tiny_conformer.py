"""Tiny Conformers for always-on recognition (Hernandez et al. 2023): shared and low-rank layers.

A convolutional subsampling, Conformer layers (Gulati et al. 2020) and a CTC head. Virtual layers
use physical parts as `sharing` says; feed-forward matrices may be products of two of low rank. The
paper's decoder and joint network are not here: their parameters are booked as assumed.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, MinLen
from torch import Tensor, nn
from torch.export import Dim

from cosim.errors import CosimError
from cosim.models import CtcRules, FrontEnd, GraphSpec, LoadedModel, ModelConfig, model
from cosim.models.conformer import ConformerLayer
from cosim.models.espnet import CtcHead
from cosim.models.espnet_encoder import RelativeEncoder
from cosim.models.own_folder import open_own
from cosim.models.sharing import BLOCK, share, sharing_problems

Size = Annotated[int, Ge(1)]
Indices = Annotated[tuple[int, ...], MinLen(1)]
_EXAMPLE_POSITIONS = 20  # torch.export would specialise 0 and 1
NOT_EXECUTED = "decoder and joint network (fitted to the paper's sizes, less what is executed here)"


@dataclass(frozen=True)
class TinyDimensions:
    """Sizes of one network, and which physical part each virtual layer uses.

    `hidden` is the width inside the feed-forward modules, `rank` that of their matrices (None:
    full), `taps` those of the depthwise convolution. `sharing` gives for `block`, and for each part
    that differs from it, one index per virtual layer from 1 (see `cosim.models.sharing`).
    `has_bias`: linear layers and convolutions of the blocks have biases. `not_executed` is the
    number of parameters of the paper's decoder and joint network.
    """

    width: Size
    heads: Size
    hidden: Size
    taps: Size
    features: Annotated[int, Ge(7)]
    vocabulary: Annotated[int, Ge(2)]
    sharing: dict[str, Indices]
    rank: Size | None = None
    has_bias: bool = False
    blank: Annotated[int, Ge(0)] = 0
    not_executed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        problems = sharing_problems(self.sharing)
        if self.width % self.heads:
            problems.append(f"heads: found {self.heads}, expected a divisor of width {self.width}")
        if self.width % 2:
            problems.append(f"width: found {self.width}, expected an even number")
        if self.blank >= self.vocabulary:
            problems.append(f"blank: found {self.blank}, expected an id below {self.vocabulary}")
        if problems:
            raise CosimError(problems)

    @property
    def virtual_layers(self) -> int:
        """How many layers an utterance passes through."""
        return len(self.sharing[BLOCK])

    @property
    def physical_layers(self) -> int:
        """How many layers are stored, but for parts that are shared less than the block."""
        return len(set(self.sharing[BLOCK]))


def low_rank(inputs: int, outputs: int, rank: int) -> nn.Sequential:
    """Return M = U V^T as two linear layers (Hernandez et al. 2023, section 3.4).

    The first has no bias, so that the pair has the bias of the layer it stands for.
    """
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


def same_depthwise(channels: int, taps: int) -> nn.Module:
    """Return a convolution of every channel by itself that keeps the length for any `taps`.

    Of an even number of taps, one more stands behind the position than before it.
    """
    before = (taps - 1) // 2
    if taps % 2:
        return nn.Conv1d(channels, channels, taps, padding=before, groups=channels)
    padding = nn.ConstantPad1d((before, taps - 1 - before), 0.0)
    return nn.Sequential(padding, nn.Conv1d(channels, channels, taps, groups=channels))


def without_biases(module: nn.Module) -> None:
    """Take the biases of all linear layers and convolutions away, in place."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            layer.register_parameter("bias", None)


def block(dimensions: TinyDimensions) -> ConformerLayer:
    """Return one virtual layer with parts of its own."""
    d = dimensions
    layer = ConformerLayer(d.width, d.heads, d.hidden, taps=d.taps, is_macaron=True)
    layer.conv_module.add_module("depthwise_conv", same_depthwise(d.width, d.taps))
    if d.rank is not None:
        for half in (layer.feed_forward_macaron, layer.feed_forward):
            half.add_module("w_1", low_rank(d.width, d.hidden, d.rank))
            half.add_module("w_2", low_rank(d.hidden, d.width, d.rank))
    if not d.has_bias:
        without_biases(layer)
    return layer


class TinyConformer(nn.Module):
    """Subsampling, virtual layers over physical parts, a norm and a CTC head."""

    def __init__(self, dimensions: TinyDimensions) -> None:
        super().__init__()
        d = self.dimensions = dimensions
        blocks = [block(d) for _ in range(d.virtual_layers)]
        share(blocks, d.sharing)
        self.encoder = RelativeEncoder(d.features, d.width, "conv2d", blocks)
        self.ctc = CtcHead(d.width, d.vocabulary)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [1, positions, vocabulary] of features [1, frames, features]."""
        result: Tensor = self.ctc(self.encoder(features))
        return result

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder`: `features` to `logits`."""
        bands = self.dimensions.features
        spec = GraphSpec(
            name="encoder",
            module=self,
            inputs=("features",),
            outputs=("logits",),
            examples=(torch.zeros(1, self.encoder.least(_EXAMPLE_POSITIONS), bands),),
            shapes=((1, "frames", bands),),
            dynamic_shapes={"features": {1: Dim.DYNAMIC(min=self.encoder.least(2))}},
            states=(),
        )
        return (spec,)


@model("tiny_conformer")
def load_tiny_conformer(config: ModelConfig) -> LoadedModel:
    """Return a tiny Conformer from a folder that `save_own` wrote, or with drawn weights.

    Raises CosimError for dimensions, sharing or tensors that do not fit together.
    """
    own = open_own(config, TinyDimensions, TinyConformer)
    d = own.dimensions
    instead = (own.module.ctc, own.module.encoder.after_norm)
    executed = sum(tensor.numel() for part in instead for tensor in part.parameters())
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=own.module,
        source=own.source,
        front=FrontEnd("kaldi_fbank", mels=d.features),
        decoding=CtcRules(blank=d.blank),
        tokens=own.tokens,
        is_random=own.is_random,
        assumed_parameters={NOT_EXECUTED: max(0, d.not_executed - executed)},
    )
