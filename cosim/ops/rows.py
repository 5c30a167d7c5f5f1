"""One row of the table of operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cosim.ir import Dtype, Op, TensorType
from cosim.ops.aten import AtenCall, Imported
from cosim.ops.checks import Types
from cosim.ops.work import WorkContext
from hwmodels.workload import WorkItem


@dataclass(frozen=True)
class OpRow:
    """One operation of the IR.

    `least` and `most` bound the number of operands. `dtypes` are those of the operands in order,
    the last one repeated; None is the dtype of the first operand, several are a choice. `aten`
    pairs the ATen targets and marks that the op stands for with the importer of their arguments.
    `is_view` marks ops that move no data.
    """

    kind: str
    least: int
    most: int
    infer: Callable[[Types, Op], tuple[TensorType, ...]]
    work: Callable[[WorkContext, Op], list[WorkItem]]
    aten: Mapping[str, Callable[[AtenCall], Imported]]
    dtypes: tuple[Dtype | tuple[Dtype, ...] | None, ...] = ("f32",)
    is_view: bool = False

    def operand_dtypes(self, types: Types) -> tuple[Dtype, ...]:
        """Return the dtype that each of the operands must have; its own where it has a choice."""
        repeated = (*self.dtypes, *self.dtypes[-1:] * len(types))[: len(types)]
        return tuple(
            _wanted(dtype, found, types[0]) for dtype, found in zip(repeated, types, strict=True)
        )


def _wanted(dtype: Dtype | tuple[Dtype, ...] | None, found: TensorType, first: TensorType) -> Dtype:
    if dtype is None:
        return first.dtype
    if isinstance(dtype, tuple):
        return found.dtype if found.dtype in dtype else dtype[0]
    return dtype
