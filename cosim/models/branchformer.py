"""Branchformer encoder (Peng et al. 2022) as ESPnet has it, its branches concatenated."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cosim.errors import CosimError
from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.espnet_attention import RelativeAttention
from cosim.models.espnet_dimensions import Dimensions, EncoderDimensions, Size, odd
from cosim.models.espnet_encoder import Encoder, RelativeEncoder
from cosim.models.espnet_family import Family, load_espnet
from cosim.models.espnet_layers import GatingMlp, layer_norm
from cosim.models.espnet_settings import LEGACY, SHARED_SIZES, WITHOUT_EFFECT, Key, Settings


@dataclass(frozen=True, kw_only=True)
class GatedEncoderDimensions(EncoderDimensions):
    """Sizes of an encoder with a gating MLP of `gate_hidden` channels and `taps` of its kernel.

    `is_legacy` takes the relative positions of ESPnet's `rel_pos_type: legacy`.
    """

    gate_hidden: Size
    taps: Size = 31
    is_legacy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        odd("taps", self.taps)
        if self.gate_hidden % 2:
            raise CosimError(f"gate_hidden: found {self.gate_hidden}, expected an even number")


@dataclass(frozen=True, kw_only=True)
class BranchformerDimensions(Dimensions):
    """Sizes of a network with a Branchformer encoder."""

    encoder: GatedEncoderDimensions


class BranchformerLayer(nn.Module):
    """Self-attention beside a gating MLP, both pre-norm; a linear layer merges them; a norm."""

    def __init__(
        self, width: int, heads: int, gate_hidden: int, *, taps: int, is_legacy: bool = False
    ) -> None:
        super().__init__()
        self.attn = RelativeAttention(width, heads, is_legacy=is_legacy)
        self.cgmlp = GatingMlp(width, gate_hidden, taps)
        self.norm_mha = layer_norm(width)
        self.norm_mlp = layer_norm(width)
        self.norm_final = layer_norm(width)
        self.merge_proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Return [1, T, width] of x [1, T, width] and the sinusoids of `distances_of(x)`."""
        attended = self.attn(self.norm_mha(x), distances)
        gated = self.cgmlp(self.norm_mlp(x))
        merged = self.merge_proj(torch.cat((attended, gated), dim=-1))
        result: Tensor = self.norm_final(x + merged)
        return result


def build_encoder(dimensions: BranchformerDimensions) -> Encoder:
    """Return the encoder with weights as torch initialises them."""
    d = dimensions.encoder
    layers = (
        BranchformerLayer(d.width, d.heads, d.gate_hidden, taps=d.taps, is_legacy=d.is_legacy)
        for _ in range(d.layers)
    )
    width = dimensions.features.width
    return RelativeEncoder(width, d.width, d.subsampling, layers, is_legacy=d.is_legacy)


# espnet2/asr/encoder/branchformer_encoder.py
FAMILY = Family(
    dimensions=BranchformerDimensions,
    build=build_encoder,
    encoder="branchformer",
    settings=Settings(
        sizes={
            **SHARED_SIZES,
            "layers": Key("num_blocks", 12),
            "gate_hidden": Key("cgmlp_linear_units", 2048),
            "taps": Key("cgmlp_conv_kernel", 31),
            "is_legacy": Key("rel_pos_type", "latest", LEGACY),
        },
        fixed={
            "use_attn": (True,),
            "use_cgmlp": (True,),
            "attention_layer_type": ("rel_selfattn",),
            "pos_enc_layer_type": ("rel_pos",),
            "use_linear_after_conv": (False,),
            "gate_activation": ("identity",),
            "merge_method": ("concat",),
            "zero_triu": (False,),
            "qk_norm": (False,),
        },
        training=WITHOUT_EFFECT,
    ),
)


@model("branchformer")
def load_branchformer(config: ModelConfig) -> LoadedModel:
    """Return a model with a Branchformer encoder; see `load_espnet`."""
    return load_espnet(config, FAMILY)
