"""Conformer encoder (Gulati et al. 2020) as ESPnet has it, with or without the macaron half."""

from torch import Tensor, nn

from cosim.models.espnet_attention import RelativeAttention
from cosim.models.espnet_layers import ConvolutionModule, FeedForward, layer_norm


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
