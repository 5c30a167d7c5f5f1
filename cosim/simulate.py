"""Simulate what was executed: every utterance with its true shapes and its true decoding steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from cosim.artefact import Artefact, build_from
from cosim.artefact import load as load_artefact
from cosim.chip import Chip, load_chip
from cosim.config import read, resolve
from cosim.energy_results import energy_totals
from cosim.errors import CosimError
from cosim.evaluate import REPORTED_S, Transcript
from cosim.profile import graph_lengths
from cosim.results import write_text
from cosim.schedule import NOT_SIMULATED, schedule, zero_patterns
from hwmodels.architecture import FEMTO, Cores
from hwmodels.bandwidth import Watch
from hwmodels.batch import Turn, simulate_batch
from hwmodels.cores import core_rows, efficiency, speed_up
from hwmodels.gemm_list import YAML_SUFFIXES, read_gemms
from hwmodels.memory_totals import MemoryTotals, Sampling
from hwmodels.simulate import Reuse, simulate_calls
from hwmodels.stats import LayerStats, RunStats, combine, row
from hwmodels.support import require_supported
from hwmodels.thermal import StackPower, Thermal, ThermalError, make_ladder, power_of, settle
from hwmodels.workload import Workload

T = TypeVar("T")


@dataclass
class Caller:
    """The calls of one artefact as workloads; each distinct call is scheduled once.

    `densities` are shares of activations that are not zero, see `cosim.execute.zeros`.
    """

    artefact: Artefact
    densities: Mapping[str, float] = field(default_factory=dict)
    workloads: dict[tuple[str, int, int], Workload] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patterns = zero_patterns(self.artefact.encodings)

    def workload(self, graph: str, length: int, past: int) -> Workload:
        """Return the work of one call for an encoder input of `length`."""
        if (graph, length, past) not in self.workloads:
            program = self.artefact.program
            lengths = graph_lengths(program, length, past)
            self.workloads[graph, length, past] = schedule(
                program,
                graph,
                bindings=lengths[graph],
                patterns=self.patterns,
                densities=self.densities,
            )
        return self.workloads[graph, length, past]

    def utterance(self, seconds: float, widths: Sequence[int]) -> list[Workload]:
        """Return one encoder call over that much audio, and calls of the decoder.

        `widths` says how many calls there are at each position from 0.
        """
        length = self.artefact.model.length(seconds)
        steps = [
            self.workload("step", length, past)
            for past, width in enumerate(widths)
            for _ in range(width)
        ]
        return [self.workload("encoder", length, 0), *steps]


@dataclass(frozen=True)
class SpeechRun:
    """The simulation of a set of utterances, one `RunStats` each, in order.

    `simulated_calls` were run through SimPy with `simpy_events` events in all; `reused_calls` were
    equal to one of them in work, addresses, chip and residency.
    """

    chip: Chip
    utterances: tuple[RunStats, ...]
    durations_s: tuple[float, ...]
    simulated_calls: int
    reused_calls: int
    simpy_events: int
    not_simulated: tuple[str, ...] = NOT_SIMULATED
    thermal: Thermal | None = None

    @property
    def whole(self) -> RunStats:
        """All utterances as one run."""
        return combine(self.utterances, name="all utterances")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the chip model wants to be known."""
        whole = self.whole
        heat = heat_warnings(self.chip, self.thermal)
        cores = self.chip.architecture.cores
        waiting: tuple[str, ...] = ()
        if cores.count > 1 and cores.split == "utterances":
            text = (
                f"{self.chip.name}: utterances come one at a time, so that {cores.count - 1} of "
                f"{cores.count} cores wait; cosim simulate --utterances runs several at once"
            )
            waiting = (text,)
        return (*whole.warnings, *heat, *waiting, *whole.notes, *whole.cycle_notes)

    @property
    def macs_per_second_of_audio(self) -> float:
        """Multiply-accumulates per second of real speech (padding is work, not speech)."""
        return self.whole.macs / sum(self.durations_s)

    def layer_rows(self) -> list[Mapping[str, object]]:
        """Return one row per op, summed over all calls."""
        return [row(layer) for layer in self.whole.layers]

    def utterance_row(self, index: int) -> dict[str, object]:
        """Return cycles, joules and bytes of one utterance."""
        stats = self.utterances[index]
        return {
            "cycles": stats.cycles.total,
            "seconds": stats.seconds,
            "energy_j": stats.energy_j,
            "dram_bytes": stats.traffic.dram,
            "macs": stats.macs,
        }

    def totals(self) -> dict[str, object]:
        """Return the `totals` of `run.json`."""
        joules = [stats.energy_j for stats in self.utterances]
        speech_s = sum(self.durations_s)
        return {
            **totals_of(self.whole, self.thermal),
            **energy_totals(self.whole, self.chip),
            "simpy_events": self.simpy_events,
            "simulated_calls": self.simulated_calls,
            "reused_calls": self.reused_calls,
            "energy_per_utterance_j": {
                "mean": float(np.mean(joules)),
                "p50": float(np.percentile(joules, 50)),
                "p95": float(np.percentile(joules, 95)),
            },
            "energy_per_audio_second_j": sum(joules) / speech_s,
            "real_time_factor": self.whole.seconds / speech_s,
            "audio_seconds": speech_s,
        }


