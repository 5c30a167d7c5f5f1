"""Bandwidth, latency, row hits and energy of the controller against two published simulators.

The figures are in configs/memory/reference; `cosim bench --filter memory` prints all differences.
"""

import pytest

from cosim.bench.memory import cases, reference_rows, references

CASES = [(one, case) for one in references() for case in cases(one)]
QUICK = {
    "hbm2_2000/ramulator2/SR",
    "hbm2_2000/ramulator2/MIX",
    "hbm2_2000/ramulator2/RM",
    "hbm2_2000/ramulator2/SR-0.8",
    "ddr4_3200/ramulator2/SR",
    "ddr4_3200/ramulator2/S256",
    "hbm3_6400/ramulator2/MIX",
    "lpddr5_6400/ramulator2/MIX",
    "hbm2_2000_legacy/dramsim3/SR",
    "hbm2_2000_legacy/dramsim3/RR",
    "hbm2_2000_legacy/dramsim3/MIX",
}
TOLERANCE = {"share_of_peak": 0.005, "mean_ns": 0.005, "p99_ns": 0.005, "row_hit_rate": 0.005}
LINKS = {"share_of_peak": 0.005, "mean_ns": 0.1, "p99_ns": 0.15}
"""Of requests that cross the links of a cube: random ones wait longer than in the simulator."""
ENERGY = 0.01
EXACT = 5e-4  # as many digits as are printed


def parameters():
    """Yield every case as a parameter; traces but the quick ones are slow."""
    for reference, case in CASES:
        name = case.removeprefix("memory/")
        is_quick = name in QUICK or name.endswith(("/idle", "/commands"))
        marks = [] if is_quick else [pytest.mark.slow]
        yield pytest.param(reference, case, id=name, marks=marks)


@pytest.mark.parametrize(("reference", "case"), [*parameters()])
def test_a_point_is_met(reference, case, record_property):
    rows = list(reference_rows(reference, case))
    assert rows
    for row in rows:
        record_property(row["quantity"], row["ours"])
    tolerance = LINKS if reference.policy == "dramsim3_links" else TOLERANCE
    for row in rows:
        name = row["quantity"]
        relative = ENERGY if name.endswith("_pj_per_bit") else tolerance.get(name, EXACT)
        # a hit rate of .00 has no digit to compare
        absolute = 0.005 if name == "row_hit_rate" else 0
        assert row["ours"] == pytest.approx(row["reference"], rel=relative, abs=absolute), name


def test_every_quick_case_is_there():
    assert {f"memory/{name}" for name in QUICK} <= {case for _, case in CASES}
