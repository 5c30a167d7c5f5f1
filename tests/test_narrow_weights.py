"""Stored widths of weights reach the chip: as numbers of products, and as cycles of its cells."""

import pytest

from cosim.chip import load_chip
from cosim.config import configs_root
from cosim.ir import from_text
from cosim.schedule import schedule
from cosim.simulate import simulate_workloads
from cosim.verify import verify
from hwmodels.workload import Gemm

T, K, N = 70, 96, 64
HEAD = """\
program "p"
constant @w : f32<{n}, {k}> {form} bits {bits} index 0 sha256 0a
graph g(t) {{
  input %x : f32<t, {k}>
  %q, %s = dynamic_quantize(%x) {{per="row"}} : i8<t, {k}>, f32<t>
  %y = quantized_linear(%q, %s, @w) : f32<t, {n}>
  return y = %y
}}
"""


def work(bits, group=K):
    form = f'bitpacked {{"bits": {bits}, "group": {group}}}'
    stored = N * K * bits + 32 * N * K // group
    text = HEAD.format(n=N, k=K, form=form, bits=stored)
    return schedule(verify(from_text(text)), "g", bindings={"t": T})


def gemm_of(workload):
    return next(item for item in workload.items if isinstance(item, Gemm))


@pytest.mark.parametrize(
    ("bits", "number"), [(8, "i8"), (5, "i8"), (4, "i4"), (3, "i4"), (2, "i2")]
)
def test_codes_are_numbers_of_the_least_width_that_holds_them(bits, number):
    assert gemm_of(work(bits)).w_number == number


WHOLE = ["mapping.objective=latency"]  # tiles in which every fold hides the next one's weights


def test_fewer_stored_bits_take_fewer_cycles_on_composable_cells_and_as_many_on_fixed_ones():
    fixed, composable = (
        load_chip(configs_root() / "hardware" / f"{name}_edge_32.yaml", assignments=WHOLE)
        for name in ("stacked", "composable")
    )
    cycles = {
        (chip.name, bits): simulate_workloads([work(bits)], chip, "g").cycles.array
        for chip in (fixed, composable)
        for bits in (8, 4, 2)
    }
    # two blocks of 32 columns; 3 folds of 32 weights, 2 of 64 or 1 of 128 (two cycles a word)
    once = 32 + 31 + 31
    assert {cycles[fixed.name, bits] for bits in (8, 4, 2)} == {once + 6 * T}
    assert [cycles[composable.name, bits] for bits in (8, 4, 2)] == [
        *(once + 6 * T, once + 4 * T, once + 4 * T),
    ]


FLOATS = """\
program "p"
constant @h : f32<{n}, {k}> half {{"number": "{number}"}} bits {bits} index 0 sha256 0a
graph g(t) {{
  input %x : f32<t, {k}>
  %c = cast(%x) {{number="{number}"}} : {number}<t, {k}>
  %y = linear(%c, @h) : f32<t, {n}>
  return y = %y
}}
"""


@pytest.mark.parametrize("number", ["f16", "bf16"])
def test_products_of_16_bit_floats_run_on_cells_for_them_and_on_lanes_elsewhere(number):
    text = FLOATS.format(n=N, k=K, number=number, bits=16 * N * K)
    item = schedule(verify(from_text(text)), "g", bindings={"t": T})
    assert (gemm_of(item).a_number, gemm_of(item).w_number) == (number, number)
    found = {}
    for name in ("stacked", "float"):
        path = configs_root() / "hardware" / f"{name}_edge_32.yaml"
        found[name] = simulate_workloads([item], load_chip(path, assignments=WHOLE), "g")
    assert not found["float"].warnings
    assert found["float"].cycles.array == 32 + 31 + 31 + 6 * T
    actions = {row.action for row in found["float"].energy if row.component == "array"}
    assert actions == {f"mac_{number}x{number}", "register_bit", "clock", "leakage"}
    assert "runs on the vector unit" in found["stacked"].warnings[0]
    assert found["stacked"].cycles.array == 0


def test_groups_of_scales_are_rescaled_where_the_chip_says():
    found = {}
    for name in ("stacked", "composable"):
        chip = load_chip(configs_root() / "hardware" / f"{name}_edge_32.yaml")
        stats = simulate_workloads([work(4, group=32)], chip, "g")
        rows = {(row.component, row.action): row.count for row in stats.energy}
        lanes = sum(rows.get(("vector_unit", name), 0) for name in ("vector_op", "quantize_op"))
        found[name] = rows.get(("array", "rescale"), 0), lanes
    number = 3 * T * N  # three groups along the sum
    assert found["composable"][0] == number
    assert found["stacked"] == (0, found["composable"][1] + 2 * number)
