"""What a mapping costs in closed form, by which the mapper chooses: time, energy or both.

Each figure grows with the cycles and bytes of a mapping and falls with bandwidth and port widths,
so that a chip with more of anything is never dearer at its best mapping.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from hwmodels.architecture import Architecture, MemoryTechnology, Objective
from hwmodels.energy import STATIC, Prices
from hwmodels.memory import BusShape, peak_bandwidth


class Work(NamedTuple):
    """What one product does under a mapping.

    `array_cycles` without any wait; bytes of activations and of weights from memory, bytes of both
    that enter the array, and bytes of results that go to memory. `held_*` are those bytes of each
    operand whose loads hide behind nothing, because a unit has no room until the one before goes;
    `held_cycles` are those in which what stays in the cells shifts in after such a load. All but
    `passing_cycles` of the loads is waited for: those in which the tiles of a unit go one by one.
    `held_stored_bytes` are those of results that must be gone before the next sums have room.
    """

    array_cycles: int
    input_bytes: int
    weight_bytes: int
    input_reads: int
    weight_reads: int
    stored_bytes: int
    held_input_bytes: int = 0
    held_weight_bytes: int = 0
    held_cycles: int = 0
    passing_cycles: int = 0
    held_stored_bytes: int = 0


class Ends(NamedTuple):
    """What no other work hides when a product runs alone.

    Bytes of each operand that must be there before the first step, bytes of results that go to
    memory after the last one, and the array cycles of that last one, behind all loads.
    """

    input_bytes: int
    weight_bytes: int
    stored_bytes: int
    last_cycles: int


ONE_BUS = BusShape(channels=1, burst_bytes=1, interleave_bytes=1 << 40)


@dataclass(frozen=True)
class Rates:
    """Bytes per array cycle of memory and of the three ports; None where nothing limits them.

    Of the memory a core counts on an equal part. `latency_cycles` are those of the memory, and
    `buses` says how addresses lie on its channels.
    """

    memory: float | None
    input_port: int | None
    weight_port: int | None
    output_port: int | None
    latency_cycles: float = 0.0
    buses: BusShape = ONE_BUS


@dataclass(frozen=True)
class Joules:
    """Joules that mappings decide: per byte of each operand loaded, and read into the array.

    A load is a read of memory and a write of the operand's buffer. `rest` are the static joules of
    the whole chip and its memory in one array cycle.
    """

    input_load: float
    weight_load: float
    input_read: float
    weight_read: float
    rest: float


@dataclass(frozen=True)
class Costs:
    """How mappings of one chip are compared; `joules` are needed unless time alone counts."""

    objective: Objective
    rates: Rates
    joules: Joules | None = None

    def of(self, work: Work) -> float:
        """Return array cycles, joules, or their product, as the chip asks."""
        cycles = latency(work, self.rates)
        if self.joules is None:
            return cycles
        joules = energy(work, self.joules, cycles)
        return joules if self.objective == "energy" else cycles * joules


def alone(work: Work, ends: Ends, rates: Rates) -> int:
    """Return the array cycles of a product that runs alone, about: `latency` with its ends.

    The array begins behind the first loads and memory goes on until the last ones, after which
    come the last step and the last stores.

    Example:
        >>> work, ends = Work(100, 320, 640, 0, 0, stored_bytes=64), Ends(320, 480, 32, 25)
        >>> alone(work, ends, Rates(16.0, 32, 16, 1)), alone(work, ends, Rates(4.0, 32, 16, 1))
        (182, 332)

    """
    first = max(
        _cycles(ends.input_bytes + ends.weight_bytes, rates.memory),
        _cycles(ends.input_bytes, rates.input_port),
        _cycles(ends.weight_bytes, rates.weight_port),
    )
    last = max(
        _cycles(ends.stored_bytes, rates.memory), _cycles(ends.stored_bytes, rates.output_port)
    )
    hidden = work.stored_bytes - ends.stored_bytes
    moved = _cycles(work.input_bytes + work.weight_bytes + hidden, rates.memory)
    return max(first + _busy(work, rates), moved + ends.last_cycles) + last


def latency(work: Work, rates: Rates) -> int:
    """Return the array cycles of whatever takes longest when everything else hides behind it.

    Loads that hide behind nothing come on top of the array's own cycles.

    Example:
        >>> work = Work(100, 640, 2560, 0, 0, stored_bytes=1280)
        >>> latency(work, Rates(None, 32, 16, 32)), latency(work, Rates(16.0, 32, 16, 32))
        (160, 280)

    """
    moved = work.input_bytes + work.weight_bytes + work.stored_bytes
    return max(
        _busy(work, rates),
        _cycles(moved, rates.memory),
        _cycles(work.input_bytes, rates.input_port),
        _cycles(work.weight_bytes, rates.weight_port),
        _cycles(work.stored_bytes, rates.output_port),
    )


def energy(work: Work, joules: Joules, cycles: int) -> float:
    """Return the joules that the mapping decides, of a product that takes `cycles`."""
    return (
        work.input_bytes * joules.input_load
        + work.weight_bytes * joules.weight_load
        + work.input_reads * joules.input_read
        + work.weight_reads * joules.weight_read
        + cycles * joules.rest
    )


def costs(
    architecture: Architecture, technology: MemoryTechnology, priced: Prices | None = None
) -> Costs:
    """Return how mappings are compared on a chip.

    Raises ValueError when the chip's objective counts joules and there are no prices.
    """
    peak = peak_bandwidth(architecture.memory, technology)
    buffers, clock_hz = architecture.buffers, architecture.array.clock_hz
    cores = architecture.cores.count
    rates = Rates(
        None if peak is None else peak / cores * technology.efficiency.value / clock_hz,
        buffers.input.port_bytes,
        buffers.weight.port_bytes,
        buffers.output.port_bytes,
        technology.latency_s.value * clock_hz,
        BusShape(architecture.memory.channels, technology.burst_bytes, technology.interleave_bytes),
    )
    objective = architecture.mapping.objective
    if objective in ("latency", "soonest"):
        return Costs(objective, rates)
    if priced is None:
        raise ValueError(
            f'{architecture.name}: mapping.objective: found "{objective}", which needs the prices '
            "of an energy table"
        )
    byte = 8 * priced["memory", "read_bit"].value_j
    return Costs(
        objective,
        rates,
        Joules(
            byte + priced["input_buffer", "write_byte"].value_j,
            byte + priced["weight_buffer", "write_byte"].value_j,
            priced["input_buffer", "read_byte"].value_j,
            priced["weight_buffer", "read_byte"].value_j,
            sum(priced[action].value_j for action in STATIC),
        ),
    )


def _busy(work: Work, rates: Rates) -> int:
    """Return the array's cycles with those in which it waits for loads that hide behind nothing."""
    loads = sum(
        max(_cycles(held, rates.memory), _cycles(held, port))
        for held, port in (
            (work.held_input_bytes, rates.input_port),
            (work.held_weight_bytes, rates.weight_port),
        )
    )
    results = max(
        _cycles(work.held_stored_bytes, rates.memory),
        _cycles(work.held_stored_bytes, rates.output_port),
    )
    waits = work.held_cycles + max(0, loads - work.passing_cycles) + results
    return work.array_cycles + waits


def _cycles(size_bytes: int, bytes_per_cycle: float | None) -> int:
    return 0 if bytes_per_cycle is None else ceil(size_bytes / bytes_per_cycle)
