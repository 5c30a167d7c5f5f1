"""hwmodels.planner: an op that reads a part of a tensor is charged for the part."""

from dataclasses import replace

from hw_samples import tensor, vector

from hwmodels.simulate import simulate
from hwmodels.workload import Workload

WHOLE = tensor("x", "input", (8, 16))


def part(elements):
    return replace(
        WHOLE, shape=(elements,), stored_bits=8 * elements, reserved_bits=WHOLE.stored_bits
    )


def dram_read(*reads, make_chip, make_memory, table, size=4096):
    """Bytes from memory of ops that read these parts of x one after the other."""
    ops = tuple(
        vector(f"op{i}", "relu", (ref,), (tensor(f"y{i}", "output", ref.shape),))
        for i, ref in enumerate(reads)
    )
    chip, memory = make_chip(size=size), make_memory()
    stats = simulate(Workload("parts", ops), chip, technology=memory, energy=table)
    return [layer.traffic.dram_read for layer in stats.layers]


def test_parts_come_from_memory_each_time_and_none_stands_for_another(
    make_chip, make_memory, table
):
    parts = {"make_chip": make_chip, "make_memory": make_memory, "table": table}
    assert dram_read(part(40), part(40), part(128), **parts) == [40, 40, 128]


def test_a_whole_tensor_that_is_kept_serves_its_parts(make_chip, make_memory, table):
    parts = {"make_chip": make_chip, "make_memory": make_memory, "table": table}
    assert dram_read(WHOLE, part(40), part(40), **parts) == [128, 0, 0]
    assert dram_read(part(40), WHOLE, part(40), WHOLE, **parts) == [40, 128, 0, 0]
    assert dram_read(WHOLE, part(40), part(40), size=256, **parts) == [128, 40, 40]
