"""Arbitration in front of a memory that takes descriptors in order: the smallest priority first.

As many descriptors as `IN_FLIGHT` are with the memory, so that it is busy while the next is chosen;
the others wait here, where a better one that comes later overtakes them.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count

import simpy

from hwmodels.dma import Clock
from hwmodels.memory import Completion, Descriptor, RequesterStats, Server
from hwmodels.memory_totals import MemoryTotals

IN_FLIGHT = 2
"""Descriptors with the memory at a time: one being moved and one behind it."""

Waiting = tuple[int, int, Descriptor, int, int, Completion]  # rank, order, what, origin, earliest


class Arbiter:
    """Hands descriptors on to a server in order of priority, equal ones in order of submission.

    A descriptor that the server has is not interrupted. Statistics are the server's, with the time
    that descriptors waited here added to it.
    """

    def __init__(self, env: simpy.Environment, server: Server) -> None:
        self.env = env
        self.server = server
        self.statistics: dict[str, RequesterStats] = server.statistics
        self._order = count()
        self._pending: list[Waiting] = []
        self._in_flight = 0
        self._waited_fs: Counter[str] = Counter()

    def submit(
        self, descriptor: Descriptor, *, origin: int = 0, earliest_fs: int = 0
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `memory.Server`."""
        done = Completion(self.env, int(self.env.now))
        entry = descriptor.priority, next(self._order), descriptor, origin, earliest_fs, done
        if self._in_flight < IN_FLIGHT:
            self._admit(entry)
        else:
            heapq.heappush(self._pending, entry)
        return done

    def finish(self) -> MemoryTotals | None:
        """Return what the server counted."""
        found = self.server.finish()
        for requester, waited_fs in self._waited_fs.items():
            self.statistics[requester].queued_fs += waited_fs
            self.statistics[requester].total_fs += waited_fs
        return found

    def _admit(self, entry: Waiting) -> None:
        """Hand a descriptor on."""
        _, _, descriptor, origin, earliest_fs, done = entry
        self._in_flight += 1
        self._waited_fs[descriptor.requester] += int(self.env.now) - done.submitted_fs
        moved = self.server.submit(descriptor, origin=origin)
        moved.wait().callbacks.append(partial(self._release, earliest_fs, done))

    def _release(self, earliest_fs: int, done: Completion, _: simpy.Event) -> None:
        """Let a descriptor be done that the server is done with now, and hand on the best."""
        done.settle(max(int(self.env.now), earliest_fs))
        self._in_flight -= 1
        if self._pending:
            self._admit(heapq.heappop(self._pending))


def arbitrated(make: Callable[[Clock], Server], env: Clock) -> Arbiter:
    """Return the server that `make` returns, behind an arbiter."""
    return Arbiter(env, make(env))
