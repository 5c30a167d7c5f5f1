"""The data buses of a memory with a timing table, as its address map spreads bursts over them."""

from dataclasses import replace

import numpy as np

from hwmodels.architecture import FEMTO
from hwmodels.dram.address import locate
from hwmodels.dram.fields import hashes, map_parts
from hwmodels.dram.jit import Integers
from hwmodels.dram.spec import DramSpec
from hwmodels.memory import Channels, Descriptor, Share


class MappedChannels(Channels):
    """The data buses of `spec` without a clock: which of them a descriptor keeps busy, how long.

    A pseudo-channel has a bus of its own. Busy times are those at peak bandwidth.
    """

    def __init__(self, channels: Channels, spec: DramSpec) -> None:
        technology = replace(channels.technology, burst_bytes=spec.organisation.burst_bytes)
        super().__init__(channels.memory, technology)
        organisation = spec.organisation
        self.spec = spec
        self.buses = organisation.channels * organisation.pseudo_channels
        self.ranks = self.buses * organisation.ranks
        self.burst_fs = round(spec.cycles("tBL") * spec.ticks_per_clock * spec.tick_s * FEMTO)
        self._banks = organisation.banks_per_channel // organisation.pseudo_channels
        self._turn_bytes = turn_bytes(spec)

    def _find(self, descriptor: Descriptor) -> Share:
        burst_bytes = self.spec.organisation.burst_bytes
        found = locate(self.spec, burst_addresses(descriptor, 0, burst_bytes))
        bus = found[:, 0] * self.spec.organisation.pseudo_channels + found[:, 1] // self._banks
        bursts = np.bincount(bus, minlength=1)
        busy = tuple((int(one), int(bursts[one]) * self.burst_fs) for one in np.flatnonzero(bursts))
        return Share(len(bus) * burst_bytes, busy, max((time for _, time in busy), default=0))


def turn_bytes(spec: DramSpec) -> int:
    """Return the bytes after which the same bus comes round again, at most the capacity.

    Example: 512 for eight channels of two pseudo-channels below all else, with bursts of 32 bytes.
    """
    organisation = spec.organisation
    spread = {"channel", "pseudo_channel"}
    if spread & hashes(spec.address_map).keys():
        return organisation.capacity_bytes
    period = turn = organisation.burst_bytes
    for part in map_parts(organisation.sizes, spec.address_map):
        is_divided = part.field == "channel" and not part.width
        period *= organisation.channels if is_divided else 1 << part.width
        if part.field in spread:
            turn = period
    return turn


def burst_addresses(descriptor: Descriptor, origin: int, burst_bytes: int) -> Integers:
    """Return the address of every burst that a descriptor touches, row by row: (bursts,).

    The descriptor's base counts from `origin`; a burst that two rows share is moved for both.

    Example:
        >>> burst_addresses(Descriptor(40, 30, stride=64, rows=2), 0, 32)
        array([ 32,  64,  96, 128])

    """
    rows, row_bytes = descriptor.rows, descriptor.bytes
    if descriptor.stride == row_bytes:
        rows, row_bytes = 1, rows * row_bytes
    base = descriptor.base + origin
    starts = base + descriptor.stride * np.arange(rows, dtype=np.int64)
    first = starts // burst_bytes
    numbers = -(-(starts + row_bytes) // burst_bytes) - first
    if rows == 1:
        return burst_bytes * np.arange(first[0], first[0] + numbers[0], dtype=np.int64)
    before = np.cumsum(numbers) - numbers  # bursts of the rows before
    inside = np.arange(numbers.sum(), dtype=np.int64) - np.repeat(before, numbers)
    found: Integers = burst_bytes * (np.repeat(first, numbers) + inside)
    return found
