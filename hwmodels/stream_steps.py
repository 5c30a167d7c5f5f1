"""Vector ops and transfers into steps: chunks that fit the streaming halves of the buffers."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from hwmodels.mapping import even_tiles
from hwmodels.memory import Descriptor
from hwmodels.plan import Port, Step
from hwmodels.planner import Extra, Operand, Planner, Result, Share
from hwmodels.vector import FUNCTIONS, operation_count, pass_cycles
from hwmodels.workload import TensorRef, Transfer, VectorOp


def plan_vector(planner: Planner, op: VectorOp) -> None:
    """Append the group of a vector op and the element-wise ops fused behind it to the plan.

    A chunk is a run of whole rows while a row fits, and all passes of a row function happen on it.
    Where a row does not fit, or the function reduces over the whole tensor, each pass runs over all
    chunks and reads again what is not kept.
    """
    group = planner.begin("vector")
    head = group.items[0]
    pinned = planner.pinned()
    function = FUNCTIONS[op.function]
    reads = _operands(planner, op, pinned, is_reused=function.scope == "tensor")
    results = planner.writes(planner.results(), pinned=pinned)
    away = [extra for extra in reads if not extra.operand.is_here]
    number, is_whole_rows = _chunks(planner, op, reads, results)
    is_barrier = function.scope == "tensor" or (function.scope == "row" and not is_whole_rows)
    phases: list[tuple[int, ...]] = [function.operations]
    if is_barrier and number > 1:
        phases = [(operations,) for operations in function.operations]
    units = op.elements // op.row_length if is_whole_rows else op.elements
    lanes = planner.architecture.vector_unit.lanes
    for phase, passes in enumerate(phases):
        is_final = phase == len(phases) - 1
        for share in _shares(units, number):
            step = Step()
            is_start = phase == share.first == 0
            step.loads = planner.extra_loads(away, share, is_start=is_start)
            step.releases = [load for load in step.loads if load.credit_bytes]
            elements = share.of(op.elements)
            step.vector = ((head, sum(pass_cycles(elements, n, lanes) for n in passes)),)
            if is_final:
                step.vector += planner.fused_work(share)
                _close(planner, step, results, share)
            group.steps.append(step)
    _tally_vector(planner, op, reads, results)


def plan_transfer(planner: Planner, transfer: Transfer) -> None:
    """Append the group of a transfer and the element-wise ops fused behind it to the plan.

    Bytes of tensors that lie on chip are not read from memory. An append writes the last bytes of
    its state.
    """
    group = planner.begin("dma")
    head = group.items[0]
    pinned = planner.pinned()
    here = [ref for ref in transfer.reads if planner.port_of(ref)]
    away = [ref for ref in transfer.reads if not planner.port_of(ref)]
    after = tuple(written for ref in away for written in planner.write_of(ref))
    extras = [extra for extra in planner.extras(pinned) if not extra.operand.is_here]
    results = planner.writes(planner.results(), pinned=pinned)
    read_bytes = max(0, transfer.read_bytes - sum(ref.size_bytes for ref in here))
    read_bytes = min(read_bytes, sum(ref.size_bytes for ref in away))
    sizes = [_moved_bytes(transfer, r.ref) for r in results if r.written is not None]
    number = max(
        1,
        -(-read_bytes // planner.limits.input_bytes),
        -(-sum(sizes) // planner.limits.output_bytes),
    )
    source = max(away, key=lambda ref: ref.size_bytes, default=None)
    for share in _shares(number, number):
        step = Step(loads=planner.extra_loads(extras, share, is_start=share.first == 0))
        if source is not None and share.of(read_bytes):
            operand = Operand(source, "input", is_here=False, is_kept=False, after=after)
            base = planner.address(source) + Share(0, share.first, share.total).of(read_bytes)
            descriptor = Descriptor(base, share.of(read_bytes), requester="input")
            step.loads.append(planner.load(operand, head, descriptor))
        step.releases = [load for load in step.loads if load.credit_bytes]
        step.vector = planner.fused_work(share)
        _close(planner, step, results, share, transfer)
        group.steps.append(step)
    tally = planner.tallies[head]
    tally.input_buffer_read += transfer.read_bytes
    for result in results:
        _tally_result(planner, head, result, _moved_bytes(transfer, result.ref))
    planner.tally_fused(element_bytes=4)


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
    planner: Planner, op: VectorOp, reads: Sequence[Extra], results: Sequence[Result]
) -> tuple[int, bool]:
    """Return into how many chunks the op falls, and whether a chunk is whole rows."""
    streamed = {"input": 0, "weight": 0, "output": 0}
    for extra in reads:
        if not extra.operand.is_kept:
            streamed[extra.operand.port] += extra.operand.ref.size_bytes
    for result in results:
        if result.written is not None:
            streamed["output"] += result.ref.size_bytes
    limits = {
        "input": planner.limits.input_bytes,
        "weight": planner.limits.weight_bytes,
        "output": planner.limits.output_bytes,
    }
    rows = op.elements // op.row_length
    for units, is_whole_rows in ((rows, rows * op.row_length == op.elements), (op.elements, False)):
        most = min(
            (limits[port] * units // size for port, size in streamed.items() if size),
            default=units,
        )
        if most >= 1 and (is_whole_rows or units == op.elements):
            return -(-units // most), is_whole_rows
    raise ValueError(f"no element of {op.elements} fits {planner.limits}")


def _shares(units: int, number: int) -> Iterator[Share]:
    for first, stop in pairwise(accumulate(even_tiles(units, number), initial=0)):
        yield Share(first, stop, units)


def _close(
    planner: Planner,
    step: Step,
    results: Sequence[Result],
    share: Share,
    transfer: Transfer | None = None,
) -> None:
    """Add the stores of one chunk and the output room they need."""
    head = planner.groups[-1].items[0]
    for result in results:
        ref = result.ref
        if result.written is None:
            continue
        moved = ref.size_bytes if transfer is None else _moved_bytes(transfer, ref)
        if not share.of(moved):
            continue
        skipped = ref.size_bytes - moved
        before = Share(0, share.first, share.total).of(moved)
        descriptor = Descriptor(
            planner.address(ref) + skipped + before,
            share.of(moved),
            is_write=True,
            requester="output",
            priority=2,
        )
        step.stores.append(planner.store(result, head, descriptor))
        step.opens_bytes += share.of(moved)
    step.closes_bytes = step.opens_bytes


def _moved_bytes(transfer: Transfer, ref: TensorRef) -> int:
    """Return the bytes of `ref` that the transfer writes."""
    is_own = any(ref.id == written.id for written in transfer.writes)
    return min(transfer.write_bytes, ref.size_bytes) if is_own else ref.size_bytes


def _tally_vector(
    planner: Planner, op: VectorOp, reads: Sequence[Extra], results: Sequence[Result]
) -> None:
    head = planner.groups[-1].items[0]
    tally = planner.tallies[head]
    tally.vector_operations = operation_count(op.function, op.elements)
    for extra in reads:
        ref, item = extra.operand.ref, planner.tallies[extra.item]
        times = FUNCTIONS[op.function].passes if extra.item == head else 1
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
