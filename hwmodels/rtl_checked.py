"""Which ways to run a product on the array were compared with RTL, cycle by cycle.

`tests/rtl` runs every combination listed here as Verilog and finds the cycles of
`hwmodels.array` and the exact results; its tests fail when this list and what they run differ.
"""

from itertools import product
from typing import NamedTuple

UNCHECKED = "cycles: closed form, not RTL-checked"


class Combination(NamedTuple):
    """One way to run a product; `operands` as chips list them, e.g. `i8xi4`."""

    dataflow: str
    schedule: str
    drain: str
    operands: str
    sparsity: str


_INTEGERS = (
    *("i8xi8", "u8xi8", "i8xi4", "u8xi4", "i4xi4"),
    *("i8xi2", "u8xi2", "i4xi2", "i2xi2"),
)
_ORDERS = (
    ("weight_stationary", "shift_out"),
    ("input_stationary", "shift_out"),
    ("output_stationary", "shift_out"),
    ("output_stationary", "none"),
)

RTL_CHECKED: frozenset[Combination] = frozenset(
    Combination(dataflow, schedule, drain, operands, sparsity)
    for (dataflow, drain), schedule in product(_ORDERS, ("serial", "double_buffered"))
    for operands, sparsity in [
        *product(_INTEGERS, ("dense", "skip_zero_fold")),
        ("i1xi1", "dense"),  # no fold of signs is zero
    ]
)


def cycles_note(combination: Combination) -> str:
    """Return the note that results of this combination carry, empty when RTL confirms them.

    Example:
        >>> chip = Combination("weight_stationary", "serial", "shift_out", "i8xi8", "dense")
        >>> cycles_note(chip), cycles_note(chip._replace(sparsity="row_skip"))
        ('', 'cycles: closed form, not RTL-checked')

    """
    return "" if combination in RTL_CHECKED else UNCHECKED
