"""Every shipped chip, memory and energy table loads and runs, and its ledgers balance."""

import subprocess
import sys
from dataclasses import replace
from itertools import product
from math import isclose
from pathlib import Path

import pytest
from hw_samples import feed_forward, gemm, tensor, vector

from cosim import config
from cosim.chip import load_chip
from cosim.energy_tables import load_table
from hwmodels.architecture import Architecture, MappingChoice, MemoryTechnology, check
from hwmodels.array import closed_form
from hwmodels.energy import extrapolations, prices
from hwmodels.mapping import array_grains
from hwmodels.simulate import simulate, simulate_calls
from hwmodels.tightly_coupled import tile_phases
from hwmodels.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
CHIPS, MEMORIES, TABLES = (
    sorted((ROOT / "configs" / folder).glob("*.yaml"))
    for folder in ("hardware", "memory", "energy")
)


def names(paths):
    return [path.stem for path in paths]


DEFAULT = next(path for path in TABLES if path.stem == "aladdin_cacti_28nm")
FULL = next(path for path in CHIPS if path.stem == "composable_edge_32")
PAIRS = [*product(CHIPS, [DEFAULT]), *product([FULL], TABLES)]


@pytest.mark.parametrize(("chip", "table"), dict.fromkeys(PAIRS), ids=lambda path: path.stem)
def test_every_chip_runs_a_layer_with_balanced_ledgers(chip, table):
    loaded = load_chip(chip, table)
    calls = simulate_calls(
        [feed_forward(70, 200, 300), feed_forward(1, 200, 300)],
        loaded.architecture,
        technology=loaded.technology,
        energy=loaded.energy,
        dram=loaded.dram,
    )
    for stats in calls:
        assert stats.cycles.total == sum(layer.cycles.total for layer in stats.layers)
        assert stats.cycles.total >= stats.bound_cycles > 0
        assert isclose(stats.energy_j, sum(layer.energy_j for layer in stats.layers))
        assert 0 < stats.energy_low_j <= stats.energy_j <= stats.energy_high_j
        assert 0 < stats.peak_bandwidth_fraction < 1
        assert 0 < stats.utilization < 1
        assert not stats.warnings


@pytest.fixture(scope="module")
def all_chips():
    """Return every shipped chip with its memory."""
    chips = [config.load(chip, Architecture) for chip in CHIPS]
    files = {chip.memory.technology for chip in chips}
    memories = {name: config.load(ROOT / name, MemoryTechnology) for name in files}
    return [(chip, memories[chip.memory.technology]) for chip in chips]


@pytest.mark.parametrize("table", TABLES, ids=names(TABLES))
def test_every_table_prices_every_chip_between_its_points(table, all_chips):
    energy = load_table(table)
    for architecture, technology in all_chips:
        priced = prices(architecture, technology, energy)
        assert not extrapolations(priced)
        assert all(price.source and price.factor for price in priced.values())


