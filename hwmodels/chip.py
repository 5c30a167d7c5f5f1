"""A chip as simulations need it: parts that fit each other, and what serves its memory."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hwmodels.arbiter import arbitrated
from hwmodels.architecture import Architecture, MemoryTechnology, check
from hwmodels.energy import EnergyTable, Prices, prices
from hwmodels.machine import Serve
from hwmodels.memory import Channels
from hwmodels.sparse_chip import sparsity_problems

if TYPE_CHECKING:
    from hwmodels.exact_memory import Dram  # brings numba, which only the controller needs
    from hwmodels.measured_memory import MeasuredMemory  # brings numba


@dataclass(frozen=True)
class Chip:
    """Everything a simulation needs to know besides the workload."""

    architecture: Architecture
    technology: MemoryTechnology
    prices: Prices
    dram: "Dram | None" = None
    measured: "MeasuredMemory | None" = None

    @property
    def key(self) -> tuple[object, ...]:
        """What results on this chip depend on."""
        dram = "" if self.dram is None else self.dram.key
        behind = dram, repr(self.measured)
        return (self.architecture, self.technology, tuple(self.prices.items()), behind)

    @property
    def notes(self) -> tuple[str, ...]:
        """What results on this chip say of its memory."""
        return () if self.measured is None else (self.measured.note,)

    def serve(self, channels: Channels, *, is_reusing: bool = False) -> "Serve | None":
        """Return what makes the server of the memory's fidelity, None for the plain roofline.

        With `is_reusing` the exact memory knows busy periods again.
        """
        if self.measured is not None:
            return partial(self.measured.serve, channels=channels)
        if self.dram is None:
            return None
        from hwmodels.memo_memory import MemoServer  # noqa: PLC0415 (brings numba)
        from hwmodels.sampled_memory import SampledServer  # noqa: PLC0415 (brings numba)

        memory = self.architecture.memory
        make: Serve = self.dram.serve
        if memory.fidelity == "sampled":
            make = partial(SampledServer, memory=self.dram, channels=channels)
        elif is_reusing:
            make = partial(MemoServer, memory=self.dram)
        return make if memory.arbitration == "fifo" else partial(arbitrated, make)

    def buses(self, channels: Channels) -> tuple[Channels, int]:
        """Return the data buses that descriptors go to, and how many of them are a channel."""
        found = self.measured or self.dram
        if found is None:
            return channels, 1
        from hwmodels.mapped_channels import MappedChannels  # noqa: PLC0415 (brings numba)

        spec = found.spec
        return MappedChannels(channels, spec), spec.organisation.pseudo_channels


def chip(
    architecture: Architecture,
    *,
    technology: MemoryTechnology,
    energy: EnergyTable,
    dram: "Dram | None" = None,
    measured: "MeasuredMemory | None" = None,
) -> Chip:
    """Return a chip whose parts fit each other; a fidelity above roofline needs and uses `dram`.

    The roofline uses `measured` where the chip names an `efficiency`.

    Raises ValueError listing every rule between the fields that is broken, and every action that
    the energy table lacks.
    """
    fidelity = architecture.memory.fidelity
    has_controller = fidelity != "roofline"
    array = architecture.array
    problems = [f"{architecture.name}: {line}" for line in sparsity_problems(array)]
    if has_controller and dram is None:
        problems.append(
            f'{architecture.name}: memory.fidelity: found "{fidelity}" without memory.timing, '
            "expected the path of a timing table"
        )
    elif has_controller and dram is not None:
        lines = dram.problems(architecture, technology)
        problems += [f"{architecture.name}: {line}" for line in lines]
    if architecture.memory.efficiency is not None:
        problems += _measured_problems(architecture, technology, measured)
    try:
        check(architecture, technology)
    except ValueError as error:
        problems.append(str(error))
    try:
        priced = prices(architecture, technology, energy)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))
    if not has_controller and architecture.memory.efficiency is not None:
        return Chip(architecture, technology, priced, measured=measured)
    if dram is None or not has_controller:
        return Chip(architecture, technology, priced)
    return Chip(architecture, technology, priced | dram.prices(), dram)


def _measured_problems(
    architecture: Architecture, technology: MemoryTechnology, measured: "MeasuredMemory | None"
) -> list[str]:
    """Return what keeps the memory of a chip from its shares of the peak, measured."""
    where, memory = f"{architecture.name}: memory.", architecture.memory
    if memory.fidelity != "roofline":
        return [
            f'{where}efficiency: found beside fidelity "{memory.fidelity}", expected "roofline"'
        ]
    if measured is None:
        return [f"{where}efficiency: found without memory.timing, expected the timing table, too"]
    return [f"{architecture.name}: {line}" for line in measured.problems(architecture, technology)]
