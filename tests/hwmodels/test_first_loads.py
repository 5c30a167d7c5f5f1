"""A step that needs both operands does not wait for operands of later steps."""

from hw_samples import gemm

from hwmodels.simulate import simulate
from hwmodels.workload import Workload


def test_the_first_weights_do_not_queue_behind_the_second_tile_of_activations(
    make_chip, make_memory, table
):
    # Memory: 1 byte per cycle, no latency. The input buffer streams units of 24 bytes, so that 72
    # bytes of activations come in three, and the second has room at once. Cycles 0-24 bring the
    # first tile, 24-32 the weights (8 bytes), 32-56 the second tile; 6 rows through a fold of
    # 4 x 2 cells take 14 cycles, 32-46 and 56-70. At 46 the third tile has room, behind 48 bytes
    # of results, and is there at 56 + 48 + 24 = 128.
    chip = make_chip(4, 2, size=64, output_size=128)
    memory = make_memory(bandwidth=1e9, latency=0.0)
    (layer,) = simulate(
        Workload("w", (gemm("g", 18, 2, 4),)), chip, technology=memory, energy=table
    ).layers
    assert layer.mapping.endswith("m6 n2 k4")
    cycles = layer.cycles
    assert (cycles.stall_input, cycles.stall_weight) == (24 + 10 + 58, 8)
