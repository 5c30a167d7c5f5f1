"""The utterances of a finished run as a stream: queueing, utilisation and energy while waiting.

Cycles and joules of an utterance are those of the run; a run that simulated them on a chip is all
this needs.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from cosim.config import load, resolve
from cosim.errors import CosimError, collect
from cosim.stream_files import ARRIVALS, Recorded, Simulated, Start, read_run, read_starts
from hwmodels.architecture import FEMTO
from hwmodels.arrivals import RATES_HZ, Served, StreamStats, Task, edge, poisson, serve
from hwmodels.energy import EnergyRow
from hwmodels.energy_split import by_cause
from hwmodels.rest import Resting, RestState, rest_rows, resting
from hwmodels.stats import energy_row

_IDLE = {"wake": "waking", "refresh": "idle_refresh"}
"""What joules without work go to, where it is not their component."""
FEW = 100
"""Fewer utterances than this say little about the hundredth part that waits longest."""


@dataclass(frozen=True)
class Stream:
    """How utterances come to how many chips.

    `arrivals` is `batch` (all at time 0), `poisson` (`rate_hz` on average), `continuous` (spoken
    one after the other without a pause) or the path of a file of JSON lines that says when each
    utterance starts. `draw` utterances are drawn from the run with
    replacement; without it each comes once, in the run's order. `seed` is that of random times and
    draws, 0 where None. `battery_wh` asks how long a battery lasts, `grid_g_per_kwh` for grams of
    CO2 where a kilowatt hour takes so many. `rest` is the file of the state in which idle chips
    rest; without it they stay awake.
    """

    arrivals: str
    rate_hz: float | None = None
    draw: int | None = None
    seed: int | None = None
    chips: int = 1
    battery_wh: float | None = None
    grid_g_per_kwh: float | None = None
    rest: Path | None = None

    @property
    def has_file(self) -> bool:
        """Whether arrivals come from a file."""
        return self.arrivals not in ARRIVALS

    @property
    def drawn_with(self) -> int | None:
        """The seed of what is random, None where nothing is."""
        is_random = self.arrivals == "poisson" or self.draw is not None
        return (self.seed or 0) if is_random else None


def stream_run(run: Path, stream: Stream) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Return a row per arrival, in that order, and totals.

    An utterance arrives when it is complete: at `start` plus its duration where a file tells when
    it starts. Raises CosimError with every mistake in the options, the run folder and the file.
    """
    problems = list(_option_problems(stream))
    recorded = collect(problems, lambda: read_run(run))
    starts: Sequence[tuple[str, Start]] = ()
    if stream.has_file:
        starts = collect(problems, lambda: read_starts(Path(stream.arrivals))) or ()
    if recorded is not None:
        known = {one.id for one in recorded.utterances}
        problems += [
            f'{where}: id: found "{row.id}", expected an utterance of {run}{_meant(row.id, known)}'
            for where, row in starts
            if row.id not in known
        ]
    state = None
    if stream.rest is not None:
        file = stream.rest
        state = collect(problems, lambda: load(resolve(str(file)), RestState))
    if problems or recorded is None:
        raise CosimError(problems)
    come = _arrivals(recorded, stream, [row for _, row in starts])
    tasks = [Task(one.id, arrival_fs, one.cycles * recorded.period_fs) for arrival_fs, one in come]
    how = _resting(recorded, state, str(stream.rest))
    found = serve(
        tasks,
        chips=stream.chips,
        rest_after_fs=None if how is None else edge(how.after_fs, recorded.period_fs),
        wake_fs=0 if how is None else edge(how.wake_fs, recorded.period_fs),
    )
    joules = {one.id: one.energy_j for one in recorded.utterances}
    rows = [_row(one, joules[one.task.name]) for one in found.served]
    busy_j = sum(joules[one.task.name] for one in found.served)
    return rows, _total(recorded, stream, found, busy_j=busy_j, how=how)


