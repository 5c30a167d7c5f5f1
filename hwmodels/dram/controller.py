"""The memory controller: requests in, completion ticks and counts out.

One source offers its requests in order; a request that its channel refuses keeps the others
waiting. Ticks in which nothing can happen are skipped, so time costs nothing where a memory idles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwmodels.dram.address import compile_map
from hwmodels.dram.batches import (
    count_latencies,
    count_runs,
    enter,
    enter_runs,
    next_end,
    oldest_waiting,
    open_rows,
    shift,
)
from hwmodels.dram.jit import Integers, Record
from hwmodels.dram.links import first_away
from hwmodels.dram.loop import LOG_IS_FULL, advance
from hwmodels.dram.policy import Policy, check, check_rate
from hwmodels.dram.spec import DramSpec
from hwmodels.dram.state import (
    LOG,
    NEVER,
    REQUEST,
    RUN,
    make_rules,
    make_state,
)
from hwmodels.dram.stats import DramStats, collect, counters

LOG_ROOM = 1 << 16
"""Commands between two looks at the log; a tick of all channels takes far fewer."""
RELEASE_LEAST = 4096
"""Requests that are forgotten at a time, so that moving the others stays cheap."""


@dataclass(frozen=True)
class Trace:
    """Requests in the order of their source.

    `arrival_cycles`: (requests,) clock cycles, not falling, at which the source has each of them;
    a fraction is offered at the next cycle. `address`: (requests,) bytes, each meaning the burst it
    lies in. `is_write`: (requests,).
    """

    arrival_cycles: np.ndarray
    address: np.ndarray
    is_write: np.ndarray


def trace(
    address: ArrayLike, is_write: ArrayLike = False, arrival_cycles: ArrayLike = 0.0
) -> Trace:
    """Return requests from anything that numpy takes; one value stands for all of them.

    Raises ValueError when shapes differ, addresses are negative or arrivals fall.

    Example:
        >>> trace([0, 64, 128]).is_write
        array([False, False, False])

    """
    places = np.atleast_1d(np.asarray(address, dtype=np.int64))
    writes = np.broadcast_to(np.asarray(is_write, dtype=bool), places.shape)
    arrivals = np.broadcast_to(np.asarray(arrival_cycles, dtype=np.float64), places.shape)
    if places.ndim != 1:
        raise ValueError(f"address: found {places.ndim} dimensions, expected 1")
    if places.size and places.min() < 0:
        raise ValueError(f"address: found {places.min()}, expected none below 0")
    if places.size and (not np.isfinite(arrivals).all() or (np.diff(arrivals) < 0).any()):
        raise ValueError("arrival_cycles: expected finite numbers that do not fall")
    if places.size and arrivals[0] < 0:
        raise ValueError(f"arrival_cycles: found {arrivals[0]:g}, expected none below 0")
    return Trace(arrivals, places, writes)


def simulate(
    spec: DramSpec,
    policy: Policy,
    requests: Trace,
    *,
    offers: int | None = None,
    refresh_rate: int = 1,
    is_logging: bool = False,
) -> DramStats:
    """Return what a memory does with all requests, from its first tick until all are served.

    `offers` is how many requests the source offers in one tick at most, by default as many as
    there are data buses. `refresh_rate` is how often tREFI's refreshes come in tREFI. With
    `is_logging` the result holds every command. Raises SpecError when the policy or the rate does
    not fit the memory.
    """
    controller = Controller(
        spec, policy, offers=offers, refresh_rate=refresh_rate, is_logging=is_logging
    )
    controller.submit(requests)
    controller.finish()
    return controller.stats()


class Controller:
    """A memory controller that keeps its state between batches of requests.

    `submit` adds a batch, `advance_to` lets time pass as far as the next batch is complete,
    `completion` tells when. `release` forgets requests that are over.
    """

    def __init__(
        self,
        spec: DramSpec,
        policy: Policy,
        *,
        offers: int | None = None,
        refresh_rate: int = 1,
        is_logging: bool = False,
        is_every_tick: bool = False,
    ) -> None:
        check(spec, policy)
        if policy.refresh != "none":
            check_rate(spec, policy, refresh_rate)
        self.spec = spec
        self.policy = policy
        self._rules = make_rules(
            spec, policy, offers=offers, refresh_rate=refresh_rate, is_logging=is_logging
        )
        self._rules["is_every_tick"] = is_every_tick
        self._state = make_state(self._rules)
        self._wakes: Integers = self._state["wake"].copy()
        self._run: Record = np.zeros(1, RUN)[0]
        self._run["clock"] = -self._rules["lead"]
        self._run["refused"] = -1
        self._map = compile_map(spec)
        self._requests = np.zeros(0, REQUEST)
        self._arrivals = np.zeros(0)
        self._log = np.zeros(LOG_ROOM if is_logging else 0, LOG)
        self._ends: Integers = np.zeros(64, dtype=np.int64)  # the last requests of open batches
        self._open = 0  # how many those are
        self._reached = 0

    @property
    def clock(self) -> int:
        """The last tick that is over."""
        return int(self._run["clock"])

    @property
    def released(self) -> int:
        """How many requests are forgotten: the first number that is not."""
        return int(self._run["base"])

    @property
    def waiting(self) -> int:
        """Requests that are not served yet; of posted writes, whose data are not written yet."""
        left = int(self._run["base"] + self._run["count"] - self._state["finished"].sum())
        return max(left, int(self._run["away"]))

    def submit(self, requests: Trace) -> range:
        """Add a batch of requests behind those already there; returns their numbers.

        Those that arrive in a tick that is over are offered in the next one. Raises ValueError
        when the first arrives before the last one known.
        """
        arrivals = requests.arrival_cycles
        if not requests.address.size:
            first = self.released + int(self._run["count"])
            return range(first, first)
        ticks = np.ceil(arrivals * self.spec.ticks_per_clock - 1e-9).astype(np.int64)
        known = self._make_room(requests.address.size, float(arrivals[0]))
        self._arrivals[known : known + arrivals.size] = arrivals
        enter(self._map, requests.address, requests.is_write, ticks, self._requests, known)
        return self._entered(arrivals.size)

    def submit_runs(
        self,
        base: int,
        row_bytes: int,
        *,
        stride: int,
        rows: int,
        is_write: bool,
        arrival_tick: int,
    ) -> range:
        """Add every burst that `rows` runs of bytes touch as a batch, as `submit` does.

        Runs begin `stride` bytes apart and are counted each for itself. Raises ValueError when the
        batch arrives before the last one known.
        """
        shift = int(self._map["burst_shift"])
        size = int(count_runs(base, row_bytes, stride, rows, shift))
        if not size:
            first = self.released + int(self._run["count"])
            return range(first, first)
        arrival = arrival_tick / self.spec.ticks_per_clock
        known = self._make_room(size, arrival)
        self._arrivals[known : known + size] = arrival
        enter_runs(
            *(self._map, base, row_bytes, stride, rows, is_write, arrival_tick),
            *(self._requests, known, size),
        )
        return self._entered(size)

    def _make_room(self, extra: int, arrival: float) -> int:
        """Make room for further requests and return how many there are before them."""
        known = int(self._run["count"])
        if known and arrival < self._arrivals[known - 1]:
            raise ValueError(
                f"arrival_cycles: found {arrival:g} after {self._arrivals[known - 1]:g}"
            )
        if known + extra > self._requests.size:
            room = max(known + extra, 2 * known)
            self._requests = _grown(self._requests, room)
            self._arrivals = _grown(self._arrivals, room)
        return known

    def _entered(self, extra: int) -> range:
        """Count a batch that was written behind the others and return its numbers."""
        first = self.released + int(self._run["count"])
        self._run["count"] += extra
        if self._open == self._ends.size:
            self._ends = _grown(self._ends, 2 * self._open)
        self._ends[self._open] = first + extra - 1
        self._open += 1
        return range(first, first + extra)

    def advance(self, until: int) -> bool:
        """Let time pass until tick `until` is over or all is served; whether all is."""
        while True:
            if self._log.size and self._log.size - self._run["logged"] < LOG_ROOM // 2:
                self._log = _grown(self._log, 2 * self._log.size)
            reason = advance(
                *(self._rules, self._state, self._requests, self._run, self._wakes),
                *(self._log, until),
            )
            if reason != LOG_IS_FULL:
                return self.waiting == 0

    def advance_to(self, until: int) -> int:
        """Let time pass until tick `until`, or a sooner one at which a batch is complete.

        Returns the tick reached. Requests that come because of that may arrive in it: nothing is
        decided yet that they could change.
        """
        self._run["stop"], self._open = next_end(
            self._requests, self._ends, self._open, self.released, self._reached
        )
        self._run["is_stopping"] = 1
        self.advance(until - int(self._rules["lead"]))
        self._run["is_stopping"] = 0
        self._reached = max(self._reached, min(until, int(self._run["stop"])))
        return self._reached

    @property
    def open_ranks(self) -> int:
        """How many ranks of all channels have a row open."""
        return int((self._state["open_banks"] > 0).sum())

    def open_rows(self, addresses: Integers) -> None:
        """Let the rows of byte addresses be open, as after accesses long ago, while all rests."""
        shift = int(self._rules["rank_shift"])
        open_rows(self._map, self._state, addresses, self.clock, shift)

    def finish(self) -> None:
        """Let time pass until every request is served."""
        self._run["is_flushing"] = 1
        if not self.advance(NEVER):
            raise RuntimeError(f"{self.waiting} requests are never served")
        self._run["is_flushing"] = 0

    def rest(self, until: int) -> None:
        """Let time pass until tick `until` is over, refreshes included, though all is served."""
        self._run["is_resting"] = 1
        self.advance(until - int(self._rules["lead"]))
        self._run["is_resting"] = 0

    def accepted(self, numbers: range) -> Integers:
        """Return the tick at which each of these requests was accepted, -1 where not yet.

        Raises ValueError when one of them is released.
        """
        known = self._known(numbers)
        found: Integers = self._requests["accepted"][known.start : known.stop].copy()
        return found

    def accepted_span(self, batch: range) -> tuple[int, int]:
        """Return the ticks at which the first and the last of a batch were accepted, -1: not yet.

        Raises ValueError when it is released.
        """
        known, accepted = self._known(batch), self._requests["accepted"]
        return int(accepted[known.start]), int(accepted[known.stop - 1])

    def completed(self, numbers: range) -> Integers:
        """Return the tick at which each of these requests is complete, -1 where not yet known.

        Raises ValueError when one of them is released.
        """
        known = self._known(numbers)
        found: Integers = self._requests["completed"][known.start : known.stop].copy()
        return found

    def completion(self, batch: range) -> int:
        """Return the tick at which all of a batch of `submit` are complete, -1 if not yet known.

        Raises ValueError when it is empty or released.
        """
        if not batch:
            raise ValueError(f"batch: found no request in {batch}")
        return self.completions([batch.stop - 1])[0]

    def completions(self, ends: Sequence[int]) -> list[int]:
        """Return what `completion` does of each batch, by the number of its last request."""
        if not ends:
            return []
        known = self._known(range(min(ends), max(ends) + 1))
        last = self._requests[known.start : known.stop][np.array(ends) - min(ends)]
        found: list[int] = np.where(last["left"], -1, last["latest"]).tolist()
        return found

    def count_latencies(self, numbers: range, found: Integers) -> int:
        """Add these requests to `found` by ticks from acceptance to completion.

        Returns the longest time; nothing is counted when that has no place in `found`. Raises
        ValueError when one of them is released.
        """
        known = self._known(numbers)
        return int(count_latencies(self._requests, known.start, known.stop, found))

    def _known(self, numbers: range) -> range:
        """Return where requests lie."""
        first = self.released
        if numbers and numbers.start < first:
            raise ValueError(f"numbers: found {numbers.start}, those below {first} are released")
        return range(numbers.start - first, numbers.stop - first)

    def release(self, before: int) -> None:
        """Forget requests numbered below `before` that nothing needs any more.

        It is done for many at a time, so `released` may rise later. What they did stays counted,
        but the arrays of `stats` begin with the first that is not forgotten.
        """
        count = int(self._run["count"])
        over = min(before - self.released, int(self._run["next"]))
        if 2 * over < count or over < RELEASE_LEAST:
            return
        over = min(over, oldest_waiting(self._state))
        if self._rules["links"]:
            over = min(over, first_away(self._requests[:count]))
        if 2 * over < count or over < RELEASE_LEAST:
            return
        for array in (self._requests, self._arrivals):
            array[: count - over] = array[over:count]
        shift(self._state, self._requests[: count - over], self._run, over)
        self._run["base"] += over
        self._run["count"] -= over
        self._run["next"] -= over
        self._run["refused"] -= over
        ends = self._ends[: self._open]
        ends = ends[ends >= self.released]
        self._ends[: ends.size], self._open = ends, ends.size

    def counters(self) -> Integers:
        """Return the counts so far without those of single requests, see `stats.COUNTERS`."""
        return counters(self.spec, self._state, self.clock)

    def stats(self) -> DramStats:
        """Return everything so far."""
        known = int(self._run["count"])
        return collect(
            self.spec,
            self.policy.name,
            self._requests[:known],
            self._arrivals[:known],
            state=self._state,
            clock=self.clock,
            log=self._log[: int(self._run["logged"])],
        )


def _grown(array: np.ndarray, room: int) -> np.ndarray:
    larger = np.zeros(room, array.dtype)
    larger[: array.size] = array
    return larger
