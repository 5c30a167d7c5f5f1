"""Chip files that say what their cells multiply, read and run as users give them."""

from itertools import pairwise

import pytest
from hw_samples import gemm, tensor

from cosim.chip import parse_chip
from cosim.config import configs_root, read
from cosim.errors import CosimError
from hwmodels.simulate import simulate
from hwmodels.workload import NUMBER_BITS, Workload

HARDWARE = configs_root() / "hardware"
ENERGY = configs_root() / "energy" / "aladdin_cacti_28nm.yaml"


def chip(name, mapping=None, **array):
    hardware = read(HARDWARE / f"{name}.yaml")
    hardware["array"] |= array
    hardware["mapping"] = {**hardware.get("mapping", {}), **(mapping or {})}
    return parse_chip(
        hardware,
        read(ENERGY),
        source=name,
        table_source="energy",
        relative_to=HARDWARE / f"{name}.yaml",
    )


def stats(on, a, w):
    m, n, k = 499, 768, 768
    item = gemm(
        "qkvo",
        m,
        n,
        k,
        a=tensor("a", "input", (1, m, k), NUMBER_BITS[a]),
        w=tensor("w", "constant", (1, n, k), NUMBER_BITS[w]),
        a_number=a,
        w_number=w,
    )
    work = Workload("w", (item,))
    return simulate(work, on.architecture, technology=on.technology, energy=on.energy, dram=on.dram)


def test_a_layer_of_wav2vec2_takes_fewer_cycles_the_fewer_bits_composable_cells_multiply():
    on = chip("composable_edge_32", mapping={"objective": "latency"})  # no tile under a fold
    cycles = {
        (a, w): stats(on, a, w).cycles.array
        for a, w in [("i8", "i8"), ("i8", "i4"), ("i4", "i4"), ("i8", "i2"), ("i1", "i1")]
    }
    load, fill, drain, blocks = 32, 31, 31, 24
    once = load + fill + drain
    assert cycles["i8", "i8"] == once + blocks * 24 * 499
    assert cycles["i8", "i4"] == once + blocks * 12 * 499
    assert cycles["i4", "i4"] == once + blocks * 6 * 499
    # four activations of 8 bits need 32 bits, the edge of a row brings 16: no gain over 4 bits,
    # but half the folds, each twice as long
    assert cycles["i8", "i2"] == once + blocks * 6 * 998
    # 768 / 32 = 24 words of signs: one fold of 24 rows
    assert cycles["i1", "i1"] == once + blocks * 499


def test_fixed_cells_take_the_same_cycles_for_every_width_and_fewer_bytes_and_joules():
    on = chip("stacked_edge_32")
    found = [stats(on, "i8", w) for w in ("i8", "i4", "i2")]
    assert len({one.cycles.array for one in found}) == 1
    for wide, narrow in pairwise(found):
        assert narrow.traffic.dram_read < wide.traffic.dram_read
        assert narrow.energy_j < wide.energy_j


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cell": {"kind": "composible"}}, 'array.cell.kind: found "composible"'),
        ({"cell": {"kind": "bit_serial", "serial": "weight"}}, 'array.cell.serial: found "weight"'),
        ({"cell": {"kind": "float", "bits": 8}}, "array.cell.bits: unknown key"),
        ({"edge": {"row_bits": 0}}, "array.edge.row_bits: found 0"),
        ({"rescale": "vector"}, 'array.rescale: found "vector"'),
        ({"xnor": {"rows": 4}}, "array.xnor.columns: missing"),
    ],
)
def test_a_mistake_in_what_cells_are_names_key_and_nearest_word(change, told):
    with pytest.raises(CosimError) as error:
        chip("stacked_edge_32", **change)
    assert told in str(error.value)


def test_a_processor_core_feeds_one_pair_per_cell():
    coupled = {"coupling": {}, "supports": ["i8xi8"], "cell": {"kind": "composable"}}
    with pytest.raises(CosimError, match=r"array\.coupling: the core feeds one pair of operands"):
        chip("ticsat_16", **coupled)
    assert chip("ticsat_16").architecture.array.coupling is not None


def test_all_impossible_precisions_of_a_chip_file_are_told_at_once():
    with pytest.raises(CosimError) as error:
        chip("stacked_edge_32", supports=["i8xi8", "i8xi5", "f16xf16", "i8xi8"])
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert 'array.supports.1: found "i8xi5"' in lines[0]
    assert 'did you mean "i8xi' in lines[0]
    assert 'array.supports.2: found "f16xf16", but a fixed cell of 8 bits' in lines[1]
    assert 'array.supports.3: found "i8xi8" a second time' in lines[2]
