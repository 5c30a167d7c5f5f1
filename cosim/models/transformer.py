"""Transformer encoder (Vaswani et al. 2017) as ESPnet has it: pre-norm, ReLU, sinusoids."""

from torch import Tensor, nn

from cosim.models.espnet_attention import MultiHeadAttention
from cosim.models.espnet_layers import FeedForward, layer_norm


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
