import numpy as np
import pytest

from kernels import conv, panels
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


def test_unfit_workspaces_are_named():
    with pytest.raises(ValueError, match=r"found float32 \(5, 2\), expected float32 \(6, 2\)"):
        conv.pad_time(np.zeros((4, 2), np.float32), np.zeros((5, 2), np.float32), padding=1)
    with pytest.raises(ValueError, match="size 9"):
        conv.windows(np.zeros((5, 2), np.float32), size=9, stride=1)
