"""A step that needs both operands does not wait for operands of later steps."""

from hw_samples import gemm

from hwmodels.simulate import simulate
from hwmodels.workload import Workload


def test_the_first_weights_do_not_queue_behind_the_second_tile_of_activations(
    make_chip, make_memory, table
):
    # Memory: 1 byte per cycle, no latency. The input buffer streams units of 24 bytes, so that 48
    # bytes of activations come in two, and the second has room at once. Cycles 0-24 bring the first
    # tile, 24-32 the weights (8 bytes), 32-56 the second tile; 6 rows through two folds of 2 x 2
    # cells take 2 x 10 cycles, 32-52 and 56-76, and the last 48 bytes of results 48 more.
    chip = make_chip(size=64, output_size=128)
    memory = make_memory(bandwidth=1e9, latency=0.0)
    (layer,) = simulate(
        Workload("w", (gemm("g", 12, 2, 4),)), chip, technology=memory, energy=table
    ).layers
    assert layer.mapping.endswith("m6 n2 k4")
    cycles = layer.cycles
    assert (cycles.stall_input, cycles.stall_weight) == (24 + 4, 8)
