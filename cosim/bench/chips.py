"""Compressed versions of models on variants of chips: cycles, bytes, joules, and kernels' time.

A question is which versions pay on which variants. One row a model and version: what the program
costs on every variant, from its true zeros and widths, and how fast the kernels that the executor
chooses for the very same weights are beside those of the first version, all sides in turns.
"""

import gc
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim import dispatch
from cosim.artefact import Artefact, ModelFacts, build, captured, facts_of
from cosim.bench import matrices
from cosim.bench.cases import Run
from cosim.bench.measure import Row
from cosim.bench.questions import Block, Question, Subject, Variant, Version
from cosim.calls import Caller
from cosim.chip import DEFAULT_ENERGY, Chip, load_chip, parse_chip
from cosim.compress.compressed import compress
from cosim.compress.network import scan
from cosim.compress.recipe import Recipe, load_recipe, parse_recipe
from cosim.config import configs_root, load, read
from cosim.energy_results import energy_totals
from cosim.errors import CosimError
from cosim.evaluate import Progress
from cosim.heat import settled
from cosim.ir import Graph
from cosim.models import LoadedModel, ModelConfig
from cosim.models import load as load_model
from cosim.results import config_hash, versions
from cosim.simulate import simulate_workloads
from hwmodels.stats import LayerStats, RunStats
from hwmodels.workload import Workload
from kernels import harness, panels
from kernels.encodings import Encoding, matrix_shape
from kernels.sparse_speeds import Speed

SEED = 0
_NEVER = 1e-9
_SPLIT = ("energy_by_component_j", "energy_by_cause_j", "energy_by_factor_j")
_ENERGY = ("energy_table", "area_mm2", *_SPLIT)


def cases(question: Question, text: str) -> list[tuple[Subject, Version]]:
    """Return the models and versions whose `model/version` contains `text`; CosimError if none.

    The first version, which others are compared with, goes with each of its model.
    """
    found: list[tuple[Subject, Version]] = []
    for subject in question.subjects:
        named = [one for one in question.versions if text in case_id(subject, one)]
        needed = dict.fromkeys((question.versions[0], *named) if named else ())
        found += [(subject, version) for version in needed]
    if not found:
        raise CosimError(
            f"bench --{question.name}: no case contains {text!r}; cases are named MODEL/VERSION"
        )
    return found


def case_id(subject: Subject, version: Version) -> str:
    """Return `model/version`."""
    return f"{subject.model}/{version.name}"


def question_rows(
    question: Question,
    text: str,
    *,
    rounds: int,
    progress: Progress,
    known: Sequence[Row] = (),
) -> Iterator[Row]:
    """Yield a row per case that contains `text`; what fails is a row with a `note`.

    A row of `known` whose `config_hash` is that of the case is taken as it is. Raises CosimError
    for mistakes in chips before any work.
    """
    chips = {variant: chip_of(variant) for variant in question.variants}
    wanted = cases(question, text)
    kept = {str(row["config_hash"]): row for row in known if not row["note"]}
    for subject in dict.fromkeys(subject for subject, _ in wanted):
        bench: _Model | None = None
        for version in (version for one, version in wanted if one is subject):
            key = _key(subject, version, chips, rounds)
            if key in kept:
                yield kept[key]
                continue
            head: Row = {
                "case": case_id(subject, version),
                "model": subject.model,
                "version": version.name,
                "config_hash": key,
                "note": "",
            }
            progress.stage(case_id(subject, version), total=len(chips) + 1)
            try:
                if bench is None:
                    bench = _model(subject, question.versions[0])
                yield head | _measured(bench, version, chips, rounds=rounds, progress=progress)
            except Exception as error:  # noqa: BLE001 (one broken case must not hide the others)
                yield head | {"note": f"{type(error).__name__}: {error}"}
            gc.collect()


def chip_of(variant: Variant) -> Chip:
    """Return the chip of a variant; CosimError listing every rule that the change breaks."""
    root = configs_root()
    path = root / "hardware" / f"{variant.chip}.yaml"
    if not variant.changes:
        return load_chip(path)
    hardware = read(path)
    hardware["array"] = {**hardware["array"], **variant.changes}
    return parse_chip(
        hardware,
        read(root / DEFAULT_ENERGY),
        source=f"{path.name} with {variant.name}",
        table_source=DEFAULT_ENERGY,
        relative_to=path,
    )


