import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import conv, panels, reference
from kernels import encodings as enc


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 3, 0), (1, 1, 0)]
)
@pytest.mark.parametrize("channels", [4, 7])
def test_a_linear_layer_over_windows_is_the_convolution(size, stride, padding, channels):
    rng = np.random.default_rng(size * channels)
    frames, filters = 41, 10
    x = rng.integers(-127, 128, (channels, frames)).astype(np.int8)
    w = rng.integers(-7, 8, (filters, channels, size))
    outputs = (frames + 2 * padding - size) // stride + 1
    padded = np.pad(x.astype(np.int64), ((0, 0), (padding, padding)))
    expected = np.array(
        [
            [(padded[:, t * stride : t * stride + size] * w[f]).sum() for f in range(filters)]
            for t in range(outputs)
        ]
    )
    workspace = np.full((frames + 2 * padding, channels), 99, np.int8)
    conv.pad_time(x.T, workspace, padding=padding)
    rows = conv.windows(workspace, size=size, stride=stride)
    assert rows.base is not None  # a view: no column matrix
    for bits in (8, 4):
        encoding = enc.encode_bitpacked(w, np.ones((filters, 1)), bits=bits)
        panel = panels.prepare_linear(encoding, rows=outputs, activation="i8", kernel_size=size)
        out = np.empty((outputs, filters), np.int32)
        panels.accumulate(panel, rows, out)
        np.testing.assert_array_equal(out, expected)
    floats = np.empty(workspace.shape, np.float32)
    conv.pad_time(x.T.astype(np.float32), floats, padding=padding)
    dense = enc.encode_dense(w.astype(np.float32))
    panel = panels.prepare_linear(dense, rows=outputs, kernel_size=size)
    result = np.empty((outputs, filters), np.float32)
    panels.linear(panel, conv.windows(floats, size=size, stride=stride), result)
    np.testing.assert_array_equal(result, expected)  # small integers: exact in float32


def test_a_linear_layer_per_group_is_the_grouped_convolution():
    rng = np.random.default_rng(5)
    frames, channels, filters, groups, size, padding = 21, 12, 20, 4, 8, 4
    x = rng.integers(-5, 6, (frames, channels)).astype(np.float32)
    w = rng.integers(-5, 6, (filters, channels // groups, size)).astype(np.float32)
    bias = rng.integers(-5, 6, filters).astype(np.float32)
    expected = reference.conv1d(x, w, bias, 1, padding, groups)
    work = np.full((groups, frames + 2 * padding, channels // groups), 99, np.float32)
    conv.pad_groups(x, work, padding=padding)
    out = np.empty(expected.shape, np.float32)
    each = filters // groups
    for g in range(groups):
        some = slice(g * each, (g + 1) * each)
        panel = panels.prepare_linear(enc.encode_dense(w[some]), rows=frames, kernel_size=size)
        rows = conv.windows(work[g], size=size, stride=1)
        panels.linear(panel, rows, out[:, some], bias=bias[some])
    np.testing.assert_array_equal(out, expected)


@settings(deadline=None)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.integers(1, 5),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    rows=st.integers(1, 9),
    dtype=st.sampled_from([np.float32, np.int8]),
)
def test_blocks_of_windows_are_all_windows_in_order(
    height, width, channels, size, stride, padding, rows, dtype
):
    rng = np.random.default_rng(height)
    apart = rng.integers(-127, 128, (height, width + 2, channels)).astype(dtype)
    x = apart[:, :width]
    if min(height, width) + 2 * padding < size:
        padding = size
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))
    views = views[::stride, ::stride]  # (H', W', C, size, size)
    expected = views.transpose(0, 1, 3, 4, 2).reshape(-1, size * size * channels)
    work = np.full((rows, size * size * channels + 3), 99, dtype)
    found, seen = [], 0
    for first, block in conv.window_blocks(
        x, work[:, :-3], size=size, stride=stride, padding=padding
    ):
        assert first == seen
        seen += len(block)
        found.append(block.copy())
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert (work[:, -3:] == 99).all()
    down, across = (
        conv.output_size(n, size=size, stride=stride, padding=padding) for n in (height, width)
    )
    assert views.shape[:2] == (down, across)


def test_a_linear_layer_over_blocks_is_the_2d_convolution():
    rng = np.random.default_rng(6)
    x = rng.integers(-5, 6, (11, 9, 4)).astype(np.float32)
    w = rng.integers(-5, 6, (10, 4, 3, 3)).astype(np.float32)
    bias = rng.integers(-5, 6, 10).astype(np.float32)
    expected = reference.conv2d(x, w, bias, 2, 1)
    out = np.empty((expected.shape[0] * expected.shape[1], 10), np.float32)
    panel = panels.prepare_linear(enc.encode_dense(w), rows=len(out), kernel_size=9)
    work = np.empty((7, 36), np.float32)
    for first, rows in conv.window_blocks(x, work, size=3, stride=2, padding=1):
        panels.linear(panel, rows, out[first : first + len(rows)], bias=bias)
    np.testing.assert_array_equal(out.reshape(expected.shape), expected)


IMAGE, WORK = np.zeros((6, 5, 3), np.float32), np.full((4, 27), 5.0, np.float32)
WRONG = {
    "channels": {"workspace": np.full((4, 26), 5.0, np.float32)},
    "rows": {"workspace": np.full((0, 27), 5.0, np.float32)},
    "types": {"workspace": np.full((4, 27), 5, np.int8)},
    "stride of the workspace": {"workspace": np.full((4, 54), 5.0, np.float32)[:, ::2]},
    "pixels apart": {"x": np.zeros((6, 5, 6), np.float32)[:, :, :3]},
    "byte order": {"x": IMAGE.astype(">f4")},
    "dimensions": {"x": IMAGE[0]},
    "window": {"size": 9},
    "no window": {"size": 0},
    "stride": {"stride": 0},
    "padding": {"padding": -1},
}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_unfit_windows_are_refused_when_asked_for(wrong):
    good = {"x": IMAGE, "workspace": WORK, "size": 3, "stride": 2, "padding": 1}
    arguments = {**good, **WRONG[wrong]}
    with pytest.raises((ValueError, TypeError)):
        conv.window_blocks(**arguments)
    assert (arguments["workspace"] == 5).all()


def test_unfit_workspaces_are_named():
    with pytest.raises(ValueError, match=r"found float32 \(5, 2\).*expected float32 \(6, 2\)"):
        conv.pad_time(np.zeros((4, 2), np.float32), np.zeros((5, 2), np.float32), padding=1)
    with pytest.raises(ValueError, match="size 9"):
        conv.windows(np.zeros((5, 2), np.float32), size=9, stride=1)
    with pytest.raises(ValueError, match=r"expected float32 \(groups, 4, 6 / groups\)"):
        conv.pad_groups(np.zeros((4, 6), np.float32), np.zeros((4, 4, 2), np.float32), padding=0)
    odd = np.zeros(33, np.uint8)[1:].view(np.float32).reshape(4, 2)
    with pytest.raises(ValueError, match="misaligned"):
        conv.pad_time(odd, np.zeros((4, 2), np.float32), padding=0)
    with pytest.raises(TypeError, match="found >f4"):
        conv.pad_time(np.zeros((4, 2), ">f4"), np.zeros((4, 2), np.float32), padding=0)
