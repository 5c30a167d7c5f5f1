"""Heads that lie side by side are read in short runs, each in whole bursts.

Tilings are those of the closed form, which loads no more of a row at a time than it has to: what is
counted here are runs, not how soon the first of them comes.
"""

from dataclasses import replace

import pytest
from hw_samples import gemm, tensor

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import Runs, Workload

FRAMES, HEADS = 24, 3


def bursts(runs, burst):
    """Return the bytes of whole bursts that all runs of all heads touch, run by run."""
    starts = [
        head * runs.apart + frame * runs.pitch for head in range(HEADS) for frame in range(FRAMES)
    ]
    return sum((-(-(start + runs.elements) // burst) - start // burst) * burst for start in starts)


def simulated(depth, runs, chip, memory, table):
    q, k, v = (replace(tensor(name, "input", (HEADS, FRAMES, depth)), runs=runs) for name in "qkv")
    p = tensor("p", "input", (HEADS, FRAMES, FRAMES))
    chip = replace(chip, mapping=MappingChoice("latency"))
    items = (
        gemm("scores", FRAMES, FRAMES, depth, count=HEADS, a=q, w=k),
        gemm("context", FRAMES, depth, FRAMES, count=HEADS, a=p, w=v),
    )
    return simulate(Workload("w", items), chip, technology=memory, energy=table).layers


@pytest.mark.parametrize("depth", [10, 12, 16])
def test_each_run_is_whole_bursts(depth, make_chip, make_memory, table):
    runs = Runs(depth, HEADS * depth, depth)
    memory = make_memory(burst=16)
    scores, context = simulated(depth, runs, make_chip(4, 4, size=8192), memory, table)
    assert scores.mapping.endswith(" strided")
    assert scores.traffic.dram_read == 2 * bursts(runs, 16)
    p_bytes = FRAMES * FRAMES * HEADS
    assert context.traffic.dram_read == bursts(runs, 16) + p_bytes
    # what is loaded is what was asked for
    loaded = scores.traffic.input_buffer_write + scores.traffic.weight_buffer_write
    assert loaded == 2 * FRAMES * HEADS * depth


def test_runs_of_whole_bursts_cost_nothing(make_chip, make_memory, table):
    chip, memory = make_chip(4, 4, size=8192), make_memory(burst=16)
    apart, together = (
        simulated(32, runs, chip, memory, table) for runs in (Runs(32, 96, 32), None)
    )
    assert [layer.traffic for layer in apart] == [layer.traffic for layer in together]
    assert not together[0].mapping.endswith("strided")


def test_tiles_and_chunks_of_heads_read_every_run_of_theirs(make_chip, make_memory, table):
    # 12 x 8 sums at a time: two tiles of queries, and chunks of four keys or values.
    runs, depth = Runs(8, 24, 8), 8
    chip = make_chip(4, 4, size=192, output_size=1024)
    memory = make_memory(burst=1)
    layers = simulated(depth, runs, chip, memory, table)
    plain = simulated(depth, None, chip, memory, table)
    assert [layer.traffic for layer in layers] == [layer.traffic for layer in plain]
    assert all(layer.mapping.endswith("m12 n8 k4 strided") for layer in layers)
