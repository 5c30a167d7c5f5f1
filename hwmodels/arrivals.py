"""Utterances that arrive over time: one queue before equal chips, on the SimPy clock.

This clock stands above that of `machine`: it knows how long an utterance keeps a chip busy, nothing
of what happens meanwhile. Time is integer femtoseconds. Each chip has its own memory, so that none
slows another down, and serves one utterance at a time to its end; who came first is served first.
"""

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import simpy

from hwmodels.architecture import FEMTO
from hwmodels.dma import Clock
from hwmodels.energy import REST_REFRESH, STATIC, EnergyRow
from hwmodels.memory import Process

RATES_HZ = (1e-9, 1e9)
"""The rates of arrival that make sense: once in a lifetime, once per nanosecond."""


@dataclass(frozen=True)
class Task:
    """An utterance that waits to be served: when it is complete, how long it keeps a chip busy."""

    name: str
    arrival_fs: int
    service_fs: int


@dataclass(frozen=True)
class Served:
    """When a task was begun and done, and on which chip, counted from 0."""

    task: Task
    chip: int
    start_fs: int
    end_fs: int

    @property
    def waiting_fs(self) -> int:
        """Time in the queue."""
        return self.start_fs - self.task.arrival_fs

    @property
    def response_fs(self) -> int:
        """Time from arrival to result."""
        return self.end_fs - self.task.arrival_fs


@dataclass(frozen=True)
class Spread:
    """Mean, percentiles (linear between neighbours) and maximum of times, in seconds."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, times_fs: Sequence[int]) -> "Spread":
        """Return the spread of times in femtoseconds, at least one.

        Example:
            >>> Spread.of([0, 10**15, 5 * 10**15])
            Spread(mean=2.0, p50=1.0, p95=4.6, p99=4.92, max=5.0)

        """
        seconds = np.array(times_fs, dtype=np.float64) / FEMTO
        p50, p95, p99 = np.percentile(seconds, (50, 95, 99)).tolist()
        return cls(sum(times_fs) / len(times_fs) / FEMTO, p50, p95, p99, max(times_fs) / FEMTO)


@dataclass(frozen=True)
class StreamStats:
    """What became of a stream, from time 0 until the last task was done.

    `served` stand in order of arrival. `present_fs` is the number of tasks that wait or are served,
    integrated over time. `rested_fs` is the idle time that chips rested, all together, and `wakes`
    how often one was woken.
    """

    served: tuple[Served, ...]
    chips: int
    present_fs: int
    rested_fs: int = 0
    wakes: int = 0

    @cached_property
    def window_fs(self) -> int:
        """Time from 0 until the last task was done."""
        return max(one.end_fs for one in self.served)

    @cached_property
    def busy_fs(self) -> int:
        """Time in service, all chips together."""
        return sum(one.end_fs - one.start_fs for one in self.served)

    @property
    def idle_fs(self) -> int:
        """Time without work, all chips together."""
        return self.chips * self.window_fs - self.busy_fs

    @property
    def utilization(self) -> float:
        """Share of the chips' time in which they work."""
        return self.busy_fs / (self.chips * self.window_fs)

    @property
    def throughput_hz(self) -> float:
        """Tasks done per second."""
        return len(self.served) * FEMTO / self.window_fs

    @property
    def mean_present(self) -> float:
        """Tasks that wait or are served, on average over time."""
        return self.present_fs / self.window_fs

    @cached_property
    def waiting(self) -> Spread:
        """Times in the queue."""
        return Spread.of([one.waiting_fs for one in self.served])

    @cached_property
    def response(self) -> Spread:
        """Times from arrival to result."""
        return Spread.of([one.response_fs for one in self.served])

    @cached_property
    def service(self) -> Spread:
        """Times on a chip."""
        return Spread.of([one.task.service_fs for one in self.served])


