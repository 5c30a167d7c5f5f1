"""What a memory controller did in a run, as counts that add up, and what is read from them.

Rows opened, refreshes and time at rest serve all ops at once; `shared_actions` says which part of
them each op is charged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import NamedTuple, TypeVar

from hwmodels.energy import Action

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sampling:
    """What of a run a controller served itself, and standard errors of what follows for the rest.

    `exact_bursts` in `phases` kinds of traffic, `scaled_bursts` by the service measured there.
    """

    phases: int
    exact_bursts: int
    scaled_bursts: int
    time_error_s: float
    energy_error_j: float

    @property
    def exact_share(self) -> float:
        """Share of all bursts that the controller served itself."""
        return self.exact_bursts / max(1, self.exact_bursts + self.scaled_bursts)


@dataclass(frozen=True)
class MemoryTotals:
    """Counts of one run, or of several on the same memory.

    `commands` by name, `actions` those of `hwmodels.dram.energy` that have a price. `limit_ticks`
    are ticks of all data buses by what they did or waited for: `bus` moved data. `read_ticks` tells
    how many reads took so many ticks from acceptance to delivery. `ticks` are those of the run, of
    `tick_s` seconds each. `sampling` tells what was scaled from counts of a part, None if nothing.
    """

    memory: str
    policy: str
    address_map: str
    tick_s: float
    ticks: int
    commands: Mapping[str, int]
    actions: Mapping[Action, int]
    limit_ticks: Mapping[str, int]
    read_ticks: Mapping[int, int]
    row_hits: int
    row_misses: int
    row_conflicts: int
    forwarded: int
    merged: int
    sampling: Sampling | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Share of the time of all data buses by what they did or waited for."""
        total = sum(self.limit_ticks.values())
        return {name: ticks / max(1, total) for name, ticks in self.limit_ticks.items()}

    @property
    def binding_limit(self) -> str:
        """What took the largest share of the time of the data buses."""
        return max(self.limit_ticks, key=lambda name: self.limit_ticks[name])

    @property
    def row_hit_rate(self) -> float:
        """Share of requests that found their row open, of all that needed a command."""
        return self.row_hits / max(1, self.row_hits + self.row_misses + self.row_conflicts)

    @property
    def mean_read_latency_s(self) -> float | None:
        """Mean time of a read from acceptance to delivery; None without reads."""
        reads = sum(self.read_ticks.values())
        if not reads:
            return None
        return self.tick_s * sum(t * number for t, number in self.read_ticks.items()) / reads

    def read_latency_s(self, share: float) -> float | None:
        """Return the time within which at least `share` of all reads were delivered.

        None without reads. Raises ValueError for a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"share: found {share:g}, expected more than 0 and at most 1")
        wanted, seen = share * sum(self.read_ticks.values()), 0
        for ticks in sorted(self.read_ticks):
            seen += self.read_ticks[ticks]
            if seen >= wanted:
                return self.tick_s * ticks
        return None


def add_totals(parts: Iterable[tuple[MemoryTotals | None, int]]) -> MemoryTotals | None:
    """Return the sum of `parts`, each (totals, how many times); None without any."""
    known = [(totals, times) for totals, times in parts if totals is not None]
    if not known:
        return None

    def number(name: str) -> int:
        return sum(times * getattr(totals, name) for totals, times in known)

    return replace(
        known[0][0],
        ticks=number("ticks"),
        commands=_sum((totals.commands, times) for totals, times in known),
        actions=_sum((totals.actions, times) for totals, times in known),
        limit_ticks=_sum((totals.limit_ticks, times) for totals, times in known),
        read_ticks=_sum((totals.read_ticks, times) for totals, times in known),
        row_hits=number("row_hits"),
        row_misses=number("row_misses"),
        row_conflicts=number("row_conflicts"),
        forwarded=number("forwarded"),
        merged=number("merged"),
        sampling=_add_sampling([(totals.sampling, times) for totals, times in known]),
    )


def _add_sampling(parts: Sequence[tuple[Sampling | None, int]]) -> Sampling | None:
    """Return the sum of `parts`; errors of different runs are independent of each other."""
    known = [(part, times) for part, times in parts if part is not None]
    if not known:
        return None
    return Sampling(
        sum(times * part.phases for part, times in known),
        sum(times * part.exact_bursts for part, times in known),
        sum(times * part.scaled_bursts for part, times in known),
        hypot(*(times * part.time_error_s for part, times in known)),
        hypot(*(times * part.energy_error_j for part, times in known)),
    )


def _sum(parts: Iterable[tuple[Mapping[Key, int], int]]) -> dict[Key, int]:
    sums: dict[Key, int] = {}
    for counts, times in parts:
        for key, value in counts.items():
            sums[key] = sums.get(key, 0) + times * value
    return sums


class Use(NamedTuple):
    """What an op asks of the memory: bytes read and written, and the cycles it takes."""

    read_bytes: int
    write_bytes: int
    cycles: int


def shared_actions(actions: Mapping[Action, int], uses: Sequence[Use]) -> list[dict[Action, int]]:
    """Return the part of `actions` that each op is charged; the parts sum to the whole.

    Bursts go by the bytes read or written, rows opened and bits by all bytes, refreshes and time at
    rest by cycles. Where no op moved bytes of that kind, cycles decide.

    Example:
        >>> done = {("memory", "read_burst"): 3, ("memory", "refresh_rank"): 2}
        >>> first, second = shared_actions(done, [Use(64, 0, 10), Use(32, 0, 10)])
        >>> first[("memory", "read_burst")], second[("memory", "refresh_rank")]
        (2, 1)

    """
    cycles = [use.cycles for use in uses]
    moved = [use.read_bytes + use.write_bytes for use in uses]
    weights = {
        "read_burst": [use.read_bytes for use in uses],
        "write_burst": [use.write_bytes for use in uses],
        "activate": moved,
        "via_bit": moved,
        "io_bit": moved,
    }
    found: list[dict[Action, int]] = [{} for _ in uses]
    for action, number in actions.items():
        parts = apportion(number, weights.get(action[1], cycles), otherwise=cycles)
        for own, part in zip(found, parts, strict=True):
            own[action] = part
    return found


def apportion(number: int, weights: Sequence[int], *, otherwise: Sequence[int]) -> list[int]:
    """Return whole parts of `number` in proportion to weights, all of it whatever they are.

    Example:
        >>> apportion(10, [1, 3], otherwise=[1, 1])
        [2, 8]

    """
    used = next((known for known in (weights, otherwise) if sum(known)), [1] * len(weights))
    total, seen, given = sum(used), 0, 0
    parts = []
    for weight in used:
        seen += weight
        parts.append(number * seen // total - given)
        given += parts[-1]
    return parts
