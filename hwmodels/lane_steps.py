"""A GEMM of groups on the vector unit's lanes: results of all groups side by side, one per lane.

The steps are chunks of positions. The weights of all groups are on chip; each lane reads its own
for every multiply-accumulate, and lanes that make results of one group share its activation. The
sum stays in the lane.
"""

from typing import NamedTuple

from hwmodels.pattern import Builder, Setting, Share, Tensors
from hwmodels.plan import Pattern, Step
from hwmodels.planner import Extra, Planner, Result
from hwmodels.products import activation_bits
from hwmodels.stream_steps import shares
from hwmodels.vector import pass_cycles
from hwmodels.workload import NUMBER_BITS, Gemm


class LaneKind(NamedTuple):
    """All that the pattern of a GEMM on lanes depends on.

    `rows` positions fall into `chunks` chunks; each position has `results`, sums of `terms`. Read
    number `weight` holds the weights, -1 where they are on chip.
    """

    rows: int
    chunks: int
    results: int
    terms: int
    weight: int
    tensors: Tensors


def lane_cycles(gemm: Gemm, lanes: int) -> int:
    """Return the vector cycles of a GEMM whose results lie side by side on the lanes.

    Example: 144 channels of 31 taps over 499 positions; 2246 rounds of 32 lanes.
        >>> from hwmodels.workload import TensorRef
        >>> x = TensorRef("x", "input", (144, 499), 8)
        >>> lane_cycles(Gemm("g", "conv", 499, 1, 31, x, x, x, "i8", "i8", "i32", 144), 32)
        69626

    """
    return pass_cycles(gemm.count * gemm.m * gemm.n, gemm.k, lanes)


def fits_lanes(planner: Planner, gemm: Gemm) -> bool:
    """Whether the weights of all groups fit, and beside them one position with its results."""
    limits = planner.patterns.setting.limits
    return (
        gemm.w.size_bytes <= limits.weight_bytes
        and -(-gemm.a.size_bytes // gemm.m) <= limits.input_bytes
        and -(-gemm.result.size_bytes // gemm.m) <= limits.output_bytes
    )


def plan_lanes(planner: Planner, gemm: Gemm) -> None:
    """Append the group of a GEMM on lanes and the ops fused behind it to the plan.

    Raises ValueError when what its fused ops read has no room beside a position.
    """
    head = planner.begin("vector").items[0]
    pinned = planner.pinned()
    a = planner.reads(gemm.a, port="input", pinned=pinned)
    w = planner.reads(gemm.w, port="weight", pinned=pinned)
    reads = [Extra(head, a), Extra(head, w), *planner.extras(pinned)]
    results = planner.writes(planner.results(), pinned=pinned)
    away = [extra for extra in reads if not extra.operand.is_here]
    weight = next((at for at, extra in enumerate(away) if extra.operand is w), -1)
    kind = LaneKind(
        gemm.m,
        _chunks(planner, gemm, away, results),
        gemm.count * gemm.n,
        gemm.k,
        weight,
        planner.tensors(away, results),
    )
    planner.bind(planner.patterns.of(kind, build_lanes), away, results)
    _tally(planner, gemm, reads, results)
    planner.tallies[head].mapping = f"lanes over groups, m{-(-gemm.m // kind.chunks)}"


def build_lanes(setting: Setting, kind: LaneKind) -> Pattern:
    """Return the steps of a GEMM on lanes, chunk by chunk.

    Weights that do not stay on chip are loaded with every chunk.
    """
    builder = Builder(setting, kind.tensors)
    others = [at for at in range(len(kind.tensors.reads)) if at != kind.weight]
    for share in shares(kind.rows, kind.chunks):
        is_start = share.first == 0
        step = Step(loads=builder.share_loads(others, share, is_start=is_start))
        if kind.weight >= 0:
            is_loaded = is_start or not kind.tensors.reads[kind.weight].is_kept
            whole = Share(0, 1, 1)
            step.loads += builder.share_loads([kind.weight], whole, is_start=True) * is_loaded
        step.releases = [load for load in step.loads if load.credit_bytes]
        results = (share.stop - share.first) * kind.results
        step.vector = ((0, pass_cycles(results, kind.terms, setting.lanes)),)
        step.vector += builder.fused_work(share)
        builder.close(step, share)
        builder.steps.append(step)
    return builder.finish()


def _chunks(planner: Planner, gemm: Gemm, away: list[Extra], results: tuple[Result, ...]) -> int:
    """Return into how many chunks of positions the GEMM falls."""
    room = planner.patterns.setting.limits
    streamed = {"input": 0, "weight": 0, "output": 0}
    limits = {"input": room.input_bytes, "weight": room.weight_bytes, "output": room.output_bytes}
    for extra in away:
        operand = extra.operand
        if operand.ref.id == gemm.w.id:
            limits["weight"] -= 0 if operand.is_kept else gemm.w.size_bytes
        elif not operand.is_kept:
            streamed[operand.port] += operand.ref.size_bytes
    streamed["output"] = sum(one.ref.size_bytes for one in results if one.written is not None)
    most = min(
        (limits[port] * gemm.m // size for port, size in streamed.items() if size),
        default=gemm.m,
    )
    if most < 1:
        raise ValueError(f"no position of {gemm.m} fits {room} with all that fused ops read")
    return -(-gemm.m // most)


def _tally(planner: Planner, gemm: Gemm, reads: list[Extra], results: tuple[Result, ...]) -> None:
    """Count what lanes and buffers do; loads and stores count themselves."""
    head = planner.groups[-1].items[0]
    tally = planner.tallies[head]
    tally.vector_macs = gemm.macs
    sizes = {
        gemm.a.id: activation_bits(gemm) // 8,
        gemm.w.id: gemm.macs * NUMBER_BITS[gemm.w_number] // 8,
    }
    for extra in reads:
        ref, item = extra.operand.ref, planner.tallies[extra.item]
        size = sizes[ref.id] if extra.item == head else ref.size_bytes
        if extra.operand.port == "input":
            item.input_buffer_read += size
        else:
            item.weight_buffer_read += size
    sum_bytes = -(-planner.architecture.array.accumulator_bits // 8)
    tally.partial_sums_written = gemm.count * gemm.m * gemm.n * sum_bytes
    tally.output_buffer_write += tally.partial_sums_written
    for result in results:  # to memory, to the kept part, or both
        times = result.is_kept + (result.written is not None)
        tally.output_buffer_read += times * result.ref.size_bytes
        tally.input_buffer_write += result.is_kept * result.ref.size_bytes
    planner.tally_fused(element_bytes=sum_bytes)
