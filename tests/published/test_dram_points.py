"""Bandwidth and latency of the controller against two published simulators, point by point.

`pytest -s -m "slow or not slow" tests/published/test_dram_points.py` prints all differences.
"""

import sys
from pathlib import Path

import pytest
import yaml
from dram_traces import make_trace, memory

from hwmodels.dram.controller import simulate
from hwmodels.dram.policy import policy

GROUPS = yaml.safe_load((Path(__file__).parent / "dram_points.yaml").read_text())
COUNT = 100_000
QUICK = {
    "hbm2_2000-ramulator2-SR",
    "hbm2_2000-ramulator2-MIX",
    "hbm2_2000-ramulator2-RM",
    "hbm2_2000-ramulator2-SR-0.8",
    "ddr4_3200-ramulator2-SR",
    "ddr4_3200-ramulator2-S256",
    "hbm2_2000_legacy-dramsim3-SR",
    "hbm2_2000_legacy-dramsim3-MIX",
}


def points():
    """Yield every point as a parameter; all but the quick ones are slow."""
    for group in GROUPS:
        for kind, figures in group["saturated"].items():
            yield point(group, kind, None, figures)
        for kind, loads in group.get("paced", {}).items():
            for load, (mean, late, *share) in loads.items():
                yield point(group, kind, load, [*(share or [load]), mean, late])


def point(group, kind, load, figures):
    words = [group["memory"], group["policy"], kind, *([str(load)] if load else [])]
    label = "-".join(words)
    marks = [] if label in QUICK else [pytest.mark.slow]
    return pytest.param(group, kind, load, figures, id=label, marks=marks)


@pytest.mark.parametrize(("group", "kind", "load", "expected"), [*points()])
def test_a_point_is_met(group, kind, load, expected, record_property):
    spec = memory(group["memory"])
    requests = make_trace(spec, kind, COUNT, load=load)
    stats = simulate(spec, policy(group["policy"]), requests)
    share = stats.bandwidth_bytes_per_s(COUNT // 10) / spec.peak_bytes_per_s
    latency = stats.latency("acceptance" if load is None else "arrival", COUNT // 10)
    found = [share, latency.mean_s * 1e9, latency.p99_s * 1e9]
    table = list(zip(("bandwidth", "mean", "p99"), found, expected, strict=False))
    place = f"{group['memory']} {group['policy']} {kind} {load or 'saturated'}"
    for quantity, ours, theirs in table:
        record_property(quantity, ours)
        sys.stdout.write(
            f"{place} {quantity}: {theirs:g} in the reference, {ours:.5g} here, "
            f"{ours / theirs - 1:+.2%}\n"
        )
    for quantity, ours, theirs in table:
        assert ours == pytest.approx(theirs, rel=group["tolerance"][quantity]), quantity
