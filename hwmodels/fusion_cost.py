"""Whether a product should finish whole rows at a time, so that functions of rows can follow it.

Whole rows leave less choice of tiles, which may cost array cycles or further loads of operands;
they save that the results are stored and loaded again.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hwmodels.architecture import Architecture
from hwmodels.costs import Work, latency
from hwmodels.mapper import map_product
from hwmodels.mapping import resident_bytes
from hwmodels.mapping_work import array_cycles, work
from hwmodels.pattern import Patterns, Setting
from hwmodels.precision import engine_of
from hwmodels.products import array_operands, shape_of
from hwmodels.vector import function_cycles
from hwmodels.windows import loaded_bytes
from hwmodels.workload import Gemm, Number, TensorRef, VectorOp

Function = tuple[str, int]  # name and elements


class Question(NamedTuple):
    """All that the answer depends on: a GEMM, the ops behind it, and what they move to memory.

    `made_bytes` are the results of the last op before the one in question, `read_bytes` and
    `written_bytes` those that it reads and writes by itself, `whole_bytes` what leaves the group
    that it is part of.
    """

    m: int
    n: int
    k: int
    products: int
    a_number: Number
    w_number: Number
    scale_group: int
    a_bytes: int
    w_bytes: int
    fused: tuple[Function, ...]
    function: Function
    row_length: int
    made_bytes: int
    read_bytes: int
    written_bytes: int
    whole_bytes: int


class Product(NamedTuple):
    """Array cycles and bytes from and to memory of all products of a GEMM, and its panels."""

    cycles: int
    moved_bytes: int
    tile_n: int


def rows_pay(
    architecture: Architecture,
    patterns: Patterns,
    gemm: Gemm,
    *,
    fused: Sequence[VectorOp],
    op: VectorOp,
    repeated: Collection[str],
) -> bool:
    """Whether it costs less to let `op` follow a GEMM with its `fused` ops than to let it wait.

    `repeated` are the ids that are read more than once. Costs are estimates in closed form: alone,
    `op` takes the longer of its work and its bytes; behind the GEMM its work goes on beside the
    array. Array cycles count under the objective `latency`, bytes from and to memory else; what is
    equal pays.
    `patterns` remembers the answer for all layers of equal sizes.
    """
    array = patterns.setting.array
    if array_operands(gemm) not in array.supports or array.coupling is not None:
        return False
    share = architecture.mapping.resident_share
    kept_bytes = resident_bytes(architecture.buffers.input.size_bytes, share)
    made = (fused[-1] if fused else gemm).writes

    def moved(refs: Sequence[TensorRef]) -> int:
        return sum(ref.size_bytes for ref in refs if ref.size_bytes > kept_bytes)

    again = [ref for ref in made if ref.id in repeated or ref.kind == "output"]
    question = Question(
        gemm.m,
        gemm.n,
        gemm.k,
        gemm.count,
        gemm.a_number,
        gemm.w_number,
        gemm.scale_group,
        loaded_bytes(gemm, architecture.mapping.im2col),
        gemm.w.size_bytes,
        tuple((one.function, one.elements) for one in fused),
        (op.function, op.elements),
        op.row_length,
        moved(made),
        moved(op.reads),
        moved(op.writes),
        moved([*again, *op.writes]),
    )
    known = patterns.answers.get(question)
    if known is None:
        known = _is_cheaper(architecture, patterns.setting, gemm, question)
        patterns.answers[question] = known
    return known


def _is_cheaper(architecture: Architecture, setting: Setting, gemm: Gemm, asked: Question) -> bool:
    """Answer for a GEMM of the sizes in question."""
    beside = _cycles(architecture, setting, [*asked.fused, asked.function])
    row, whole_bytes = asked.row_length, asked.whole_bytes
    try:
        apart = _product(architecture, setting, gemm, stored_bytes=asked.made_bytes)
        is_whole = apart.tile_n >= gemm.n or apart.tile_n % row == 0
        if is_whole and asked.made_bytes == whole_bytes:  # the best of all is the best of these
            whole = apart
        else:
            whole = _product(architecture, setting, gemm, stored_bytes=whole_bytes, row=row)
    except ValueError:  # no tiling of whole rows fits the buffers
        return False
    own = _cycles(architecture, setting, [asked.function])
    alone = Work(own, asked.read_bytes, 0, 0, 0, asked.written_bytes)
    rates = setting.costs.rates
    before = max(apart.cycles, _cycles(architecture, setting, asked.fused)) + latency(alone, rates)
    times = (max(whole.cycles, beside), before)
    sizes = (whole.moved_bytes, apart.moved_bytes + asked.read_bytes + asked.written_bytes)
    first, second = (times, sizes) if setting.costs.joules is None else (sizes, times)
    return (first[0], second[0]) <= (first[1], second[1])


def _product(
    architecture: Architecture, setting: Setting, gemm: Gemm, *, stored_bytes: int, row: int = 0
) -> Product:
    """Return what all products of a GEMM cost; with a `row`, tiles hold whole ones of it."""
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
    return Product(gemm.count * latency(one, costs.rates), gemm.count * moved, mapping.tile_n)


def _cycles(architecture: Architecture, setting: Setting, ops: Sequence[Function]) -> int:
    """Return the array cycles that vector ops take one after the other."""
    cycles = sum(
        function_cycles(setting.functions[function].operations, elements, setting.lanes)
        for function, elements in ops
    )
    return -(-cycles * architecture.vector_unit.period_fs // architecture.array.period_fs)
