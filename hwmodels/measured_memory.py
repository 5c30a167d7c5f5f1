"""The roofline at shares of its data buses that the controller was measured to reach.

Bursts go to the buses that the address map names, each for the time that bursts of its bank group
are apart at least, over the share that its kind of descriptor reaches: what refresh, rows and turns
from reads to writes leave of it.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import simpy
from annotated_types import Ge, Gt, Le, MinLen

from hwmodels.architecture import FEMTO, Architecture, MemoryStack, MemoryTechnology
from hwmodels.dram.problems import SpecError, nearest
from hwmodels.dram.spec import DramSpec
from hwmodels.exact_memory import unlike
from hwmodels.mapped_channels import GroupedChannels, one_run
from hwmodels.memory import Channels, Descriptor, MemoryServer, Share

Kind = Literal["stream", "rows_64", "rows_256", "rows_1024", "random"]
ROWS_BELOW: tuple[tuple[int, Kind], ...] = (
    (128, "rows_64"),
    (512, "rows_256"),
    (2048, "rows_1024"),
)
"""Bytes of a row below which rows apart from each other are of a kind; longer ones are streams."""

Part = Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class Ways:
    """Least time of a descriptor's busiest data bus over the time that descriptors take.

    The least is tBL for each burst and tCCD_L for each of a bank group. `mixed` where descriptors
    are read and written in turns, each with a least time of `descriptor_s` seconds.
    """

    read: Part
    write: Part
    mixed: Part
    descriptor_s: Annotated[float, Gt(0)]

    @property
    def turn_per_second(self) -> float:
        """Seconds lost where the ways turn, for each second that a descriptor takes at least."""
        return max(0.0, 1 / self.mixed - (1 / self.read + 1 / self.write) / 2)


@dataclass(frozen=True)
class Efficiency:
    """What a memory reaches under a policy with an address map, by kind of descriptor.

    Each kind was watched for `refresh_periods` times between two refreshes of a rank.
    """

    memory: Annotated[str, MinLen(1)]
    policy: Annotated[str, MinLen(1)]
    address_map: Annotated[str, MinLen(1)]
    channels: Annotated[int, Ge(1)]
    refresh_periods: Annotated[int, Ge(1)]
    stream: Ways
    rows_64: Ways
    rows_256: Ways
    rows_1024: Ways
    random: Ways

    def of(self, kind: Kind) -> Ways:
        """Return the shares of one kind of descriptor."""
        return {
            "stream": self.stream,
            "rows_64": self.rows_64,
            "rows_256": self.rows_256,
            "rows_1024": self.rows_1024,
            "random": self.random,
        }[kind]


@dataclass(frozen=True)
class EfficiencyTable:
    """What a version of the controller reached on a day, as measured by a command."""

    command: Annotated[str, MinLen(1)]
    version: Annotated[str, MinLen(1)]
    date: Annotated[str, MinLen(1)]
    memories: tuple[Efficiency, ...]


@dataclass(frozen=True)
class MeasuredMemory:
    """A memory at the shares measured; `note` says which."""

    spec: DramSpec
    efficiency: Efficiency
    note: str

    def serve(self, env: simpy.Environment, channels: Channels) -> "MeasuredServer":
        """Return a server of a chip's channels that begins with free buses."""
        return MeasuredServer(env, GroupedChannels(channels, self.spec), self.efficiency)

    def problems(self, architecture: Architecture, technology: MemoryTechnology) -> list[str]:
        """Return a line for everything in which a chip and its technology are not this memory."""
        return unlike(self.spec, architecture, technology)


def measured(memory: MemoryStack, spec: DramSpec, table: EfficiencyTable) -> MeasuredMemory:
    """Return the memory that a chip names at the shares of `table`: its channels, policy and map.

    Shares of a memory with another number of channels count, as channels work each for itself.
    Raises SpecError with all mistakes of the map, or where the table has no such row.
    """
    own = replace(
        spec,
        organisation=replace(spec.organisation, channels=memory.channels),
        address_map=spec.address_map if memory.address_map is None else memory.address_map,
    )
    for row in table.memories:
        if (row.memory, row.policy, row.address_map) == (own.name, memory.policy, own.address_map):
            note = (
                f"memory at the shares that {row.memory} reached under policy {row.policy} with "
                f"map {row.address_map} (controller of {table.version}, {table.date})"
            )
            return MeasuredMemory(own, row, note)
    raise SpecError([_missing(own, memory.policy, table)])


def _missing(spec: DramSpec, policy: str, table: EfficiencyTable) -> str:
    """Return what a table lacks: the memory, the policy, or the map of both."""
    names = {row.memory for row in table.memories}
    policies = {row.policy for row in table.memories if row.memory == spec.name}
    if spec.name not in names:
        return f'efficiency: no shares of memory "{spec.name}"{nearest(spec.name, sorted(names))}'
    if policy not in policies:
        return (
            f'efficiency: no shares of {spec.name} under policy "{policy}"'
            f"{nearest(policy, sorted(policies))}"
        )
    maps = [
        row.address_map for row in table.memories if (row.memory, row.policy) == (spec.name, policy)
    ]
    return (
        f'efficiency: no shares of {spec.name} under {policy} with map "{spec.address_map}"; '
        f"expected {' or '.join(maps)}"
    )


def kind_of(descriptor: Descriptor, burst_bytes: int) -> Kind:
    """Return the kind of a descriptor: one run is a stream, or random where it is one burst.

    Example:
        >>> kind_of(Descriptor(0, 64, stride=4096, rows=8), 32)
        'rows_64'

    """
    rows, row_bytes = one_run(descriptor)
    if rows == 1:
        return "random" if row_bytes <= burst_bytes else "stream"
    return next((kind for below, kind in ROWS_BELOW if row_bytes < below), "stream")


class MeasuredServer(MemoryServer):
    """Data buses that are busy longer than at the peak, by kind of descriptor.

    One that comes while buses are busy with the other way waits for them to turn, too: as long as
    descriptors measured lost so, and a shorter one as much less.
    """

    def __init__(
        self, env: simpy.Environment, channels: GroupedChannels, efficiency: Efficiency
    ) -> None:
        super().__init__(env, channels)
        self.efficiency = efficiency
        self._burst_bytes = channels.spec.organisation.burst_bytes
        self._is_writing = False

    def _admit(self, descriptor: Descriptor, share: Share, submitted: int) -> int:
        """Put a descriptor on its buses; returns when its last byte arrives."""
        is_write = descriptor.is_write
        ways = self.efficiency.of(kind_of(descriptor, self._burst_bytes))
        slowness = 1 / (ways.write if is_write else ways.read)
        turn_fs = 0.0
        if self._is_writing != is_write and self._idle_fs > self.env.now:
            turn_fs = ways.turn_per_second * min(share.longest_fs, ways.descriptor_s * FEMTO)
        self._is_writing = is_write
        busy = tuple([(bus, round(time_fs * slowness + turn_fs)) for bus, time_fs in share.busy])
        slowed = Share(share.moved_bytes, busy, round(share.longest_fs * slowness + turn_fs))
        return super()._admit(descriptor, slowed, submitted)
