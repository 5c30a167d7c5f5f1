"""How fast the chip model simulates: single layers against other simulators, and whole models.

All in CPU seconds, the sides in turns. Layers are those of wav2vec2-base on 10 s of audio that
SCALE-Sim finishes in seconds, on one array of 128 x 128 with equal buffers and ports. Every
simulator does what it does by itself: SCALE-Sim walks all cycles in address order without tiling,
ZigZag and ours search for a tiling; ours then runs its time line. Their cycles stand beside ours.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import process_time

from cosim.artefact import build_from
from cosim.bench.cases import AbsentError
from cosim.bench.measure import Row
from cosim.bench.simulator_peers import SIMULATORS, Worker, started
from cosim.calls import Caller
from cosim.chip import DEFAULT_ENERGY, load_chip
from cosim.config import configs_root, load
from cosim.evaluate import Progress
from cosim.simulate import simulate_workloads
from hwmodels import mapper
from hwmodels.architecture import (
    Architecture,
    Buffer,
    Buffers,
    Dataflow,
    Figure,
    MappingChoice,
    MemoryStack,
    MemoryTechnology,
    ProcessingArray,
    VectorUnit,
)
from hwmodels.energy import EnergyTable
from hwmodels.simulate import simulate
from hwmodels.stats import RunStats
from hwmodels.workload import Gemm, TensorRef, Workload
from kernels.harness import Sample, ratio

LAYERS: Mapping[str, tuple[int, int, int]] = {
    "qk": (499, 499, 64),
    "av": (499, 64, 499),
    "ctc": (499, 32, 768),
    "posg": (499, 48, 6144),
    "qkvo": (499, 768, 768),
}
"""m, n, k of attention scores and context, the output layer, a group of the position convolution,
and a projection."""
SIZE = 128
DATAFLOW: Dataflow = "weight_stationary"
SIZES_BYTES = {"input": 262144, "weight": 262144, "output": 131072}
PORT_BYTES = 32
LPF_LIMIT = 6  # how far ZigZag's search goes
ROUNDS = 3
CHIP, RECIPE, FIDELITY = "stacked_edge_32", "w8a8", "roofline"


@dataclass(frozen=True)
class Model:
    """A shipped model, the audio of one utterance in seconds and its decoding steps."""

    file: str
    seconds: float
    steps: int


MODELS = (
    Model("wav2vec2_base", 10.0, 0),
    Model("wav2vec2_large", 10.0, 0),
    Model("whisper_tiny_en", 30.0, 20),
)
VARIANTS = (*LAYERS, *(model.file for model in MODELS))


def simulator_rows(text: str, rounds: int, progress: Progress) -> Iterator[Row]:
    """Yield a row per layer and model whose id `simulate_NAME/` contains `text`.

    `cycles_per_second` are the simulated cycles over the CPU seconds, search for mappings included.
    A peer's `ratio_ours` is its CPU time over ours. A simulator that is not there is a note.
    """
    chosen = [name for name in VARIANTS if text in f"simulate_{name}/"]
    turns = min(rounds, ROUNDS)
    layers = [name for name in LAYERS if name in chosen]
    if layers:
        yield from _layer_rows(layers, turns, progress)
    for model in MODELS:
        if model.file in chosen:
            progress.stage(f"loading {model.file}")
            yield _model_row(model, turns)


# --- one layer --------------------------------------------------------------------------------


def compared_chip(size: int, dataflow: Dataflow) -> Architecture:
    """Return an array of `size` x `size` cells at 1 GHz with the buffers and ports compared.

    Operand buffers stream as a whole: nothing stays from layer to layer, here or there.
    """
    buffers = Buffers(**{name: Buffer(have, PORT_BYTES) for name, have in SIZES_BYTES.items()})
    array = ProcessingArray(size, size, 1e9, dataflow=dataflow, schedule="double_buffered")
    return Architecture(
        "compared",
        array,
        VectorUnit(size, 1e9),
        buffers,
        MemoryStack("port", 1),
        MappingChoice(resident_share=0.0),
    )


def port_memory() -> MemoryTechnology:
    """Return a memory that is nothing but a port of 32 bytes per cycle."""
    ideal = load(configs_root() / "memory" / "ideal.yaml", MemoryTechnology)
    rate = Figure(PORT_BYTES * 1e9, "assumed: the port of the comparison")
    return replace(ideal, name="port", peak_bytes_per_s=rate)


def layer_workload(name: str, m: int, n: int, k: int) -> Workload:
    """Return one layer with activations as im2col lays them out and results of 8 bits."""
    a = TensorRef("a", "input", (m, k), 8 * m * k)
    w = TensorRef("w", "constant", (n, k), 8 * n * k)
    result = TensorRef("y", "output", (m, n), 8 * m * n)
    return Workload(name, (Gemm(name, "gemm", m, n, k, a, w, result, "i8", "i8", "i32"),))


def job(name: str, m: int, n: int, k: int, *, size: int, dataflow: Dataflow) -> dict[str, object]:
    """Return a layer on the compared chip as the workers of other simulators take it."""
    array = {"size": size, "rows": size, "columns": size, "dataflow": dataflow}
    memory = {"buffers": SIZES_BYTES, "port_bytes": PORT_BYTES, "lpf_limit": LPF_LIMIT}
    return {"name": name, "m": m, "n": n, "k": k, **array, **memory}


def _layer_rows(names: Sequence[str], rounds: int, progress: Progress) -> Iterator[Row]:
    """Yield a row per layer, and one for all five together."""
    seconds: dict[tuple[str, str], list[float]] = {}
    cycles: dict[tuple[str, str], int] = {}
    events: dict[str, int] = {}
    with ExitStack() as stack:
        workers, versions, notes = _workers(stack)
        progress.stage("simulating layers", total=rounds * len(names))
        for _ in range(rounds):
            for name in names:
                stats, spent = _simulated(name)
                cycles[name, ""], events[name] = stats.cycles.total, stats.simpy_events
                seconds.setdefault((name, ""), []).append(spent)
                for worker in workers:
                    key = name, worker.simulator.name
                    found = worker.ask(job(name, *LAYERS[name], size=SIZE, dataflow=DATAFLOW))
                    cycles[key] = round(found["cycles"])
                    seconds.setdefault(key, []).append(found["cpu_seconds"])
                progress.advance()
    for name in names:
        m, n, k = LAYERS[name]
        samples = {who: Sample(tuple(seconds[name, who])) for who in ("", *versions)}
        counted = {who: cycles[name, who] for who in samples}
        shape = f"{k}x{n}-T{m}"
        yield _row(name, shape, samples, counted, versions, notes) | {"simpy_events": events[name]}
    if len(names) == len(LAYERS):
        samples = {
            who: Sample(tuple(map(sum, zip(*(seconds[name, who] for name in names), strict=True))))
            for who in ("", *versions)
        }
        counted = {who: sum(cycles[name, who] for name in names) for who in samples}
        total = {"simpy_events": sum(events.values())}
        yield _row("layers", f"{len(names)}layers", samples, counted, versions, notes) | total


def _workers(stack: ExitStack) -> tuple[list[Worker], dict[str, str], list[str]]:
    """Return the simulators that are there, their versions, and notes on the others."""
    workers: list[Worker] = []
    versions: dict[str, str] = {}
    notes: list[str] = []
    for simulator in SIMULATORS:
        try:
            worker, version = stack.enter_context(started(simulator))
        except AbsentError as error:
            notes.append(str(error))
            continue
        workers.append(worker)
        versions[simulator.name] = version
    return workers, versions, notes


def _simulated(name: str) -> tuple[RunStats, float]:
    """Return one layer's result and the CPU seconds it took, search for the mapping included."""
    work, chip, memory = (
        layer_workload(name, *LAYERS[name]),
        compared_chip(SIZE, DATAFLOW),
        port_memory(),
    )
    energy = load(configs_root() / DEFAULT_ENERGY, EnergyTable)
    mapper.map_product.cache_clear()
    begun = process_time()
    stats = simulate(work, chip, technology=memory, energy=energy)
    return stats, process_time() - begun


