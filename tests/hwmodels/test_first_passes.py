"""First passes over whole tensors go on while the tensors are made."""

from dataclasses import replace

import pytest
from hw_samples import gemm, tensor, vector

from hwmodels.architecture import MappingChoice
from hwmodels.simulate import simulate
from hwmodels.workload import Transfer, Workload

WHOLE = 40 * 60 * 4  # bytes of a tensor; 2400 elements take 1200 cycles an operation on 2 lanes


def act(name, *shape, kind="activation", bits=32):
    return tensor(name, kind, shape, bits)


@pytest.fixture(name="run")
def _run(make_chip, make_memory, table):
    def run(*items, fusion="chunks", size=4096):
        chip = replace(make_chip(4, 4, size=size), mapping=MappingChoice(fusion=fusion))
        work = Workload("w", items)
        return simulate(work, chip, technology=make_memory(), energy=table).layers

    return run


def quantized(source):
    codes, scale = act("codes", 40, 60, kind="output", bits=8), act("scale", 1, kind="output")
    return vector("quantize", "dynamic_quantize_tensor", (source,), (codes, scale))


def vector_operations(layer):
    return sum(row.count for row in layer.energy if row.action.endswith("_op"))


@pytest.mark.parametrize(("fusion", "times"), [("marked", 2), ("chunks", 1)])
def test_the_largest_of_a_tensor_is_found_while_it_is_made(fusion, times, run):
    y = act("y", 40, 60)
    relu = vector("relu", "relu", (act("x", 40, 60, kind="input"),), (y,))
    first, second = run(relu, quantized(y), fusion=fusion)
    assert (first.traffic.dram_read, first.traffic.dram_write) == (WHOLE, WHOLE)
    assert second.traffic.dram_read == times * WHOLE
    # Maximum and rounding take 1 and 2 operations, wherever they happen.
    assert (first.cycles.vector, second.cycles.vector) == (1200, 3 * 1200)
    assert vector_operations(second) == 3 * 2400
    # From the buffer it came through, or the one it was made in.
    assert second.traffic.input_buffer_read == times * WHOLE
    assert second.traffic.output_buffer_read - 2400 - 4 == (2 - times) * WHOLE


def test_it_is_found_behind_products_too(run):
    y = act("y", 40, 60)
    product = gemm("g", 40, 60, 8, result=y)
    apart = run(product, quantized(y), fusion="marked")
    ahead = run(product, quantized(y))
    assert ahead[1].traffic.dram_read == WHOLE == apart[1].traffic.dram_read // 2
    assert ahead[0].cycles.array == apart[0].cycles.array
    assert vector_operations(ahead[1]) == vector_operations(apart[1]) == 3 * 2400


def test_sums_of_rows_that_have_no_room_are_taken_ahead(run):
    # Two rows of 1200 elements are 4800 bytes each, the input buffer streams 1536: three passes.
    y, out = act("y", 40, 60), act("out", 40, 60, kind="output")
    relu = vector("relu", "relu", (act("x", 40, 60, kind="input"),), (y,))
    norm = vector("norm", "group_norm", (y,), (out,), row_length=1200)
    apart, ahead = (run(relu, norm, fusion=fusion)[1] for fusion in ("marked", "chunks"))
    assert (apart.traffic.dram_read, ahead.traffic.dram_read) == (3 * WHOLE, 2 * WHOLE)
    assert vector_operations(apart) == vector_operations(ahead) == 7 * 2400


def test_rows_that_have_room_are_read_once_as_before(run):
    y, out = act("y", 40, 60), act("out", 40, 60, kind="output")
    relu = vector("relu", "relu", (act("x", 40, 60, kind="input"),), (y,))
    norm = vector("norm", "group_norm", (y,), (out,), row_length=60)
    found = [run(relu, norm, fusion=fusion) for fusion in ("marked", "chunks")]
    assert found[0] == found[1]


def test_what_nobody_makes_here_takes_all_passes(run):
    x = act("x", 40, 60, kind="input")
    (alone,) = run(quantized(x))
    assert alone.traffic.dram_read == 2 * WHOLE
    moved = act("moved", 40, 60)
    copied = run(Transfer("copy", "copy", (x,), (moved,), WHOLE, WHOLE), quantized(moved))
    assert copied[1].traffic.dram_read == 2 * WHOLE


def test_what_stays_on_chip_is_read_from_there(run):
    y = act("y", 40, 60)
    relu = vector("relu", "relu", (act("x", 40, 60, kind="input"),), (y,))
    layers = run(relu, quantized(y), size=65536)
    assert [layer.traffic.dram_read for layer in layers] == [WHOLE, 0]
    assert sum(layer.cycles.vector for layer in layers) == 4 * 1200
