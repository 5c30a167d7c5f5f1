"""hwmodels.sparsity: blocks, rows, columns and steps are those of loops over the weights."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import sparsity
from hwmodels.gather_lanes import gather_steps


def pack(weights):
    return np.packbits(np.asarray(weights, bool), axis=1, bitorder="little")


@st.composite
def cases(draw):
    """Weights (n, k) with zeros scattered, by block, nowhere or everywhere; starts of blocks."""
    n, k = draw(st.integers(1, 13)), draw(st.integers(1, 21))
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    weights = generator.random((n, k)) < density
    if draw(st.booleans()):
        weights[draw(st.integers(0, n)) :, : draw(st.integers(0, k))] = False
    n_starts = sparsity.starts(n, draw(st.integers(1, 6)))
    k_starts = sparsity.starts(k, draw(st.sampled_from([1, 3, 4, 8, 16])))
    return weights, n_starts, k_starts


def spans(begins, size):
    edges = [int(begin) for begin in begins] + [size]
    return list(pairwise(edges))


def by_block(weights, n_starts, k_starts, count):
    n, k = weights.shape
    return [
        [count(weights[a:b, c:d].tolist()) for c, d in spans(k_starts, k)]
        for a, b in spans(n_starts, n)
    ]


@settings(max_examples=25, deadline=None)
@given(cases())
def test_blocks_rows_columns_and_nonzeros_are_those_of_loops(case):
    weights, n_starts, k_starts = case
    k, blocks = weights.shape[1], {"n_starts": n_starts, "k_starts": k_starts}
    mask = pack(weights)
    assert sparsity.kept_blocks(mask, k, **blocks).tolist() == by_block(
        *case, lambda block: any(any(row) for row in block)
    )
    assert sparsity.kept_rows(mask, k, **blocks).tolist() == by_block(
        *case, lambda block: sum(any(column) for column in zip(*block, strict=True))
    )
    assert sparsity.nonzeros(mask, k, **blocks).tolist() == by_block(
        *case, lambda block: sum(sum(row) for row in block)
    )
    assert sparsity.kept_columns(mask, k, k_starts=k_starts).tolist() == [
        [any(row[c:d]) for c, d in spans(k_starts, k)] for row in weights.tolist()
    ]


@settings(max_examples=25, deadline=None)
@given(cases(), st.sampled_from([2, 3, 4, 8, 16]))
def test_the_fullest_run_is_that_of_a_loop(case, run):
    weights = case[0].tolist()
    k = len(weights[0])
    most = max(sum(row[at : at + run]) for row in weights for at in range(0, k, run))
    assert sparsity.most_of_run(pack(weights), k, run=run) == most


def step_by_step(block, first, banks, decoded):
    """Lanes in lock step as the docstring says, with sets and dictionaries."""
    lists = [[first + i for i, bit in enumerate(row) if bit] for row in block]
    cycles = reads = 0
    while any(lists):
        asked = [line.pop(0) for line in lists if line]
        words = set(asked)
        queues = [sum(word % banks == bank for word in words) for bank in range(banks)]
        cycles += max(*queues, -(-len(asked) // decoded) if decoded else 0, 0)
        reads += len(words)
    return cycles, reads


@settings(max_examples=25, deadline=None)
@given(cases(), st.sampled_from([1, 2, 3, 8]), st.sampled_from([0, 1, 2, 5]))
def test_lanes_in_lock_step_are_those_of_a_loop(case, banks, decoded):
    weights, n_starts, k_starts = case
    n, k = weights.shape
    found = gather_steps(
        pack(weights), k, n_starts=n_starts, k_starts=k_starts, banks=banks, decoded=decoded
    )
    expected = [
        [step_by_step(weights[a:b, c:d].tolist(), c, banks, decoded) for c, d in spans(k_starts, k)]
        for a, b in spans(n_starts, n)
    ]
    assert np.stack(found, axis=-1).tolist() == [[list(pair) for pair in row] for row in expected]


def test_lanes_that_ask_for_the_same_word_do_not_wait_for_each_other():
    # Four full lanes ask for k = 0, 1, 2, ... together: one word a cycle, even from one bank. Of
    # two lanes, one at k = 0, 2 and one at k = 4, 6, every pair of words lies in bank 0 of two.
    full = sparsity.full_mask(4, 9)
    every = {"n_starts": sparsity.starts(4, 4), "k_starts": sparsity.starts(9, 9)}
    assert gather_steps(full, 9, **every, banks=1, decoded=0)[0].tolist() == [[9]]
    assert gather_steps(full, 9, **every, banks=1, decoded=3)[0].tolist() == [[18]]
    apart = pack([[1, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 1, 0]])
    every = {"n_starts": sparsity.starts(2, 2), "k_starts": sparsity.starts(8, 8)}
    cycles = [
        int(gather_steps(apart, 8, **every, banks=banks, decoded=0)[0][0, 0]) for banks in (1, 2, 8)
    ]
    assert cycles == [4, 4, 2]


@settings(max_examples=15, deadline=None)
@given(cases())
def test_twice_the_banks_or_a_faster_decoder_are_never_slower(case):
    weights, n_starts, k_starts = case
    mask, k = pack(weights), weights.shape[1]
    blocks = {"n_starts": n_starts, "k_starts": k_starts}
    by_banks = [gather_steps(mask, k, **blocks, banks=b, decoded=0)[0] for b in (1, 2, 4, 8, 16)]
    by_decoder = [gather_steps(mask, k, **blocks, banks=4, decoded=d)[0] for d in (1, 2, 3, 7, 0)]
    for found in (by_banks, by_decoder):
        assert all((more <= less).all() for less, more in pairwise(found))


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_drawn_masks_have_their_density_and_no_bit_past_k(density):
    mask = sparsity.uniform_mask(300, 101, density=density, generator=np.random.default_rng(5))
    bits = np.unpackbits(mask, axis=1, bitorder="little")
    assert not bits[:, 101:].any()
    assert abs(bits.sum() / 30300 - density) < 0.01
    assert not np.unpackbits(sparsity.full_mask(2, 9), axis=1, bitorder="little")[:, 9:].any()