def _row(
    name: str,
    shape: str,
    samples: Mapping[str, Sample],
    cycles: Mapping[str, int],
    versions: Mapping[str, str],
    notes: Sequence[str],
) -> Row:
    """Return a row; samples and cycles of ours stand under an empty name."""
    peers: dict[str, object] = {}
    for who, version in versions.items():
        against = ratio(samples[who], samples[""])
        peers[who] = {
            "ratio_torch": None,
            "ratio_ours": against.median,
            "ratio_ours_interval": [against.low, against.high, against.coverage],
            "error": None,
            "cycles": cycles[who],
            "seconds": samples[who].median_s,
            "version": version,
        }
    seconds = samples[""].median_s
    return {
        "kernel": f"simulate_{name}",
        "shape": shape,
        "threads": 1,
        "ratio_torch": None,
        "ratio_numpy": None,
        "share_of_limit": None,
        "gops": None,
        "case": f"simulate_{name}/{shape}",
        "seconds": seconds,
        "cycles": cycles[""],
        "cycles_per_second": cycles[""] / seconds,
        "peers": peers,
        "notes": list(notes),
    }


# --- a whole model ----------------------------------------------------------------------------


def _model_row(model: Model, rounds: int) -> Row:
    """Return the row of an utterance on the stacked edge chip, products and vector work alike.

    Its memory is at the roofline, as that of the layers: a controller is another simulator, whose
    speed `cosim bench --filter memory` tells.
    """
    root = configs_root()
    artefact = build_from(
        root / "models" / f"{model.file}.yaml",
        root / "recipes" / f"{RECIPE}.yaml",
        is_zipped=False,
    )
    calls = Caller(artefact).utterance(model.seconds, [1] * model.steps)
    del artefact
    chip = load_chip(
        root / "hardware" / f"{CHIP}.yaml", assignments=[f"memory.fidelity={FIDELITY}"]
    )
    seconds: list[float] = []
    stats = simulate_workloads(calls, chip, model.file)  # the first call compiles and is not timed
    for _ in range(rounds):
        mapper.map_product.cache_clear()
        begun = process_time()
        stats = simulate_workloads(calls, chip, model.file)
        seconds.append(process_time() - begun)
    gemms = sum(item.count for call in calls for item in call.items if isinstance(item, Gemm))
    shape = f"{gemms}gemms-{model.seconds:g}s"
    row = _row(model.file, shape, {"": Sample(tuple(seconds))}, {"": stats.cycles.total}, {}, ())
    return row | {
        "simpy_events": stats.simpy_events,
        "gemms": gemms,
        "chip": CHIP,
        "fidelity": FIDELITY,
    }
