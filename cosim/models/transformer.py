"""Transformer encoder (Vaswani et al. 2017) as ESPnet has it: pre-norm, ReLU, sinusoids."""

from dataclasses import dataclass

from torch import Tensor, nn

from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.espnet_attention import MultiHeadAttention
from cosim.models.espnet_dimensions import Dimensions, EncoderDimensions, Size
from cosim.models.espnet_encoder import AbsoluteEncoder, Encoder
from cosim.models.espnet_family import Family, load_espnet
from cosim.models.espnet_layers import FeedForward, layer_norm
from cosim.models.espnet_settings import NO_INNER_CTC, SHARED_SIZES, WITHOUT_EFFECT, Key, Settings


@dataclass(frozen=True, kw_only=True)
class TransformerEncoderDimensions(EncoderDimensions):
    """Sizes of a Transformer encoder."""

    hidden: Size


@dataclass(frozen=True, kw_only=True)
class TransformerDimensions(Dimensions):
    """Sizes of a network with a Transformer encoder."""

    encoder: TransformerEncoderDimensions


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward layer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads)
        self.feed_forward = FeedForward(width, hidden, "relu")
        self.norm1 = layer_norm(width)
        self.norm2 = layer_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        h = self.norm1(x)
        x = x + self.self_attn(h, *self.self_attn.keys_values(h))
        result: Tensor = x + self.feed_forward(self.norm2(x))
        return result


def build_encoder(dimensions: TransformerDimensions) -> Encoder:
    """Return the encoder with weights as torch initialises them."""
    d = dimensions.encoder
    layers = (TransformerLayer(d.width, d.heads, d.hidden) for _ in range(d.layers))
    return AbsoluteEncoder(dimensions.features.width, d.width, d.subsampling, layers)


# espnet2/asr/encoder/transformer_encoder.py
FAMILY = Family(
    dimensions=TransformerDimensions,
    build=build_encoder,
    encoder="transformer",
    settings=Settings(
        sizes={
            **SHARED_SIZES,
            "layers": Key("num_blocks", 6),
            "hidden": Key("linear_units", 2048),
        },
        fixed={
            "pos_enc_layer_type": ("abs_pos",),
            "normalize_before": (True,),
            "concat_after": (False,),
            "positionwise_layer_type": ("linear",),
            **NO_INNER_CTC,
        },
        training=WITHOUT_EFFECT,
    ),
)


@model("transformer")
def load_transformer(config: ModelConfig) -> LoadedModel:
    """Return a model with a Transformer encoder; see `load_espnet`."""
    return load_espnet(config, FAMILY)
