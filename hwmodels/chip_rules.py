"""Rules of a chip that follow from what one fold of its array needs, whatever the work."""

from itertools import count

from hwmodels.architecture import Architecture, ProcessingArray
from hwmodels.cells import widest_bits
from hwmodels.dataflow import DATAFLOWS, Axis
from hwmodels.mapping import LARGEST_UNIT_BYTES, room, unit_bytes


def fold_problems(architecture: Architecture) -> list[str]:
    """Return a line per buffer that cannot hold its part of one full fold, one element in time.

    Operands are the widest that the array supports, as by default where it names none that is
    known; what one step may hold is in `mapping.room`.
    """
    array, have = architecture.array, room(architecture)
    flow = DATAFLOWS[array.dataflow]
    size: dict[Axis, int] = {flow.rows: array.rows, flow.columns: array.columns, flow.time: 1}
    a_bits, w_bits = (
        widest_bits(array.supports, place) or widest_bits(ProcessingArray.supports, place)
        for place in (0, 1)
    )
    sum_bytes = -(-array.accumulator_bits // 8)
    parts = {
        "input": (f"{size['m']} x {size['k']} activations of {a_bits} bits", have.input_bytes),
        "weight": (f"{size['k']} x {size['n']} weights of {w_bits} bits", have.weight_bytes),
        "output": (f"{size['m']} x {size['n']} sums of {8 * sum_bytes} bits", have.output_bytes),
    }
    needs = {
        "input": -(-size["m"] * size["k"] * a_bits // 8),
        "weight": -(-size["k"] * size["n"] * w_bits // 8),
        "output": size["m"] * size["n"] * sum_bytes,
    }
    problems = []
    for name, (what, room_bytes) in parts.items():
        need = needs[name]
        if need > room_bytes:
            found = getattr(architecture.buffers, name).size_bytes
            problems.append(
                f"buffers.{name}.size_bytes: found {found}, of which one step may hold "
                f"{room_bytes}; one {array.dataflow} fold has {what}, {need} bytes; expected "
                f"{_expected(name, need, architecture.mapping.resident_share)}"
            )
    return problems


def _expected(name: str, need: int, share: float) -> str:
    if name == "output":
        return f"at least {2 * need}"
    if need > LARGEST_UNIT_BYTES:
        return f"an array whose folds need at most {LARGEST_UNIT_BYTES}"
    return f"at least {next(size for size in count(2 * need) if unit_bytes(size, share) >= need)}"
