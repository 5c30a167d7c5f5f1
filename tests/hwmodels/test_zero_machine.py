"""Chips that leave out zeros: time lines, bytes and energy of whole GEMMs, and mistakes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hw_samples import figure, gemm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosim import config
from hwmodels.architecture import Architecture, MappingChoice, SparseUnit
from hwmodels.cells import ComposableCell
from hwmodels.simulate import simulate
from hwmodels.skipping import POLICIES
from hwmodels.sparse_timing import policy_cycles
from hwmodels.sparsity import uniform_mask
from hwmodels.workload import Nonzero, Workload

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FLOWS = [(name, flow) for name, one in POLICIES.items() for flow in one.dataflows]
UNITS = {
    "row_skip": SparseUnit(None),
    "column_compact": SparseUnit(None),
    "nm": SparseUnit(None, kept=1, run=2),
    "csr_gather": SparseUnit(None, banks=4),
}
SHARED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def prices(table):
    more = {
        name: figure(value)
        for name, value in [
            ("index_decode", 1e-13),
            ("gather", 2e-13),
            ("scatter", 3e-13),
            ("select", 4e-13),
        ]
    }
    return replace(table, actions=table.actions | more)


def sparse(chip, name, flow, **more):
    array = replace(chip.array, sparsity=name, dataflow=flow, sparse_unit=UNITS.get(name), **more)
    return replace(chip, array=array)


def masked(product, density, seed=0):
    mask = uniform_mask(
        product.count * product.n,
        product.k,
        density=density,
        generator=np.random.default_rng(seed),
    )
    return replace(product, nonzero=Nonzero(mask, f"{mask.shape} {density} {seed}"))


@SHARED
@given(
    pair=st.sampled_from(FLOWS),
    m=st.integers(1, 9),
    n=st.integers(1, 13),
    k=st.integers(1, 13),
    count=st.integers(1, 2),
    density=st.sampled_from([0.02, 0.3, 1.0]),
    schedule=st.sampled_from(["serial", "double_buffered"]),
)
def test_with_ideal_memory_a_whole_gemm_takes_its_stall_free_cycles(
    pair, m, n, k, count, density, schedule, make_chip, ideal, prices
):
    chip = sparse(make_chip(4, 3, schedule, size=1 << 16), *pair)
    item = masked(gemm("g", m, n, k, count=count), density)
    stats = simulate(Workload("w", (item,)), chip, technology=ideal, energy=prices)
    (layer,) = stats.layers
    (free,) = policy_cycles([item], chip.array, [pair[0]])
    assert layer.cycles.total == layer.cycles.array == free.cycles
    assert layer.array_macs == free.array_macs
    assert free.dense_cycles >= free.cycles or pair[0] == "csr_gather"


@SHARED
@given(
    pair=st.sampled_from(FLOWS),
    n=st.integers(20, 40),
    k=st.integers(20, 60),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    schedule=st.sampled_from(["serial", "double_buffered"]),
)
def test_in_tiles_ledgers_sum_and_memory_moves_what_is_stored(
    pair, n, k, density, schedule, make_chip, make_memory, prices
):
    chip = sparse(make_chip(4, 4, schedule, size=512, output_size=512), *pair)
    chip = replace(chip, mapping=MappingChoice("latency"))  # the same tiles with zeros and without
    plain = sparse(chip, "dense", pair[1])
    item = masked(gemm("g", 30, n, k), density)
    found, dense = (
        simulate(Workload("w", (item,)), one, technology=make_memory(), energy=prices)
        for one in (chip, plain)
    )
    traffic = found.traffic
    assert traffic.dram_write == dense.traffic.dram_write
    if pair[1] == "output_stationary":  # dense sums may leave their cells so that less is loaded
        assert traffic.dram_read >= dense.traffic.dram_read
    else:
        assert traffic.dram_read == dense.traffic.dram_read
    outputs = 30 * n * 4
    assert traffic.partial_sums_written - traffic.partial_sums_read == outputs
    assert outputs <= traffic.partial_sums_written <= dense.traffic.partial_sums_written
    assert found.layers[0].array_macs <= dense.layers[0].array_macs
    if pair[0] != "csr_gather":  # lanes may wait for banks
        assert found.cycles.array <= dense.cycles.array
        assert traffic.input_buffer_read <= dense.traffic.input_buffer_read


def test_bytes_and_energy_of_kept_rows_by_hand(make_chip, ideal, prices):
    # 6 x 5 weights on 2 x 3 cells, 4 activation rows: columns 0-2 keep k = 0, 2, 4 (two folds),
    # columns 3-5 keep none. 3 bits name a k.
    w = np.zeros((6, 5), bool)
    w[0, [0, 2]] = w[2, 4] = True
    mask = Nonzero(np.packbits(w, axis=1, bitorder="little"), "by hand")
    item = replace(gemm("g", 4, 6, 5), nonzero=mask)
    chip = sparse(make_chip(2, 3, "serial"), "row_skip", "weight_stationary")
    stats = simulate(Workload("w", (item,)), chip, technology=ideal, energy=prices)
    (layer,) = stats.layers
    assert layer.cycles.total == 2 * (2 * 2 + 3 + 4 - 2)
    assert (layer.sparsity, layer.array_macs, layer.macs) == ("row_skip", 4 * 9, 4 * 30)
    assert layer.cycles_note == "cycles: closed form, not RTL-checked"
    traffic = layer.traffic
    assert (traffic.dram_read, traffic.dram_write) == (20 + 30, 96)
    assert traffic.input_buffer_read == 4 * 3
    assert traffic.weight_buffer_write == 30 + 2  # 9 index bits
    assert traffic.weight_buffer_read == 9 + 2
    # columns 0-2 write their sums twice; columns 3-5 write their zeros once
    assert traffic.partial_sums_written == 4 * 4 * (3 * 2 + 3)
    assert traffic.partial_sums_read == 4 * 4 * 3
    counts = {row.action: row.count for row in layer.energy}
    assert (counts["index_decode"], counts["gather"]) == (3, 4 * 3)
    assert counts["mac_i8xi8"] == 36


def test_products_of_one_gemm_have_their_own_zeros(make_chip, ideal, prices):
    w = np.zeros((4, 4), bool)
    w[2:, :2] = True  # the second product, one of two folds
    mask = Nonzero(np.packbits(w, axis=1, bitorder="little"), "second only")
    items = (
        replace(gemm("two", 3, 2, 4, count=2), nonzero=mask),
        gemm("all", 3, 2, 4, count=2),
    )
    chip = sparse(make_chip(2, 2, "serial"), "skip_zero_fold", "weight_stationary")
    stats = simulate(Workload("w", items), chip, technology=ideal, energy=prices)
    assert [layer.cycles.array for layer in stats.layers] == [7, 4 * 7]
    assert [layer.cycles_note for layer in stats.layers] == ["", ""]


def test_what_is_assumed_or_computed_dense_is_said(make_chip, ideal, prices):
    items = (
        replace(gemm("listed", 3, 5, 8), nonzero=0.25),
        masked(gemm("scattered", 3, 5, 8), 0.8),
        gemm("full", 3, 5, 8),
    )
    chip = sparse(make_chip(2, 2, "serial"), "nm", "weight_stationary")
    stats = simulate(Workload("w", items), chip, technology=ideal, energy=prices)
    assert stats.notes == ("listed: assumed uniform density 0.25, as nm sees it",)
    assert stats.warnings == ("scattered: a run of 2 weights holds 2, more than 1: computed dense",)
    cycles = [layer.cycles.array for layer in stats.layers]
    assert cycles[0] * 2 == cycles[1] == cycles[2] == 12 * 7


def test_scale_groups_are_computed_dense_and_said(make_chip, ideal, prices):
    plain = masked(gemm("grouped", 3, 4, 8), 0.2)
    grouped = replace(plain, scale_group=4)
    chip = sparse(make_chip(2, 2, "serial"), "row_skip", "weight_stationary")
    stats = simulate(Workload("w", (grouped,)), chip, technology=ideal, energy=prices)
    assert stats.warnings == (
        "grouped: row_skip does not take a sum in scale groups: computed dense",
    )
    assert stats.layers[0].array_macs == plain.macs


def test_words_of_two_operands_are_left_out_when_both_are_zero(make_chip, ideal, prices):
    # Weights of 4 bits, two in a word: of 4 words along k = 8, word 0 (k = 0, 1) and word 3 (k = 6)
    # are not zero for columns 0 and 1. On 2 x 2 cells one fold of 2 + 1 + 3 + 1 cycles is left.
    w = np.zeros((2, 8), bool)
    w[0, [0, 1]] = w[1, 6] = True
    mask = Nonzero(np.packbits(w, axis=1, bitorder="little"), "words")
    item = replace(gemm("g", 3, 2, 8, w_number="i4"), nonzero=mask)
    chip = make_chip(2, 2, "serial", supports=("i8xi4",))
    chip = sparse(chip, "row_skip", "weight_stationary", cell=ComposableCell("composable"))
    table = replace(prices, actions=prices.actions | {"mac_i8xi4": figure(1e-13)})
    stats = simulate(Workload("w", (item,)), chip, technology=ideal, energy=table)
    (layer,) = stats.layers
    assert (layer.cycles.total, layer.array_macs) == (7, 3 * 2 * 4)
    assert layer.traffic.input_buffer_read == 3 * 2 * 2
    (free,) = policy_cycles([item], chip.array, ["row_skip"])
    assert (free.cycles, free.dense_cycles, free.array_macs) == (7, 14, 24)
    chosen = sparse(chip, "nm", "weight_stationary")
    stats = simulate(Workload("w", (item,)), chosen, technology=ideal, energy=table)
    assert stats.warnings == ("g: nm does not take words of several operands: computed dense",)


def test_a_chip_file_names_its_policy_and_what_it_needs(tmp_path):
    text = (CONFIGS / "hardware" / "stacked_edge_32.yaml").read_text()
    unit = "sparsity: nm, sparse_unit: {decoded_per_cycle: null, kept: 2, run: 4}, "
    path = tmp_path / "chip.yaml"
    path.write_text(text.replace("array: {", "array: {" + unit))
    array = config.load(path, Architecture).array
    assert (array.sparsity, array.sparse_unit) == ("nm", SparseUnit(None, kept=2, run=4))
    path.write_text(text.replace("array: {", "array: {sparsity: rowskip, "))
    with pytest.raises(ValueError, match="row_skip"):
        config.load(path, Architecture)


def test_a_chip_with_mistakes_lists_all_of_them(make_chip, ideal, table):
    chip = sparse(make_chip(), "csr_gather", "weight_stationary")
    with pytest.raises(ValueError, match=r"tiny: array\.sparsity") as error:
        simulate(Workload("w", (gemm("g", 2, 2, 2),)), chip, technology=ideal, energy=table)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert 'expected "dataflow: output_stationary", found weight_stationary' in lines[0]
    assert [line.split('"')[1] for line in lines[1:]] == ["index_decode", "gather"]
