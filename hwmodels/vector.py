"""Cycles and operations of the vector unit: which function takes how many passes over its rows.

FUNCTIONS holds what a unit takes that says nothing else; chips may name their own operations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from hwmodels.workload import VectorOp, Workload

Scope = Literal["element", "row", "tensor"]


@dataclass(frozen=True)
class VectorFunction:
    """One function: operations per element in each pass, and what a pass must have seen whole.

    `scope` is `element` (no reduction: may follow a GEMM tile by tile), `row` (the next pass over a
    row waits for the whole row) or `tensor` (the next pass waits for the whole tensor: a barrier).
    """

    operations: tuple[int, ...]
    scope: Scope
    source: str

    @property
    def passes(self) -> int:
        """Number of passes over the elements."""
        return len(self.operations)


@dataclass(frozen=True)
class FunctionCost:
    """Operations per element of one function on a chip, pass by pass, and who says so."""

    name: Annotated[str, MinLen(1)]
    operations: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)]
    source: Annotated[str, MinLen(1)]


_ONE = "assumed: one lane operation per element"
_NORM = "assumed: sum; subtract, square and sum; subtract, scale and shift"
_SOFTMAX = "assumed: maximum; subtract, exponential by table and sum; one multiply"
_QUANTIZE = "assumed: multiply by 1/scale, round and clip in one further operation"
_CARRYING = "assumed: add the rounding error of an earlier element, round, clip, keep the error"
_DYNAMIC = f"assumed: maximum of magnitudes; {_QUANTIZE[9:]}"
_BINARIZE = "assumed: sign and magnitude, added up; the mean is one division per row"
_STEPS = "assumed: square, sum and sum of squares; compare with half their quotient"
_TABLE = "assumed: table look-up with linear interpolation (look-up, multiply, add)"

FUNCTIONS: dict[str, VectorFunction] = {
    "add": VectorFunction((1,), "element", _ONE),
    "sub": VectorFunction((1,), "element", _ONE),
    "mul": VectorFunction((1,), "element", _ONE),
    "div": VectorFunction((4,), "element", "assumed: reciprocal by table, then one multiply"),
    "bias": VectorFunction((1,), "element", _ONE),
    "scale": VectorFunction((1,), "element", _ONE),
    "relu": VectorFunction((1,), "element", _ONE),
    "affine": VectorFunction((2,), "element", "assumed: one multiply, one add"),
    "copy": VectorFunction((1,), "element", _ONE),
    "cast": VectorFunction((1,), "element", _ONE),
    "dequantize": VectorFunction((1,), "element", "assumed: one multiply; scales are per row"),
    "quantize": VectorFunction((2,), "element", _QUANTIZE),
    "quantize_carrying": VectorFunction((4,), "element", _CARRYING),
    "requantize": VectorFunction((2,), "element", _QUANTIZE),
    "rescale": VectorFunction((2,), "element", "assumed: multiply by the scale, add to the sum"),
    "exp": VectorFunction((3,), "element", _TABLE),
    "tanh": VectorFunction((3,), "element", _TABLE),
    "sigmoid": VectorFunction((3,), "element", _TABLE),
    "gelu": VectorFunction((4,), "element", f"{_TABLE}, then one multiply"),
    "silu": VectorFunction((4,), "element", f"{_TABLE}, then one multiply"),
    "glu": VectorFunction((4,), "element", f"{_TABLE}, then one multiply"),
    "batch_norm": VectorFunction((2,), "element", "assumed: scale and shift with fixed statistics"),
    "layer_norm": VectorFunction((1, 3, 3), "row", _NORM),
    "group_norm": VectorFunction((1, 3, 3), "row", _NORM),
    "rms_norm": VectorFunction((2, 2), "row", "assumed: square and sum; scale by two factors"),
    "mean": VectorFunction((1,), "row", _ONE),
    "sum": VectorFunction((1,), "row", _ONE),
    "softmax": VectorFunction((1, 5, 1), "row", _SOFTMAX),
    "log_softmax": VectorFunction((1, 5, 1), "row", _SOFTMAX),
    "dynamic_quantize_row": VectorFunction((1, 2), "row", _DYNAMIC),
    "dynamic_binarize": VectorFunction((2,), "row", _BINARIZE),
    "dynamic_binarize_steps": VectorFunction((3, 1), "row", _STEPS),
    "binarize": VectorFunction((1,), "element", "assumed: one comparison with a threshold"),
    "dynamic_quantize_tensor": VectorFunction((1, 2), "tensor", _DYNAMIC),
}


def pass_cycles(elements: int, operations: int, lanes: int) -> int:
    """Return the vector cycles of one pass: every lane does one operation per cycle."""
    return -(-elements // lanes) * operations


@lru_cache(maxsize=65536)
def function_cycles(operations: tuple[int, ...], elements: int, lanes: int) -> int:
    """Return the vector cycles of all passes over `elements`, each of so many operations.

    Example:
        >>> function_cycles(FUNCTIONS["softmax"].operations, 100, 32)  # 4 cycles, 7 operations
        28

    """
    return sum(pass_cycles(elements, number, lanes) for number in operations)


def operation_count(operations: tuple[int, ...], elements: int) -> int:
    """Return the lane operations of all passes over `elements`."""
    return elements * sum(operations)


@lru_cache(maxsize=256)
def functions_with(costs: tuple[FunctionCost, ...]) -> Mapping[str, VectorFunction]:
    """Return FUNCTIONS with the operations that a chip names.

    Example:
        >>> own = FunctionCost("gelu", (2,), "assumed: one look-up, one multiply")
        >>> functions_with((own,))["gelu"].operations, FUNCTIONS["gelu"].operations
        ((2,), (4,))

    """
    own = {
        cost.name: replace(FUNCTIONS[cost.name], operations=cost.operations, source=cost.source)
        for cost in costs
    }
    return MappingProxyType({**FUNCTIONS, **own})


def check_functions(costs: Sequence[FunctionCost]) -> list[str]:
    """Return a line for every cost of no known function, named twice, or of too many passes."""
    problems: list[str] = []
    names = [cost.name for cost in costs]
    for number, cost in enumerate(costs):
        at = f"vector_unit.functions.{number}"
        if cost.name not in FUNCTIONS:
            problems.append(f'{at}.name: found "{cost.name}", no vector function{_near(cost.name)}')
            continue
        if cost.name in names[:number]:
            problems.append(f'{at}.name: found "{cost.name}" a second time')
        if FUNCTIONS[cost.name].scope == "element" and len(cost.operations) > 1:
            problems.append(
                f"{at}.operations: found {len(cost.operations)} passes, expected 1: "
                f"{cost.name} reduces nothing, a second pass would have nothing to wait for"
            )
    return problems


def _near(name: str) -> str:
    near = get_close_matches(name, FUNCTIONS, n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known: {', '.join(FUNCTIONS)}"


def require_functions(workload: Workload) -> None:
    """Raise KeyError listing every op whose function is no row of FUNCTIONS."""
    problems = []
    for item in workload.items:
        if isinstance(item, VectorOp) and item.function not in FUNCTIONS:
            hint = _near(item.function)
            problems.append(f'{item.name}: unknown vector function "{item.function}"{hint}')
    if problems:
        raise KeyError("\n".join(problems))