def totals_of(stats: RunStats, thermal: Thermal | None = None) -> dict[str, object]:
    """Return cycles, energy and bandwidth of a run, and its sums by kind of layer."""
    return {
        "cycles": stats.cycles.total,
        "cycles_by_category": dict(vars(stats.cycles)),
        "bound_cycles": stats.bound_cycles,
        "convention": stats.convention,
        "convention_cycles": stats.convention_cycles,
        "seconds": stats.seconds,
        "energy_j": stats.energy_j,
        "energy_low_j": stats.energy_low_j,
        "energy_high_j": stats.energy_high_j,
        "energy_assumed_fraction": _assumed_fraction(stats),
        "energy_rows": [{**vars(item), "energy_j": item.energy_j} for item in stats.energy],
        "dram_bytes": stats.traffic.dram,
        "bytes_by_level": dict(vars(stats.traffic)),
        "bandwidth_bytes_per_s": stats.bandwidth_bytes_per_s,
        "peak_bandwidth_fraction": stats.peak_bandwidth_fraction,
        "array_utilization": stats.utilization,
        "macs": stats.macs,
        "simpy_events": stats.simpy_events,
        "by_kind": _by_kind(stats),
        **({} if stats.controller is None else {"memory": _memory(stats, stats.controller)}),
        **({} if thermal is None else {"thermal": _temperatures(thermal)}),
        **({"cores": core_rows(stats)} if stats.cores else {}),
    }


def _temperatures(found: Thermal) -> dict[str, object]:
    """Return how hot the stack gets under lasting work, and the refresh that this asks for."""
    return {
        "dram_c": found.dram_c,
        "temperatures_c": found.temperatures_c,
        "ambient_c": found.ambient_c,
        "refresh_multiplier": found.refresh_multiplier,
        "is_alternating": found.is_alternating,
        "time_constant_s": found.time_constant_s,
        "tried": [{"refresh_multiplier": rate, "dram_c": hottest} for rate, hottest in found.tried],
    }


def _memory(stats: RunStats, found: MemoryTotals) -> dict[str, object]:
    """Return what limited the memory, how rows and reads fared, and who waited how long."""
    return {
        "name": found.memory,
        "policy": found.policy,
        "address_map": found.address_map,
        "binding_limit": found.binding_limit,
        "limits": found.limits,
        "row_hits": found.row_hits,
        "row_misses": found.row_misses,
        "row_conflicts": found.row_conflicts,
        "commands": dict(found.commands),
        "read_latency_s": {
            "mean": found.mean_read_latency_s,
            "p50": found.read_latency_s(0.5),
            "p99": found.read_latency_s(0.99),
        },
        "requesters": {
            name: {
                "descriptors": one["descriptors"],
                "read_bytes": one["read_bytes"],
                "write_bytes": one["write_bytes"],
                "queued_s": one["queued_fs"] / FEMTO,
                "transfer_s": one["total_fs"] / FEMTO,
                "stall_cycles": getattr(stats.cycles, f"stall_{name}"),
            }
            for name, one in stats.memory.items()
        },
        **({} if found.sampling is None else {"sampling": _sampling(stats, found.sampling)}),
    }


