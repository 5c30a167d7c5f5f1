"""The data buses of a memory with a timing table, as its address map spreads bursts over them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hwmodels.architecture import FEMTO
from hwmodels.dram.address import compile_map
from hwmodels.dram.batches import count_buses
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
        self._map = compile_map(spec)
        self._shape = organisation.channels, organisation.pseudo_channels
        self._banks = organisation.banks_per_channel // organisation.pseudo_channels
        self._turn_bytes = turn_bytes(spec)

    def _find(self, descriptor: Descriptor) -> Share:
        bursts = self._count(descriptor, self._banks, self._shape).ravel().tolist()
        return self._share(sum(bursts), [number * self.burst_fs for number in bursts])

    def _count(self, descriptor: Descriptor, banks: int, shape: tuple[int, int]) -> Integers:
        """Return the bursts of a descriptor by channel and by so many banks of it: `shape`."""
        rows, row_bytes = one_run(descriptor)
        found = np.zeros(shape, dtype=np.int64)
        count_buses(self._map, descriptor.base, row_bytes, descriptor.stride, rows, banks, found)
        return found

    def _share(self, bursts: int, times: Sequence[int]) -> Share:
        """Return what a descriptor of so many bursts asks of buses that are busy so long."""
        busy = tuple((bus, time) for bus, time in enumerate(times) if time)
        return Share(bursts * self.spec.organisation.burst_bytes, busy, max(times, default=0))


class GroupedChannels(MappedChannels):
    """The same where bursts of one bank group are tCCD_L apart: a bus is busy as long as a group.

    Raises KeyError where the memory states no tCCD_L.
    """

    def __init__(self, channels: Channels, spec: DramSpec) -> None:
        super().__init__(channels, spec)
        self._group_banks = spec.organisation.banks
        self._cycle_fs = self.burst_fs / spec.cycles("tBL")
        self._turn_bytes = turn_bytes(spec, GROUP)

    def _find(self, descriptor: Descriptor) -> Share:
        organisation = self.spec.organisation
        shape = organisation.channels, organisation.banks_per_channel // self._group_banks
        found = self._count(descriptor, self._group_banks, shape)
        grouped = found.reshape(self.buses, -1)
        cycles = busy_cycles(self.spec, grouped).tolist()
        return self._share(int(found.sum()), [round(count * self._cycle_fs) for count in cycles])


def busy_cycles(spec: DramSpec, bursts: Integers) -> Integers:
    """Return the clock cycles that buses are busy with `bursts`: (..., buses, bank groups).

    At least tBL for each burst and tCCD_L for each of a bank group.
    """
    moved: Integers = spec.cycles("tBL") * bursts.sum(axis=-1)
    longest: Integers = np.maximum(moved, spec.cycles("tCCD_L") * bursts.max(axis=-1))
    return longest


BUS = frozenset({"channel", "pseudo_channel"})
GROUP = BUS | {"rank", "stack_id", "bank_group"}


def turn_bytes(spec: DramSpec, spread: frozenset[str] = BUS) -> int:
    """Return the bytes after which the same bus comes round again, at most the capacity.

    With other fields in `spread`, the same of all of them. Example: 512 for eight channels of two
    pseudo-channels below all else, with bursts of 32 bytes.
    """
    organisation = spec.organisation
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
