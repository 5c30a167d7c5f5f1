"""One GEMM into steps: the loop nest over products, tiles, panels and chunks, with its loads.

A GEMM of types the array does not support takes the nest of stationary weights on the vector unit,
whatever the array's dataflow: every lane makes one result column, one multiply-accumulate per
cycle, with its partial sum in a register; every multiply-accumulate reads its weight from the
buffer, one activation serves all lanes.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from hwmodels.architecture import Architecture, ProcessingArray
from hwmodels.array import Split, fold, shift_in_cycles
from hwmodels.dataflow import DATAFLOWS
from hwmodels.gemm_blocks import Block, blocks_of, stays
from hwmodels.gemm_tally import tally_gemm
from hwmodels.mapper import map_products, why_not_followed
from hwmodels.mapping import Room, Shape, is_leaving, smallest_tile_bytes
from hwmodels.operand_parts import GemmKind, input_part, result_part, weight_part
from hwmodels.pattern import Builder, Setting, Share, Tensors, overfull
from hwmodels.plan import Load, Pattern, Step
from hwmodels.planner import Extra, Planner
from hwmodels.precision import Engine, engine_of, group_ends
from hwmodels.products import array_operands, block_diagonal, shape_of
from hwmodels.repeats import Pitches, pitches, repeat
from hwmodels.sparse_chip import pattern_of
from hwmodels.sparse_steps import Spot, block_splits, cut_of, totals
from hwmodels.vector import function_cycles
from hwmodels.windows import loaded_bytes
from hwmodels.workload import Gemm, WorkItem

HELD = {"input_stationary": 0, "weight_stationary": 1}
"""Which of the two operands stays in the cells; where results stay, neither does."""


def plan_gemm(planner: Planner, gemm: Gemm, *, together: int = 1) -> None:
    """Append the group of a GEMM and the ops fused behind it to the plan.

    `together` of its products run at once on the array, block-diagonally (see `grouped`).

    Raises ValueError naming each buffer that is too small and the bytes it lacks.
    """
    array, item = planner.architecture.array, gemm
    gemm = block_diagonal(item, together)
    engine = engine_of(array, gemm) if array_operands(gemm) in array.supports else None
    head = planner.begin("array" if engine else "vector").items[0]
    pinned = planner.pinned()
    streamed = _streamed(planner, gemm, engine, pinned=pinned)
    a = planner.reads(
        gemm.a, port="input", pinned=pinned, is_reused=True, is_streamed=gemm.a.id in streamed
    )
    w = planner.reads(
        gemm.w, port="weight", pinned=pinned, is_reused=True, is_streamed=gemm.w.id in streamed
    )
    reads = [Extra(head, a), Extra(head, w)]
    reads += [extra for extra in planner.extras(pinned) if not extra.operand.is_here]
    results = planner.writes(planner.results(), pinned=pinned)
    a_bytes = gemm.a.size_bytes
    if not a.is_kept:
        a_bytes = loaded_bytes(gemm, planner.architecture.mapping.im2col)
    shape = shape_of(
        gemm,
        engine,
        loaded_bytes=a_bytes,
        stored_bytes=sum(one.ref.size_bytes for one in results if one.written is not None),
        is_input_kept=a.is_kept,
        is_weight_kept=w.is_kept,
    )
    tensors = planner.tensors(reads, results)
    if a_bytes > gemm.a.size_bytes:  # windows, as the DMA engine unfolds them
        windows = tensors.reads[0]._replace(size_bytes=a_bytes, elements=gemm.window_elements)
        tensors = tensors._replace(reads=(windows, *tensors.reads[1:]))
    kind, pattern = _fit(planner, gemm, shape, engine=engine, tensors=tensors)
    zeros = totals(gemm, kind.array, kind.nonzero, kind.mapping, loaded_bytes=pattern.loaded[1])
    tally_gemm(
        planner, item, kind.mapping, (a, w), results, engine=engine, zeros=zeros, together=together
    )
    if any(one.ref.runs is not None and not one.is_here for one in (a, w)):
        planner.tallies[head].mapping += " strided"
    planner.bind(pattern, reads, results)


def judging_notes(items: Iterable[WorkItem], architecture: Architecture) -> tuple[str, ...]:
    """Return a note per reason why tilings are not the ones that are done soonest, as asked."""
    array = architecture.array
    if architecture.mapping.objective != "soonest":
        return ()
    reasons = (
        why_not_followed(engine_of(array, item).array)
        for item in items
        if isinstance(item, Gemm) and array_operands(item) in array.supports
        if item.scale_group or array.coupling is not None
    )
    return tuple(
        f"mapping.objective: soonest: tilings of {count} GEMMs by the closed form of latency, {why}"
        for why, count in Counter(filter(None, reasons)).items()
    )


def _streamed(
    planner: Planner, gemm: Gemm, engine: Engine | None, *, pinned: set[str]
) -> Collection[str]:
    """Return which operands pass through although they could stay on chip.

    To stay they would wait until an earlier group lets go of its room, and as they pass through,
    no more bytes are loaded.
    """
    operands = gemm.a, gemm.w
    staying = [planner.may_stay(ref, pinned=pinned) for ref in operands]
    late = [ref.id for ref, stay in zip(operands, staying, strict=True) if stay == "late"]
    if not late or engine is None:
        return ()
    setting, im2col = planner.patterns.setting, planner.architecture.mapping.im2col

    def moved(streamed: Collection[str]) -> float:
        is_input_kept, is_weight_kept = (
            stay != "no" and ref.id not in streamed
            for ref, stay in zip(operands, staying, strict=True)
        )
        shape = shape_of(
            gemm,
            engine,
            loaded_bytes=gemm.a.size_bytes if is_input_kept else loaded_bytes(gemm, im2col),
            stored_bytes=gemm.result.size_bytes,  # where results go hangs on what is decided here
            is_input_kept=is_input_kept,
            is_weight_kept=is_weight_kept,
        )
        try:
            mapping = map_products(
                shape,
                engine.array,
                setting.limits,
                setting.costs,
                is_holding=True,
                is_whole=True,
                row=0,
                products=gemm.count,
            )
        except ValueError:  # no room for a fold of it beside what stays
            return math.inf
        return mapping.dram_bytes

    least = moved(())
    choices: list[Collection[str]] = [late, *([name] for name in late)]
    return next((streamed for streamed in choices if moved(streamed) <= least < math.inf), ())


def _fit(
    planner: Planner, gemm: Gemm, shape: Shape, *, engine: Engine | None, tensors: Tensors
) -> tuple[GemmKind, Pattern]:
    """Return the kind and pattern of a GEMM whose steps fit the buffers with their fused ops.

    What fused ops read comes by the tile, through the buffers of the operands: where there is no
    room for that, no operand takes the room of two units, then tiles are halved until there is,
    then what is loaded of the operands at a time. Runs of values, which lie along n, are cut only
    where they have no room whole.
    """
    setting = planner.patterns.setting
    limits = setting.limits
    if engine is None:
        array = replace(setting.array, dataflow="weight_stationary", drain="shift_out")
    else:
        array = engine.array
    is_rescaling = bool(engine and engine.rescales) and array.rescale == "vector_unit"
    problems: list[str] = []
    is_holding, row = True, planner.longest_row()
    is_wide = not row and gemm.w.runs is not None and gemm.w.runs.elements == gemm.n
    row = gemm.n if is_wide else row
    while True:
        try:
            mapping = map_products(
                shape,
                array,
                limits,
                setting.costs,
                is_holding=is_holding,
                is_whole=is_holding and not tensors.fused,
                row=row,
                products=gemm.count if engine else 0,
            )
        except ValueError:
            if is_wide:
                row, is_wide = 0, False
                continue
            if not problems:
                raise
            raise ValueError("\n".join(problems)) from None
        kind = GemmKind(
            gemm.m,
            gemm.n,
            shape.k,
            gemm.k,
            gemm.count,
            engine is not None,
            is_rescaling,
            array,
            mapping,
            tensors,
            None if engine is None else pattern_of(gemm, array),
        )
        pattern = planner.patterns.of(kind, build_gemm)
        problems = overfull(setting, pattern)
        if not problems:
            return kind, pattern
        if is_holding:
            is_holding = False
            continue
        half = limits.output_bytes // 2
        if half >= smallest_tile_bytes(array, gemm.m, gemm.n):
            limits = replace(limits, output_bytes=half)
        elif not (limits.input_bytes or limits.weight_bytes):
            raise ValueError("\n".join(problems))
        else:
            limits = Room(limits.input_bytes // 2, limits.weight_bytes // 2, limits.output_bytes)


def build_gemm(setting: Setting, kind: GemmKind) -> Pattern:
    """Return the steps of a GEMM and the ops fused behind it."""
    builder, array = Builder(setting, kind.tensors), kind.array
    extras = range(2, len(kind.tensors.reads))
    blocks, apart = _blocks(kind)
    work = _array_work(array, kind, blocks)
    operands = [
        stays(kind.mapping, source, blocks, is_here=read.is_here, is_kept=read.is_kept)
        for source, read in enumerate(kind.tensors.reads[:2])
    ]
    current: dict[tuple[int, ...], Load] = {}
    product = -1  # the last one with work for the array
    for number, block in enumerate(blocks):
        share = _share(kind, block)
        step = Step(loads=builder.share_loads(extras, share, is_start=number == 0))
        step.releases = [load for load in step.loads if load.credit_bytes]
        is_busy = work[number].total > 0
        for source, part in enumerate((input_part, weight_part)):
            stay = operands[source][number]
            if stay.comes:
                load = builder.load(source, part(kind, block))
                if source == HELD.get(array.dataflow) and is_busy and product == block.product:
                    load.shift_cycles = _hidden_shift(array)
                step.loads.append(load)
                current[source, *stay.key] = load
            if stay.goes:
                step.releases.append(current.pop((source, *stay.key)))
        if kind.is_on_array:
            step.array = work[number]
            product = block.product if is_busy else product
            if kind.is_rescaling:
                step.vector = _rescaling(setting, kind, block)
        else:
            cycles = -(-block.columns // setting.lanes) * block.rows * block.depth
            step.vector = ((0, cycles),)
        _finish_tile(builder, kind, step, block, share)
        builder.steps.append(step)
    if apart is not None:
        repeat(builder, kind.products, apart)
    return builder.finish()


def _blocks(kind: GemmKind) -> tuple[list[Block], Pitches | None]:
    """Return the blocks to build: of all products, or of the first where the others repeat it."""
    blocks = list(blocks_of(kind.mapping, 1, kind.m, kind.n, kind.k))
    apart = pitches(kind, blocks[0])
    if apart is None:
        blocks = list(blocks_of(kind.mapping, kind.products, kind.m, kind.n, kind.k))
    return blocks, apart


def _finish_tile(builder: Builder, kind: GemmKind, step: Step, block: Block, share: Share) -> None:
    """Take room for results when they leave the cells first; fused ops and stores follow the last.

    That is at the first chunk of the sum, or at the last one where results stay in the cells until
    it is complete.
    """
    tile_bytes = block.rows * block.columns * -(-kind.array.accumulator_bits // 8)
    is_done = block.k[1] == kind.k
    is_held = DATAFLOWS[kind.mapping.dataflow].time == "k" and not kind.array.pace.group
    is_held = is_held and not _is_leaving(kind)
    if is_done if is_held else block.k[0] == 0:
        step.opens_bytes = tile_bytes
    if is_done:
        step.closes_bytes = tile_bytes
        step.vector += builder.fused_work(share)
        step.stores = [
            builder.store(target, result_part(kind, write, block))
            for target, write in enumerate(kind.tensors.writes)
            if write.is_stored
        ]


def _is_leaving(kind: GemmKind) -> bool:
    return is_leaving(kind.array, kind.mapping, m=kind.m, n=kind.n, k=kind.k)


def _share(kind: GemmKind, block: Block) -> Share:
    """Return which part of all results a block finishes; nothing before its last chunk."""
    first = (block.product * kind.m + block.m[0]) * kind.n + block.rows * block.n[0]
    done = block.rows * block.columns if block.k[1] == kind.k else 0
    return Share(first, first + done, kind.products * kind.m * kind.n)


def _hidden_shift(array: ProcessingArray) -> int:
    """Return the cycles in which what stays shifts in while the step before goes on."""
    return shift_in_cycles(array) if array.schedule == "double_buffered" else 0


def _array_work(array: ProcessingArray, kind: GemmKind, blocks: list[Block]) -> list[Split]:
    """Return the array cycles of each block, none on the vector unit."""
    if not kind.is_on_array:
        return [Split()] * len(blocks)
    if kind.nonzero is None:  # all products have the same blocks, one product after the other
        first = [block for block in blocks if block.product == 0]
        turns = [_turn(kind, block) for block in first]
        known = {turn: _block_work(array, kind, turn) for turn in dict.fromkeys(turns)}
        return [known[turn] for turn in turns] * (len(blocks) // len(first))
    spots = [Spot(block.product, block.n[0], block.k[0], block.rows) for block in blocks]
    return block_splits(array, kind.nonzero, cut_of(kind.mapping, kind.n, kind.k), spots)


class Turn(NamedTuple):
    """All that the cycles of a block depend on: sizes, and where in its sum and product it is."""

    m: int
    n: int
    k: int
    is_start: bool
    is_end: bool
    is_first: bool
    is_last: bool


def _turn(kind: GemmKind, block: Block) -> Turn:
    (top, bottom), (left, right), (start, stop) = block.m, block.n, block.k
    return Turn(
        bottom - top,
        right - left,
        stop - start,
        start == 0,
        stop == kind.k,
        top == left == 0,
        bottom == kind.m and right == kind.n,
    )


def _block_work(array: ProcessingArray, kind: GemmKind, turn: Turn) -> Split:
    """Return the cycles of a block; of a tile whose sums stay, those of this chunk of its sum.

    Fill shows in the first chunk of such a tile, drain in its last.
    """
    m, n, k, is_start, is_end, is_first, is_last = turn
    if DATAFLOWS[array.dataflow].time != "k" or _is_leaving(kind):
        first, last = is_first and is_start, is_last and is_end
        return fold(array, m=m, n=n, k=k, is_first=first, is_last=last)
    whole = fold(array, m=m, n=n, k=kind.k, is_first=is_first, is_last=is_last)
    return Split(
        compute=whole.compute // kind.k * k,
        fill=whole.fill if is_start else 0,
        drain=whole.drain if is_end else 0,
    )


def _rescaling(setting: Setting, kind: GemmKind, block: Block) -> tuple[tuple[int, int], ...]:
    """Return the vector work on the results of the scale groups that end in a block."""
    ends = group_ends(kind.array.pace, first=block.k[0], stop=block.k[1], words=kind.k)
    results = ends * block.rows * block.columns
    operations = setting.functions["rescale"].operations
    return ((0, function_cycles(operations, results, setting.lanes)),) if results else ()
