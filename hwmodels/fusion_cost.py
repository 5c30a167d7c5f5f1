"""Whether a product should finish whole rows at a time, so that functions of rows can follow it.

Whole rows leave less choice of tiles, which may cost array cycles or further loads of operands;
they save that the results are stored and loaded again.
"""

from collections.abc import Mapping, Sequence

from hwmodels.architecture import Architecture
from hwmodels.costs import Work, latency
from hwmodels.mapper import array_cycles, map_product, work
from hwmodels.mapping import resident_bytes
from hwmodels.pattern import Setting
from hwmodels.precision import engine_of
from hwmodels.products import array_operands, shape_of
from hwmodels.vector import function_cycles
from hwmodels.windows import loaded_bytes
from hwmodels.workload import Gemm, TensorRef, VectorOp


def rows_pay(
    architecture: Architecture,
    setting: Setting,
    gemm: Gemm,
    *,
    fused: Sequence[VectorOp],
    op: VectorOp,
    uses: Mapping[str, int],
) -> bool:
    """Whether it costs less to let `op` follow a GEMM with its `fused` ops than to let it wait.

    `uses` says how many ops read each tensor. Costs are estimates in closed form: alone, `op` takes
    the longer of its work and its bytes; behind the GEMM its work goes on beside the array. Array
    cycles count under the objective `latency`, bytes from and to memory else; what is equal pays.
    """
    array = setting.array
    if array_operands(gemm) not in array.supports or array.coupling is not None:
        return False
    share = architecture.mapping.resident_share
    kept_bytes = resident_bytes(architecture.buffers.input.size_bytes, share)
    made = (fused[-1] if fused else gemm).writes

    def moved(refs: Sequence[TensorRef]) -> int:
        return sum(ref.size_bytes for ref in refs if ref.size_bytes > kept_bytes)

    again = [ref for ref in made if uses.get(ref.id, 0) > 1 or ref.kind == "output"]
    beside = _cycles(architecture, setting, [*fused, op])
    try:
        apart = _product(architecture, setting, gemm, stored_bytes=moved(made))
        whole = _product(
            architecture, setting, gemm, stored_bytes=moved([*again, *op.writes]), row=op.row_length
        )
    except ValueError:  # no tiling of whole rows fits the buffers
        return False
    alone = Work(_cycles(architecture, setting, [op]), moved(op.reads), 0, 0, 0, moved(op.writes))
    rates = setting.costs.rates
    before = max(apart[0], _cycles(architecture, setting, fused)) + latency(alone, rates)
    times = (max(whole[0], beside), before)
    sizes = (whole[1], apart[1] + moved(op.reads) + moved(op.writes))
    first, second = (times, sizes) if setting.costs.objective == "latency" else (sizes, times)
    return (first[0], second[0]) <= (first[1], second[1])


def _product(
    architecture: Architecture, setting: Setting, gemm: Gemm, *, stored_bytes: int, row: int = 0
) -> tuple[int, int]:
    """Return array cycles and bytes from and to memory of all products of a GEMM."""
    engine = engine_of(setting.array, gemm)
    shape = shape_of(
        gemm,
        engine,
        loaded_bytes=loaded_bytes(gemm, architecture.mapping.im2col),
        stored_bytes=stored_bytes,
        is_input_kept=False,
        is_weight_kept=False,
    )
    limits, costs = setting.limits, setting.costs
    mapping = map_product(shape, engine.array, limits, costs, is_holding=True, row=row)
    one = work(shape, engine.array, mapping, array_cycles(shape, engine.array, mapping), limits)
    moved = one.input_bytes + one.weight_bytes + one.stored_bytes
    return gemm.count * latency(one, costs.rates), gemm.count * moved


def _cycles(architecture: Architecture, setting: Setting, ops: Sequence[VectorOp]) -> int:
    """Return the array cycles that vector ops take one after the other."""
    cycles = sum(
        function_cycles(setting.functions[op.function].operations, op.elements, setting.lanes)
        for op in ops
    )
    return -(-cycles * architecture.vector_unit.period_fs // architecture.array.period_fs)
