"""A linear layer as the product of two of lower rank, in the place of the one it stands for."""

from torch import Tensor, nn


class LowRank(nn.Module):
    """`up(down(x))`: weights (rank, inputs) and (outputs, rank); the bias is that of `up`."""

    def __init__(self, down: nn.Parameter, up: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.down = _linear(down, None)
        self.up = _linear(up, bias)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer that this stands for."""
        return self.up.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] of x [..., inputs]."""
        result: Tensor = self.up(self.down(x))
        return result


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=False, device="meta")  # nothing is drawn
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer
