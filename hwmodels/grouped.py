"""Products of groups, as depthwise and grouped convolutions make: on which unit, how many at once.

A group has few result columns and a short sum, so that one group alone leaves most cells or lanes
idle. The array takes several at once when their weights lie block-diagonally: the terms of each
group have rows of their own and its results columns of their own, and the cells between the blocks
hold zeros. Where results stay, groups lie side by side along the columns and follow one another in
time. The vector unit takes results of all groups side by side, one per lane.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hwmodels.costs import Costs, Work, energy, latency
from hwmodels.dataflow import DATAFLOWS
from hwmodels.gemm_steps import plan_gemm
from hwmodels.lane_steps import fits_lanes, lane_cycles, plan_lanes
from hwmodels.mapper import map_product
from hwmodels.mapping import resident_bytes
from hwmodels.mapping_work import array_cycles, work
from hwmodels.planner import Planner
from hwmodels.precision import Engine, engine_of
from hwmodels.products import activation_bits, array_operands, block_diagonal, shape_of
from hwmodels.sparse_chip import pattern_of
from hwmodels.windows import loaded_bytes
from hwmodels.workload import NUMBER_BITS, Gemm


@dataclass(frozen=True)
class Choice:
    """One way to run the products of a GEMM: on lanes, or `together` of them at once."""

    is_on_lanes: bool
    together: int = 1


def plan_product(planner: Planner, gemm: Gemm) -> None:
    """Append the group of a GEMM and the ops fused behind it to the plan, on the cheaper unit.

    Raises ValueError naming each buffer that is too small and the bytes it lacks.
    """
    choice = choose(planner, gemm) if is_grouped(gemm) else Choice(is_on_lanes=False)
    if choice.is_on_lanes:
        plan_lanes(planner, gemm)
    else:
        plan_gemm(planner, gemm, together=choice.together)


def is_grouped(gemm: Gemm) -> bool:
    """Whether a GEMM is that of a depthwise or grouped convolution."""
    return gemm.kind == "conv" and gemm.count > 1


def choose(planner: Planner, gemm: Gemm) -> Choice:
    """Return the legal way of lowest cost under the chip's objective; of equals the first.

    The array comes first, with as few groups at once as do; what it does not support, and the
    vector unit may, goes to the lanes, or column by column where the weights have no room there.
    """
    architecture = planner.architecture
    ways: list[tuple[float, Choice]] = []
    if array_operands(gemm) in architecture.array.supports:
        engine = engine_of(architecture.array, gemm)
        for together in _packings(engine, gemm):
            try:
                cost = _array_cost(planner, gemm, together)
            except ValueError:  # no tiling of so many fits the buffers
                continue
            ways.append((cost, Choice(is_on_lanes=False, together=together)))
    if architecture.vector_unit.fallback and fits_lanes(planner, gemm):
        ways.append((_lane_cost(planner, gemm), Choice(is_on_lanes=True)))
    if not ways:
        return Choice(is_on_lanes=False)
    return min(ways, key=lambda way: way[0])[1]


def _packings(engine: Engine, gemm: Gemm) -> Iterator[int]:
    """Yield how many products at once are worth a try: the fewest for each number of rounds.

    More only where one fold holds them all along each dimension that lies on the array. Operands
    that are packed into words, scale groups and zeros that are left out keep to one product.
    """
    yield 1
    array, sizes = engine.array, {"m": gemm.m, "n": gemm.n, "k": gemm.k}
    is_plain = array.pace.depth == 1 and not array.pace.group and array.coupling is None
    if not is_plain or pattern_of(gemm, array) is not None:
        return
    flow = DATAFLOWS[array.dataflow]
    most = gemm.count
    for axis, cells in ((flow.rows, array.rows), (flow.columns, array.columns)):
        if axis != "m":
            most = min(most, cells // sizes[axis])
    rounds = gemm.count
    for together in range(2, most + 1):
        if (needed := -(-gemm.count // together)) < rounds:
            rounds = needed
            yield together


def _array_cost(planner: Planner, gemm: Gemm, together: int) -> float:
    """Return what all products cost on the array, `together` at once."""
    setting = planner.patterns.setting
    packed = block_diagonal(gemm, together)
    engine = engine_of(setting.array, packed)
    shape = shape_of(
        packed,
        engine,
        loaded_bytes=loaded_bytes(gemm, planner.architecture.mapping.im2col),
        stored_bytes=gemm.result.size_bytes,
        is_input_kept=planner.port_of(gemm.a) is not None,
        is_weight_kept=_is_weight_kept(planner, gemm),
    )
    limits, costs = setting.limits, setting.costs
    mapping = map_product(shape, engine.array, limits, costs, is_holding=True)
    one = work(shape, engine.array, mapping, array_cycles(shape, engine.array, mapping), limits)
    mac_j = gemm.macs * setting.mac_j("array", engine.action)
    return _cost(costs, one, packed.count, mac_j)


def _lane_cost(planner: Planner, gemm: Gemm) -> float:
    """Return what all products cost on the vector unit's lanes."""
    setting, architecture = planner.patterns.setting, planner.architecture
    period, vector_period = architecture.array.period_fs, architecture.vector_unit.period_fs
    cycles = -(-lane_cycles(gemm, setting.lanes) * vector_period // period)
    one = Work(
        cycles,
        0 if planner.port_of(gemm.a) else gemm.a.size_bytes,
        gemm.w.size_bytes,
        activation_bits(gemm) // 8,
        gemm.macs * NUMBER_BITS[gemm.w_number] // 8,
        gemm.result.size_bytes,
    )
    return _cost(setting.costs, one, 1, gemm.macs * setting.mac_j("vector_unit", "vector_mac"))


def _cost(costs: Costs, one: Work, times: int, mac_j: float) -> float:
    """Return cycles, joules or their product of `times` such products and all their sums."""
    cycles = latency(one, costs.rates)
    if costs.joules is None:
        return times * cycles
    joules = times * energy(one, costs.joules, cycles) + mac_j
    return joules if costs.objective == "energy" else times * cycles * joules


def _is_weight_kept(planner: Planner, gemm: Gemm) -> bool:
    chip = planner.architecture
    room_bytes = resident_bytes(chip.buffers.weight.size_bytes, chip.mapping.resident_share)
    return planner.port_of(gemm.w) is not None or gemm.w.size_bytes <= room_bytes
