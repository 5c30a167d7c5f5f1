"""The memory controller: requests in, completion ticks and counts out.

One source offers its requests in order; a request that its channel refuses keeps the others
waiting. Ticks in which nothing can happen are skipped, so time costs nothing where a memory idles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwmodels.dram import bank_queues, shared_queues
from hwmodels.dram.address import compile_map, decode, line_of
from hwmodels.dram.bank_queues import tick_banks
from hwmodels.dram.jit import Integers, Record, compiled
from hwmodels.dram.policy import Policy, check
from hwmodels.dram.problems import SpecError
from hwmodels.dram.shared_queues import tick_dual, tick_single
from hwmodels.dram.spec import DramSpec
from hwmodels.dram.split_activate import tick_split
from hwmodels.dram.state import LOG, NEVER, REQUEST, RUN, make_rules, make_state
from hwmodels.dram.stats import DramStats, collect

LOG_ROOM = 1 << 16
"""Commands between two looks at the log; a tick of all channels takes far fewer."""


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

    `submit` adds requests, `advance` lets time pass, `completed` tells what is known by then.
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
            _check_rate(spec, refresh_rate)
        self.spec = spec
        self.policy = policy
        self._rules = make_rules(
            spec, policy, offers=offers, refresh_rate=refresh_rate, is_logging=is_logging
        )
        self._rules["is_every_tick"] = is_every_tick
        self._state = make_state(self._rules)
        self._run: Record = np.zeros(1, RUN)[0]
        self._run["clock"] = -self._rules["lead"]
        self._map = compile_map(spec)
        self._requests = np.zeros(0, REQUEST)
        self._arrivals = np.zeros(0)
        self._log = np.zeros(LOG_ROOM if is_logging else 0, LOG)

    @property
    def clock(self) -> int:
        """The last tick that is over."""
        return int(self._run["clock"])

    @property
    def waiting(self) -> int:
        """Requests that are not served yet; of posted writes, whose data are not written yet."""
        return int(self._run["count"] - self._state["finished"].sum())

    def submit(self, requests: Trace) -> range:
        """Add requests behind those already there; returns their numbers.

        Raises ValueError when the first arrives before the last one known.
        """
        known, extra = int(self._run["count"]), requests.address.size
        arrivals = requests.arrival_cycles
        if extra and known and arrivals[0] < self._arrivals[known - 1]:
            raise ValueError(
                f"arrival_cycles: found {arrivals[0]:g} after {self._arrivals[known - 1]:g}"
            )
        if known + extra > self._requests.size:
            room = max(known + extra, 2 * known)
            self._requests = _grown(self._requests, room)
            self._arrivals = _grown(self._arrivals, room)
        self._arrivals[known : known + extra] = arrivals
        ticks = np.ceil(arrivals * self.spec.ticks_per_clock - 1e-9).astype(np.int64)
        enter(self._map, requests.address, requests.is_write, ticks, self._requests, known)
        self._run["count"] = known + extra
        return range(known, known + extra)

    def advance(self, until: int) -> bool:
        """Let time pass until tick `until` is over or all is served; whether all is."""
        while True:
            if self._log.size and self._log.size - self._run["logged"] < LOG_ROOM // 2:
                self._log = _grown(self._log, 2 * self._log.size)
            reason = advance(self._rules, self._state, self._requests, self._run, self._log, until)
            if reason != LOG_IS_FULL:
                return self.waiting == 0

    def finish(self) -> None:
        """Let time pass until every request is served."""
        self._run["is_flushing"] = 1
        if not self.advance(NEVER):
            raise RuntimeError(f"{self.waiting} requests are never served")
        self._run["is_flushing"] = 0

    def completed(self, numbers: range) -> Integers:
        """Return the tick at which each of these requests is complete, -1 where not yet known."""
        found: Integers = self._requests["completed"][numbers.start : numbers.stop].copy()
        return found

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


def _check_rate(spec: DramSpec, rate: int) -> None:
    """Refuse a refresh that leaves no time for anything else."""
    interval = spec.cycles("tREFI") // rate if rate > 0 else 0
    least = spec.cycles("tRFC") + 2 * spec.cycles("tRP")
    if least >= interval:
        problem = f"found {rate}, expected at least 1 and an interval above {least} cycles"
        raise SpecError([f"{spec.name}: refresh_rate: {problem}, tRFC + 2 tRP"])


@compiled
def enter(
    table: Record,
    address: np.ndarray,
    is_write: np.ndarray,
    arrival: Integers,
    requests: np.ndarray,
    start: int,
) -> None:
    """Write new requests into the list of all, with the place that each address means."""
    for i in range(address.size):
        request = requests[start + i]
        request.line = line_of(table, address[i])
        channel, bank, row, _ = decode(table, request.line)
        request.arrival = arrival[i]
        request.accepted = -1
        request.completed = -1
        request.chain = -1
        request.row = row
        request.bank = bank
        request.channel = channel
        request.is_write = is_write[i]


IS_OVER, LOG_IS_FULL = range(2)


@compiled
def advance(
    rules: Record,
    state: np.ndarray,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    until: int,
) -> int:
    """Let time pass until a tick is over or all is served; LOG_IS_FULL asks for a larger log."""
    while True:
        is_refused = offer(rules, state, requests, run)
        if run.next == run.count and is_done(rules, state, run):
            return IS_OVER
        soon = next_tick(rules, state, run)
        if run.next < run.count and not is_refused:
            arrival = requests[run.next].arrival - rules.lead
            if run.clock < arrival < soon and arrival <= until:
                run.clock = arrival
                continue
            if arrival <= run.clock:
                soon = run.clock + 1  # the source could not offer all it had
        if soon > until:
            run.clock = max(run.clock, until)
            return IS_OVER
        if rules.is_logging and log.size - run.logged < 4 * rules.channels:
            return LOG_IS_FULL
        run.clock = soon
        for c in range(rules.channels):
            if state[c].wake <= soon or rules.is_every_tick:
                step(rules, state[c], soon, requests, run, log, c)


@compiled
def is_done(rules: Record, state: np.ndarray, run: Record) -> bool:
    """Whether every request known is served."""
    finished = 0
    for c in range(rules.channels):
        finished += state[c].finished
    return bool(finished == run.count)


@compiled
def offer(rules: Record, state: np.ndarray, requests: np.ndarray, run: Record) -> bool:
    """Offer what has arrived, in order; whether a channel refused."""
    for _ in range(rules.offers):
        index = run.next
        if index == run.count or requests[index].arrival > run.clock + rules.lead:
            return False
        ch = state[requests[index].channel]
        if rules.lead:
            taken = bank_queues.accept(rules, ch, requests, index, run.clock + 1)
        else:
            taken = shared_queues.accept(rules, ch, requests, index, run.clock)
        if not taken:
            return True
        run.next = index + 1
    return False


@compiled
def next_tick(rules: Record, state: np.ndarray, run: Record) -> int:
    """Return the next tick in which a channel may do anything."""
    if rules.is_every_tick:
        return int(run.clock + 1)
    soon = NEVER
    for c in range(rules.channels):
        soon = min(soon, state[c].wake)
    return int(max(soon, run.clock + 1))


@compiled
def step(
    rules: Record,
    ch: Record,
    tick: int,
    requests: np.ndarray,
    run: Record,
    log: np.ndarray,
    channel: int,
) -> None:
    """Do one tick of a channel."""
    if rules.is_every_tick:
        ch.column_wake = 0
        ch.row_wake = 0
    if rules.lead:
        tick_banks(rules, ch, tick, requests, run, log, channel)
    elif rules.bus == 0:
        tick_single(rules, ch, tick, requests, run, log, channel)
    elif rules.bus == 3:
        tick_split(rules, ch, tick, requests, run, log, channel)
    else:
        tick_dual(rules, ch, tick, requests, run, log, channel)
