"""The calls of an artefact as work for a chip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cosim.artefact import Artefact
from cosim.chip import Chip
from cosim.errors import CosimError
from cosim.profile import graph_lengths
from cosim.schedule import schedule, zero_patterns
from hwmodels.support import require_supported
from hwmodels.workload import WorkItem, Workload


@dataclass
class Caller:
    """The calls of one artefact as workloads; each distinct call is scheduled once.

    `densities` are shares of activations that are not zero, see `cosim.execute.zeros`. Equal work
    of several calls is one object, of `items`, which simulations know again at once.
    """

    artefact: Artefact
    densities: Mapping[str, float] = field(default_factory=dict)
    workloads: dict[tuple[str, int, int], Workload] = field(default_factory=dict)
    items: dict[WorkItem, WorkItem] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.patterns = zero_patterns(self.artefact.encodings)

    def workload(self, graph: str, length: int, past: int) -> Workload:
        """Return the work of one call for an encoder input of `length`."""
        if (graph, length, past) not in self.workloads:
            program = self.artefact.program
            lengths = graph_lengths(program, length, past)
            call = schedule(
                program,
                graph,
                bindings=lengths[graph],
                patterns=self.patterns,
                densities=self.densities,
            )
            items = tuple(self.items.setdefault(item, item) for item in call.items)
            self.workloads[graph, length, past] = Workload(call.name, items)
        return self.workloads[graph, length, past]

    def utterance(self, seconds: float, widths: Sequence[int]) -> list[Workload]:
        """Return one encoder call over that much audio, and calls of the decoder.

        `widths` says how many calls there are at each position from 0.
        """
        length = self.artefact.model.length(seconds)
        steps = [
            self.workload("step", length, past)
            for past, width in enumerate(widths)
            for _ in range(width)
        ]
        return [self.workload("encoder", length, 0), *steps]


def has_decoder(artefact: Artefact) -> bool:
    """Return whether the program decodes token by token."""
    return "step" in artefact.program.graph_names


def check_chip(artefact: Artefact, chip: Chip) -> None:
    """Raise CosimError listing every op of the program that the chip supports nowhere."""
    problems: list[str] = []
    for workload in Caller(artefact).utterance(1.0, [1] if has_decoder(artefact) else []):
        try:
            require_supported(workload, chip.architecture)
        except ValueError as error:
            problems += str(error).splitlines()
    if problems:
        raise CosimError(problems)
