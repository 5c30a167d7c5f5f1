"""Simulate an artefact, a model or a list of GEMMs on a chip."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cosim.artefact import Artefact, build_from, read_both
from cosim.artefact_folder import load as load_artefact
from cosim.calls import Caller, check_chip, has_decoder
from cosim.chip import Chip, load_chip
from cosim.config import read, resolve
from cosim.energy_results import energy_totals
from cosim.errors import CosimError, collect
from cosim.evaluate import REPORTED_S
from cosim.heat import heat_warnings, settled
from cosim.results import write_text
from cosim.schedule import NOT_SIMULATED
from cosim.totals import totals_of
from hwmodels.architecture import Cores
from hwmodels.bandwidth import Watch, bandwidth_csv
from hwmodels.batch import Turn, simulate_batch
from hwmodels.cores import efficiency, speed_up
from hwmodels.gemm_list import YAML_SUFFIXES, read_gemms
from hwmodels.simulate import Reuse, simulate_calls
from hwmodels.stats import RunStats, combine, row
from hwmodels.workload import Workload


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
            measured=chip.measured,
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

    Raises CosimError with every mistake of the files before a model is loaded.
    """
    problems: list[str] = []
    chip = collect(problems, lambda: load_chip(hardware, energy, assignments=assignments))
    given = collect(problems, lambda: _given(what, recipe))
    if chip is not None and utterances > 1 and chip.architecture.cores.split != "utterances":
        problems.append(
            f"--utterances: found {utterances}, but the cores of {chip.name} share each of them; "
            "expected a chip with cores.split: utterances"
        )
    if chip is None or given is None or problems:
        raise CosimError(problems)
    is_list = isinstance(given, Workload)
    if isinstance(given, Workload):
        calls, name = [given], what.name
    else:
        artefact = (
            given if isinstance(given, Artefact) else build_from(given, recipe, is_zipped=False)
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
        write_text(bandwidth, bandwidth_csv(watches[-1]))
    total = totals_of(stats, thermal, chip) | _against_one(stats, calls, chip, utterances)
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
            measured=chip.measured,
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


def _given(what: Path, recipe: Path | None) -> Workload | Artefact | Path:
    """Return the work of a list, an artefact, or the file of a model; CosimError for mistakes."""
    is_list = is_gemm_list(what)
    if recipe is not None and (is_list or what.is_dir()):
        raise CosimError(f"--recipe: found beside {what}, expected a model file to compress by it")
    if is_list:
        return _gemm_list(what)
    if what.is_dir():
        return load_artefact(what)
    read_both(what, recipe)
    return resolve(str(what))


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
