"""E-Branchformer encoder (Kim et al. 2023) as ESPnet has it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.branchformer import GatedEncoderDimensions
from cosim.models.espnet_attention import LEGACY_TABLE, RelativeAttention
from cosim.models.espnet_dimensions import Dimensions, Size, odd
from cosim.models.espnet_encoder import Encoder, RelativeEncoder
from cosim.models.espnet_family import Family, load_espnet
from cosim.models.espnet_layers import FeedForward, GatingMlp, depthwise, layer_norm
from cosim.models.espnet_settings import (
    LEGACY,
    NO_INNER_CTC,
    SHARED_SIZES,
    WITHOUT_EFFECT,
    Key,
    Settings,
)


@dataclass(frozen=True, kw_only=True)
class EBranchformerEncoderDimensions(GatedEncoderDimensions):
    """Sizes of an E-Branchformer encoder; `merge_taps` is the kernel behind the branches."""

    hidden: Size
    merge_taps: Size = 3
    is_macaron: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        odd("merge_taps", self.merge_taps)


@dataclass(frozen=True, kw_only=True)
class EBranchformerDimensions(Dimensions):
    """Sizes of a network with an E-Branchformer encoder."""

    encoder: EBranchformerEncoderDimensions


class EBranchformerLayer(nn.Module):
    """Branches merged with a depthwise convolution between two half feed-forward layers; a norm.

    `is_macaron` says whether there are two feed-forward layers; one alone adds all it computes.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        gate_hidden: int,
        taps: int,
        merge_taps: int,
        is_macaron: bool = True,
        is_legacy: bool = False,
    ) -> None:
        super().__init__()
        self.attn = RelativeAttention(width, heads, is_legacy=is_legacy)
        self.cgmlp = GatingMlp(width, gate_hidden, taps)
        self.feed_forward = FeedForward(width, hidden, "swish")
        self.norm_ff = layer_norm(width)
        self.norm_mha = layer_norm(width)
        self.norm_mlp = layer_norm(width)
        self.norm_final = layer_norm(width)
        self.depthwise_conv_fusion = depthwise(2 * width, merge_taps)
        self.merge_proj = nn.Linear(2 * width, width)
        self.is_macaron = is_macaron
        if is_macaron:
            self.feed_forward_macaron = FeedForward(width, hidden, "swish")
            self.norm_ff_macaron = layer_norm(width)

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Return [1, T, width] of x [1, T, width] and the sinusoids of `distances_of(x)`."""
        if self.is_macaron:
            x = x + self.feed_forward_macaron(self.norm_ff_macaron(x)) * 0.5
        attended = self.attn(self.norm_mha(x), distances)
        branches = torch.cat((attended, self.cgmlp(self.norm_mlp(x))), dim=-1)
        local = self.depthwise_conv_fusion(branches.transpose(1, 2)).transpose(1, 2)
        x = x + self.merge_proj(branches + local)
        y = self.feed_forward(self.norm_ff(x))
        result: Tensor = self.norm_final(x + (y * 0.5 if self.is_macaron else y))
        return result


def build_encoder(dimensions: EBranchformerDimensions) -> Encoder:
    """Return the encoder with weights as torch initialises them."""
    d = dimensions.encoder
    layers = (
        EBranchformerLayer(
            d.width,
            d.heads,
            d.hidden,
            gate_hidden=d.gate_hidden,
            taps=d.taps,
            merge_taps=d.merge_taps,
            is_macaron=d.is_macaron,
            is_legacy=d.is_legacy,
        )
        for _ in range(d.layers)
    )
    width = dimensions.features.width
    return RelativeEncoder(width, d.width, d.subsampling, layers, is_legacy=d.is_legacy)


# espnet2/asr/encoder/e_branchformer_encoder.py
FAMILY = Family(
    dimensions=EBranchformerDimensions,
    build=build_encoder,
    encoder="e_branchformer",
    settings=Settings(
        sizes={
            **SHARED_SIZES,
            "layers": Key("num_blocks", 12),
            "gate_hidden": Key("cgmlp_linear_units", 2048),
            "taps": Key("cgmlp_conv_kernel", 31),
            "hidden": Key("linear_units", 2048),
            "merge_taps": Key("merge_conv_kernel", 3),
            "is_macaron": Key("macaron_ffn", default=False),
            "is_legacy": Key("rel_pos_type", "latest", LEGACY),
        },
        fixed={
            "use_ffn": (True,),
            "ffn_activation_type": ("swish",),
            "positionwise_layer_type": ("linear",),
            "attention_layer_type": ("rel_selfattn",),
            "pos_enc_layer_type": ("rel_pos",),
            "use_linear_after_conv": (False,),
            "gate_activation": ("identity",),
            "zero_triu": (False,),
            "max_pos_emb_len": (LEGACY_TABLE,),
            **NO_INNER_CTC,
        },
        training=WITHOUT_EFFECT,
        needed=frozenset({"use_ffn"}),
    ),
)


@model("e_branchformer")
def load_e_branchformer(config: ModelConfig) -> LoadedModel:
    """Return a model with an E-Branchformer encoder; see `load_espnet`."""
    return load_espnet(config, FAMILY)
