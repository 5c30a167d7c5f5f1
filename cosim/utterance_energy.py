"""Joules of one utterance, asked of a program, a chip and an energy table in Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cosim.chip import assembled
from cosim.heat import settled
from cosim.ir import Program
from cosim.schedule import schedule, zero_patterns
from cosim.simulate import simulate_workloads
from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.area import AreaRow, chip_area
from hwmodels.energy import EnergyRow
from hwmodels.energy_split import Cause, by_cause
from hwmodels.energy_table import EnergyTable
from hwmodels.simulate import Reuse
from hwmodels.stats import RunStats
from hwmodels.thermal import Thermal
from kernels.encodings import Encoding

Call = tuple[str, Mapping[str, int]]


@dataclass(frozen=True)
class UtteranceEnergy:
    """Joules with their range, the ledger that they are the sum of, time and area of the chip.

    `thermal` is how hot the stack gets under such utterances without a pause, None without a stack.
    """

    stats: RunStats
    area: tuple[AreaRow, ...]
    thermal: Thermal | None = None

    @property
    def energy_j(self) -> float:
        """Joules of the utterance."""
        return self.stats.energy_j

    @property
    def range_j(self) -> tuple[float, float]:
        """Low and high end."""
        return self.stats.energy_low_j, self.stats.energy_high_j

    @property
    def rows(self) -> tuple[EnergyRow, ...]:
        """The ledger: counts and prices with their sources."""
        return self.stats.energy

    @property
    def causes_j(self) -> dict[Cause, float]:
        """Joules by cause."""
        return by_cause(self.rows)

    @property
    def seconds(self) -> float:
        """Time that the chip takes."""
        return self.stats.seconds

    @property
    def area_m2(self) -> float:
        """Square metres of the chip; 0 where the table prices no area."""
        return sum(row.area_m2 for row in self.area)


def energy_per_utterance(
    program: Program,
    architecture: Architecture,
    table: EnergyTable,
    *,
    calls: Sequence[Call],
    encodings: Mapping[str, Encoding] | None = None,
    technology: MemoryTechnology | None = None,
) -> UtteranceEnergy:
    """Return what the calls of one utterance take: graphs of `program` with their lengths.

    Calls follow one another, e.g. `[("encoder", {"samples": 160000})]`, and constants that stay on
    chip stay. `encodings` are those of the constants, whose zeros count. Memory is the one that the
    architecture names unless `technology` is given, refreshed as the chip's own heat asks for.

    Raises CosimError listing every op, field or action concerned, before anything is simulated.

    Example: a product of 70 x 96 activations and 9 x 96 weights of 8 bits.
        >>> from pathlib import Path
        >>> from cosim.chip import load_chip
        >>> from cosim.ir import from_text
        >>> program = from_text('''program "p"
        ... constant @w : f32<9, 96> bitpacked {"bits": 8, "group": 96} bits 7200 index 0 sha256 0a
        ... graph g(t) {
        ...   input %x : f32<t, 96>
        ...   %q, %s = dynamic_quantize(%x) {per="row"} : i8<t, 96>, f32<t>
        ...   %y = quantized_linear(%q, %s, @w) : f32<t, 9>
        ...   return y = %y
        ... }
        ... ''')
        >>> chip = load_chip(Path("configs/hardware/stacked_edge_32.yaml"))
        >>> found = energy_per_utterance(
        ...     program, chip.architecture, chip.energy, calls=[("g", {"t": 70})]
        ... )
        >>> found.energy_j == sum(row.energy_j for row in found.rows)
        True
        >>> low, high = found.range_j
        >>> low < found.energy_j < high
        True

    """
    chip = assembled(architecture, table, technology)
    patterns = zero_patterns(encodings or {})
    work = [schedule(program, name, bindings=lengths, patterns=patterns) for name, lengths in calls]
    stats, thermal = settled(
        chip, lambda own: simulate_workloads(work, own, "utterance", Reuse()), lambda run: run
    )
    area = chip_area(architecture, chip.technology, table)
    return UtteranceEnergy(stats, area, thermal)
