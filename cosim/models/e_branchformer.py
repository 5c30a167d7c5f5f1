"""E-Branchformer encoder (Kim et al. 2023) as ESPnet has it."""

import torch
from torch import Tensor, nn

from cosim.models.espnet_attention import RelativeAttention
from cosim.models.espnet_layers import FeedForward, GatingMlp, depthwise, layer_norm


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
