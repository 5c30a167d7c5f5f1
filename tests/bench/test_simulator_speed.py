"""Speed of the chip model against SCALE-Sim and ZigZag, in turns; `make bench` runs it.

Both are optional: docs/dataflows.md says how their environments are made and named. No absolute
time is asserted.
"""

import os

import pytest
from silent import Silent

from cosim.bench import simulators
from cosim.bench.simulator_peers import SIMULATORS

pytestmark = pytest.mark.benchmark

LEAST = {"scale_sim": 100, "zigzag": 10}
"""CPU time of the other simulator over ours, an order below what is measured."""


@pytest.mark.parametrize("layer", ["qk", "av", "ctc"])
def test_layers_are_simulated_faster_than_by_any_other_simulator(layer, benchmark):
    (row,) = simulators.simulator_rows(f"simulate_{layer}/", 1, Silent())
    benchmark.group = "simulators"
    benchmark.extra_info.update({key: row[key] for key in ("cycles", "cycles_per_second", "peers")})
    benchmark.pedantic(lambda: simulators._simulated(layer), rounds=5, warmup_rounds=1)
    absent = [one.variable for one in SIMULATORS if not os.environ.get(one.variable)]
    if len(absent) == len(SIMULATORS):
        pytest.skip(f"not set: {', '.join(absent)}")
    for name, peer in row["peers"].items():
        assert peer["ratio_ours"] >= LEAST[name]