def serve(
    tasks: Iterable[Task],
    *,
    chips: int = 1,
    rest_after_fs: int | None = None,
    wake_fs: int = 0,
) -> StreamStats:
    """Return what becomes of tasks that `chips` equal chips serve, first come first served.

    A chip that has been idle for `rest_after_fs` rests, never where None, and takes `wake_fs` to
    begin the next task.

    Tasks may be given in any order; those that come at the same time are served in the order given,
    by the chip that has been without work for longest. Raises ValueError with every mistake: no
    task, no chip, arrivals before 0, services of less than a femtosecond.

    Example:
        >>> found = serve([Task("a", 0, 5), Task("b", 2, 5), Task("c", 20, 5)])
        >>> [(one.start_fs, one.end_fs) for one in found.served]
        [(0, 5), (5, 10), (20, 25)]
        >>> found.idle_fs, found.waiting.max * 10**15
        (10, 3.0)

    """
    line = sorted(tasks, key=lambda task: task.arrival_fs)
    problems = [
        f"{task.name}: arrival_fs: found {task.arrival_fs}, expected 0 or more"
        for task in line
        if task.arrival_fs < 0
    ]
    problems += [
        f"{task.name}: service_fs: found {task.service_fs}, expected 1 or more"
        for task in line
        if task.service_fs < 1
    ]
    if not line:
        problems.append("tasks: found none, expected one or more")
    if chips < 1:
        problems.append(f"chips: found {chips}, expected 1 or more")
    problems += [
        f"{name}: found {value}, expected 0 or more"
        for name, value in (("rest_after_fs", rest_after_fs or 0), ("wake_fs", wake_fs))
        if value < 0
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return _Queue(line, chips, rest_after_fs, wake_fs).run()


class _Queue:
    """Chips that take tasks from one queue, and the number of tasks present over time."""

    def __init__(
        self, line: Sequence[Task], chips: int, rest_after_fs: int | None, wake_fs: int
    ) -> None:
        self.line = line
        self.chips = chips
        self.rest_after_fs, self.wake_fs = rest_after_fs, wake_fs
        self.rested_fs, self.wakes = 0, 0
        self.idle_since = dict.fromkeys(range(chips), 0)
        self.clock = Clock()
        self.waiting = simpy.Store(self.clock)
        self.served: dict[int, Served] = {}
        self.all_served = self.clock.event()
        self.present, self.present_fs, self.counted_fs = 0, 0, 0

    def run(self) -> StreamStats:
        """Return the stream's statistics.

        Raises RuntimeError when the number present over time is not the sum of the response times
        (Little 1961, for a window that begins and ends empty): a fault of this model.
        """
        self.clock.process(self._arrive())
        for chip in range(self.chips):
            self.clock.process(self._work(chip))
        self.clock.run(until=self.all_served)
        served = tuple(self.served[number] for number in range(len(self.line)))
        responses_fs = sum(one.response_fs for one in served)
        if self.present_fs != responses_fs:
            raise RuntimeError(
                f"{len(served)} tasks were present for {self.present_fs} fs and answered after "
                f"{responses_fs} fs in all"
            )
        for chip in self.idle_since:
            self._rest(chip)
        return StreamStats(served, self.chips, self.present_fs, self.rested_fs, self.wakes)

    def _arrive(self) -> Process:
        """Let the tasks arrive."""
        for number, task in enumerate(self.line):
            if task.arrival_fs > self.clock.now:
                yield self.clock.timeout(task.arrival_fs - self.clock.now)
            self._count(1)
            self.waiting.put((number, task))

    def _work(self, chip: int) -> Generator[simpy.Event, tuple[int, Task], None]:
        """Serve task after task on one chip."""
        while True:
            number, task = yield self.waiting.get()
            if self._rest(chip):
                self.wakes += 1
                yield self.clock.timeout(self.wake_fs)
            del self.idle_since[chip]
            start_fs = self.clock.now
            yield self.clock.timeout(task.service_fs)
            self._count(-1)
            self.idle_since[chip] = self.clock.now
            self.served[number] = Served(task, chip, start_fs, self.clock.now)
            if len(self.served) == len(self.line):
                self.all_served.succeed()

    def _rest(self, chip: int) -> bool:
        """Add what an idle chip has rested until now; return whether it has."""
        if self.rest_after_fs is None:
            return False
        begun_fs = self.idle_since[chip] + self.rest_after_fs
        self.rested_fs += max(0, self.clock.now - begun_fs)
        return self.clock.now > begun_fs

    def _count(self, change: int) -> None:
        """Add up who was present until now, and who is from now on."""
        self.present_fs += self.present * (self.clock.now - self.counted_fs)
        self.counted_fs = self.clock.now
        self.present += change


def poisson(
    number: int, rate_hz: float, *, generator: np.random.Generator, period_fs: int = 1
) -> list[int]:
    """Return that many arrival times in femtoseconds: gaps are exponential, `rate_hz` on average.

    Each is rounded up to the next edge of a clock of `period_fs`. One state of the generator gives
    the same times at every rate but for their scale. Raises ValueError for a rate outside
    `RATES_HZ`.
    """
    low, high = RATES_HZ
    if not low <= rate_hz <= high:
        raise ValueError(
            f"rate_hz: found {rate_hz:g}, expected arrivals per second from {low:g} to {high:g}"
        )
    now_fs, times = 0, []
    for gap in generator.standard_exponential(number).tolist():
        now_fs += round(gap / rate_hz * FEMTO)
        times.append(edge(now_fs, period_fs))
    return times


def edge(time_fs: int, period_fs: int) -> int:
    """Return the first edge of a clock at or after a time.

    Example:
        >>> edge(7, 5), edge(10, 5)
        (10, 10)

    """
    return time_fs + -time_fs % period_fs


def idle_rows(rows: Iterable[EnergyRow], cycles: int) -> tuple[EnergyRow, ...]:
    """Return the ledger of a chip that is on without work for `cycles`, all its cores together.

    `rows` are those of work on the chip. Its static rows, leakage and what its memory takes in the
    background, with its refresh, go on at the same price per cycle: nothing is switched off. Raises
    ValueError naming each static action that `rows` lack or price more than once.
    """
    going_on = (*STATIC, REST_REFRESH)
    static = [row for row in rows if (row.component, row.action) in going_on]
    found = [(row.component, row.action) for row in static]
    problems = [
        f"{component} {action}: found {found.count((component, action))} rows, expected one price"
        for component, action in STATIC
        if found.count((component, action)) != 1
    ]
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(dataclasses.replace(row, count=cycles) for row in static)
