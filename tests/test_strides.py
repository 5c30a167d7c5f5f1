"""How views lie in memory, compared with what numpy makes of the same views."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.ir import from_text
from cosim.schedule import schedule
from cosim.strides import by_axis, contiguous, runs, transposed
from hwmodels.workload import Gemm, Runs

SHAPES = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def positions(layout):
    """Return where each element lies, in the order of the view."""
    found = np.zeros(1, np.int64)
    for size, stride in layout:
        found = (found[:, None] + stride * np.arange(size)).reshape(-1)
    return found


@settings(deadline=None, max_examples=60)
@given(shape=SHAPES, data=st.data())
def test_a_layout_says_where_elements_of_views_lie(shape, data):
    array = np.arange(prod(shape)).reshape(shape)
    layout = contiguous(shape)
    for _ in range(3):
        order = data.draw(st.permutations(range(array.ndim)))
        found = transposed(layout, array.shape, order)
        assert found is not None
        array, layout = array.transpose(order), found
        axes = by_axis(layout, array.shape)
        assert [prod(size for size, _ in axis) for axis in axes] == list(array.shape)
        assert positions(layout).tolist() == array.reshape(-1).tolist()


@settings(deadline=None, max_examples=60)
@given(frames=st.integers(2, 5), heads=st.integers(2, 4), depth=st.integers(2, 5))
def test_runs_hold_the_elements_of_a_head(frames, heads, depth):
    layer = np.arange(frames * heads * depth).reshape(frames, heads, depth)
    layout = transposed(contiguous(layer.shape), layer.shape, (1, 0, 2))
    found = runs(layout, (heads, frames, depth))
    assert found == Runs(depth, heads * depth, depth)
    for head in range(heads):
        first = head * found.apart + found.pitch * np.arange(frames)
        lies = (first[:, None] + np.arange(found.elements)).reshape(-1)
        assert sorted(lies) == sorted(layer[:, head].reshape(-1))


def test_matrices_that_follow_one_another_have_no_runs():
    assert runs(contiguous((3, 4, 5)), (3, 4, 5)) is None
    swapped = transposed(contiguous((3, 4, 5)), (3, 4, 5), (0, 2, 1))
    assert runs(swapped, (3, 5, 4)) is None  # turned round, but each in one piece


def test_an_axis_that_ends_within_a_factor_is_not_known():
    assert by_axis(((4, 1), (3, 4)), (6, 2)) is None


@pytest.mark.parametrize("between", ["", "c, s"])
def test_heads_of_a_layer_are_read_in_runs(between):
    """Also through codes, which lie as what they were made of does."""
    coding = '%c, %s = dynamic_quantize(%t) {per="row"} : i8<1, 3, frames, 4>, f32<1, 3, frames>'
    q = "%c" if between else "%t"
    kind = "i8" if between else "f32"
    product = f"%y = matmul({q}, %b) : f32<1, 3, frames, 2>"
    body = f"""program "p"
constant @w : f32<12, 12> dense {{}} bits 4608 index 0 sha256 aa
graph g(frames) {{
  input %x : f32<1, frames, 12>
  input %b : {kind}<1, 3, 4, 2>
  %h = linear(%x, @w) : f32<1, frames, 12>
  %v = reshape(%h) {{shape=[1, frames, 3, 4]}} : f32<1, frames, 3, 4>
  %t = transpose(%v) {{order=[0, 2, 1, 3]}} : f32<1, 3, frames, 4>
  {coding if between else ""}
  {product}
  return y = %y
}}
"""
    text = "\n".join(line for line in body.splitlines() if line.strip()) + "\n"
    work = schedule(from_text(text), "g", bindings={"frames": 5})
    linear, *_, last = (item for item in work.items if isinstance(item, Gemm))
    assert linear.a.runs is None
    assert last.a.runs == Runs(4, 12, 4)
    assert last.w.runs is None
