"""Each mark is one call of an export with symbolic lengths, and computes what it says in eager."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cosim.models.marks import (
    block_attention,
    first,
    positions,
    rel_shift,
    relative_buckets,
    relative_positions,
)
from kernels.relative import rel_shift as rel_shift_of_kernels


class Marks(nn.Module):
    """All marks on one input [1, T, 32]."""

    def forward(self, x):
        q = x.view(1, -1, 2, 16).transpose(1, 2)
        distances = relative_positions(x, 16)
        scores = rel_shift(q @ distances.transpose(1, 2))
        buckets = relative_buckets(x, 320, 800)
        sparse = block_attention(q, q, q, "local window=3 block=16")
        table = positions(x, 2, x.shape[1], 32)
        later = positions(x, x.shape[1], 1, 32)
        doubled = x[:, ::2].repeat_interleave(2, dim=1)
        return scores, buckets, sparse, table, later, first(doubled, 1, x.shape[1])


def test_an_export_keeps_each_mark_as_one_call_for_every_length():
    frames = torch.export.Dim.DYNAMIC(min=3)
    exported = torch.export.export(
        Marks(), (torch.randn(1, 9, 32),), dynamic_shapes=({1: frames},), strict=False
    )
    calls = [str(n.target) for n in exported.graph.nodes if str(n.target).startswith("cosim.")]
    assert sorted(calls) == [
        "cosim.block_attention.default",
        "cosim.first.default",
        "cosim.positions.default",
        "cosim.positions.default",
        "cosim.rel_shift.default",
        "cosim.relative_buckets.default",
        "cosim.relative_positions.default",
    ]
    for length in (3, 50):
        x = torch.randn(1, length, 32)
        for ours, eager in zip(exported.module()(x), Marks()(x), strict=True):
            assert torch.equal(ours, eager)


@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (4, 4), (2, 5, 9), (1, 2, 3, 12)])
def test_rel_shift_is_that_of_the_kernels(shape):
    x = torch.randn(shape)
    want = rel_shift_of_kernels(np.ascontiguousarray(x.reshape(-1, *shape[-2:]).numpy()))
    assert np.array_equal(rel_shift(x).reshape(want.shape).numpy(), want)


def test_relative_positions_count_down_and_are_sines_and_cosines_in_turn():
    table = relative_positions(torch.zeros(1, 4, 3), 6)
    assert table.shape == (1, 7, 6)
    for row, distance in enumerate((3, 2, 1, 0, -1, -2, -3)):
        for pair in range(3):
            angle = distance / 10000 ** (2 * pair / 6)
            assert table[0, row, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-7)
            assert table[0, row, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-7)


def test_absolute_positions_are_the_rows_behind_the_start():
    like = torch.zeros(1, 1, 1)
    whole = positions(like, 0, 12, 8)
    assert torch.equal(positions(like, 5, 3, 8), whole[:, 5:8])
    assert whole[0, 7, 2].item() == pytest.approx(math.sin(7 / 10), abs=1e-7)
    with pytest.raises(ValueError, match="found width 7, expected an even number"):
        positions(like, 0, 2, 7)


@pytest.mark.parametrize(("buckets", "furthest"), [(320, 800), (32, 128)])
def test_buckets_are_exact_near_logarithmic_far_and_one_half_per_direction(buckets, furthest):
    length = 1500
    found = relative_buckets(torch.zeros(1, length, 1), buckets, furthest)
    half, exact = buckets // 2, buckets // 4
    for index, distance in enumerate(range(1 - length, length)):
        apart = np.float32(abs(distance))
        bucket = abs(distance)
        if abs(distance) >= exact:
            grown = np.log(apart / np.float32(exact)) / np.float32(math.log(furthest / exact))
            bucket = min(half - 1, int(exact + grown * np.float32(half - exact)))
        assert found[index] == bucket + half * (distance > 0), distance


def test_block_attention_is_dense_attention_with_minus_infinity_outside():
    q, k, v = torch.randn(3, 1, 2, 40, 8).unbind(0)
    inside = torch.tensor([[abs(t - s) <= 5 for s in range(40)] for t in range(40)])
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=inside)
    assert torch.allclose(block_attention(q, k, v, "local window=5 block=16"), want, atol=1e-6)


def test_a_query_that_sees_no_key_gets_zeros():
    q, k, v = torch.randn(3, 1, 1, 32, 4).unbind(0)
    result = block_attention(q, k, v, "custom seen_blocks=10/00 block=16")
    assert bool((result[..., 16:, :] == 0).all())
    assert bool((result[..., :16, :] != 0).all())


def test_first_takes_what_is_there_and_refuses_what_is_not():
    x = torch.arange(12).view(1, 6, 2)
    assert torch.equal(first(x, 1, 4), x[:, :4])
    with pytest.raises(ValueError, match=r"first: found \(1, 6, 2\), expected 7 on axis 1"):
        first(x, 1, 7)
