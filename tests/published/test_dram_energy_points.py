"""Energy of the DRAM core against DRAMsim3, component by component.

Picojoules per bit that DRAMsim3 (2981759) reported for 100,000 requests of the traces that
tests/dram_traces.py carries out. Its unit is V mA clocks: exact for HBM2, whose clock takes 1 ns,
and to be multiplied by the clock in ns otherwise (0.63 for DDR4).
"""

import sys
from pathlib import Path

import pytest
from dram_traces import make_trace

from cosim import config
from hwmodels.dram.controller import simulate
from hwmodels.dram.energy import DramEnergy, dram_rows
from hwmodels.dram.policy import policy
from hwmodels.dram.spec import DramSpec

FOLDER = Path(__file__).resolve().parents[2] / "configs/memory"
COUNT = 100_000
PARTS = {
    "act": ("activate",),
    "rd": ("read_burst",),
    "wr": ("write_burst",),
    "ref": ("refresh_rank",),
    "bg": ("open_tick", "closed_tick"),
}
POINTS = {
    ("hbm2_2000_legacy", "SR", None): {
        "total": 1.957,
        "act": 0.057,
        "rd": 1.570,
        "ref": 0.057,
        "bg": 0.273,
    },
    ("hbm2_2000_legacy", "SW", None): {"total": 2.455, "wr": 2.071},
    ("hbm2_2000_legacy", "RR", None): {"total": 4.491, "act": 1.621, "bg": 1.053},
    ("hbm2_2000_legacy", "MIX", None): {"total": 2.293},
    ("hbm2_2000_legacy", "SR", 0.1): {"total": 4.791, "bg": 2.529, "ref": 0.608},
    ("ddr4_3200_2rank", "SR", None): {"total": 17.94, "rd": 8.70, "bg": 7.73, "ref": 1.39},
    ("ddr4_3200_2rank", "SW", None): {"total": 16.59},
    ("ddr4_3200_2rank", "RR", None): {"total": 33.0, "act": 13.2},
    ("ddr4_3200_2rank", "MIX", None): {"total": 18.32},
}


def split(name, trace_name, load):
    """Return picojoules per bit by component, in the units of the reference."""
    spec = config.load(FOLDER / f"timing/{name}.yaml", DramSpec)
    energy = config.load(FOLDER / f"energy/{name}.yaml", DramEnergy)
    stats = simulate(spec, policy("dramsim3"), make_trace(spec, trace_name, COUNT, load=load))
    found = dict.fromkeys(PARTS, 0.0)
    unit = 1e-12 * (spec.clock_ps / 1000) * 8 * spec.organisation.burst_bytes * COUNT
    for row in dram_rows(stats, energy):
        for part, actions in PARTS.items():
            if row.action in actions:
                found[part] += row.energy_j / unit
    return {**found, "total": sum(found.values())}


QUICK = {("hbm2_2000_legacy", "SR", None), ("hbm2_2000_legacy", "MIX", None)}


def label(point):
    name, trace_name, load = point
    return f"{name}-{trace_name}-{load or 'sat'}"


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, id=label(point), marks=[] if point in QUICK else [pytest.mark.slow])
        for point in POINTS
    ],
)
def test_each_component_is_within_two_percent(point):
    found = split(*point)
    for part, reference in POINTS[point].items():
        sys.stdout.write(
            f"{label(point)} {part}: {reference:g} pJ/bit in the reference, "
            f"{found[part]:.4g} here, {found[part] / reference - 1:+.2%}\n"
        )
    for part, reference in POINTS[point].items():
        assert found[part] == pytest.approx(reference, rel=0.02), part


def test_a_stream_from_hbm2_takes_what_is_published_in_all():
    # O'Connor et al., MICRO-50 2017: 3.97 pJ/bit, 3.92 in the text, pins included.
    spec = config.load(FOLDER / "timing/hbm2_2000.yaml", DramSpec)
    energy = config.load(FOLDER / "energy/hbm2_2000.yaml", DramEnergy)
    count = 60_000
    stats = simulate(spec, policy("ramulator2"), make_trace(spec, "SR", count))
    rows = dram_rows(stats, energy)
    bits = 8 * spec.organisation.burst_bytes * count
    total, low, high = (
        sum(getattr(row, name) for row in rows) / bits
        for name in ("energy_j", "energy_low_j", "energy_high_j")
    )
    assert total == pytest.approx(3.95e-12, rel=0.05)
    assert low < 3.92e-12
    assert high > 3.97e-12
