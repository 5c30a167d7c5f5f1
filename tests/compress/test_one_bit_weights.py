"""Claims about one-bit weights: the scale is the best one, and what the executor does with them."""

import numpy as np
import pytest
import small_whisper
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ir_interpreter import Codes, run

from cosim.compress.binarize import binarized
from cosim.compress.compressed import compress
from cosim.compress.network import OperandPolicy
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from cosim.execute import Weights, plan
from cosim.lower import lower
from cosim.schedule import schedule
from kernels import encodings as store

VALUES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-1e6, 1e6, width=32))
)


def made(network, *methods):
    return compress(network, parse_recipe({"methods": list(methods)}, name="r", source="r.yaml"))


@given(VALUES, st.floats(0.5, 2.0))
@example(np.array([[1e-45, 0.0]], np.float32), 1.0)
def test_no_other_scale_is_nearer_in_squares(values, factor):
    weight = binarized(values, center=False)
    exact = values.astype(np.float64)
    signs, scale = weight.table.astype(np.float64), weight.scale.astype(np.float64)

    def error(scale):
        return ((exact - signs * scale) ** 2).sum()

    assert set(np.unique(weight.table)) <= {-1, 1}
    rounding = values.size * (scale.max() * 1e-6) ** 2  # of the scale to float32
    assert error(scale) <= error(scale * factor) * (1 + 1e-6) + rounding + 1e-30
    # the last step of float32 near zero is 1.4e-45: no relative bound holds there
    np.testing.assert_allclose(scale[:, 0], np.abs(exact).mean(axis=1), rtol=1e-6, atol=1.5e-45)


@given(VALUES)
def test_centred_signs_are_those_of_bit(values):
    """W_b = m sign(W - mean(W)): the mean of the whole tensor, m = mean |W| of a row or all."""
    middle = np.float32(values.astype(np.float64).mean())
    by_row, whole = binarized(values), binarized(values, granularity="tensor")
    for weight in (by_row, whole):
        np.testing.assert_array_equal(weight.table, np.where(values >= middle, 1, -1))
    sizes = np.abs(values.astype(np.float64))
    np.testing.assert_allclose(by_row.scale[:, 0], sizes.mean(axis=1), rtol=1e-6, atol=1.5e-45)
    assert whole.scale.shape == (1, 1)
    np.testing.assert_allclose(whole.scale[0, 0], sizes.mean(), rtol=1e-6, atol=1.5e-45)


def test_a_weight_at_the_mean_is_positive_and_the_mean_is_not_that_of_its_row():
    values = np.array([[5.0, 6.0], [-1.0, 2.0]], np.float32)  # mean 3
    assert binarized(values).table.tolist() == [[1, 1], [-1, -1]]
    assert binarized(values, center=False).table.tolist() == [[1, 1], [-1, 1]]
    assert binarized(np.array([[1.0, 3.0, 2.0]], np.float32)).table.tolist() == [[-1, 1, 1]]


def test_a_bit_a_weight_is_stored_and_the_module_computes_with_it(small):
    result = made(small, {"method": "binarize", "layers": "fc1"})
    encoding = result.encodings["fc1.weight"]
    assert store.kind(encoding) == "binary"
    assert store.payload_bits(encoding) == 6 * 8  # six rows of eight signs
    assert store.scale_bits(encoding) == 6 * 32
    stored = store.decode(encoding)
    np.testing.assert_array_equal(result.module.fc1.weight.detach().numpy(), stored)
    assert result.policies == ()


def test_activations_become_signs_or_codes(small):
    signs = made(small, {"method": "binarize", "layers": "fc1", "activations": {"bits": 1}})
    assert signs.policies == (OperandPolicy("fc1", "input", 1, True, "row", "dynamic"),)
    codes = made(small, {"method": "binarize", "layers": "fc1", "activations": {"bits": 8}})
    assert codes.policies == (OperandPolicy("fc1", "input", 8, True, "row", "dynamic"),)


def test_all_four_products_of_attention_are_of_bits(small):
    """q, k and v are signs with a scale a row; probabilities are unsigned."""
    entry = {"method": "binarize", "layers": "attn*", "activations": {"bits": 1}}
    found = {(p.target, p.operand): p for p in made(small, entry).policies}
    assert {operand for target, operand in found if target == "attn"} == {"q", "k", "v", "p"}
    assert {target for target, operand in found if operand == "input"} == {
        f"attn.{name}_proj" for name in ("q", "k", "v", "out")
    }
    assert {p.bits for p in found.values()} == {1}
    assert [key for key, p in found.items() if not p.signed] == [("attn", "p")]
    linears = made(small, {**entry, "scope": ["linear"]}).policies
    assert {p.operand for p in linears} == {"input"}
    assert made(small, {**entry, "activations": None}).policies == ()


def test_attention_with_a_bias_stays_float_and_is_noted(small):
    small.attn.takes_codes = False
    result = made(small, {"method": "binarize", "layers": "attn*", "activations": {"bits": 1}})
    assert {p.target for p in result.policies} == {
        f"attn.{name}_proj" for name in ("q", "k", "v", "out")
    }
    (note,) = result.notes
    assert note.startswith("binarize: products of 1 attentions stay fp32 (attn, ...)")


def test_convolutions_are_refused(small):
    with pytest.raises(CosimError, match="conv"):
        made(small, {"method": "binarize", "layers": "conv"})


@pytest.mark.parametrize("bits", [1, 8])
def test_what_is_executed_is_what_the_ops_mean(bits):
    spec = small_whisper.linear_spec()
    entry = {"method": "binarize", "activations": {"bits": bits}}
    result = made(spec.module, entry)
    program = lower("one", [spec], encodings=result.encodings, policies=result.policies)
    graph = program.graph("encoder")
    assert graph.ops[0].kind == ("dynamic_binarize" if bits == 1 else "dynamic_quantize")
    weights = {f"@{name}": value for name, value in result.encodings.items()}
    x = np.random.default_rng(4).standard_normal((9, 3)).astype(np.float32)
    engine = plan(Weights(program, weights), "encoder", bindings={"rows": 9})
    engine.input("x")[...] = x
    engine.run()
    stored = weights["@fc.weight"]
    constants = {"@fc.weight": Codes(store.codes(stored), store.scales(stored), (4, 3))}
    wanted, _ = run(graph, constants, {"x": x})
    np.testing.assert_allclose(engine.output("y"), wanted["y"], rtol=1e-5, atol=1e-6)
    assert bits != 1 or engine.kernels[-1].kernel == "w1a1"


def test_a_chip_is_charged_for_single_bits():
    spec = small_whisper.linear_spec()
    result = made(spec.module, {"method": "binarize", "activations": {"bits": 1}})
    program = lower("one", [spec], encodings=result.encodings, policies=result.policies)
    work = schedule(program, "encoder", bindings={"rows": 64})
    gemm = next(item for item in work.items if item.name == "encoder/fc")
    assert (gemm.a_number, gemm.w_number) == ("i1", "i1")
    assert gemm.a.stored_bits == 64 * 3
    assert gemm.w.stored_bits == store.size_bits(result.encodings["fc.weight"])