def _meant(name: str, known: Iterable[str]) -> str:
    """Return the did-you-mean of an id, if one is near; a run may have thousands of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _option_problems(stream: Stream) -> Iterator[str]:
    """Yield what is wrong with options of the command line."""
    rate, given = stream.rate_hz, stream.arrivals
    if given == "poisson" and rate is None:
        yield "--rate-hz: missing, expected arrivals per second with --arrivals poisson"
    if given != "poisson" and rate is not None:
        yield f"--rate-hz: found beside --arrivals {given}, expected --arrivals poisson"
    low, high = RATES_HZ
    if rate is not None and not low <= rate <= high:
        yield f"--rate-hz: found {rate:g}, expected arrivals per second from {low:g} to {high:g}"
    if stream.draw is not None and stream.has_file:
        yield f"--draw: found beside --arrivals {given}, which says what arrives"
    if stream.draw is not None and stream.draw < 1:
        yield f"--draw: found {stream.draw}, expected an integer >= 1"
    if stream.seed is not None and stream.seed < 0:
        yield f"--seed: found {stream.seed}, expected an integer >= 0"
    if stream.seed is not None and stream.drawn_with is None:
        yield f"--seed: found beside --arrivals {given} without --draw: nothing is random there"
    if stream.chips < 1:
        yield f"--chips: found {stream.chips}, expected an integer >= 1"
    yield from _figure_problems(stream)


def _figure_problems(stream: Stream) -> Iterator[str]:
    """Yield what is wrong with the figures that joules are turned into."""
    charge, grid = stream.battery_wh, stream.grid_g_per_kwh
    if charge is not None and not 0 < charge < float("inf"):
        yield f"--battery-wh: found {charge:g}, expected watt hours above 0"
    if grid is not None and not 0 <= grid < float("inf"):
        yield f"--grid-g-per-kwh: found {grid:g}, expected grams of CO2, 0 or more"


def _arrivals(
    recorded: Recorded, stream: Stream, starts: Sequence[Start]
) -> list[tuple[int, Simulated]]:
    """Return when which utterance arrives, on an edge of the array's clock."""
    period_fs = recorded.period_fs
    if stream.has_file:
        known = {one.id: one for one in recorded.utterances}
        ends_s = [(row.start + known[row.id].duration_s, known[row.id]) for row in starts]
        return [(edge(round(end_s * FEMTO), period_fs), one) for end_s, one in ends_s]
    gaps, draws = np.random.default_rng(stream.drawn_with or 0).spawn(2)
    come = recorded.utterances
    if stream.draw is not None:
        numbers = draws.integers(len(come), size=stream.draw).tolist()
        come = tuple(come[number] for number in numbers)
    times_fs = [0] * len(come)
    if stream.arrivals == "continuous":
        spoken_s = accumulate(one.duration_s for one in come)
        times_fs = [edge(round(end_s * FEMTO), period_fs) for end_s in spoken_s]
    if stream.rate_hz is not None:
        times_fs = poisson(len(come), stream.rate_hz, generator=gaps, period_fs=period_fs)
    return list(zip(times_fs, come, strict=True))


def _row(served: Served, energy_j: float) -> dict[str, object]:
    return {
        "id": served.task.name,
        "chip": served.chip,
        "arrival_s": served.task.arrival_fs / FEMTO,
        "start_s": served.start_fs / FEMTO,
        "end_s": served.end_fs / FEMTO,
        "waiting_s": served.waiting_fs / FEMTO,
        "service_s": served.task.service_fs / FEMTO,
        "response_s": served.response_fs / FEMTO,
        "energy_j": energy_j,
    }


