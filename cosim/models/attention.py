"""Attention blocks: the class by which compression finds them, and the plain block."""

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Heads(nn.Module):
    """A block that calls attention in its own forward; compression finds it by this class.

    `takes_codes` is False where scores have a bias or a pattern, which codes are not kept for.
    Heads may be fewer than fill the width, and differ from block to block.
    """

    takes_codes = True

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = width // heads

    def keep_heads(self, numbers: Sequence[int]) -> None:
        """Say which heads are left once the others are gone from the projections."""
        self.heads = len(numbers)

    def split(self, x: Tensor) -> Tensor:
        """Return [1, heads, positions, head_dim] of x [1, positions, width]."""
        return x.view(1, x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def join(self, y: Tensor) -> Tensor:
        """Return [1, positions, heads * head_dim] of y [1, heads, positions, head_dim]."""
        return y.transpose(1, 2).reshape(1, y.shape[2], self.heads * self.head_dim)


class Attention(Heads):
    """Multi-head attention over keys and values that the caller provides, split into heads.

    `keys_values` projects its input once; `forward` projects queries and attends. Every query sees
    every key: there is no mask.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [1, heads, positions, head_dim] of x [1, positions, width]."""
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [1, queries, width] of x [1, queries, width] against k, v."""
        y = F.scaled_dot_product_attention(self.split(self.q_proj(x)), k, v)
        result: Tensor = self.out_proj(self.join(y))
        return result
