"""What products of single bits cost: worked out by hand, and where chips do them."""

import pytest

from cosim.chip import parse_chip
from cosim.config import configs_root, read
from cosim.ir import from_text
from cosim.schedule import schedule
from cosim.simulate import simulate_workloads
from cosim.verify import verify
from hwmodels.workload import Gemm, VectorOp

BLOCK = """\
program "p"
constant @level : f32<1> dense {} bits 32 index 0 sha256 0a
constant @move : f32<3, 1, 36> dense {} bits 3456 index 0 sha256 0b
constant @w : f32<20, 36> binary {} bits 1440 index 0 sha256 0c
graph g(t) {
  input %x : f32<1, 3, t, 36>
  %q, %qs = dynamic_binarize(%x) {set="signed"} : i1<1, 3, t, 36>, f32<1, 3, t>
  %s = binarize(%x, @level, @move) {set="signed"} : i1<1, 3, t, 36>
  %u, %us = dynamic_binarize(%x) {set="unsigned"} : u1<1, 3, t, 36>, f32<1, 3, t>
  %a = binary_attention(%q, %qs, %q, %qs, %s, @level) {scale=float(0x1p-1)} : f32<1, 3, t, 36>
  %b = binary_attention(%q, %qs, %q, %qs, %q, %qs, @level) {scale=float(0x1p-1)} : \
f32<1, 3, t, 36>
  %y = quantized_linear(%u, %us, @w) : f32<1, 3, t, 20>
  return a = %a
  return b = %b
  return y = %y
}
"""
T = 10


@pytest.fixture(scope="module")
def work():
    return schedule(verify(from_text(BLOCK)), "g", bindings={"t": T})


def test_both_products_of_attention_are_gemms_of_bits_with_the_same_macs(work):
    scores, context = (item for item in work.items[3:9] if isinstance(item, Gemm))
    assert (scores.count, scores.m, scores.n, scores.k) == (3, T, T, 36)
    assert (context.count, context.m, context.n, context.k) == (3, T, 36, T)
    assert (scores.a_number, scores.w_number, scores.accumulator) == ("i1", "i1", "i32")
    assert (context.a_number, context.w_number, context.accumulator) == ("u1", "i1", "i32")
    assert scores.a.stored_bits == 3 * T * 36  # a bit each
    assert context.a.stored_bits == 3 * T * T
    assert scores.macs == context.macs == 3 * T * T * 36


def test_making_bits_costs_passes_over_the_operand(work):
    made = [item for item in work.items if isinstance(item, VectorOp)]
    first = {item.name: item for item in made if item.kind == "quantize"}
    assert [(item.function, item.elements, item.row_length) for item in first.values()] == [
        ("dynamic_binarize", 3 * T * 36, 36),
        ("binarize", 3 * T * 36, 36),
        ("dynamic_binarize_steps", 3 * T * 36, 36),
    ]
    roundings = [item for item in made if item.name.endswith(("attention.quantize", "#2.quantize"))]
    assert [(item.function, item.elements) for item in roundings] == [
        ("dynamic_binarize_steps", 3 * T * T),  # the level of each row of probabilities
        ("binarize", 3 * T * T),  # a level that is known
    ]


def test_steps_times_signs_are_a_product_of_bits(work):
    linear = [item for item in work.items if isinstance(item, Gemm)][-1]
    assert (linear.a_number, linear.w_number, linear.m, linear.n, linear.k) == (
        *("u1", "i1", 3 * T, 20, 36),
    )
    assert linear.a.stored_bits == 3 * T * 36


@pytest.mark.parametrize("has_bits", [True, False])
def test_a_chip_that_multiplies_bits_does_so_on_its_array(work, has_bits):
    root = configs_root()
    hardware = read(root / "hardware" / "stacked_edge_16.yaml")
    energy = read(root / "energy" / "aladdin_cacti_28nm.yaml")
    if has_bits:
        hardware["array"]["supports"] += ["i1xi1", "u1xi1"]
        figure = {"value": 1.0e-14, "source": "assumed for a test"}
        energy["actions"].update(mac_i1xi1=figure, mac_u1xi1=figure)
    chip = parse_chip(
        hardware,
        energy,
        source="edge",
        table_source="energy",
        relative_to=root / "hardware" / "stacked_edge_16.yaml",
    )
    stats = simulate_workloads([work], chip, "g")
    on_vectors = [line for line in stats.warnings if "runs on the vector unit" in line]
    counts = [int(line.split()[0]) if " products " in line else 1 for line in on_vectors]
    assert sum(counts) == (0 if has_bits else 5)