@pytest.mark.parametrize("chip", CHIPS, ids=names(CHIPS))
def test_gemms_of_whisper_take_the_closed_form_of_the_schedule(chip, shipped):
    architecture, technology, energy = shipped(chip.stem)
    choice = replace(architecture.mapping, objective="latency")  # no tile shorter than a fold
    architecture = replace(architecture, mapping=choice)
    array = architecture.array
    shapes = [(1500, 384, 384, 1), (1500, 1536, 384, 1), (1500, 384, 1536, 1), (3000, 384, 240, 1)]
    shapes += [(1500, 300, 64, 2), (1, 384, 384, 1), (1, 7, 64, 6), (499, 768, 768, 1)]
    for m, n, k, count in shapes:
        stats = simulate(
            Workload("w", (gemm("g", m, n, k, count=count),)),
            architecture,
            technology=technology,
            energy=energy,
        )
        sizes = {"n": n, "k": k, "rows": array.rows, "columns": array.columns}
        how = {"dataflow": array.dataflow, "drain": array.drain}
        whole = closed_form(array.schedule, m=m, **sizes, **how)
        if array.coupling is not None:
            whole = -(-n // array.columns) * -(-k // array.rows)
            whole *= tile_phases(array.rows, array.coupling, m=m).total
        if array.sparsity == "csr_gather":  # lanes get operands by wires of their own: no fill
            whole -= array.rows + array.columns - 2
        assert stats.cycles.array == count * whole


@pytest.mark.parametrize("path", MEMORIES, ids=names(MEMORIES))
def test_every_memory_fits_a_chip_with_all_its_channels(path, make_chip):
    technology = config.load(path, MemoryTechnology)
    check(make_chip(channels=technology.channels), technology)
    for figure in (technology.latency_s, technology.read_j_per_bit, technology.background_w):
        assert figure.source


def test_the_ideal_memory_costs_neither_time_nor_energy(make_chip, table):
    technology = config.load(ROOT / "configs" / "memory" / "ideal.yaml", MemoryTechnology)
    stats = simulate(feed_forward(), make_chip(size=1 << 14), technology=technology, energy=table)
    assert stats.cycles.stalls == 0
    assert stats.peak_bandwidth_fraction is None
    assert sum(row.energy_j for row in stats.energy if row.component == "memory") == 0


def attention(m, memory, heads, depth):
    q, k, v = (
        tensor(name, "input", (heads, rows, depth))
        for name, rows in (("q", m), ("k", memory), ("v", memory))
    )
    scores = tensor("scores", "activation", (heads, m, memory), 32)
    weights = tensor("weights", "activation", (heads, m, memory))
    out = tensor("out", "output", (heads, m, depth), 32)
    return Workload(
        "attention",
        (
            gemm("scores", m, memory, depth, count=heads, a=q, w=k, result=scores),
            vector("scale", "dequantize", (scores,), (scores,), is_fused=True),
            vector("softmax", "softmax", (scores,), (weights,)),
            vector("quantize", "quantize", (weights,), (weights,), is_fused=True),
            gemm(
                "context", m, depth, memory, count=heads, a=weights, w=v, result=out, a_number="u8"
            ),
            vector("rescale", "dequantize", (out,), (out,), is_fused=True),
        ),
    )


@pytest.mark.parametrize("chip", CHIPS, ids=names(CHIPS))
def test_attention_reads_and_writes_scores_once_where_they_do_not_fit(chip, shipped):
    architecture, technology, energy = shipped(chip.stem)
    architecture = replace(architecture, mapping=MappingChoice(fusion="marked"))
    m, heads, depth = 900, 6, 64
    stats = simulate(
        attention(m, m, heads, depth), architecture, technology=technology, energy=energy
    )
    traffic = {layer.name: layer.traffic for layer in stats.layers}
    score_bytes = heads * m * m * 4
    tile_n = min(m, int(stats.layers[0].mapping.split(" n")[1].split()[0]))
    ends = 1 + 2 * technology.burst_bytes / (4 * tile_n)  # rows of tiles end within a burst
    if score_bytes > architecture.buffers.input.size_bytes:
        assert score_bytes <= traffic["scores"].dram_write <= max(1.02, ends) * score_bytes
        assert score_bytes <= traffic["softmax"].dram_read <= 1.02 * score_bytes
    else:
        assert traffic["scores"].dram_write == traffic["softmax"].dram_read == 0
    kept = architecture.buffers.input.size_bytes // 2
    weight_bytes = score_bytes // 4
    if weight_bytes > kept:
        assert weight_bytes <= traffic["softmax"].dram_write <= 1.02 * weight_bytes
    else:
        assert traffic["softmax"].dram_write == 0


@pytest.mark.parametrize("chip", CHIPS, ids=names(CHIPS))
def test_softmax_follows_scores_where_whole_rows_of_them_fit(chip, shipped):
    architecture, technology, energy = shipped(chip.stem)
    m, heads, depth = 900, 6, 64
    found = {
        fusion: simulate(
            attention(m, m, heads, depth),
            replace(architecture, mapping=MappingChoice(fusion=fusion)),
            technology=technology,
            energy=energy,
        )
        for fusion in ("marked", "chunks")
    }
    scores, softmax = found["chunks"].layers[:2]
    fold_rows = min(m, array_grains(architecture.array)["m"])
    is_room = architecture.buffers.output.size_bytes // 2 >= 4 * m * fold_rows
    if is_room and architecture.array.coupling is None:
        assert int(scores.mapping.split(" n")[1].split()[0]) >= m
        assert softmax.traffic.dram_read == 0
        probability_bytes = heads * m * m
        kept = probability_bytes <= architecture.buffers.input.size_bytes // 2
        moved = softmax.traffic.dram_write + scores.traffic.dram_write
        assert moved == 0 if kept else probability_bytes <= moved <= 1.02 * probability_bytes
    assert found["chunks"].traffic.dram <= found["marked"].traffic.dram
    assert found["chunks"].cycles.total <= 1.01 * found["marked"].cycles.total


def test_the_package_needs_neither_torch_nor_pydantic_nor_the_house_above():
    code = (
        "import sys\n"
        "for name in ('torch', 'pydantic', 'yaml', 'cosim', 'kernels'): sys.modules[name] = None\n"
        "import importlib, pkgutil, hwmodels\n"
        "for one in pkgutil.iter_modules(hwmodels.__path__):\n"
        "    importlib.import_module('hwmodels.' + one.name)\n"
        "print('imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "imported\n", done.stderr
