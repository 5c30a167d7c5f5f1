"""Vector ops and transfers into steps: chunks that fit the streaming halves of the buffers."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from hwmodels.mapping import even_tiles
from hwmodels.pattern import Builder, Read, Setting, Share, Tensors, Write
from hwmodels.plan import Pattern, Port, Step
from hwmodels.planner import Extra, Operand, Planner, Result
from hwmodels.vector import operation_count, pass_cycles
from hwmodels.workload import Transfer, VectorOp


class StreamKind(NamedTuple):
    """All that the pattern of a vector op or a transfer depends on.

    `units` positions fall into `chunks` chunks; each of `phases` runs over all of them, with the
    passes (operations per element) of the group's first op over its `elements`.
    """

    units: int
    chunks: int
    elements: int
    phases: tuple[tuple[int, ...], ...]
    tensors: Tensors


def plan_vector(planner: Planner, op: VectorOp) -> None:
    """Append the group of a vector op and the element-wise ops fused behind it to the plan.

    A chunk is a run of whole rows while a row fits, and all passes of row functions happen on it.
    Where a row does not fit, or the function reduces over the whole tensor, each pass runs over all
    chunks and reads again what is not kept, but for a first pass that went ahead (`first_pass`).
    """
    planner.begin("vector")
    pinned = planner.pinned()
    function = planner.patterns.setting.functions[op.function]
    operations = planner.operations_left()
    is_reused = function.scope == "tensor" and len(operations) > 1
    reads = _operands(planner, op, pinned, is_reused=is_reused)
    results = planner.writes(planner.results(), pinned=pinned)
    away = [extra for extra in reads if not extra.operand.is_here]
    row = max(op.row_length * (function.scope == "row"), planner.longest_row()) or op.row_length
    number, is_whole_rows = _chunks(planner, op, row, reads, results)
    is_barrier = function.scope == "tensor" or (function.scope == "row" and not is_whole_rows)
    phases: tuple[tuple[int, ...], ...] = (operations,)
    if is_barrier and number > 1:
        phases = tuple((one,) for one in operations)
    units = op.elements // row if is_whole_rows else op.elements
    kind = StreamKind(units, number, op.elements, phases, planner.tensors(away, results))
    planner.bind(planner.patterns.of(kind, build_stream), away, results)
    _tally_vector(planner, op, reads, results)


def plan_transfer(planner: Planner, transfer: Transfer) -> None:
    """Append the group of a transfer and the element-wise ops fused behind it to the plan.

    Bytes of tensors that lie on chip are not read from memory. An append writes the last bytes of
    its state.
    """
    head = planner.begin("dma").items[0]
    pinned = planner.pinned()
    here = [ref for ref in transfer.reads if planner.port_of(ref)]
    away = [ref for ref in transfer.reads if not planner.port_of(ref)]
    after = tuple(written for ref in away for written in planner.write_of(ref))
    reads = [extra for extra in planner.extras(pinned) if not extra.operand.is_here]
    results = planner.writes(planner.results(), pinned=pinned)
    read_bytes = max(0, transfer.read_bytes - sum(ref.size_bytes for ref in here))
    read_bytes = min(read_bytes, sum(ref.size_bytes for ref in away))
    writes = [_moved(transfer, result) for result in results]
    limits = planner.patterns.setting.limits
    number = max(
        1,
        -(-read_bytes // limits.input_bytes),
        -(-sum(one.size_bytes for one in writes if one.is_stored) // limits.output_bytes),
    )
    tensors = planner.tensors(reads, results, writes)
    if read_bytes:
        source = max(away, key=lambda ref: ref.size_bytes)
        operand = Operand(source, "input", is_here=False, is_kept=False, after=after)
        reads.append(Extra(head, operand))
        moved = Read("input", read_bytes, source.elements, False, False, False)
        tensors = tensors._replace(reads=(*tensors.reads, moved))
    kind = StreamKind(number, number, 0, (), tensors)
    planner.bind(planner.patterns.of(kind, build_stream), reads, results)
    tally = planner.tallies[head]
    tally.input_buffer_read += transfer.read_bytes
    for result, write in zip(results, writes, strict=True):
        _tally_result(planner, head, result, write.size_bytes)
    planner.tally_fused(element_bytes=4)


def build_stream(setting: Setting, kind: StreamKind) -> Pattern:
    """Return the steps of a vector op or a transfer and the ops fused behind it, chunk by chunk."""
    builder = Builder(setting, kind.tensors)
    sources = range(len(kind.tensors.reads))
    phases = kind.phases or ((),)
    for phase, passes in enumerate(phases):
        for share in shares(kind.units, kind.chunks):
            is_start = phase == share.first == 0
            step = Step(loads=builder.share_loads(sources, share, is_start=is_start))
            step.releases = [load for load in step.loads if load.credit_bytes]
            if kind.phases:
                elements = share.of(kind.elements)
                cycles = sum(pass_cycles(elements, n, setting.lanes) for n in passes)
                step.vector = ((0, cycles),)
            if phase == len(phases) - 1:
                step.vector += builder.fused_work(share)
                builder.close(step, share)
            builder.steps.append(step)
    return builder.finish()


def _operands(planner: Planner, op: VectorOp, pinned: set[str], *, is_reused: bool) -> list[Extra]:
    """Return the operands of the op and of those fused behind it, without their own results."""
    head = planner.groups[-1].items[0]
    found: list[Extra] = []
    for ref in dict.fromkeys(op.reads):
        port: Port = "weight" if ref.kind == "constant" else "input"
        operand = planner.reads(ref, port=port, pinned=pinned, is_reused=is_reused)
        found.append(Extra(head, operand))
    return found + planner.extras(pinned)


def _chunks(
    planner: Planner, op: VectorOp, row: int, reads: Sequence[Extra], results: Sequence[Result]
) -> tuple[int, bool]:
    """Return into how many chunks the op falls, and whether a chunk is whole rows of `row`."""
    streamed = {"input": 0, "weight": 0, "output": 0}
    for extra in reads:
        if not extra.operand.is_kept:
            streamed[extra.operand.port] += extra.operand.ref.size_bytes
    for result in results:
        if result.written is not None:
            streamed["output"] += result.ref.size_bytes
    room = planner.patterns.setting.limits
    limits = {"input": room.input_bytes, "weight": room.weight_bytes, "output": room.output_bytes}
    rows = op.elements // row
    for units, is_whole_rows in ((rows, rows * row == op.elements), (op.elements, False)):
        most = min(
            (limits[port] * units // size for port, size in streamed.items() if size),
            default=units,
        )
        if most >= 1 and (is_whole_rows or units == op.elements):
            return -(-units // most), is_whole_rows
    raise ValueError(f"no element of {op.elements} fits {room}")


def shares(units: int, number: int) -> Iterator[Share]:
    """Yield `number` shares of `units` positions, about equal."""
    for first, stop in pairwise(accumulate(even_tiles(units, number), initial=0)):
        yield Share(first, stop, units)


def _moved(transfer: Transfer, result: Result) -> Write:
    """Return the bytes of a result that the transfer writes: the last ones of its own."""
    ref = result.ref
    is_own = any(ref.id == written.id for written in transfer.writes)
    moved = min(transfer.write_bytes, ref.size_bytes) if is_own else ref.size_bytes
    return Write(moved, ref.elements, result.written is not None, ref.size_bytes - moved)


def _tally_vector(
    planner: Planner, op: VectorOp, reads: Sequence[Extra], results: Sequence[Result]
) -> None:
    head = planner.groups[-1].items[0]
    tally = planner.tallies[head]
    operations = planner.operations_left()
    tally.vector_operations += operation_count(operations, op.elements)
    for extra in reads:
        ref, item = extra.operand.ref, planner.tallies[extra.item]
        times = len(operations) if extra.item == head else 1
        if extra.operand.port == "input":
            item.input_buffer_read += times * ref.size_bytes
        else:
            item.weight_buffer_read += times * ref.size_bytes
    for result in results:
        _tally_result(planner, head, result, result.ref.size_bytes)
    planner.tally_fused(element_bytes=4)


def _tally_result(planner: Planner, item: int, result: Result, size_bytes: int) -> None:
    """Count a result on its way to the kept part, and through the output buffer to memory."""
    tally = planner.tallies[item]
    tally.input_buffer_write += result.is_kept * size_bytes
    if result.written is not None:
        tally.output_buffer_write += size_bytes
        tally.output_buffer_read += size_bytes
