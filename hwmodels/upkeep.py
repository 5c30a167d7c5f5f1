"""What happens beside products and moved bytes: registers, clock, returning sums, host, rounding.

These are the actions that energy studies leave out most often; each is counted from what the op
did, and priced by the energy table like everything else.
"""

from typing import TYPE_CHECKING

from hwmodels.architecture import Architecture, ProcessingArray
from hwmodels.cells import widest_bits
from hwmodels.workload import NUMBER_BITS, Gemm, VectorOp, WorkItem

if TYPE_CHECKING:
    from hwmodels.plan import Tally  # which needs prices in turn

Action = tuple[str, str]  # as hwmodels.energy has it, which prices what is counted here

QUANTIZING = frozenset(
    {
        "quantize",
        "quantize_carrying",
        "requantize",
        "dequantize",
        "dynamic_quantize_row",
        "dynamic_quantize_tensor",
    }
)
"""Vector functions that scale, round and clip."""

UPKEEP: tuple[tuple[Action, str], ...] = (
    (("array", "register_bit"), "register_bit"),
    (("array", "clock"), "clock_bit"),
    (("output_buffer", "accumulate"), "accumulate"),
    (("vector_unit", "quantize_op"), "quantize_op"),
    (("host", "op"), "host_op"),
)
"""Actions counted here, and what energy tables call them."""


def cell_bits(array: ProcessingArray) -> int:
    """Return the register bits of one cell: its widest activation and weight, and its sum.

    Example:
        >>> cell_bits(ProcessingArray(4, 4, 1e9, supports=("i8xi8", "u8xi4")))
        48

    """
    operands = (widest_bits(array.supports, place) for place in (0, 1))
    return sum(operands) + array.accumulator_bits


def register_bits(array: ProcessingArray, gemm: Gemm, tally: "Tally") -> int:
    """Return the bits that a GEMM writes into registers of the cells.

    What streams through moves on by one cell for every product, the sum once for every cycle that a
    cell works; an `output_stationary` cell passes on both operands and keeps its sum.
    """
    a, w = NUMBER_BITS[gemm.a_number], NUMBER_BITS[gemm.w_number]
    streaming = {"weight_stationary": a, "input_stationary": w, "output_stationary": a + w}
    products = tally.array_speed / (array.rows * array.columns) or 1.0
    sums = tally.array_macs / products
    return round(tally.array_macs * streaming[array.dataflow] + sums * array.accumulator_bits)


def upkeep_actions(
    item: WorkItem, tally: "Tally", architecture: Architecture, *, array_cycles: int, is_head: bool
) -> dict[Action, int]:
    """Return how often each action beside products and bytes happened in one op.

    The clock of the array is counted in the `array_cycles` in which it works, and stands still in
    others. A host starts each group of fused ops once, at its head.
    """
    array = architecture.array
    found: dict[Action, int] = {("array", "clock"): array_cycles}
    if isinstance(item, Gemm) and tally.array_macs:
        found["array", "register_bit"] = register_bits(array, item, tally)
        returned = 8 * tally.partial_sums_read // array.accumulator_bits
        found["output_buffer", "accumulate"] = returned
    if isinstance(item, VectorOp) and item.function in QUANTIZING:
        found["vector_unit", "quantize_op"] = tally.vector_operations
        found["vector_unit", "vector_op"] = 0
    if is_head:
        found["host", "op"] = 1
    return found
