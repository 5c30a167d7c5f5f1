"""A step that needs both operands does not wait for operands of later steps."""

from dataclasses import replace

from hw_samples import gemm

from hwmodels.architecture import MappingChoice
from hwmodels.gemm_blocks import blocks_of, stays
from hwmodels.mapping import Mapping
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


def test_a_unit_over_all_of_k_comes_and_goes_chunk_by_chunk():
    # Two tiles of 3 rows, two panels of 2 columns, chunks of 4: a panel stays while the tiles pass.
    mapping = Mapping(
        "weight_stationary", "weights_outer", 3, 2, 4, "whole_k", "whole_k", 0, fold_k=4
    )
    blocks = list(blocks_of(mapping, 1, 6, 4, 8))
    weights = stays(mapping, 1, blocks, is_here=False, is_kept=False)
    assert [stay.key[1:] for stay in weights[:4]] == [(0, 0), (0, 4), (0, 0), (0, 4)]
    assert [stay.comes for stay in weights] == [True, True, False, False] * 2
    assert [stay.goes for stay in weights] == [False, False, True, True] * 2
    rows = stays(mapping, 0, blocks, is_here=False, is_kept=False)
    assert all(stay.comes and stay.goes for stay in rows)
    kept = stays(mapping, 0, blocks, is_here=False, is_kept=True)
    assert [stay.comes for stay in kept] == [True] * 4 + [False] * 4
    assert not any(stay.goes for stay in kept)


def test_the_array_begins_behind_the_first_chunk_of_what_stays(shipped):
    # 499 x 512 activations on 128 x 128 cells: all stay while six panels pass, and are loaded once.
    chip, memory, energy = shipped("stacked_server_128")
    work = Workload("w", (gemm("g", 499, 768, 512),))
    stats = simulate(work, chip, technology=memory, energy=energy)
    (layer,) = stats.layers
    assert layer.mapping.endswith("k128")
    assert layer.traffic.dram_read == (499 + 768) * 512
    whole = replace(chip, mapping=MappingChoice("latency"))
    later = simulate(work, whole, technology=memory, energy=energy)
    assert later.traffic == stats.traffic
    assert stats.cycles.stall_input < 0.5 * later.cycles.stall_input
    assert stats.cycles.total < later.cycles.total
