"""What a memory did: completion of every request, counts of commands, and what limited it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hwmodels.dram.commands import BUS, COLUMN, COMMANDS, DEMAND, LIMITS
from hwmodels.dram.jit import Integers
from hwmodels.dram.spec import DramSpec

Since = Literal["acceptance", "arrival"]

FATES = ("row_hits", "row_misses", "row_conflicts", "forwarded", "merged")
COUNTERS = (*COMMANDS, *(f"lost_{limit}" for limit in LIMITS), *FATES, "open_rank_ticks")
"""What `counters` returns, by place."""


@dataclass(frozen=True)
class Latency:
    """Latency of reads in seconds; NaN where there are none."""

    mean_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True)
class DramStats:
    """Results of a run; arrays have one entry per request, in the order of the trace.

    `ticks` from the first tick to the last completion. `accepted` and `completed` are ticks: a read
    is complete when its data are delivered, a write when the controller has taken care of it.
    `commands` counts by name. `open_rank_ticks` are ticks with a row open, summed over ranks;
    `rank_ticks` all ticks of all ranks. `limits` are shares of the time of all data buses: `bus`
    moved data, the others kept it waiting. `log` holds the commands if wanted, in order of ticks.
    """

    spec: DramSpec
    policy: str
    ticks: int
    arrival_cycles: np.ndarray
    accepted: Integers
    completed: Integers
    is_write: np.ndarray
    channel: Integers
    commands: dict[str, int]
    row_hits: int
    row_misses: int
    row_conflicts: int
    forwarded: int
    merged: int
    open_rank_ticks: int
    rank_ticks: int
    limits: dict[str, float]
    log: np.ndarray

    @property
    def seconds(self) -> float:
        """Time from the first tick to the last completion."""
        return self.ticks * self.spec.tick_s

    @property
    def binding_limit(self) -> str:
        """The limit that took the largest share of the time of the data buses."""
        return max(self.limits, key=lambda name: self.limits[name])

    @property
    def row_hit_rate(self) -> float:
        """Share of requests that found their row open, of all that needed a command."""
        return self.row_hits / max(1, self.row_hits + self.row_misses + self.row_conflicts)

    def bandwidth_bytes_per_s(self, first: int = 0) -> float:
        """Return the rate of acceptance from request `first` to the last one."""
        count = self.accepted.size - 1 - first
        if count < 1:
            return 0.0
        ticks = int(self.accepted[-1] - self.accepted[first])
        seconds = ticks * self.spec.tick_s
        moved = count * self.spec.organisation.burst_bytes
        return moved / seconds if seconds else float("inf")

    def latency(self, since: Since = "acceptance", first: int = 0) -> Latency:
        """Return the latency of reads from request `first` on."""
        reads = ~self.is_write[first:].astype(bool)
        start = self.accepted[first:].astype(np.float64)
        if since == "arrival":
            start = self.arrival_cycles[first:] * self.spec.ticks_per_clock
        times = ((self.completed[first:] - start) * self.spec.tick_s)[reads]
        if not times.size:
            return Latency(float("nan"), float("nan"), float("nan"))
        middle, late = np.percentile(times, (50, 99))
        return Latency(float(times.mean()), float(middle), float(late))

    def bandwidth_over_time(self, step_s: float) -> np.ndarray:
        """Return bytes completed per second and channel, (steps, channels), in steps of time."""
        channels = self.spec.organisation.channels
        step = np.maximum(self.completed, 0) * self.spec.tick_s // step_s
        found = np.zeros((int(step.max(initial=0)) + 1, channels))
        np.add.at(found, (step.astype(np.int64), self.channel), self.spec.organisation.burst_bytes)
        return found / step_s


def collect(
    spec: DramSpec,
    policy: str,
    requests: np.ndarray,
    arrival_cycles: np.ndarray,
    *,
    state: np.ndarray,
    clock: int,
    log: np.ndarray,
) -> DramStats:
    """Return the results that the records of a controller hold."""
    ticks = max(clock, int(requests["completed"].max(initial=0)))
    counts = state["commands"].sum(axis=0)
    return DramStats(
        spec=spec,
        policy=policy,
        ticks=ticks,
        arrival_cycles=arrival_cycles.copy(),
        accepted=requests["accepted"].copy(),
        completed=requests["completed"].copy(),
        is_write=requests["is_write"].astype(bool),
        channel=requests["channel"].astype(np.int64),
        commands={name: int(count) for name, count in zip(COMMANDS, counts, strict=True)},
        row_hits=int(state["row_hits"].sum()),
        row_misses=int(state["row_misses"].sum()),
        row_conflicts=int(state["row_conflicts"].sum()),
        forwarded=int(state["forwarded"].sum()),
        merged=int(state["merged"].sum()),
        open_rank_ticks=_open_rank_ticks(spec, state, ticks),
        rank_ticks=ticks * _ranks(spec) * spec.organisation.channels,
        limits=limits_of(spec, counts, state["lost"].sum(axis=0), ticks),
        log=log.copy(),
    )


def counters(spec: DramSpec, state: np.ndarray, clock: int) -> Integers:
    """Return the counts so far, all channels together, in the order of `COUNTERS`."""
    fates = [int(state[name].sum()) for name in FATES]
    found: Integers = np.concatenate(
        (
            state["commands"].sum(axis=0),
            state["lost"].sum(axis=0),
            np.array([*fates, _open_rank_ticks(spec, state, clock)], dtype=np.int64),
        )
    )
    return found


def _open_rank_ticks(spec: DramSpec, state: np.ndarray, clock: int) -> int:
    """Return the ticks with a row open until `clock`, summed over ranks."""
    ranks = _ranks(spec)
    is_open = state["open_banks"][:, :ranks] > 0
    still_open = (clock - state["open_since"][:, :ranks])[is_open].sum()
    return int(state["open_ticks"].sum() + still_open)


def _ranks(spec: DramSpec) -> int:
    """Return ranks or pseudo-channels of a channel."""
    return spec.organisation.ranks * spec.organisation.pseudo_channels


def limits_of(spec: DramSpec, counts: Integers, lost: Integers, ticks: int) -> dict[str, float]:
    """Return shares of all data buses' time; what no command came for counts as source.

    `counts` are commands by number, `lost` ticks by limit.
    """
    organisation = spec.organisation
    total = ticks * organisation.channels * organisation.pseudo_channels
    if not total:
        return dict.fromkeys(LIMITS, 0.0)
    times = lost.copy()
    burst = spec.cycles("tBL") * spec.ticks_per_clock
    times[BUS] += burst * sum(int(counts[command]) for command in COLUMN)
    times[DEMAND] += total - int(times.sum())
    return {name: int(time) / total for name, time in zip(LIMITS, times, strict=True)}