def recipe_of(version: Version) -> Recipe:
    """Return the recipe of a version; CosimError for one that is not sound."""
    if version.methods is None:
        return load_recipe(_recipe_file(version))
    data = {"methods": [dict(method) for method in version.methods]}
    return parse_recipe(data, name=version.name, source=f"version {version.name}")


def _recipe_file(version: Version) -> Path:
    return configs_root() / "recipes" / f"{version.name}.yaml"


def _key(subject: Subject, version: Version, chips: Mapping[Variant, Chip], rounds: int) -> str:
    path = configs_root() / "models" / f"{subject.model}.yaml"
    return config_hash(
        {
            "versions": versions(),
            "rounds": rounds if subject.blocks else 0,
            "model": read(path),
            "subject": vars(subject),
            "version": vars(version),
            "recipe": read(_recipe_file(version)) if version.methods is None else None,
            "chips": [[variant.name, chip.document] for variant, chip in chips.items()],
        }
    )


@dataclass(frozen=True)
class _Model:
    """A loaded model, its graphs, and its first version, which the others are compared with."""

    subject: Subject
    loaded: LoadedModel
    facts: ModelFacts
    graphs: tuple[Graph, ...]
    first: Version
    base: Artefact


def _model(subject: Subject, first: Version) -> _Model:
    path = configs_root() / "models" / f"{subject.model}.yaml"
    loaded = load_model(load(path, ModelConfig))
    facts, graphs = facts_of(loaded, is_zipped=False), captured(loaded)
    base = _artefact(loaded, facts, graphs, first)
    return _Model(subject, loaded, facts, graphs, first, base)


def _artefact(
    loaded: LoadedModel, facts: ModelFacts, graphs: tuple[Graph, ...], version: Version
) -> Artefact:
    compressed = compress(loaded.module, recipe_of(version))
    return build(loaded, compressed, facts, graphs, is_zipped=False)


def _measured(
    model: _Model,
    version: Version,
    chips: Mapping[Variant, Chip],
    *,
    rounds: int,
    progress: Progress,
) -> Row:
    is_base = version == model.first
    artefact = (
        model.base if is_base else _artefact(model.loaded, model.facts, model.graphs, version)
    )
    calls = Caller(artefact).utterance(model.subject.seconds, [1] * model.subject.steps)
    linears = {
        layer.name
        for layer in scan(model.loaded.module).layers
        if layer.kind == "linear" and layer.block is not None
    }
    found: list[Row] = []
    for variant, chip in chips.items():
        found.append(_on_chip(calls, variant, chip, linears))
        progress.advance()
    executed = [
        _executed(block, model, version, artefact, rounds=rounds) for block in model.subject.blocks
    ]
    progress.advance()
    return {
        "seconds": model.subject.seconds,
        "steps": model.subject.steps,
        "is_random": artefact.model.is_random,
        "program_hash": artefact.program.hash,
        "sparsity": artefact.compression.sparsity,
        "size_bytes": artefact.compression.size_bytes,
        "chips": found,
        "executed": executed,
    }


def _on_chip(calls: Sequence[Workload], variant: Variant, chip: Chip, linears: set[str]) -> Row:
    """Return what one utterance costs; a chip that cannot hold or do it is a row with a note.

    Memory is refreshed as the heat of the chip asks for.

    `linear_*` are of the linear layers in the blocks.
    """
    array = chip.architecture.array
    row: Row = {
        "chip": variant.chip,
        "variant": variant.name,
        "rows": array.rows,
        "columns": array.columns,
        "note": "",
    }
    try:
        stats, thermal = settled(
            chip, lambda own: simulate_workloads(calls, own, variant.name), lambda run: run
        )
    except CosimError as error:
        return row | {"note": "; ".join(error.problems)}
    inner = [layer for layer in stats.layers if _module(layer) in linears]
    totals = energy_totals(stats, chip)
    return (
        row
        | {
            "run_seconds": stats.seconds,
            "cycles": stats.cycles.total,
            "array_cycles": stats.cycles.array,
            "vector_cycles": stats.cycles.vector,
            "stall_cycles": stats.cycles.stalls,
            "macs": stats.macs,
            "array_macs": sum(layer.array_macs for layer in stats.layers),
            "linear_array_cycles": sum(layer.cycles.array for layer in inner),
            "linear_array_macs": sum(layer.array_macs for layer in inner),
            "dram_bytes": stats.traffic.dram,
            "energy_j": stats.energy_j,
            "energy_low_j": stats.energy_low_j,
            "energy_high_j": stats.energy_high_j,
            **{key: totals[key] for key in _ENERGY},
            "refresh_multiplier": 1 if thermal is None else thermal.refresh_multiplier,
            "notes": [*stats.notes, *stats.cycle_notes],
        }
        | _costs_of_widths(stats)
    )


