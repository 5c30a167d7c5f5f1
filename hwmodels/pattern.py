"""Building patterns: steps with loads and stores relative to the tensors a group reads and writes.

Ops of equal shape whose operands are in the same place do the same; a pattern is built once for all
of them, from a kind that holds all it depends on. Kinds are tuples, which are quick to look up.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from hwmodels.architecture import Architecture, MemoryTechnology, ProcessingArray
from hwmodels.array import Split
from hwmodels.costs import Costs, costs
from hwmodels.descriptors import run
from hwmodels.energy import Prices
from hwmodels.fusion import Chain
from hwmodels.mapping import Room, room
from hwmodels.memory import Channels, Descriptor
from hwmodels.numbered import Numbered
from hwmodels.plan import Load, Pattern, Port, Step, Store
from hwmodels.vector import VectorFunction, function_cycles, functions_with
from hwmodels.workload import Runs, WorkItem

Kind = TypeVar("Kind", bound=Hashable)


@dataclass(frozen=True)
class Setting:
    """What every pattern of a chip depends on."""

    array: ProcessingArray
    lanes: int
    functions: Mapping[str, VectorFunction]
    limits: Room
    channels: Channels
    costs: Costs
    priced: Prices | None = None

    def mac_j(self, component: str, action: str) -> float:
        """Return the joules of one multiply-accumulate, 0 where there are no prices."""
        return 0.0 if self.priced is None else self.priced[component, action].value_j


def setting(
    architecture: Architecture, technology: MemoryTechnology, priced: Prices | None = None
) -> Setting:
    """Return what patterns depend on, of a chip and its memory.

    Raises ValueError when mappings are chosen for energy and there are no prices.
    """
    return Setting(
        architecture.array,
        architecture.vector_unit.lanes,
        functions_with(architecture.vector_unit.functions),
        room(architecture),
        Channels(architecture.memory, technology),
        costs(architecture, technology, priced),
        priced,
    )


@dataclass
class Patterns:
    """What was found out so far about ops of one chip: their patterns, by kind.

    `answers` are those to questions about ops of equal sizes (see `hwmodels.fusion_cost`), `chains`
    say which ops follow others, by the numbers that `items` gives them (see `hwmodels.fusion`).
    """

    setting: Setting
    known: dict[Hashable, Pattern] = field(default_factory=dict)
    answers: dict[Hashable, bool] = field(default_factory=dict)
    chains: dict[int, Chain] = field(default_factory=dict)
    items: Numbered[WorkItem] = field(default_factory=Numbered)

    def of(self, kind: Kind, build: Callable[[Setting, Kind], Pattern]) -> Pattern:
        """Return the pattern of a kind, built by `build` the first time."""
        key = build, kind
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = build(self.setting, kind)
        return found


class Share(NamedTuple):
    """The part [first, stop) of `total` result positions that a step finishes."""

    first: int
    stop: int
    total: int

    def of(self, number: int) -> int:
        """Return how many of `number` things fall into this part; all parts sum to `number`."""
        if number == self.total:
            return self.stop - self.first
        return number * self.stop // self.total - number * self.first // self.total


class Read(NamedTuple):
    """What a pattern knows of a tensor it reads: its size, where it is and where it goes.

    `size_bytes` of `elements`, `is_here` before any load, `is_kept` once loaded, through `port`.
    `runs` say how matrices lie in it, see `workload.TensorRef`.
    """

    port: Port
    size_bytes: int
    elements: int
    is_constant: bool
    is_here: bool
    is_kept: bool
    runs: Runs | None = None


class Write(NamedTuple):
    """What a pattern knows of a tensor it writes: bytes from `first_byte`, and if to memory."""

    size_bytes: int
    elements: int
    is_stored: bool
    first_byte: int = 0


class Tensors(NamedTuple):
    """The tensors of a pattern, and the (operations of each pass, elements) of its fused ops."""

    reads: tuple[Read, ...]
    writes: tuple[Write, ...]
    fused: tuple[tuple[tuple[int, ...], int], ...]


class Builder:
    """Collects the steps of one pattern and counts what their loads and stores move."""

    def __init__(self, setting: Setting, tensors: Tensors) -> None:
        self.setting = setting
        self.tensors = tensors
        self.steps: list[Step] = []
        self._dram_read = [0] * len(tensors.reads)
        self._loaded = [0] * len(tensors.reads)
        self._dram_written = [0] * len(tensors.writes)
        self._stores = [0] * len(tensors.writes)
        self._fused: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}  # by elements of each

    def load(self, source: int, descriptor: Descriptor) -> Load:
        """Return one load of tensor number `source`."""
        read, size = self.tensors.reads[source], descriptor.size_bytes
        self._dram_read[source] += self.setting.channels.moved_bytes(descriptor)
        self._loaded[source] += size
        return Load(read.port, source, descriptor, 0 if read.is_kept else size)

    def share_loads(self, sources: Iterable[int], share: Share, *, is_start: bool) -> list[Load]:
        """Return the loads of `sources` for one step: kept ones whole at the start, others shared.

        Shares are only good for the step itself; the caller's step releases them.
        """
        loads: list[Load] = []
        for source in sources:
            read = self.tensors.reads[source]
            if read.is_kept and is_start:
                part = Share(0, 1, 1)
            elif read.is_kept or share.of(read.size_bytes) == 0:
                continue
            else:
                part = share
            descriptor = run(
                read.size_bytes,
                first=part.first,
                stop=part.stop,
                total=part.total,
                requester=read.port,
            )
            loads.append(self.load(source, descriptor))
        return loads

    def store(self, target: int, descriptor: Descriptor) -> Store:
        """Return one store of result number `target`."""
        self._dram_written[target] += self.setting.channels.moved_bytes(descriptor)
        self._stores[target] += 1
        return Store(target, descriptor)

    def close(self, step: Step, share: Share) -> None:
        """Add the stores of one share of all results to a step, and the output room they need."""
        for target, write in enumerate(self.tensors.writes):
            if not write.is_stored or not share.of(write.size_bytes):
                continue
            descriptor = run(
                write.size_bytes,
                first=share.first,
                stop=share.stop,
                total=share.total,
                requester="output",
                base=write.first_byte,
            )
            step.stores.append(self.store(target, descriptor))
            step.opens_bytes += descriptor.bytes
        step.closes_bytes = step.opens_bytes

    def fused_work(self, share: Share) -> tuple[tuple[int, int], ...]:
        """Return (op within the group, vector cycles) of the fused ops for one step's results."""
        sizes = tuple([share.of(elements) for _, elements in self.tensors.fused])
        known = self._fused.get(sizes)
        if known is None:
            known = self._fused[sizes] = tuple(
                (number, function_cycles(operations, size, self.setting.lanes))
                for number, ((operations, _), size) in enumerate(
                    zip(self.tensors.fused, sizes, strict=True), start=1
                )
            )
        return known

    def finish(self) -> Pattern:
        """Return the pattern of all steps."""
        loads: dict[Port, list[Load]] = {"input": [], "weight": []}
        held: dict[Port, int] = {"input": 0, "weight": 0}
        most = dict(held)
        head_cycles = 0
        for number, step in enumerate(self.steps):
            for load in step.loads:
                load.step = number
                loads[load.port].append(load)
                held[load.port] += load.credit_bytes
                most[load.port] = max(most[load.port], held[load.port])
            for load in step.releases:
                held[load.port] -= load.credit_bytes
            if step.array is None:
                head_cycles += sum(cycles for number, cycles in step.vector if number == 0)
        return Pattern(
            tuple(self.steps),
            {port: tuple(found) for port, found in loads.items()},
            tuple(self._dram_read),
            tuple(self._loaded),
            tuple(self._dram_written),
            tuple(self._stores),
            _sum([step.array for step in self.steps if step.array is not None]),
            head_cycles,
            most,
        )


def overfull(setting: Setting, pattern: Pattern) -> list[str]:
    """Return a line per buffer that cannot stream all that one step needs at once."""
    limits = setting.limits
    rooms: dict[Port, int] = {"input": 2 * limits.input_bytes, "weight": 2 * limits.weight_bytes}
    return [
        f"{port} buffer: one step with its fused ops needs {pattern.held[port]} bytes, the "
        f"streaming part holds {have}: {pattern.held[port] - have} bytes are missing"
        for port, have in rooms.items()
        if pattern.held[port] > have
    ]


def _sum(splits: Sequence[Split]) -> Split:
    return Split(
        sum(split.compute for split in splits),
        sum(split.fill for split in splits),
        sum(split.drain for split in splits),
        sum(split.weight_load for split in splits),
    )