def _total(
    recorded: Recorded,
    stream: Stream,
    found: StreamStats,
    *,
    busy_j: float,
    how: Resting | None,
) -> dict[str, object]:
    window_s = found.window_fs / FEMTO
    idle = rest_rows(
        recorded.energy_rows,
        found,
        how,
        period_fs=recorded.period_fs,
        cores=recorded.hardware.cores,
    )
    idle_j = sum(row.energy_j for row in idle)
    energy_j = busy_j + idle_j
    power_w = energy_j / window_s
    offered = None
    if stream.rate_hz is not None:
        offered = stream.rate_hz * found.service.mean / stream.chips
    return {
        "run": recorded.name,
        "hardware": recorded.hardware.name,
        "chips": stream.chips,
        "arrivals": stream.arrivals,
        "rate_hz": stream.rate_hz,
        "order": _order(stream),
        "seed": stream.drawn_with,
        "utterances": len(found.served),
        "window_s": window_s,
        "busy_s": found.busy_fs / FEMTO,
        "idle_s": found.idle_fs / FEMTO,
        "utilization": found.utilization,
        "offered_load": offered,
        "throughput_hz": found.throughput_hz,
        "mean_present": found.mean_present,
        "waiting_s": asdict(found.waiting),
        "service_s": asdict(found.service),
        "response_s": asdict(found.response),
        "busy_energy_j": busy_j,
        "idle_energy_j": idle_j,
        "idle_energy_low_j": sum(row.energy_low_j for row in idle),
        "idle_energy_high_j": sum(row.energy_high_j for row in idle),
        "idle_energy_rows": [energy_row(row) for row in idle],
        "energy_j": energy_j,
        "power_w": power_w,
        "energy_per_hour_j": 3600 * power_w,
        "energy_per_utterance_j": energy_j / len(found.served),
        "rest": None if how is None else how.state.name,
        "rest_after_s": None if how is None else how.after_s,
        "rested_s": found.rested_fs / FEMTO,
        "wakes": found.wakes,
        "energy_by_cause_j": _causes(recorded, idle, busy_j),
        "grid_g_per_kwh": stream.grid_g_per_kwh,
        "co2_g_per_hour": None
        if stream.grid_g_per_kwh is None
        else stream.grid_g_per_kwh * power_w / 1000,
        "battery_wh": stream.battery_wh,
        "battery_hours": None if stream.battery_wh is None else stream.battery_wh / power_w,
        "warnings": list(_warnings(recorded, stream, found, offered)),
    }


def _resting(recorded: Recorded, state: RestState | None, file: str) -> Resting | None:
    """Return how idle chips rest; CosimError for a state that saves nothing."""
    if state is None:
        return None
    if recorded.area_mm2 is None:
        raise CosimError(
            f"{recorded.name}: found a run that does not know the area of its chip, which waking "
            "takes joules for; expected one of an energy table with areas"
        )
    try:
        return resting(
            state,
            recorded.energy_rows,
            area_m2=1e-6 * recorded.area_mm2,
            clock_hz=recorded.hardware.clock_hz,
            cores=recorded.hardware.cores,
        )
    except ValueError as error:
        raise CosimError(f"{file}: {line}" for line in str(error).splitlines()) from None


def _causes(recorded: Recorded, idle: Sequence[EnergyRow], busy_j: float) -> dict[str, float]:
    """Return joules of the stream: of utterances by cause, as in the run, then idle and waking."""
    work = by_cause(recorded.energy_rows)
    whole = sum(work.values())
    found: dict[str, float] = {
        f"working_{name}": busy_j * value / whole if whole else 0.0 for name, value in work.items()
    }
    for row in idle:
        name = _IDLE.get(row.action, f"idle_{row.component}")
        found[name] = found.get(name, 0.0) + row.energy_j
    return found


def _order(stream: Stream) -> str:
    if stream.has_file:
        return "as the file says"
    if stream.draw is None:
        return "each once, in the order of the run"
    return f"drawn from the run with replacement, seed {stream.drawn_with}"


def _warnings(
    recorded: Recorded, stream: Stream, found: StreamStats, offered: float | None
) -> Iterator[str]:
    """Yield what a reader of the figures has to know."""
    number = len(found.served)
    if offered is not None and offered >= 1:
        yield (
            f"more work arrives than {stream.chips} chip(s) can do ({offered:.3g} of their time): "
            "the queue grows without end, and waits say how long the stream is"
        )
    if number < FEW:
        yield f"p99 of {number} utterances is nearly their maximum; --draw takes more"
    if stream.has_file:
        come = {one.task.name for one in found.served}
        missing = sum(one.id not in come for one in recorded.utterances)
        if missing:
            yield f"{missing} utterances of the run are not in {stream.arrivals}"
