import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels import reference
from kernels.relative import rel_shift


@given(frames=st.integers(1, 12), heads=st.integers(1, 3), gap=st.integers(0, 3))
def test_a_shifted_view_is_the_reference_for_every_head(frames, heads, gap):
    rng = np.random.default_rng(frames)
    wide = rng.standard_normal((heads, frames, 2 * frames - 1 + gap)).astype(np.float32)
    scores = wide[:, :, : 2 * frames - 1]
    shifted = rel_shift(scores)
    for h in range(heads):
        np.testing.assert_array_equal(shifted[h], reference.rel_shift(scores[h]))
        np.testing.assert_array_equal(rel_shift(scores[h]), shifted[h])
    assert np.may_share_memory(shifted, wide)
    assert not shifted.flags.writeable
    assert shifted.strides[-1] == 4


def test_each_element_is_the_score_of_its_distance():
    frames, keys = 4, 6
    distance = frames - 1 - np.arange(frames + keys - 1)
    scores = np.tile(distance, (frames, 1)).astype(np.float32)
    expected = np.arange(frames)[:, None] - np.arange(keys)
    np.testing.assert_array_equal(rel_shift(scores), expected)


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros((3, 2), np.float32),
        np.zeros((3, 10), np.float32)[:, ::2],
        np.zeros((0, 4), np.float32),
        np.zeros(5, np.float32),
        np.zeros((3, 5)),
        np.zeros((3, 5), ">f4"),
        [[1.0]],
    ],
    ids=["few columns", "stride", "empty", "dimensions", "type", "byte order", "no array"],
)
def test_other_scores_are_refused(scores):
    with pytest.raises((ValueError, TypeError), match="rel_shift"):
        rel_shift(scores)
