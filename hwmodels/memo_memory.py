"""The exact memory server that knows busy periods again: equal work takes as long as it did before.

A busy period begins with a descriptor that finds the controller at rest, and lasts until it is at
rest again. While its descriptors are those of a period known (`hwmodels.memo_periods`), the
controller is not asked. When one is not, the controller does the whole period after all, and its
time leaves out whole rotations of refreshes in which it was not needed.
"""

import numpy as np
import simpy

from hwmodels.dram.jit import Integers
from hwmodels.dram.stats import COUNTERS
from hwmodels.exact_memory import FAR_TICK, Dram, ExactServer, Open
from hwmodels.memo_periods import (
    LEAST_BYTES,
    MOST_STEPS,
    OPEN,
    REFRESHES,
    Memo,
    Move,
    Node,
    Rows,
    Step,
    key_of,
)
from hwmodels.memory import Completion, Descriptor


class MemoServer(ExactServer):
    """Serves descriptors as `ExactServer`, but for periods like those that were over before.

    It begins with none, so what it does follows from what is submitted alone.
    """

    def __init__(self, env: simpy.Environment, memory: Dram) -> None:
        super().__init__(env, memory)
        self.memo = Memo(memory)
        organisation = memory.spec.organisation
        self._ranks = organisation.channels * organisation.pseudo_channels * organisation.ranks
        self._refreshes: Integers = np.zeros(len(COUNTERS), dtype=np.int64)  # of a rotation
        banks = organisation.channels * organisation.banks_per_channel
        number = {"none": (0, 0), "all_bank": (self._ranks, 0), "per_bank": (0, banks)}
        self._refreshes[REFRESHES] = number[memory.policy.refresh]
        self._rows = Rows(memory)
        self._rows_before: dict[int, int] = {}  # those open when the period began
        self._has_known = False  # some of them without the controller
        self._rows_at = -1  # the interval between refreshes in which they were opened
        self._steps: list[Step] = []  # of the present period
        self._node: Node | None = None  # None: the controller does this period
        self._is_apart = False
        self._before: Integers = np.zeros(len(COUNTERS), dtype=np.int64)
        self._added: Integers = np.zeros(len(COUNTERS), dtype=np.int64)
        self._open_from = -1  # since when rows are open that the controller does not know of
        self._open_ranks = 0
        self._asked_at = -1  # the interval in which the controller was asked last

    def submit(
        self,
        descriptor: Descriptor,
        *,
        origin: int = 0,
        earliest_fs: int = 0,
        not_before_fs: int = 0,
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `memory.Server`."""
        now = int(self.env.now)
        done = Completion(self.env, now)
        if not descriptor.size_bytes:
            done.settle(max(now, earliest_fs))
            return done
        tick = -(-max(now, not_before_fs) // self._tick_fs)
        if self._steps and not self._open:
            self._end_before(tick)
        self._enter_interval(tick // self.memo.interval)
        entry = Open(descriptor, range(0), earliest_fs, done)
        is_first = not self._steps
        if is_first:
            self._rows_before = dict(self._rows.open)
        base = descriptor.base + origin
        gap = 0 if is_first else tick - self._steps[-1].tick
        key = key_of(descriptor, self._rows.meet(descriptor, base), gap=gap)
        step = Step(key, entry, base, tick)
        self._open.append(entry)
        if is_first:
            self._is_apart = self.memo.is_apart(tick, tick)
            self._steps = [step]
            self._follow()
        elif self._node is None:
            self._ask(step)
            if len(self._steps) <= MOST_STEPS:
                self._steps.append(step)
        else:
            self._steps.append(step)
            self._follow()
        if not self._is_serving:
            self._is_serving = True
            self.env.process(self._serve())
        return done

    @property
    def ticks(self) -> int:
        """The ticks that are over."""
        return self._controller.clock + self._skipped

    def counters(self) -> Integers:
        """Return the counts so far, as in `hwmodels.dram.stats.COUNTERS`."""
        return self._controller.counters() + self._added

    def rest(self) -> None:
        """Let the memory come to this moment and be done with all writes."""
        tick = -(-int(self.env.now) // self._tick_fs)
        if self._open and self._node is not None:
            self._resort()
        if self._steps:
            self._end_before(FAR_TICK)
        if self._open_from >= 0:
            self._enter_interval(-1)
        self._skip(tick)
        self._controller.finish()
        self._controller.rest(max(self._controller.clock, tick - self._skipped))

    def _follow(self) -> None:
        """Find the present period among those known, else let the controller do it."""
        if self._steps[0].entry.descriptor.size_bytes < LEAST_BYTES:
            self._resort()
            return
        node = self.memo.walk(self._steps, is_apart=self._is_apart)
        if self._is_apart:
            soon = self.memo.next_refresh(self._steps[0].tick)
            if node is None or self._steps[-1].tick + node.end >= soon:
                self._is_apart = False
                node = self.memo.walk(self._steps, is_apart=False)
        self._node = node
        if node is None:
            self._resort()

    def _resort(self) -> None:
        """Let the controller do the present period from its beginning."""
        start, memo = self._steps[0].tick, self.memo
        self._node = None
        self.memo.asked += 1
        self._skip(start)
        interval = start // memo.interval
        if self._open_from >= 0 and interval == self._rows_at:
            self._claim(start)
        if self._rows_before and self._has_known:
            self._controller.rest(start - self._skipped - 1)
            self._controller.open_rows(self._rows.addresses(self._rows_before))
        self._asked_at = interval
        self._before = self._controller.counters()
        for step in self._steps:
            self._ask(step)

    def _ask(self, step: Step) -> None:
        """Let the controller do a step."""
        step.entry.numbers = self._enter(step.entry.descriptor, step.base, step.tick)

    def _skip(self, tick: int) -> None:
        """Leave out whole rotations of refreshes before a tick, in which the controller rests."""
        memo, clock = self.memo, self._controller.clock
        here = tick - self._skipped
        left_out = max(0, here - clock - 1) // memo.rotation * memo.rotation
        is_later = here // memo.interval != clock // memo.interval
        if left_out and is_later and (here - left_out) // memo.interval == clock // memo.interval:
            left_out -= memo.rotation
        self._skipped += left_out
        self._added += left_out // memo.rotation * self._refreshes

    def _enter_interval(self, interval: int) -> None:
        """Close all rows where refreshes have come since they were opened."""
        if interval == self._rows_at:
            return
        if self._open_from >= 0:
            self._claim((self._rows_at + 1) * self.memo.interval)
        self._rows.open = {}
        self._has_known = False
        self._rows_at = interval

    def _claim(self, tick: int) -> None:
        """Count rows as open until a tick that the controller does not know of."""
        self._added[OPEN] += max(0, tick - self._open_from) * self._open_ranks
        self._open_from = -1

    def _end_before(self, tick: int) -> None:
        """End the present period, of which all is done, if the memory is at rest before a tick."""
        if self._node is None:
            if tick == FAR_TICK:
                self._controller.finish()
            else:
                self._controller.advance_to(tick - self._skipped - 1)
            if not self._controller.waiting:
                self._keep()
            return
        end = self._steps[-1].tick + self._node.end
        if self._node.counts is None and tick == FAR_TICK:
            self._resort()
            self._end_before(tick)
        elif self._node.counts is not None and end < tick:
            self._added += self._node.counts
            self.memo.known += 1
            self._note_open(end, self._node.open_ranks)
            self._has_known = True
            self._steps = []

    def _note_open(self, end: int, ranks: int) -> None:
        """Note rows that a known period leaves open."""
        start, interval = self._steps[0].tick, self.memo.interval
        if self._asked_at != start // interval and self._open_from < 0:
            self._open_from, self._open_ranks = start, ranks
            self._rows_at = start // interval
        self._enter_interval(end // interval)
        if self._open_from < 0 and end // interval != start // interval:
            self._open_from, self._open_ranks = end, ranks

    def _keep(self) -> None:
        """Keep what the controller did in the present period, which is over."""
        controller, steps = self._controller, self._steps
        end = controller.clock + self._skipped
        if len(steps) <= MOST_STEPS:
            moves = [self._moved(step) for step in steps]
            counts = controller.counters() - self._before
            counts[[*REFRESHES, OPEN]] = 0
            self.memo.note(steps, moves, end=end, counts=counts, open_ranks=controller.open_ranks)
        self._asked_at = end // self.memo.interval
        self._steps = []
        controller.release(steps[-1].entry.numbers.stop)

    def _moved(self, step: Step) -> Move:
        """Return what the controller did with a step."""
        numbers, start = step.entry.numbers, step.tick - self._skipped
        first, last = self._controller.accepted_span(numbers)
        latencies = np.zeros(0, dtype=np.int64)
        if not step.entry.descriptor.is_write:
            longest = self._controller.count_latencies(numbers, latencies)
            latencies = np.zeros(longest + 1, dtype=np.int64)
            self._controller.count_latencies(numbers, latencies)
        done = self._controller.completion(numbers)
        return Move(first - start, last - start, done - start, len(numbers), latencies)

    def _settle(self) -> bool:
        if len(self._steps) > MOST_STEPS:
            return super()._settle()
        left = self._close_known()
        has_news = len(left) < len(self._open)
        self._open = left
        return has_news

    def _run_ahead(self, horizon_fs: int | None) -> bool:
        if self._node is None:
            return super()._run_ahead(horizon_fs)
        until = FAR_TICK if horizon_fs is None else -(-horizon_fs // self._tick_fs)
        node, steps = self._node, self._steps
        sure = steps[-1].tick + node.valid
        if self._is_apart:
            sure = min(sure, self.memo.next_refresh(steps[0].tick))
        ends = [
            FAR_TICK if move is None or step.is_over else step.tick + move.done
            for step, move in zip(steps, node.moves, strict=True)
        ]
        soon = min(ends)
        if soon <= min(until, sure):
            for step, move, end in zip(steps, node.moves, ends, strict=True):
                if end == soon and move is not None:
                    self._settle_known(step, move)
            self._open = [step.entry for step in steps if not step.is_over]
            return True
        if until <= sure:
            return False
        if self._is_apart:
            self._is_apart = False
            self._node = self.memo.walk(steps, is_apart=False)
        else:
            self._node = None
        if self._node is None:
            self._resort()
        return self._run_ahead(horizon_fs)

    def _settle_known(self, step: Step, move: Move) -> None:
        """Let a descriptor be done as one like it was before."""
        step.is_over = True
        accepted_fs, done_fs = (
            (step.tick + at) * self._tick_fs for at in (move.accepted, move.done)
        )
        self._count(step.entry, move.bursts, accepted_fs, done_fs)
        if move.latencies.size > self._read_ticks.size:
            self._read_ticks = np.pad(
                self._read_ticks, (0, move.latencies.size - self._read_ticks.size)
            )
        self._read_ticks[: move.latencies.size] += move.latencies
        entry = step.entry
        entry.done.settle(max(done_fs, entry.earliest_fs, int(self.env.now)))
