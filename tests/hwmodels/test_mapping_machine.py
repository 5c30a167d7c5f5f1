"""Mappings as the machine runs them: more of a chip does not make layers of speech slower."""

from dataclasses import replace

import pytest
from hw_samples import gemm, tensor, vector

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import Workload

# Layers of wav2vec2-base on 10 s of audio, one after the other; 499 rows are prime.
LAYERS = Workload(
    "layers",
    (
        gemm("qkvo", 499, 768, 768),
        gemm("qk", 499, 499, 64),
        gemm("av", 499, 64, 499),
        gemm("ff2", 499, 768, 3072),
    ),
)


def with_buffer(chip, name, **times):
    """Return the chip with one buffer that many times as large, or its port as wide."""
    buffer = getattr(chip.buffers, name)
    changed = {key: int(getattr(buffer, key) * factor) for key, factor in times.items()}
    return replace(chip, buffers=replace(chip.buffers, **{name: replace(buffer, **changed)}))


@pytest.mark.parametrize("schedule", ["serial", "double_buffered"])
@pytest.mark.parametrize("dataflow", ["weight_stationary", "input_stationary", "output_stationary"])
def test_more_of_a_chip_makes_no_run_longer_by_one_percent(dataflow, schedule, shipped):
    chip, memory, energy = shipped("stacked_edge_32")
    chip = replace(chip, array=replace(chip.array, dataflow=dataflow, schedule=schedule))
    better = {
        f"{name} {key} x {factor}": (with_buffer(chip, name, **{key: factor}), memory)
        for name, key, factor in [
            ("input", "size_bytes", 1.5),
            ("weight", "size_bytes", 1.5),
            ("output", "size_bytes", 1.5),
            ("output", "size_bytes", 4),
            ("output", "port_bytes", 2),
        ]
    }
    faster = replace(memory.peak_bytes_per_s, value=2 * memory.peak_bytes_per_s.value, high=None)
    better["memory x 2"] = chip, replace(memory, peak_bytes_per_s=faster)

    def cycles(architecture, technology):
        return simulate(LAYERS, architecture, technology=technology, energy=energy).cycles.total

    limit = 1.01 * cycles(chip, memory)
    longer = {name: found for name, one in better.items() if (found := cycles(*one)) > limit}
    assert not longer, f"{longer}, expected at most {limit}"


@pytest.mark.parametrize("dataflow", ["weight_stationary", "input_stationary", "output_stationary"])
@pytest.mark.parametrize("sizes", [(499, 3072, 768), (499, 499, 64), (64, 96, 80), (1, 768, 768)])
def test_a_larger_buffer_does_not_make_a_lone_product_wait_for_its_ends(dataflow, sizes, shipped):
    chip, memory, energy = shipped("stacked_server_128")
    chip = replace(chip, array=replace(chip.array, dataflow=dataflow, schedule="double_buffered"))
    work = Workload("w", (gemm("g", *sizes),))
    found = {
        f"{name} x {factor}": simulate(
            work,
            with_buffer(chip, name, size_bytes=factor),
            technology=memory,
            energy=energy,
        ).cycles.total
        for name in ("input", "weight", "output")
        for factor in (1 / 16, 1, 1.5, 4)
    }
    for name in ("input", "weight", "output"):
        small, *more = (found[f"{name} x {factor}"] for factor in (1 / 16, 1, 1.5, 4))
        assert max(more) <= 1.01 * small, found


def test_a_product_that_fits_whole_is_cut_so_that_results_leave_early(shipped):
    # Everything fits: 16 MiB of activations, 32 MiB of weights, 8 MiB of sums. In one tile the
    # array would wait for all 973,056 bytes of operands and end before any of 1,532,928 bytes of
    # results has left: 16,584 cycles beside 18,346 of work. Three tiles of at least 128 rows still
    # hide the weights of the next fold behind their own cycles, and panels of one fold are free.
    # At 128 bytes a cycle 167 x 768 activations then take 1002 cycles, the last 167 x 128 sums 668.
    chip, memory, energy = shipped("stacked_server_128")
    array = replace(chip.array, schedule="double_buffered")
    chip = replace(chip, array=array, mapping=MappingChoice("latency"))
    work = Workload("w", (gemm("g", 499, 768, 768),))
    (layer,) = simulate(work, chip, technology=memory, energy=energy).layers
    assert layer.cycles.array == 18_346
    assert layer.mapping == "activations_outer m167 n128 k768"
    assert layer.cycles.total < 1.01 * 18_346 + 1002 + 668


def test_chunks_of_a_sum_are_about_equal_so_that_none_waits_for_the_next(shipped):
    # 1.5 times the input buffer: 147,456 bytes hold 295 of 3072 terms of 499 rows, 9 of 96 folds.
    # Ten chunks of 9 folds would leave 6 for the last, and the array would wait for the first one
    # of the next panel. Eleven chunks of 8 or 9 folds leave 9 cycles of 10 to load it.
    chip, memory, energy = shipped("stacked_edge_32")
    chip = with_buffer(chip, "input", size_bytes=1.5)
    array = replace(chip.array, schedule="serial")
    chip = replace(chip, array=array, mapping=MappingChoice("latency"))
    work = Workload("w", (gemm("ff2", 499, 768, 3072),))
    (layer,) = simulate(work, chip, technology=memory, energy=energy).layers
    assert layer.mapping == "weights_outer m499 n32 k288"
    assert layer.cycles.array == 1_366_272
    assert layer.cycles.stall_input < 5000


def test_operands_make_room_for_what_fused_ops_read(make_chip, make_memory, table):
    # Results stay in 4 x 4 cells: a tile is 16 results, and the residual of a tile 64 bytes. The
    # input buffer streams 2 x 36 bytes: beside 64 there is room for 4 rows of 2 terms, not of 9.
    chip = make_chip(4, 4, dataflow="output_stationary", size=96, output_size=128)
    chip = replace(chip, mapping=MappingChoice("latency"))
    residual = tensor("r", "input", (8, 8), 32)
    y = tensor("y", "output", (8, 8), 32)
    items = (
        gemm("g", 8, 8, 40, result=y),
        vector("add", "add", (y, residual), (y,), is_fused=True),
    )
    stats = simulate(Workload("w", items), chip, technology=make_memory(), energy=table)
    assert stats.layers[0].mapping == "activations_outer m4 n4 k2"
    assert stats.layers[0].cycles.array == 4 * (2 * 4 + 4 + 40 - 2)
    tight = make_chip(4, 4, dataflow="output_stationary", size=64, output_size=128)
    with pytest.raises(ValueError, match=r"one step with its fused ops needs \d+ bytes"):
        simulate(Workload("w", items), tight, technology=make_memory(), energy=table)