def _sampling(stats: RunStats, found: Sampling) -> dict[str, object]:
    """Return what part of the traffic the controller served itself, and errors for the rest.

    Standard errors, of the time as of all memory time without the controller were waited for.
    """
    return {
        "phases": found.phases,
        "exact_share": found.exact_share,
        "cycles_error": found.time_error_s * stats.clock_hz,
        "energy_error_j": found.energy_error_j,
    }


def _assumed_fraction(stats: RunStats) -> float:
    """Return the share of the energy whose price nobody published (source `assumed ...`)."""
    assumed = sum(item.energy_j for item in stats.energy if item.source.startswith("assumed"))
    return assumed / stats.energy_j if stats.energy_j else 0.0


def _by_kind(stats: RunStats) -> list[dict[str, object]]:
    groups: dict[str, list[LayerStats]] = {}
    for layer in stats.layers:
        graph = layer.name.partition("/")[0]
        groups.setdefault(f"{graph} {layer.kind}", []).append(layer)
    rows = []
    for kind, layers in groups.items():
        cycles = sum(layer.cycles.total for layer in layers)
        busy_cells = sum(layer.busy_cells for layer in layers)
        rows.append(
            {
                "kind": kind,
                "cycles": cycles,
                "macs": sum(layer.macs for layer in layers),
                "array_utilization": busy_cells / (cycles * stats.cells) if cycles else 0.0,
                "energy_j": sum(layer.energy_j for layer in layers),
                "dram_bytes": sum(layer.traffic.dram for layer in layers),
            }
        )
    return sorted(rows, key=lambda item: -int(str(item["cycles"])))


def has_decoder(artefact: Artefact) -> bool:
    """Return whether the program decodes token by token."""
    return "step" in artefact.program.graph_names


def check_chip(artefact: Artefact, chip: Chip) -> None:
    """Raise CosimError listing every op of the program that the chip supports nowhere."""
    problems: list[str] = []
    for workload in Caller(artefact).utterance(1.0, [1] if has_decoder(artefact) else []):
        try:
            require_supported(workload, chip.architecture)
        except ValueError as error:
            problems += str(error).splitlines()
    if problems:
        raise CosimError(problems)


def simulate_speech(
    artefact: Artefact,
    chip: Chip,
    transcripts: Sequence[Transcript],
    advance: Callable[[], None],
    densities: Mapping[str, float] | None = None,
) -> SpeechRun:
    """Return the simulation of every transcript's utterance with the steps it took.

    On a chip with a thermal stack the utterances are taken as work without a pause, see `settled`.
    `densities` of activations are those of `Caller`.
    """
    caller = Caller(artefact, densities or {})
    calls = [caller.utterance(item.duration_s, item.widths) for item in transcripts]
    runs: list[SpeechRun] = []

    def run(own: Chip) -> SpeechRun:
        reuse, found = Reuse(), []
        for transcript, work in zip(transcripts, calls, strict=True):
            found.append(simulate_workloads(work, own, transcript.id, reuse))
            if not runs:
                advance()
        runs.append(
            SpeechRun(
                own,
                tuple(found),
                tuple(item.duration_s for item in transcripts),
                simulated_calls=reuse.misses,
                reused_calls=reuse.hits,
                simpy_events=sum(stats.simpy_events for stats, _ in reuse.results.values()),
            )
        )
        return runs[-1]

    found, thermal = settled(chip, run, lambda result: result.whole)
    return replace(found, thermal=thermal)