def _module(layer: LayerStats) -> str:
    return layer.name.partition("/")[2].partition("#")[0]


def _costs_of_widths(stats: RunStats) -> Row:
    """Return products by operands, and what sums in wide accumulators and new codes cost.

    `quantize_*` are the ops that make codes or bits of floats, before a product or after it;
    where one runs beside another op its cycles are that op's. `accumulator_j` is all energy of the
    output buffer, `rescale_j` that of scales of groups at the end of the columns.
    """
    made = [layer for layer in stats.layers if _makes_codes(layer.kind)]
    products: dict[str, int] = {}
    joules = {"accumulator_j": 0.0, "rescale_j": 0.0}
    for item in stats.energy:
        if item.action.startswith("mac_") or item.action == "vector_mac":
            products[item.action] = products.get(item.action, 0) + int(item.count)
        if item.component == "output_buffer" and item.action.endswith("_byte"):
            joules["accumulator_j"] += item.energy_j
        if item.action == "rescale":
            joules["rescale_j"] += item.energy_j
    return {
        "products": products,
        "quantize_cycles": sum(layer.cycles.total for layer in made),
        "quantize_j": sum(layer.energy_j for layer in made),
        "partial_sum_bytes": stats.traffic.partial_sums_read + stats.traffic.partial_sums_written,
        **joules,
    }


def _makes_codes(kind: str) -> bool:
    return kind in ("quantize", "dequantize")


def _executed(
    block: Block, model: _Model, version: Version, artefact: Artefact, *, rounds: int
) -> Row:
    """Return the CPU time of a block's linear layers in the first version over that in this one.

    The kernels are those that the executor chooses, and for weights with zeros besides the fastest
    that leave zeros out, be they slower than dense ones or not.
    """
    speeds = dispatch.speeds()
    sides = {
        "base": _layers(block, model.base, model.first.activation, speeds),
        "own": _layers(block, artefact, version.activation, speeds),
        "sparse": _layers(block, artefact, version.activation, _without_dense(speeds)),
    }
    kernels = {side: list(dict.fromkeys(name for name, _ in sides[side])) for side in sides}
    if kernels["sparse"] == kernels["own"]:
        del sides["sparse"]
    calls = {side: partial(_run_all, [run for _, run in sides[side]]) for side in sides}
    samples = harness.alternate(calls, rounds=rounds, clock=time.thread_time)
    row: Row = {"block": block.name, "seconds": samples["own"].median_s}
    for side in ("own", "sparse"):
        if side in samples:
            found = harness.ratio(samples["base"], samples[side])
            row[side] = {
                "kernels": kernels[side],
                "speedup": found.median,
                "speedup_interval": [found.low, found.high, found.coverage],
            }
    return row


def _run_all(runs: Sequence[Run]) -> None:
    for run in runs:
        run()


def _without_dense(speeds: Sequence[Speed]) -> tuple[Speed, ...]:
    """Return speeds by which no dense kernel is ever faster than one that leaves zeros out."""
    return tuple(
        replace(one, speeds=tuple(value * _NEVER for value in one.speeds))
        if one.densities == (1.0,)
        else one
        for one in speeds
    )


def _layers(
    block: Block, artefact: Artefact, activation: str, speeds: Sequence[Speed]
) -> list[tuple[str, Run]]:
    """Return (kernel, call) of every linear layer, chosen by `speeds`."""
    chosen = [
        encoding
        for name, encoding in artefact.encodings.items()
        if re.fullmatch(block.pattern, name) and len(encoding.shape) == 2
    ]
    if not chosen:
        raise ValueError(f"{block.name}: no weight of the model fits {block.pattern}")
    return [_layer(encoding, block.rows, activation, speeds) for encoding in chosen]


def _layer(
    encoding: Encoding, rows: int, activation: str, speeds: Sequence[Speed]
) -> tuple[str, Run]:
    n, k = matrix_shape(encoding.shape)
    panel = panels.prepare_linear(encoding, rows=rows, activation=activation, table=speeds)
    given = matrices.quantized(matrices.activations(rows, k, SEED), activation)
    out: NDArray[np.float32] = np.empty((rows, n), np.float32)
    scale = given.scale if given.scale.size else None
    return panel.kernel, panels.bind(panel, given.x, out, x_scale=scale)
