import numpy as np
import pytest

from kernels import encodings as enc
from kernels import panels
from kernels.registry import KERNELS, kernel, lookup


def test_lookup_offers_only_what_this_cpu_runs_and_the_plain_kernel_last():
    for values, activation in {(row.values, row.activation) for row in KERNELS.values()}:
        found = lookup("linear", values=values, activation=activation)
        assert all(row.is_usable() for row in found)
        needs = [len(row.requires) for row in found]
        assert needs == sorted(needs, reverse=True)
    for values, activation in (("f32", "f32"), ("i8", "f32"), ("i8", "i8")):
        assert lookup("linear", values=values, activation=activation)[-1].requires == ()


def test_a_name_is_registered_once():
    row = KERNELS["generic_f32"]
    register = kernel("generic_f32", op="linear", values="f32", activation="f32", layout=row.layout)
    with pytest.raises(ValueError, match=r"generic_f32.*twice"):
        register(row.run)
    with pytest.raises(TypeError):
        KERNELS["another"] = row


@pytest.mark.parametrize("activation", ["f32", "i8"])
def test_rows_may_be_none_repeated_or_read_only(activation):
    codes = enc.encode_bitpacked(np.arange(-10, 11).reshape(3, 7), np.ones((3, 1)), bits=8)
    panel = panels.prepare_linear(codes, rows=9, activation=activation)
    one = np.ones(1, np.float32)
    bias = np.zeros(3, np.float32)
    x = np.tile(np.arange(7), (9, 1)).astype(np.float32 if activation == "f32" else np.int8)
    for array in (x, bias, one):
        array.flags.writeable = False
    repeated = np.broadcast_to(x[:1], (9, 7))
    scale = one if activation == "i8" else None
    expected = x.astype(np.float64) @ enc.decode(codes).astype(np.float64).T
    for source in (x, repeated, x[:0]):
        out = np.empty((len(source), 3), np.float32)
        panels.linear(panel, source, out, x_scale=scale, bias=bias)
        np.testing.assert_array_equal(out, expected[: len(source)])
