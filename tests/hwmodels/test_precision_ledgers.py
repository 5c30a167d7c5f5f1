"""Ledgers of layers on every kind of cell, with tight buffers, ports and scale groups."""

from dataclasses import replace
from math import isclose

from hw_samples import figure, gemm, tensor, vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwmodels.array import fold
from hwmodels.cells import BitSerialCell, ComposableCell, Edge, FixedCell, FloatCell, XnorUnit
from hwmodels.precision import engine
from hwmodels.simulate import simulate
from hwmodels.workload import NUMBER_BITS, Workload

FLOWS = ["weight_stationary", "output_stationary", "input_stationary"]
CELLS = [
    FixedCell(),
    ComposableCell("composable"),
    BitSerialCell("bit_serial", "both", 4),
    FloatCell("float"),
    FloatCell("float", "cell"),
]
RUNS = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
ARRAYS = {
    "dataflow": st.sampled_from(FLOWS),
    "schedule": st.sampled_from(["serial", "double_buffered"]),
    "edge": st.builds(Edge, *2 * [st.sampled_from([None, 4, 16])]),
    "rescale": st.sampled_from(["vector_unit", "accumulators"]),
    "xnor": st.sampled_from([None, XnorUnit(2, 3, 8)]),
}
SIZES = {"m": st.integers(1, 12), "n": st.integers(1, 12), "k": st.integers(1, 60)}


def layer(a, w, sizes, group):
    m, n, k = sizes["m"], sizes["n"], sizes["k"]
    result = tensor("y", "output", (1, m, n), 32)
    item = gemm(
        "g",
        m,
        n,
        k,
        a=tensor("a", "input", (1, m, k), NUMBER_BITS[a]),
        w=tensor("w", "constant", (1, n, k), NUMBER_BITS[w]),
        result=result,
        a_number=a,
        w_number=w,
    )
    bias = vector("b", "bias", (result,), (result,), is_fused=True)
    return replace(item, scale_group=group), bias


@RUNS
@given(
    cell=st.sampled_from(CELLS),
    array=st.fixed_dictionaries(ARRAYS),
    sizes=st.fixed_dictionaries(SIZES),
    w=st.sampled_from(["i8", "i4", "i2", "i1"]),
    narrow=st.booleans(),
    group=st.sampled_from([0, 5, 16]),
    size=st.sampled_from([320, 4096]),
    is_ideal=st.booleans(),
)
def test_every_ledger_balances_on_every_cell(
    cell, array, sizes, w, narrow, group, size, is_ideal, make_chip, make_memory, table
):
    a = w if narrow else "f16" if isinstance(cell, FloatCell) else "i8"
    items = layer(a, w, sizes, group)
    priced = {f"mac_{one}x{two}": figure(1e-12) for one in NUMBER_BITS for two in NUMBER_BITS}
    priced |= {"rescale": figure(1e-12), "dequantize": figure(1e-12)}
    supports = tuple(dict.fromkeys((f"{a}x{w}", "i1xi1")))
    chip = make_chip(3, 2, size=size, port=None if is_ideal else 3, supports=supports)
    chip = replace(chip, array=replace(chip.array, cell=cell, **array))
    memory = make_memory(bandwidth=None, latency=0.0) if is_ideal else make_memory()
    stats = simulate(
        Workload("w", items),
        chip,
        technology=memory,
        energy=replace(table, actions={**table.actions, **priced}),
    )
    item, (head, fused) = items[0], stats.layers
    assert stats.cycles.total == head.cycles.total + fused.cycles.total >= stats.bound_cycles
    assert head.array_macs == item.macs
    assert 0 < head.utilization <= 1
    outputs = 4 * item.m * item.n
    sums = head.traffic
    assert sums.partial_sums_read == sums.partial_sums_written - outputs
    assert stats.traffic.dram_read >= item.a.size_bytes + item.w.size_bytes
    assert stats.energy_j == sum(row.count * row.energy_per_action_j for row in stats.energy)
    assert isclose(stats.energy_j, head.energy_j + fused.energy_j)
    found = engine(chip.array, a, w, **sizes, scale_group=group)
    rows = {row.action: row.count for row in head.energy}
    if chip.array.rescale == "accumulators":
        assert rows.get("rescale", 0) == found.rescales * item.m * item.n
    else:
        assert rows.get("vector_op", 0) == 2 * found.rescales * item.m * item.n
    whole = fold(found.array, m=item.m, n=item.n, k=found.words).total
    assert head.cycles.array >= whole
    if size == 4096:  # one tile: nothing is shifted in twice
        assert head.cycles.array == whole
