"""The whole circle: controller, energy, temperature, refresh, controller."""

from pathlib import Path

import pytest
from dram_traces import make_trace

from cosim import config
from hwmodels.dram.controller import simulate
from hwmodels.dram.energy import DramEnergy, dram_rows
from hwmodels.dram.policy import POLICIES
from hwmodels.dram.spec import DramSpec
from hwmodels.thermal import StackPower, ThermalStack, make_ladder, power_of, settle

FOLDER = Path(__file__).resolve().parents[2] / "configs/memory"


def test_a_chip_hot_enough_for_twice_the_refresh_loses_the_measured_share_of_its_streams():
    # DRAMsim3, 100,000 requests: halving tREFI costs a stream 8.1 % of its bandwidth and adds 5.8 %
    # to the energy of the core.
    spec = config.load(FOLDER / "timing/hbm2_2000_legacy.yaml", DramSpec)
    energy = config.load(FOLDER / "energy/hbm2_2000_legacy.yaml", DramEnergy)
    ladder = make_ladder(config.load(FOLDER / "thermal/stack_8high.yaml", ThermalStack))
    requests = make_trace(spec, "SR", 100_000)
    runs = {}

    def power(rate):
        stats = simulate(spec, POLICIES["dramsim3"], requests, refresh_rate=rate)
        rows = dram_rows(stats, energy)
        runs[rate] = stats, rows
        memory = power_of(rows, stats.seconds)
        return StackPower(4.0 + memory.logic_w, memory.dram_w)

    found = settle(power, ladder)
    assert found.refresh_multiplier == 2
    assert 85 < found.tried[0][1] < 95
    assert set(runs) == {1, 2}
    bandwidth = [runs[rate][0].bandwidth_bytes_per_s(10_000) for rate in (1, 2)]
    assert 1 - bandwidth[1] / bandwidth[0] == pytest.approx(0.081, abs=0.003)
    core = [
        sum(row.energy_j for row in runs[rate][1] if not row.action.endswith("_bit"))
        for rate in (1, 2)
    ]
    assert core[1] / core[0] - 1 == pytest.approx(0.058, abs=0.003)