def settled(
    chip: Chip, run: Callable[[Chip], T], whole: Callable[[T], RunStats]
) -> tuple[T, Thermal | None]:
    """Return what `run` returns for a chip refreshed as its own heat asks for, and how hot it gets.

    The power is that of `whole` of a result over its time: of work without a pause. A chip without
    a thermal stack runs once. Raises CosimError for a design that gets too hot at any rate.
    """
    if chip.thermal is None:
        return run(chip), None
    results: dict[int, T] = {}

    def power(rate: int) -> StackPower:
        refreshed = chip.refreshed(rate)
        if refreshed is not chip or not results:
            results[rate] = run(refreshed)
        else:  # the roofline knows no refresh
            results[rate] = next(iter(results.values()))
        stats = whole(results[rate])
        return power_of(stats.energy, stats.seconds)

    try:
        found = settle(power, make_ladder(chip.thermal))
    except ThermalError as error:
        raise CosimError([f"{chip.name}: {line}" for line in str(error).splitlines()]) from None
    return results[found.refresh_multiplier], found


def heat_warnings(chip: Chip, found: Thermal | None) -> tuple[str, ...]:
    """Return a warning where the memory model leaves out the refresh that the heat asks for."""
    if found is None or found.refresh_multiplier == 1 or chip.dram is not None:
        return ()
    rate = f"refresh x{found.refresh_multiplier}"
    hot = f"{chip.name}: DRAM at {found.dram_c:.1f} C asks for {rate}, "
    return (f"{hot}which fidelity roofline leaves out of time and energy",)


def simulate_workloads(
    calls: Sequence[Workload],
    chip: Chip,
    name: str,
    reuse: Reuse | None = None,
    watch: Watch | None = None,
) -> RunStats:
    """Return a sequence of calls as one run; CosimError for what the chip cannot hold or do.

    `watch` is told what moves when.
    """
    try:
        found = simulate_calls(
            calls,
            chip.architecture,
            technology=chip.technology,
            energy=chip.energy,
            dram=chip.dram,
            reuse=reuse,
            watch=watch,
        )
    except ValueError as error:
        raise CosimError(str(error).splitlines()) from None
    return combine(found, name=name)


def simulate_any(
    what: Path,
    hardware: Path,
    *,
    energy: Path | None = None,
    seconds: float | None = None,
    steps: int = 20,
    recipe: Path | None = None,
    reuse: bool = True,
    assignments: Sequence[str] = (),
    bandwidth: Path | None = None,
    utterances: int = 1,
) -> tuple[list[Mapping[str, object]], dict[str, object]]:
    """Return rows per layer and totals of an artefact folder, a model file or a GEMM list.

    A model with a decoder takes `steps` decoding steps. `seconds` of audio (default: the window,
    or 10 s without one) are padded to the model's window where it has one, so that there they
    count for the real-time factor alone. `assignments` are `a.b=value` of the chip file.
    `bandwidth` is a CSV file to write with the bandwidth of every channel over time; then equal
    calls are simulated again. Cores that divide nothing run so many `utterances` of this kind side
    by side.
    """
    chip = load_chip(hardware, energy, assignments=assignments)
    if utterances > 1 and chip.architecture.cores.split != "utterances":
        raise CosimError(
            f"--utterances: found {utterances}, but the cores of {chip.name} share each of them; "
            "expected a chip with cores.split: utterances"
        )
    is_list = is_gemm_list(what)
    if is_list:
        calls, name = [_gemm_list(what)], what.name
    else:
        artefact = (
            load_artefact(what)
            if what.is_dir()
            else build_from(resolve(str(what)), recipe, is_zipped=False)
        )
        window_s = artefact.model.max_seconds
        if seconds is not None and window_s is not None and seconds > window_s:
            raise CosimError(f"--seconds: found {seconds:g}, expected at most {window_s:g}")
        seconds = seconds or window_s or REPORTED_S
        check_chip(artefact, chip)
        taken = steps if has_decoder(artefact) else 0
        calls = Caller(artefact).utterance(seconds, [1] * taken)
        name = f"{artefact.model.name} ({artefact.compression.recipe}), {seconds:g} s"
        name += f", {taken} decoding steps" if taken else ""
    watches: list[Watch] = []

    def run(own: Chip) -> tuple[RunStats, tuple[Turn, ...]]:
        if bandwidth is None:
            return _side_by_side(calls, own, name, utterances, Reuse() if reuse else None)
        watches.append(Watch())
        return _side_by_side(calls, own, name, utterances, watch=watches[-1])

    (stats, turns), thermal = settled(chip, run, lambda result: result[0])
    if bandwidth is not None:
        write_bandwidth(bandwidth, watches[-1])
    total = totals_of(stats, thermal) | _against_one(stats, calls, chip, utterances)
    total |= {
        **energy_totals(stats, chip),
        "utterances": [_turn_row(turn, chip.clock_hz) for turn in turns],
        "hardware": chip.name,
        "work": name,
        "warnings": [
            *stats.warnings,
            *heat_warnings(chip, thermal),
            *stats.notes,
            *stats.cycle_notes,
        ],
        "not_simulated": list(NOT_SIMULATED) if not is_list else [],
        "audio_seconds": seconds,
        "real_time_factor": stats.seconds / seconds / utterances if seconds else None,
    }
    return [row(layer) for layer in stats.layers], total


