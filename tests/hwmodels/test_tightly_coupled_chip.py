"""A chip whose array is a unit of a core: cycles of its instructions, zero tiles, energy, rules."""

from dataclasses import replace

import numpy as np
import pytest
from hw_samples import gemm

from cosim.chip import parse_chip
from cosim.config import configs_root, read
from cosim.errors import CosimError
from hwmodels.rtl_checked import UNCHECKED
from hwmodels.simulate import simulate
from hwmodels.tightly_coupled import Coupling, phases, product_instructions
from hwmodels.workload import Nonzero, Workload

HARDWARE = configs_root() / "hardware" / "ticsat_8.yaml"
ENERGY = configs_root() / "energy" / "aladdin_cacti_28nm.yaml"


def chip_of(**more):
    document = read(HARDWARE)
    document["array"] |= more
    return parse_chip(document, read(ENERGY), source="c", table_source="t", relative_to=HARDWARE)


def run(chip, item):
    return simulate(
        Workload("w", (item,)),
        chip.architecture,
        technology=chip.technology,
        energy=chip.energy,
        dram=chip.dram,
    )


@pytest.mark.parametrize(
    "coupling",
    [Coupling(), Coupling(result_bits=32), Coupling(bus_bits=64, load_cycles=2, add_cycles=3)],
)
def test_the_array_takes_the_cycles_of_its_instructions(coupling):
    chip = chip_of(coupling=dict(vars(coupling)))
    for m, n, k in [(499, 64, 40), (1, 7, 9), (97, 13, 31)]:
        stats = run(chip, gemm("g", m, n, k, count=2))
        sizes = {"m": m, "n": n, "k": k, "a_bits": 8, "w_bits": 8}
        found = phases(product_instructions(8, coupling, **sizes), coupling)
        cycles = stats.cycles
        assert (cycles.weight_load, cycles.fill) == (2 * found.weight_load, 2 * found.fill)
        assert (cycles.compute, cycles.drain) == (2 * found.compute, 2 * found.addition)
        assert stats.layers[0].cycles_note == UNCHECKED


def test_tiles_of_zeros_are_passed_over():
    rng = np.random.default_rng(3)
    n, k = 24, 40
    weights = np.zeros((n, k), dtype=bool)
    weights[:8, 8:16] = rng.random((8, 8)) < 0.5
    weights[23, 39] = True
    occupied = sum(
        weights[a : a + 8, b : b + 8].any() for a in range(0, n, 8) for b in range(0, k, 8)
    )
    assert occupied == 2
    mask = Nonzero(np.packbits(weights, axis=1, bitorder="little"), "two tiles")
    item = replace(gemm("g", 99, n, k), nonzero=mask)
    chip = chip_of()
    sizes = {"m": 99, "n": n, "k": k, "a_bits": 8, "w_bits": 8}
    found = phases(product_instructions(8, Coupling(), **sizes, occupied=2), Coupling())
    assert run(chip, item).cycles.array == found.total


def test_every_cycle_of_the_core_has_its_price():
    chip = chip_of()
    stats = run(chip, gemm("g", 99, 24, 40))
    (row,) = (row for row in stats.energy if row.component == "core")
    assert (row.action, row.count) == ("cycle", stats.cycles.array)
    assert row.energy_per_action_j == chip.energy.actions["core_cycle"].value


def test_an_array_that_no_core_can_feed_is_told_all_reasons():
    with pytest.raises(CosimError) as caught:
        chip_of(
            columns=16,
            schedule="double_buffered",
            coupling={"bus_bits": 8, "weight_bits": 4, "activation_bits": 16},
        )
    assert [line.split(": ")[2] for line in caught.value.problems] == [
        "array.coupling",
        "array.coupling",
        "array.coupling.weight_bits",
        "array.coupling.bus_bits",
    ]
