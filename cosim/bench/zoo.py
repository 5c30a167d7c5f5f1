"""Every model file through the whole path: captured, executed against torch, simulated.

One row a model. Execution is that of fp32 on real speech, one thread, the sides in turns; cycles
are those of 8-bit weights and activations on one chip, because no shipped array multiplies floats.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.artefact import Artefact, build, captured, facts_of
from cosim.bench.measure import Row
from cosim.calls import Caller, check_chip, has_decoder
from cosim.chip import Chip, load_chip
from cosim.compress.compressed import compress
from cosim.compress.recipe import Recipe, load_recipe
from cosim.config import configs_root, load
from cosim.evaluate import Progress, program_engines
from cosim.ir import Op, Program
from cosim.models import LoadedModel, ModelConfig
from cosim.models import load as load_model
from cosim.profile import graph_lengths
from cosim.schedule import schedule
from cosim.simulate import simulate_workloads
from cosim.speech.engine import Engine
from cosim.speech.features import RATE_HZ, features
from cosim.speech.manifest import SpeechConfig
from cosim.speech.selection import load_utterance, select
from hwmodels.simulate import Reuse
from kernels import harness

F32 = NDArray[np.float32]
SECONDS = 10.0
STEPS = 40
"""Decoding steps simulated for 10 s: 4 pieces a second, as for drawn weights."""
COMPARED_STEPS = 4
CHIP = "stacked_server_128"
RECIPE = "w8a8"


def model_files(text: str) -> list[Path]:
    """Return the shipped model files whose name contains `text`."""
    return sorted(path for path in (configs_root() / "models").glob("*.yaml") if text in path.stem)


def real_speech(progress: Progress, seconds: float = SECONDS) -> F32:
    """Return that much speech of the prompts corpus, utterances one after the other."""
    chosen = select(SpeechConfig(corpus="prompts", split="test"), progress=progress.note)
    parts: list[F32] = []
    wanted = round(seconds * RATE_HZ)
    for utterance in chosen.utterances:
        parts.append(load_utterance(utterance))
        if sum(map(len, parts)) >= wanted:
            break
    return np.concatenate(parts)[:wanted]


def zoo_rows(paths: Sequence[Path], *, rounds: int, progress: Progress) -> Iterator[Row]:
    """Yield one row per model file; what fails is a row with a `note` and no figures."""
    chip = load_chip(configs_root() / "hardware" / f"{CHIP}.yaml", None)
    speech = real_speech(progress)
    progress.stage("models", total=len(paths))
    for path in paths:
        try:
            yield model_row(path, chip, speech, rounds=rounds)
        except Exception as error:  # noqa: BLE001 (one broken model must not hide the others)
            yield {"model": path.stem, "note": f"{type(error).__name__}: {error}"}
        gc.collect()
        progress.advance()


def model_row(path: Path, chip: Chip, speech: F32, *, rounds: int) -> Row:
    """Return the row of one model file."""
    loaded = load_model(load(path, ModelConfig))
    facts = facts_of(loaded, is_zipped=False)
    started = perf_counter()
    graphs = captured(loaded)
    capture_s = perf_counter() - started
    plain = build(loaded, compress(loaded.module, Recipe("fp32")), facts, graphs, is_zipped=False)
    row: dict[str, Any] = {
        "model": path.stem,
        "family": loaded.family,
        "parameters": loaded.parameters,
        "capture_seconds": capture_s,
        "ops": sum(len(graph.ops) for graph in plain.program.graphs),
        "note": "",
    }
    row |= _counted(loaded, plain, speech)
    row |= _executed(loaded, plain, speech, rounds)
    recipe = load_recipe(configs_root() / "recipes" / f"{RECIPE}.yaml")
    del plain
    gc.collect()
    compressed = compress(loaded.module, recipe)
    row |= _simulated(build(loaded, compressed, facts, graphs, is_zipped=False), chip)
    return row


def _counted(loaded: LoadedModel, artefact: Artefact, speech: F32) -> dict[str, object]:
    """Return MACs of the encoder and of one step, by the program and by torch's own counter.

    Attention over a pattern is counted in its dense form on both sides: torch knows no other.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415, imports torch
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    from cosim.models.marks import dense_attention_flops  # noqa: PLC0415
    from cosim.models.torch_engine import torch_engine  # noqa: PLC0415

    heard = features(speech, loaded.front)
    engine = torch_engine(loaded)
    counter = FlopCounterMode(display=False, custom_mapping=dense_attention_flops())
    with counter, sdpa_kernel(SDPBackend.MATH):  # fused attention on a CPU is not in its table
        engine.encode(heard)
        if has_decoder(artefact):
            engine.step(1, 0)
    length = loaded.front.length(len(speech))
    program = without_patterns(artefact.program)
    bound = graph_lengths(program, length, 0)
    macs = sum(schedule(program, graph, bindings=bound[graph]).macs for graph in bound)
    return {"macs_program": macs, "macs_torch": counter.get_total_flops() // 2}


def without_patterns(program: Program) -> Program:
    """Return the program with every attention over all keys."""
    return replace(
        program,
        graphs=tuple(
            replace(graph, ops=tuple(_dense(op) for op in graph.ops)) for graph in program.graphs
        ),
    )


def _dense(op: Op) -> Op:
    kept = tuple((key, value) for key, value in op.attributes if key != "pattern")
    return replace(op, attributes=kept)


def _executed(
    loaded: LoadedModel, artefact: Artefact, speech: F32, rounds: int
) -> dict[str, object]:
    from cosim.models.torch_engine import torch_engine  # noqa: PLC0415, imports torch

    heard = features(speech, loaded.front)
    ours, theirs = program_engines(artefact)(), torch_engine(loaded)
    error = max(_differences(ours.encode(heard), theirs.encode(heard)).values())
    if has_decoder(artefact):
        error = max(error, _step_difference(ours, theirs))
    samples = harness.alternate(
        {"ours": lambda: ours.encode(heard), "torch": lambda: theirs.encode(heard)},
        rounds=rounds,
        clock=process_time,
    )
    against = harness.ratio(samples["torch"], samples["ours"])
    return {
        "error": error,
        "execute_seconds": samples["ours"].median_s,
        "ratio_torch": against.median,
        "ratio_torch_interval": [against.low, against.high, against.coverage],
    }


def _differences(ours: Mapping[str, F32], theirs: Mapping[str, F32]) -> dict[str, float]:
    """Return the largest difference of each output relative to torch's largest value."""
    return {
        name: float(np.abs(ours[name] - value).max() / np.abs(value).max())
        for name, value in theirs.items()
    }


def _step_difference(ours: Engine, theirs: Engine) -> float:
    """Return the largest difference of the logits after a few tokens, the same on both sides."""
    worst = 0.0
    for past in range(COMPARED_STEPS):
        logits, wanted = ours.step(past + 1, past), theirs.step(past + 1, past)
        worst = max(worst, float(np.abs(logits - wanted).max() / np.abs(wanted).max()))
    return worst


def _simulated(artefact: Artefact, chip: Chip) -> dict[str, object]:
    check_chip(artefact, chip)
    steps = STEPS if has_decoder(artefact) else 0
    calls = Caller(artefact).utterance(artefact.model.max_seconds or SECONDS, [1] * steps)
    stats = simulate_workloads(calls, chip, artefact.model.name, Reuse())
    return {
        "chip": chip.name,
        "recipe": artefact.compression.recipe,
        "steps": steps,
        "macs": stats.macs,
        "cycles": stats.cycles.total,
        "array_utilization": stats.utilization,
        "energy_j": stats.energy_j,
    }
