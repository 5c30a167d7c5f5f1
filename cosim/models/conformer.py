"""Conformer encoder (Gulati et al. 2020) as ESPnet has it, with or without the macaron half."""

from dataclasses import dataclass

from torch import Tensor, nn

from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.espnet_attention import LEGACY_TABLE, RelativeAttention
from cosim.models.espnet_dimensions import Dimensions, EncoderDimensions, Size, odd
from cosim.models.espnet_encoder import Encoder, RelativeEncoder
from cosim.models.espnet_family import Family, load_espnet
from cosim.models.espnet_layers import ConvolutionModule, FeedForward, layer_norm
from cosim.models.espnet_settings import (
    LEGACY,
    NO_INNER_CTC,
    SHARED_SIZES,
    WITHOUT_EFFECT,
    Key,
    Settings,
)


@dataclass(frozen=True, kw_only=True)
class ConformerEncoderDimensions(EncoderDimensions):
    """Sizes of a Conformer encoder; `taps` is the depthwise kernel.

    `is_legacy` takes the relative positions of ESPnet's `rel_pos_type: legacy`.
    """

    hidden: Size
    taps: Size = 31
    is_macaron: bool = False
    is_legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        odd("taps", self.taps)


@dataclass(frozen=True, kw_only=True)
class ConformerDimensions(Dimensions):
    """Sizes of a network with a Conformer encoder."""

    encoder: ConformerEncoderDimensions


class ConformerLayer(nn.Module):
    """Pre-norm (half feed-forward,) self-attention, convolution, (half) feed-forward, and a norm.

    With `is_macaron` both feed-forward layers add half of what they compute (Gulati et al. 2020,
    equation 1); without, there is one, and it adds all.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        taps: int,
        is_macaron: bool,
        is_legacy: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(width, heads, is_legacy=is_legacy)
        self.feed_forward = FeedForward(width, hidden, "swish")
        self.conv_module = ConvolutionModule(width, taps)
        self.norm_ff = layer_norm(width)
        self.norm_mha = layer_norm(width)
        self.norm_conv = layer_norm(width)
        self.norm_final = layer_norm(width)
        self.is_macaron = is_macaron
        if is_macaron:
            self.feed_forward_macaron = FeedForward(width, hidden, "swish")
            self.norm_ff_macaron = layer_norm(width)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Return [1, T, width] of x [1, T, width] and the sinusoids of `distances_of(x)`."""
        if self.is_macaron:
            x = x + self.feed_forward_macaron(self.norm_ff_macaron(x)) * 0.5
        x = x + self.self_attn(self.norm_mha(x), distances)
        x = x + self.conv_module(self.norm_conv(x))
        y = self.feed_forward(self.norm_ff(x))
        result: Tensor = self.norm_final(x + (y * 0.5 if self.is_macaron else y))
        return result


def build_encoder(dimensions: ConformerDimensions) -> Encoder:
    """Return the encoder with weights as torch initialises them."""
    d = dimensions.encoder
    layers = (
        ConformerLayer(
            d.width,
            d.heads,
            d.hidden,
            taps=d.taps,
            is_macaron=d.is_macaron,
            is_legacy=d.is_legacy,
        )
        for _ in range(d.layers)
    )
    width = dimensions.features.width
    return RelativeEncoder(width, d.width, d.subsampling, layers, is_legacy=d.is_legacy)


# espnet2/asr/encoder/conformer_encoder.py
FAMILY = Family(
    dimensions=ConformerDimensions,
    build=build_encoder,
    encoder="conformer",
    settings=Settings(
        sizes={
            **SHARED_SIZES,
            "layers": Key("num_blocks", 6),
            "hidden": Key("linear_units", 2048),
            "taps": Key("cnn_module_kernel", 31),
            "is_macaron": Key("macaron_style", default=False),
            "is_legacy": Key("rel_pos_type", "legacy", LEGACY),
        },
        fixed={
            "pos_enc_layer_type": ("rel_pos",),
            "selfattention_layer_type": ("rel_selfattn",),
            "activation_type": ("swish",),
            "use_cnn_module": (True,),
            "normalize_before": (True,),
            "concat_after": (False,),
            "positionwise_layer_type": ("linear",),
            "zero_triu": (False,),
            "max_pos_emb_len": (LEGACY_TABLE,),
            "ctc_trim": (False,),
            **NO_INNER_CTC,
        },
        training=WITHOUT_EFFECT,
    ),
)


@model("conformer")
def load_conformer(config: ModelConfig) -> LoadedModel:
    """Return a model with a Conformer encoder; see `load_espnet`."""
    return load_espnet(config, FAMILY)
