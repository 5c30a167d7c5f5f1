"""Whether a chip can run all ops of a workload, and which of them not where one would expect."""

from collections.abc import Sequence

from hwmodels.architecture import Architecture
from hwmodels.products import array_operands
from hwmodels.vector import require_functions
from hwmodels.workload import Gemm, Workload


def require_supported(workload: Workload, architecture: Architecture) -> tuple[str, ...]:
    """Return a warning per pair of operand types that falls back to the vector unit.

    Raises KeyError for unknown vector functions and ValueError listing every GEMM that the chip
    supports nowhere.
    """
    require_functions(workload)
    supports = architecture.array.supports
    lost = [
        item
        for item in workload.items
        if isinstance(item, Gemm) and array_operands(item) not in supports
    ]
    if not lost:
        return ()
    if not architecture.vector_unit.fallback:
        raise ValueError(
            "\n".join(
                f"{gemm.name}: {architecture.name} supports {', '.join(supports)} and has no "
                f"fallback; found {array_operands(gemm)}"
                for gemm in lost
            )
        )
    kinds: dict[str, list[Gemm]] = {}
    for gemm in lost:
        kinds.setdefault(array_operands(gemm), []).append(gemm)
    return tuple(
        f"{_named(found)}: {operands} is not among {', '.join(supports)} of {architecture.name}; "
        "runs on the vector unit"
        for operands, found in kinds.items()
    )


def _named(gemms: Sequence[Gemm]) -> str:
    first = gemms[0].name
    return first if len(gemms) == 1 else f"{len(gemms)} products ({first}, ...)"
