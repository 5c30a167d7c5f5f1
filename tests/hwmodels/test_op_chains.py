"""Vector ops follow whatever makes their operands, chunk by chunk: what stays, what moves."""

from dataclasses import replace

import pytest
from hw_samples import feed_forward, gemm, tensor, vector

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import Workload


def act(name, *shape, kind="activation", bits=32):
    return tensor(name, kind, shape, bits)


def run(items, chip, memory, table, fusion="chunks"):
    chip = replace(chip, mapping=MappingChoice(fusion=fusion))
    return simulate(Workload("w", tuple(items)), chip, technology=memory, energy=table)


def dram(stats):
    return {
        layer.name: (layer.traffic.dram_read, layer.traffic.dram_write) for layer in stats.layers
    }


def test_an_activation_follows_its_product_tile_by_tile(make_chip, make_memory, table):
    # 40 x 60 results of 4 bytes are more than the input buffer keeps: apart, 9600 bytes go to
    # memory and come back.
    y, g = act("y", 40, 60), act("g", 40, 60, kind="output")
    items = [gemm("up", 40, 60, 8, result=y), vector("gelu", "gelu", (y,), (g,))]
    chip, memory = make_chip(4, 4, size=4096), make_memory()
    apart, together = (run(items, chip, memory, table, how) for how in ("marked", "chunks"))
    operands = 40 * 8 + 60 * 8
    assert dram(apart) == {"up": (operands, 9600), "gelu": (9600, 9600)}
    assert dram(together) == {"up": (operands, 9600), "gelu": (0, 0)}
    assert together.cycles.total < apart.cycles.total
    # 2400 elements x 4 operations on 2 lanes, beside the array or behind it
    assert apart.layers[1].cycles.vector == 4800
    assert together.layers[1].cycles.vector < 4800
    assert together.energy_j < apart.energy_j


