"""Bandwidth over time: which channel moved how many bytes when, whatever serves the memory.

A descriptor's bytes are taken as moved evenly from its submission, or the end of what its requester
asked for before, to its completion: right over times longer than a transfer, smooth below that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwmodels.architecture import FEMTO
from hwmodels.dma import Clock
from hwmodels.memory import Channels, Completion, Descriptor, MemoryServer, RequesterStats, Server
from hwmodels.memory_totals import MemoryTotals

Serve = Callable[[Clock], Server]
MOST_BINS = 1000


class Move(NamedTuple):
    """Bytes that a requester moved on some channels between two times of the run."""

    begin_fs: int
    end_fs: int
    channels: tuple[int, ...]
    sizes_bytes: tuple[float, ...]
    is_write: bool


@dataclass
class Watch:
    """What was moved in the calls of a run, one after the other; `passed_fs` is their time."""

    moves: list[Move] = field(default_factory=list)
    passed_fs: int = 0
    _server: "WatchedServer | None" = None

    def serve(self, inner: Serve | None, channels: Channels, per_channel: int = 1) -> Serve:
        """Return what makes a server that tells this object of all it moves.

        `channels` say where descriptors go, `per_channel` of their buses to a channel.
        """

        def make(clock: Clock) -> Server:
            server = MemoryServer(clock, channels) if inner is None else inner(clock)
            self._server = WatchedServer(server, channels, per_channel)
            return self._server

        return make

    def close(self, call_fs: int) -> None:
        """Take over what a call of that length moved."""
        if self._server is not None:
            self.moves += self._server.moves(self.passed_fs)
        self.passed_fs += call_fs
        self._server = None

    def bins(self) -> tuple[float, NDArray[np.float64]]:
        """Return the seconds of a bin, and bytes (bins, channels, 2), reads before writes.

        Bins are 1, 2 or 5 times a power of ten nanoseconds long, at most `MOST_BINS` of them.
        """
        end_fs = max([self.passed_fs, *(move.end_fs for move in self.moves)])
        bin_fs = _round_up(max(FEMTO // 10**9, end_fs // MOST_BINS))
        channels = 1 + max((max(move.channels, default=0) for move in self.moves), default=0)
        found = np.zeros((max(1, -(-end_fs // bin_fs)), channels, 2))
        for move in self.moves:
            end = max(move.end_fs, move.begin_fs + 1)
            first, last = move.begin_fs // bin_fs, min((end - 1) // bin_fs, len(found) - 1)
            way = int(move.is_write)
            if first >= last:
                np.add.at(found[last, :, way], list(move.channels), move.sizes_bytes)
                continue
            inside = np.diff(np.clip(np.arange(first, last + 2) * bin_fs, move.begin_fs, end))
            for channel, size_bytes in zip(move.channels, move.sizes_bytes, strict=True):
                found[first : last + 1, channel, way] += size_bytes * inside / inside.sum()
        return bin_fs / FEMTO, found


class WatchedServer:
    """Another server that notes what passes through it."""

    def __init__(self, server: Server, channels: Channels, per_channel: int) -> None:
        self.server = server
        self.channels = channels
        self.per_channel = per_channel
        self.statistics: dict[str, RequesterStats] = server.statistics
        self._passed: list[tuple[Descriptor, int, Completion]] = []

    def submit(
        self, descriptor: Descriptor, *, origin: int = 0, earliest_fs: int = 0
    ) -> Completion:
        """Return when the last byte of `descriptor` will have moved, see `memory.Server`."""
        done = self.server.submit(descriptor, origin=origin, earliest_fs=earliest_fs)
        self._passed.append((descriptor, origin, done))
        return done

    def finish(self) -> MemoryTotals | None:
        """Return what the memory counted once a run is over, None where it keeps no counts."""
        return self.server.finish()

    def moves(self, offset_fs: int) -> Iterator[Move]:
        """Yield what was moved on each channel, `offset_fs` later than this server's clock."""
        before: dict[str, int] = {}
        for descriptor, origin, done in self._passed:
            share = self.channels.share(descriptor, origin=origin)
            begin_fs = max(done.submitted_fs, before.get(descriptor.requester, 0))
            begin_fs = min(begin_fs, done.done_fs)
            before[descriptor.requester] = done.done_fs
            total_fs = sum(busy for _, busy in share.busy)
            yield Move(
                offset_fs + begin_fs,
                offset_fs + done.done_fs,
                tuple(bus // self.per_channel for bus, _ in share.busy),
                tuple(
                    share.moved_bytes * (busy / total_fs if total_fs else 1 / len(share.busy))
                    for _, busy in share.busy
                ),
                descriptor.is_write,
            )


def bandwidth_csv(watch: Watch) -> str:
    """Return a row per bin of time and channel: when it begins, its length, bytes per second."""
    seconds, moved = watch.bins()
    header = "start_s,seconds,channel,read_bytes_per_s,write_bytes_per_s\n"
    lines = (
        f"{i * seconds:.9g},{seconds:.9g},{channel},{read / seconds:.6g},{write / seconds:.6g}\n"
        for i, of_bin in enumerate(moved)
        for channel, (read, write) in enumerate(of_bin)
    )
    return header + "".join(lines)


def _round_up(number: int) -> int:
    """Return the next 1, 2 or 5 times a power of ten.

    Example:
        >>> _round_up(3), _round_up(51), _round_up(200)
        (5, 100, 200)

    """
    power = int(10 ** (len(str(number)) - 1))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number)
