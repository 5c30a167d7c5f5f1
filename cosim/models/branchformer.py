"""Branchformer encoder (Peng et al. 2022) as ESPnet has it, its branches concatenated."""

import torch
from torch import Tensor, nn

from cosim.models.espnet_attention import RelativeAttention
from cosim.models.espnet_layers import GatingMlp, layer_norm


class BranchformerLayer(nn.Module):
    """Self-attention beside a gating MLP, both pre-norm; a linear layer merges them; a norm."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, taps: int, is_legacy: bool = False
    ) -> None:
        super().__init__()
        self.attn = RelativeAttention(width, heads, is_legacy=is_legacy)
        self.cgmlp = GatingMlp(width, hidden, taps)
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