def test_a_residual_and_a_norm_keep_their_rows_on_chip(make_chip, make_memory, table):
    x, r = act("x", 50, 48, kind="input"), act("r", 50, 48, kind="input")
    y, norm = act("y", 50, 48), act("norm", 50, 48)
    codes = act("codes", 50, 48, kind="output", bits=8)
    scales = act("scales", 50, kind="output")
    last = act("last", 50, 48, kind="output")
    items = [
        vector("add", "add", (x, r), (y,)),
        vector("norm", "layer_norm", (y,), (norm,)),
        vector("codes", "dynamic_quantize_row", (norm,), (codes, scales)),
        vector("again", "add", (y, norm), (last,)),
    ]
    whole = 50 * 48 * 4
    stats = run(items, make_chip(size=4096), make_memory(), table)
    # x and r come in, y and norm go out for the last op, with codes and scales.
    assert dram(stats)["add"] == (2 * whole, 2 * whole + whole // 4 + 200)
    assert dram(stats)["norm"] == dram(stats)["codes"] == (0, 0)
    assert dram(stats)["again"] == (2 * whole, whole)
    assert [layer.cycles.vector for layer in stats.layers[:3]] == [1200, 7 * 1200, 3 * 1200]


def test_rows_of_heads_lie_within_rows_of_a_layer(make_chip, make_memory, table):
    # Rows of 12 in rows of 48: chunks are whole rows of 48.
    x, y = act("x", 50, 48, kind="input"), act("y", 50, 48)
    codes, scales = act("c", 50, 4, 12, kind="output", bits=8), act("s", 200, kind="output")
    items = [
        vector("norm", "layer_norm", (x,), (y,)),
        vector(
            "codes", "dynamic_quantize_row", (y,), (codes, scales), elements=2400, row_length=12
        ),
    ]
    stats = run(items, make_chip(size=4096), make_memory(), table)
    assert dram(stats) == {"norm": (9600, 2400 + 800), "codes": (0, 0)}


def test_softmax_follows_scores_when_a_tile_is_whole_rows(make_chip, make_memory, table):
    # A tile takes 4096 of 8192 bytes of the output buffer: 16 whole rows of 64 scores.
    scores, p = act("scores", 2, 64, 64), act("p", 2, 64, 64, kind="output", bits=8)
    items = [
        gemm("scores", 64, 64, 8, count=2, result=scores),
        vector("softmax", "softmax", (scores,), (p,)),
    ]
    chip = make_chip(4, 4, size=4096, output_size=8192)
    stats = run(items, chip, make_memory(), table)
    assert " n64 " in stats.layers[0].mapping
    assert dram(stats)["softmax"] == (0, 0)
    assert dram(stats)["scores"][1] == p.size_bytes


def test_softmax_waits_when_no_whole_row_has_room(make_chip, make_memory, table):
    # 4 rows of one fold of 64 scores are 1024 bytes, half of the output buffer 512.
    scores, p = act("scores", 64, 64), act("p", 64, 64, kind="output", bits=8)
    items = [
        gemm("scores", 64, 64, 8, result=scores),
        vector("softmax", "softmax", (scores,), (p,)),
    ]
    chip = make_chip(4, 4, size=4096, output_size=1024, dataflow="output_stationary")
    stats = run(items, chip, make_memory(), table)
    assert dram(stats)["scores"][1] == dram(stats)["softmax"][0] == scores.size_bytes


@pytest.mark.parametrize(
    ("function", "row", "part"),
    [
        ("group_norm", 60, False),  # its rows run across positions
        ("dynamic_quantize_tensor", 60, False),  # needs the whole tensor first
        ("gelu", 60, True),  # sees only a part of what was made
    ],
)
def test_what_cannot_follow_stands_alone(function, row, part, make_chip, make_memory, table):
    x, y = act("x", 40, 60, kind="input"), act("y", 40, 60)
    seen, number = y, 2400
    if part:
        seen, number = (
            replace(y, shape=(39, 60), stored_bits=39 * 60 * 32, reserved_bits=76800),
            2340,
        )
    out = act("out", number, kind="output")
    items = [
        vector("relu", "relu", (x,), (y,)),
        vector("next", function, (seen,), (out,), elements=number, row_length=row),
    ]
    stats = run(items, make_chip(size=4096), make_memory(), table)
    assert dram(stats)["relu"] == (9600, 9600)
    assert dram(stats)["next"][0] >= 4 * number


def test_chunks_without_room_for_all_that_follows_are_told(make_chip, make_memory, table):
    # The input buffer streams 2 x 36 bytes; each residual of a tile of 16 results takes 64.
    chip = make_chip(4, 4, dataflow="output_stationary", size=96, output_size=128)
    y, z, out = act("y", 8, 8), act("z", 8, 8), act("out", 8, 8, kind="output")
    first, second = act("r", 8, 8, kind="input"), act("s", 8, 8, kind="input")
    items = [
        gemm("g", 8, 8, 40, result=y),
        vector("add", "add", (y, first), (z,)),
        vector("more", "add", (z, second), (out,)),
    ]
    stats = run(items, chip, make_memory(), table)
    assert dram(stats)["add"] == (512, 256)
    assert len(stats.warnings) == 1
    assert "mapping.fusion: marked in w: g: input buffer" in stats.warnings[0]


@pytest.mark.parametrize("chip", ["gemmini_16", "stacked_edge_32", "edge_tpu_64"])
def test_a_layer_moves_no_more_and_takes_no_longer(chip, shipped):
    architecture, technology, energy = shipped(chip)
    found = [
        run(feed_forward(499, 512, 1024).items, architecture, technology, energy, fusion)
        for fusion in ("chunks", "marked")
    ]
    assert found[0].traffic.dram <= found[1].traffic.dram
    assert found[0].cycles.total <= found[1].cycles.total
    assert found[0].macs == found[1].macs
    operations = [
        sum(row.count for row in stats.energy if row.action == "vector_op") for stats in found
    ]
    assert operations[0] == operations[1]
