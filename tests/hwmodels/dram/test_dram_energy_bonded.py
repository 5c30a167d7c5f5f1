"""Bonded memories: vias times rate, ranges that go through, and what becomes of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from dram_traces import make_trace

from cosim import config
from cosim.errors import CosimError
from hwmodels.architecture import Figure
from hwmodels.dram.controller import simulate
from hwmodels.dram.energy import dram_counts, dram_prices, dram_rows
from hwmodels.dram.parametric import (
    BondedMemory,
    array_bandwidth,
    bond_bandwidth,
    dram_energy,
    dram_spec,
    grid_density,
    peak_bandwidth,
    technology,
)
from hwmodels.dram.policy import POLICIES
from hwmodels.dram.problems import SpecError
from hwmodels.energy import Ledger

FOLDER = Path(__file__).resolve().parents[3] / "configs/memory/bonded"
FILES = sorted(FOLDER.glob("*.yaml"))


def load(name):
    return config.load(FOLDER / f"{name}.yaml", BondedMemory)


@pytest.mark.parametrize(
    ("pitch_m", "per_mm2", "gigabytes_per_s"),
    [(40e-6, 625, 39), (20e-6, 2500, 156), (9e-6, 12_346, 772), (2.2e-6, 206_612, 12_900)],
)
def test_a_square_millimetre_of_vias_carries_what_its_pitch_allows(
    pitch_m, per_mm2, gigabytes_per_s
):
    # 1 Gb/s per via, half of them signals: the bound by pitch, worked out in a survey of ours.
    assert grid_density(pitch_m) / 1e6 == pytest.approx(per_mm2, rel=1e-3)
    one = replace(
        load("bonded_sram"),
        area_m2=Figure(1e-6, "test"),
        vias_per_m2=Figure(grid_density(pitch_m), "test"),
        signal_share=Figure(0.5, "test"),
        bits_per_via_per_s=Figure(1e9, "test"),
    )
    assert bond_bandwidth(one).value / 1e9 == pytest.approx(gigabytes_per_s, rel=5e-3)


def test_ranges_go_through_to_the_bandwidth():
    memory = replace(
        load("bonded_sram"),
        area_m2=Figure(2e-6, "a", 1e-6, 3e-6),
        vias_per_m2=Figure(1e10, "b", 0.5e10, 4e10),
        signal_share=Figure(0.25, "c"),
        bits_per_via_per_s=Figure(8e8, "d", 4e8, 16e8),
        access_s=Figure(1e-9, "e", 0.5e-9, 4e-9),
    )
    bond = bond_bandwidth(memory)
    assert (bond.value, *bond.bounds) == pytest.approx((5e11, 6.25e10, 6e12), rel=1e-12)
    array = array_bandwidth(memory)  # 16 channels of 64 bytes
    assert (array.value, *array.bounds) == pytest.approx((1.024e12, 2.56e11, 2.048e12), rel=1e-12)
    peak = peak_bandwidth(memory)
    assert (peak.value, *peak.bounds) == pytest.approx((5e11, 6.25e10, 2.048e12), rel=1e-12)
    assert peak.source.startswith("bond: ")
    assert peak_bandwidth(load("bonded_sram")).source.startswith("array: ")


def test_the_shipped_sram_has_the_bandwidth_and_size_of_its_product():
    found = technology(load("bonded_sram"))
    assert found.channels * found.peak_bytes_per_s.value == pytest.approx(2.048e12, rel=1e-12)
    assert found.channels * found.capacity_bytes == pytest.approx(64 << 20, rel=2e-3)
    assert found.read_j_per_bit.value == pytest.approx(0.27e-12, rel=1e-12)
    assert found.read_j_per_bit.bounds == pytest.approx((0.13e-12, 0.72e-12), rel=1e-12)
    assert found.latency_s.value == pytest.approx(4.2e-9, rel=1e-12)
    assert found.background_w.value == pytest.approx(found.capacity_bytes * 1.1e-10, rel=1e-12)


def test_the_shipped_dram_has_the_published_bandwidth_per_gigabit():
    # 135 GB/s per Gb on 4 Gb, and one access a clock on a bus of one access.
    memory = load("bonded_dram")
    spec = dram_spec(memory)
    assert spec.status == memory.status == "hypothetical"
    assert spec.organisation.capacity_bytes * 8 == 4 << 30
    assert spec.peak_bytes_per_s == pytest.approx(4 * 135e9, rel=0.05)
    assert spec.peak_bytes_per_s == pytest.approx(peak_bandwidth(memory).value, rel=1e-9)
    assert spec.organisation.bus_bits == 128
    assert spec.cycles("tRCDRD") == 8  # 14 ns at 550 MHz are 7.7 clocks
    assert (spec.cycles("tRC"), spec.cycles("tRTW")) == (19 + 8, 6 + 1 + 2 - 3)


@pytest.mark.parametrize("rate", [500e6, 640e6, 800e6, 1e9, 1.7e9])
def test_any_rate_of_the_vias_gives_timings_that_agree(rate):
    # What is stated in nanoseconds is rounded up clock by clock, and tRC must hold both its parts.
    memory = replace(load("bonded_dram"), bits_per_via_per_s=Figure(rate, "test"))
    spec = dram_spec(memory)
    assert spec.cycles("tRC") == spec.cycles("tRAS") + spec.cycles("tRP")
    assert spec.clock_ps == pytest.approx(1e12 / rate, rel=1e-12)
    assert spec.cycles("tRAS") == -(-34 * int(rate) // 10**9)


def test_fewer_vias_make_a_narrower_bus_and_longer_bursts():
    memory = load("bonded_dram")
    few = replace(memory, vias_per_m2=Figure(grid_density(40e-6), "test"))
    array = replace(
        memory.array,
        timings={
            **memory.array.timings,
            "tCCD_S": replace(memory.array.timings["tCCD_S"], cycles=2),
            "tCCD_L": replace(memory.array.timings["tCCD_L"], cycles=2),
        },
    )
    spec = dram_spec(replace(few, array=array))
    # 64 mm2 x 625 x 0.25 / 64 channels = 156 data vias; with half of them, 78, a bus of 64 bits.
    assert spec.organisation.bus_bits == 128
    half = replace(few, array=array, signal_share=Figure(0.125, "test"))
    spec = dram_spec(half)
    assert (spec.organisation.bus_bits, spec.organisation.burst_length) == (64, 2)
    assert spec.organisation.burst_bytes == 16
    assert spec.peak_bytes_per_s == pytest.approx(64 * 64 / 8 * 550e6, rel=1e-9)


def test_reads_of_bonded_dram_take_the_published_energy():
    memory = load("bonded_dram")
    spec, energy = dram_spec(memory), dram_energy(memory)
    prices = dram_prices(spec, energy)
    counts = dram_counts(spec, {"RD": 1000}, rank_ticks=0, open_rank_ticks=0)
    total = sum(row.energy_j for row in Ledger(prices).rows(counts))
    assert total / (1000 * 128) == pytest.approx(0.66e-12, rel=1e-9)


def test_a_stream_from_bonded_dram_is_held_up_by_refresh_alone():
    # 40 us: ten intervals of 3.9 us, of which tRFC takes 110 ns each; ACT of 1 KB rows adds
    # 414 pJ / 8192 bits, 0.05 pJ/bit, to the 0.66 of reads and bond.
    memory = load("bonded_dram")
    spec = dram_spec(memory)
    policy = POLICIES["ramulator2"]
    count = int(40e-6 * spec.peak_bytes_per_s / 16)
    free = simulate(spec, replace(policy, refresh="none"), make_trace(spec, "SR", count))
    assert free.bandwidth_bytes_per_s(count // 10) / spec.peak_bytes_per_s >= 0.9999
    stats = simulate(spec, policy, make_trace(spec, "SR", count))
    share = stats.bandwidth_bytes_per_s(count // 10) / spec.peak_bytes_per_s
    assert 0.96 < share <= 1 - 110 / 3900 + 2e-3
    rows = {row.action: row.energy_j for row in dram_rows(stats, dram_energy(memory))}
    moving = rows["activate"] + rows["read_burst"] + rows["via_bit"] + rows["io_bit"]
    assert moving / (128 * count) == pytest.approx(0.711e-12, rel=0.01)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_bonded_memory_claims_to_be_published(path):
    memory = config.load(path, BondedMemory)
    assert memory.name == path.stem
    assert memory.status != "published"
    assert ("HYPOTHETICAL" in path.read_text().splitlines()[0]) == (memory.status == "hypothetical")
    figures = [value for value in vars(memory).values() if isinstance(value, Figure)]
    assert all(figure.bounds[0] < figure.bounds[1] for figure in figures)
    assert sum("assumed" in figure.source for figure in figures) >= 8


def test_sram_has_no_dram_timing():
    with pytest.raises(SpecError, match="bonded_sram: found sram"):
        dram_spec(load("bonded_sram"))


def test_all_contradictions_are_told_at_once():
    data = config.read(FOLDER / "bonded_dram.yaml")
    data["kind"] = "sram"
    data["access_bits"] = 96
    data["signal_share"] = {"value": 0.9, "high": 1.5, "source": "assumed"}
    data["area_m2"] = {"value": 1e-6, "low": 0, "source": "assumed"}
    data["access_s"] = {"value": 1e-9, "low": 2e-9, "source": "assumed"}
    with pytest.raises(CosimError) as caught:
        config.parse(data, BondedMemory, source="bonded.yaml")
    text = "\n".join(caught.value.problems)
    for part in (
        "array: found an array of sram",
        "access_bits: found 96, expected a power of two",
        "signal_share: found 1.5, expected at most 1",
        "area_m2: found low 0, expected more",
        "access_s: found low 2e-09, value 1e-09, high 1e-09",
        "interleave_bytes: found 256, expected a multiple of an access, 12 bytes",
    ):
        assert part in text, part