def write_bandwidth(path: Path, watch: Watch) -> None:
    """Write a row per bin of time and channel: when it begins, how long it is, bytes per second."""
    seconds, moved = watch.bins()
    header = "start_s,seconds,channel,read_bytes_per_s,write_bytes_per_s\n"
    lines = (
        f"{i * seconds:.9g},{seconds:.9g},{channel},{read / seconds:.6g},{write / seconds:.6g}\n"
        for i, of_bin in enumerate(moved)
        for channel, (read, write) in enumerate(of_bin)
    )
    write_text(path, header + "".join(lines))


def _side_by_side(
    calls: Sequence[Workload],
    chip: Chip,
    name: str,
    utterances: int,
    reuse: Reuse | None = None,
    watch: Watch | None = None,
) -> tuple[RunStats, tuple[Turn, ...]]:
    """Return a run of one utterance, or of several with the turn of each on chips for that."""
    cores = chip.architecture.cores
    if utterances == cores.count == 1 or cores.split != "utterances":
        return simulate_workloads(calls, chip, name, reuse, watch), ()
    try:
        found = simulate_batch(
            [calls] * utterances,
            chip.architecture,
            technology=chip.technology,
            energy=chip.energy,
            dram=chip.dram,
            watch=watch,
        )
    except ValueError as error:
        raise CosimError(str(error).splitlines()) from None
    return replace(found.whole, name=name), found.turns


def _turn_row(turn: Turn, clock_hz: float) -> dict[str, object]:
    return {
        "core": turn.core,
        "start_s": turn.start / clock_hz,
        "end_s": turn.end / clock_hz,
        "energy_j": turn.stats.energy_j,
    }


def _against_one(
    stats: RunStats, calls: Sequence[Workload], chip: Chip, utterances: int
) -> dict[str, object]:
    """Return the speed-up of several cores over one of them with all the memory."""
    if not stats.cores:
        return {}
    one = replace(chip, architecture=replace(chip.architecture, cores=Cores()))
    alone = simulate_workloads(calls, one, stats.name, Reuse())
    alone = combine([alone] * utterances, name=stats.name)
    return {
        "one_core_cycles": alone.cycles.total,
        "one_core_energy_j": alone.energy_j,
        "speed_up": speed_up(alone, stats),
        "core_efficiency": efficiency(alone, stats),
    }


def is_gemm_list(path: Path) -> bool:
    """Whether a file is a list of GEMMs: any CSV, and YAML with the key `gemms`."""
    if path.suffix in YAML_SUFFIXES and path.is_file():
        return "gemms" in read(path)
    return path.suffix == ".csv"


def _gemm_list(path: Path) -> Workload:
    try:
        return read_gemms(path)
    except (ValueError, OSError) as error:
        raise CosimError(str(error).splitlines()) from None
