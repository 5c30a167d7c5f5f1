"""Whatever is registered keeps one contract, and every encoding finds a kernel on any CPU."""

import ast
import itertools
import re

import every_kernel as every
import numpy as np
import pytest

from kernels import encodings as enc
from kernels import panels, reference
from kernels.choice import ACTIVATIONS
from kernels.finish import FINISH
from kernels.registry import KERNELS, kernel, lookup

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 17, 97, 200)
SHAPES = ((16, 128), (17, 37), (1, 1), (50, 131), (64, 200), (3, 400))
ENCODED = every.every_encoding(33, 70, seed=3)


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


@pytest.mark.parametrize("name", [name for name, row in KERNELS.items() if row.op == "linear"])
def test_a_row_says_what_the_conformance_tests_need(name):
    row = KERNELS[name]
    bits, form = every.stored(row)
    assert row.activation in ACTIVATIONS
    assert bits in {32, 8, 4, 3, 2, 1}
    assert form != "group" or bits < 32
    assert hasattr(reference, row.reference), f"kernels.reference has no {row.reference}"
    assert row.run.signature[-len(FINISH) :] == FINISH


@pytest.mark.parametrize("name", every.USABLE)
def test_every_kernel_computes_what_its_matrix_means(name):
    row = KERNELS[name]
    for n, k in SHAPES:
        matrix = every.matrix_for(row, n, k, seed=n + k)
        panel = every.panel_for(row, matrix)
        bias = np.random.default_rng(0).standard_normal(n).astype(np.float32)
        for rows in ROWS:
            operand = every.operand_for(row, rows, k, seed=rows)
            out = np.full((rows, n), np.nan, np.float32)
            panels.linear(panel, operand.x, out, x_scale=operand.x_scale, bias=bias)
            exact = operand.values @ every.values_of(matrix).T + bias
            allowed = every.bound(operand, matrix) + 2 * every.EPSILON * np.abs(bias)
            assert (np.abs(out - exact) <= allowed).all(), (n, k, rows)
            again = np.full((rows, n), np.nan, np.float32)
            panels.linear(panel, operand.x, again, x_scale=operand.x_scale, bias=bias)
            np.testing.assert_array_equal(again, out)


@pytest.mark.slow  # compiles every kernel once more
@pytest.mark.parametrize("name", every.USABLE)
def test_threads_change_no_bit(name):
    row = KERNELS[name]
    matrix = every.matrix_for(row, 50, 131, seed=1)
    panel = every.panel_for(row, matrix)
    for rows in (1, 5, 97, 300):
        operand = every.operand_for(row, rows, 131, seed=rows)
        results = []
        for threads in (1, 2, 3):
            out = np.full((rows, 50), np.nan, np.float32)
            panels.linear(panel, operand.x, out, x_scale=operand.x_scale, threads=threads)
            results.append(out)
        np.testing.assert_array_equal(results[1], results[0])
        np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("name", every.USABLE)
def test_rows_of_a_layout_are_those_of_the_matrix(name):
    row = KERNELS[name]
    ids = np.array([16, 0, 3, 3, 15, 36])
    for k in (1, 32, 131, 400):
        matrix = every.matrix_for(row, 37, k, seed=k)
        found = row.layout.rows(row.layout.pack(matrix), ids)[:, :k]
        assert found.dtype == np.float32
        if every.stored(row)[1] == "group":
            np.testing.assert_allclose(found, every.values_of(matrix)[ids], rtol=3e-7)
        else:
            np.testing.assert_array_equal(found, matrix.values[ids])


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


@pytest.mark.parametrize("name", ENCODED)
def test_every_encoding_has_an_exact_panel_or_says_why_not(name):
    check_encoding(name)


def check_encoding(name: str) -> list[str]:
    """Run a linear layer and an embedding of an encoding with each activation it allows."""
    e = ENCODED[name]
    n, k = e.shape
    values = enc.decode(e).astype(np.float64)
    used = []
    for activation, rows in itertools.product(ACTIVATIONS, (1, 7, 100)):
        try:
            panel = panels.prepare_linear(e, rows=rows, activation=activation)
        except ValueError as error:
            assert re.search("expected|looked for", str(error))  # noqa: PT017 (both ways are right)
            continue
        row = KERNELS[panel.kernel]
        operand = every.operand_for(row, rows, k, seed=rows)
        out = np.full((rows, n), np.nan, np.float32)
        panels.linear(panel, operand.x, out, x_scale=operand.x_scale)
        # codes and zero points may be summed apart: both are at most 256 scales
        scale = 0 if enc.scales(e) is None else 256 * enc.scales(e).max()
        largest = np.abs(operand.values).sum(axis=1, keepdims=True)
        allowed = (k + 8) * every.EPSILON * largest * max(scale, np.abs(values).max())
        assert (np.abs(out - operand.values @ values.T) <= allowed).all(), panel.reason
        assert panel.reason
        ids = np.array([n - 1, 0, 5, 5])
        gathered = np.full((4, k), np.nan, np.float32)
        panels.embedding(panel, ids, gathered)
        np.testing.assert_allclose(gathered, values[ids], rtol=3e-7)
        used.append(f"{activation}/{rows}")
    must = {"f32"} if enc.value_bits(e) == 32 else {"f32", "i8"}
    assert must <= {one.split("/")[0] for one in used}
    return used


def test_a_cpu_without_avx2_runs_every_encoding_with_the_same_activations():
    code = """
import test_registry as t
from kernels.jit import host_features
assert not host_features()
print({name: t.check_encoding(name) for name in t.ENCODED})
"""
    found = ast.literal_eval(every.python(code, COSIM_GENERIC_KERNELS="1"))
    assert found == {name: check_encoding(name) for name in ENCODED}
