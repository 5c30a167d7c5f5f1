"""The data buses of a memory with a timing table, as its address map spreads bursts over them."""

from dataclasses import replace

import numpy as np

from hwmodels.architecture import FEMTO
from hwmodels.dram.address import compile_map
from hwmodels.dram.batches import count_buses
from hwmodels.dram.fields import hashes, map_parts
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
        self._map = compile_map(spec)
        self._shape = organisation.channels, organisation.pseudo_channels
        self._banks = organisation.banks_per_channel // organisation.pseudo_channels
        self._turn_bytes = turn_bytes(spec)

    def _find(self, descriptor: Descriptor) -> Share:
        burst_bytes = self.spec.organisation.burst_bytes
        rows, row_bytes = one_run(descriptor)
        found = np.zeros(self._shape, dtype=np.int64)
        base, stride = descriptor.base, descriptor.stride
        count_buses(self._map, base, row_bytes, stride, rows, self._banks, found)
        bursts = found.ravel().tolist()
        busy = tuple((bus, number * self.burst_fs) for bus, number in enumerate(bursts) if number)
        return Share(sum(bursts) * burst_bytes, busy, max((time for _, time in busy), default=0))


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


def one_run(descriptor: Descriptor) -> tuple[int, int]:
    """Return rows and bytes of a row; rows that lie behind one another are one.

    Example:
        >>> one_run(Descriptor(0, 64, stride=64, rows=3))
        (1, 192)

    """
    if descriptor.stride == descriptor.bytes:
        return 1, descriptor.size_bytes
    return descriptor.rows, descriptor.bytes
