"""Attention of ESPnet's encoders and decoders: plain, and with relative positions."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cosim.models.attention import Heads
from cosim.models.marks import positions, rel_shift, relative_positions

LEGACY_TABLE = 5000  # rows, max_len of espnet/nets/pytorch_backend/transformer/embedding.py


class _Projections(Heads):
    """The four linear layers of ESPnet's attention, under ESPnet's names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values [1, heads, positions, head_dim] of x [1, positions, width]."""
        return self.split(self.linear_k(x)), self.split(self.linear_v(x))


class MultiHeadAttention(_Projections):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) in which every query sees every key.

    Keys and values come from the caller, who projects them once with `keys_values`.
    """

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return [1, queries, width] of x [1, queries, width] against k, v."""
        y = F.scaled_dot_product_attention(self.split(self.linear_q(x)), k, v)
        result: Tensor = self.linear_out(self.join(y))
        return result


class RelativeAttention(_Projections):
    """Self-attention that also scores distances of key and query (Dai et al. 2019, section 3.3).

    `is_legacy` is the form that ESPnet had before its pull request 2816 and still takes where a
    configuration leaves out `rel_pos_type: latest`: it has no distances to keys behind the query,
    whose scores the shift fills with a zero and with those of the next query.
    """

    takes_codes = False

    def __init__(self, width: int, heads: int, *, is_legacy: bool = False) -> None:
        super().__init__(width, heads)
        self.is_legacy = is_legacy
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(self.linear_q.weight.new_zeros(heads, self.head_dim))
        self.pos_bias_v = nn.Parameter(self.linear_q.weight.new_zeros(heads, self.head_dim))

    def forward(self, x: Tensor, distances: Tensor) -> Tensor:
        """Return [1, T, width] of x [1, T, width] and the sinusoids of `distances_of(x)`."""
        q = self.linear_q(x).view(1, x.shape[1], self.heads, self.head_dim)
        k, v = self.keys_values(x)
        content = (q + self.pos_bias_u).transpose(1, 2)
        # Scaling the queries is as good as scaling the scores, of which there are many more.
        query = ((q + self.pos_bias_v) * self.head_dim**-0.5).transpose(1, 2)
        scores = query.matmul(self.split(self.linear_pos(distances)).transpose(2, 3))
        bias = _legacy_shift(scores) if self.is_legacy else rel_shift(scores)
        y = F.scaled_dot_product_attention(content, k, v, attn_mask=bias)
        result: Tensor = self.linear_out(self.join(y))
        return result


def distances_of(x: Tensor, *, is_legacy: bool = False) -> Tensor:
    """Return the sinusoids of all distances in x [1, T, width]: [1, 2 T - 1, width].

    The first row is distance T - 1, of the last query to the first key. Legacy attention has the
    first T rows alone, and counts distances from LEGACY_TABLE - T on: ESPnet cuts the beginning
    off a table that runs backwards from its end. T is at most LEGACY_TABLE there.
    """
    length, width = x.shape[1:]
    table: Tensor = relative_positions(x, width)
    if not is_legacy:
        return table
    pairs = table[:, :length].reshape(1, length, width // 2, 2)
    start = positions(x, LEGACY_TABLE - length, 1, width).reshape(1, 1, width // 2, 2)
    sine, cosine = pairs[:, :, :, :1], pairs[:, :, :, 1:]
    start_sine, start_cosine = start[:, :, :, :1], start[:, :, :, 1:]
    moved = (  # the sine and cosine of a sum
        sine * start_cosine + cosine * start_sine,
        cosine * start_cosine - sine * start_sine,
    )
    return torch.cat(moved, dim=-1).reshape(1, length, width)


def _legacy_shift(scores: Tensor) -> Tensor:
    """Return scores by key of `scores` [1, heads, T, T] by distance, as legacy ESPnet shifts them.

    A column of zeros is put before the rows, and the whole is read again in rows of T.
    """
    _, heads, rows, columns = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(1, heads, columns + 1, rows)
    return padded[:, :, 1:].reshape(1, heads, rows, columns)
