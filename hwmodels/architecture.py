"""What a chip is: frozen dataclasses that mirror the chip and memory YAML key by key.

Ranges are `annotated_types` metadata on the fields, so any reader of YAML can enforce them without
this package knowing the reader.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from hwmodels.cells import Cell, Edge, FixedCell, Pace, Rescaling, XnorUnit, check_cell, widest_bits
from hwmodels.conventions import CONVENTIONS
from hwmodels.tightly_coupled import Coupling, coupling_problems
from hwmodels.vector import FunctionCost, check_functions

FEMTO = 10**15  # femtoseconds in a second

Dataflow = Literal["weight_stationary", "output_stationary", "input_stationary"]
Schedule = Literal["serial", "double_buffered"]
Drain = Literal["shift_out", "none"]
ConventionName = Literal["scale_sim", "onnxim", "stonne"]
Sparsity = Literal["dense", "skip_zero_fold", "row_skip", "column_compact", "nm", "csr_gather"]
Fidelity = Literal["sampled", "exact", "roofline"]
Arbitration = Literal["fifo", "priority"]
Gating = Literal["none", "activations"]
Objective = Literal["latency", "soonest", "energy", "product"]
Fusion = Literal["chunks", "marked"]
Im2col = Literal["buffer", "dma", "materialised"]
Split = Literal["columns", "heads", "utterances"]


@dataclass(frozen=True)
class Figure:
    """A number with its range and where it comes from (`assumed ...` when nobody published it)."""

    value: Annotated[float, Ge(0)]
    source: Annotated[str, MinLen(1)]
    low: Annotated[float, Ge(0)] | None = None
    high: Annotated[float, Ge(0)] | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high; the value itself where no range is given."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


@dataclass(frozen=True)
class SparseUnit:
    """What finds the weights that are not zero, for policies that need it (`hwmodels.skipping`).

    `decoded_per_cycle` indices are decoded per array cycle; null decodes as many as asked for, for
    studies of the limits. `csr_gather` reads activations from `banks`; `nm` keeps `kept` weights of
    every `run` along the sum.
    """

    decoded_per_cycle: Annotated[int, Ge(1)] | None
    banks: Annotated[int, Ge(1)] | None = None
    kept: Annotated[int, Ge(1)] | None = None
    run: Annotated[int, Ge(2)] | None = None


@dataclass(frozen=True)
class ProcessingArray:
    """A systolic array of `rows` x `columns` multiply-accumulate cells.

    `dataflow` says what stays in the cells, `schedule` whether the next fold begins while the one
    before goes on. `drain` says how results leave the cells of an `output_stationary` array:
    `shift_out` moves them down the columns, one row per cycle; `none` takes them from every cell
    at once, which needs a port per cell and is the rule of SCALE-Sim (Samajdar et al. 2020).
    `supports` lists operand types as activation x weight, e.g. `i8xi4`. `sparsity` names the policy
    for zero weights, see `hwmodels.skipping`; `dense` computes them, others may need a
    `sparse_unit`. `convention` names a published way to count, whose stall-free cycles results
    carry beside ours, see `hwmodels.conventions`.

    `cell` is what multiplies, `edge` what enters it per cycle, `xnor` a unit of its own for single
    bits. With `gating: activations` a cell does not switch its multiplier when the activation is
    zero: the measured share of zeros saves energy and no cycles. `rescale` says who multiplies the
    sum of each scale group by its scale: the vector unit, or the accumulators at the end of the
    columns, as fast as results come. With a `coupling` the array is a functional unit of a
    processor core, whose instructions feed it word by word.
    """

    rows: Annotated[int, Ge(1)]
    columns: Annotated[int, Ge(1)]
    clock_hz: Annotated[float, Gt(0)]
    dataflow: Dataflow = "weight_stationary"
    schedule: Schedule = "double_buffered"
    drain: Drain = "shift_out"
    supports: Annotated[tuple[str, ...], MinLen(1)] = ("i8xi8",)
    accumulator_bits: Annotated[int, Ge(8)] = 32
    sparsity: Sparsity = "dense"
    sparse_unit: SparseUnit | None = None
    convention: ConventionName | None = None
    cell: Cell = field(default_factory=FixedCell)
    edge: Edge = field(default_factory=Edge)
    xnor: XnorUnit | None = None
    gating: Gating = "none"
    rescale: Rescaling = "vector_unit"
    coupling: Coupling | None = None

    @property
    def period_fs(self) -> int:
        """Clock period in femtoseconds."""
        return round(FEMTO / self.clock_hz)

    @property
    def pace(self) -> Pace:
        """How operands pass through where nobody packs them: one pair per cell and cycle."""
        return Pace()


@dataclass(frozen=True)
class VectorUnit:
    """Lanes that do one operation, or one multiply-accumulate, on one element per cycle.

    With `fallback` GEMMs of types the array does not support run here, with a warning; without it
    they are an error. `functions` name operations per element where they differ from the assumed
    ones in `hwmodels.vector`.
    """

    lanes: Annotated[int, Ge(1)]
    clock_hz: Annotated[float, Gt(0)]
    fallback: bool = False
    functions: tuple[FunctionCost, ...] = ()

    @property
    def period_fs(self) -> int:
        """Clock period in femtoseconds."""
        return round(FEMTO / self.clock_hz)


@dataclass(frozen=True)
class Buffer:
    """On-chip memory. `port_bytes` move between it and memory per array cycle.

    The side towards the array and the vector unit is as wide as they are. `port_bytes: null` takes
    the port out of the picture, for studies of the limits.
    """

    size_bytes: Annotated[int, Ge(64)]
    port_bytes: Annotated[int, Ge(1)] | None


@dataclass(frozen=True)
class Buffers:
    """The three buffers of the array."""

    input: Buffer
    weight: Buffer
    output: Buffer


@dataclass(frozen=True)
class MemoryStack:
    """Which memory is used: the path of its YAML, how many channels and how it is modelled.

    `fidelity: exact` and `sampled` need `timing`, the path of a timing table in a folder `timing`;
    energy of commands is in the file of that name in the folder `energy` beside it. `policy` names
    the rules of the controller, see `hwmodels.dram.policy`; `address_map` goes before that of the
    table, see `hwmodels.dram.fields`. No more than `prefetch` loads of an operand buffer are on
    their way at a time; null: as many as it has room for. With `efficiency`, the path of a table of
    shares of the peak that the controller was measured to reach (`hwmodels.measured_memory`), the
    roofline takes those of the memory in `timing` under `policy` and the map; null: the share that
    the technology states. `thermal` is the path of what heat
    crosses, see `hwmodels.thermal`: the DRAM is refreshed as often as its temperature under lasting
    work asks for.
    """

    technology: Annotated[str, MinLen(1)]
    channels: Annotated[int, Ge(1)]
    fidelity: Fidelity = "roofline"
    arbitration: Arbitration = "fifo"
    timing: Annotated[str, MinLen(1)] | None = None
    policy: Annotated[str, MinLen(1)] = "ramulator2"
    address_map: Annotated[str, MinLen(1)] | None = None
    thermal: Annotated[str, MinLen(1)] | None = None
    prefetch: Annotated[int, Ge(1)] | None = None
    efficiency: Annotated[str, MinLen(1)] | None = None


@dataclass(frozen=True)
class MappingChoice:
    """How work is laid on the chip.

    `objective` is what tilings and units of products are chosen for, see `hwmodels.costs`: time,
    energy or their product. `soonest` is time as well, but that of a product running alone with all
    its waits, see `hwmodels.lone`, instead of a closed form. `fusion: chunks` lets vector ops
    follow, chunk by chunk, whatever makes their operands, see `hwmodels.fusion`; `marked` only
    those that the program ties to a product. `im2col` says where windows of convolutions are
    unfolded, see `hwmodels.windows`. `resident_share` of the input and of the weight buffer keeps
    tensors from op to op; the rest streams, all of it where the share is 0.
    """

    objective: Objective = "soonest"
    fusion: Fusion = "chunks"
    im2col: Im2col = "buffer"
    resident_share: Annotated[float, Ge(0), Le(0.9)] = 0.25


@dataclass(frozen=True)
class Cores:
    """How many cores the chip has, and what they divide, see `hwmodels.division`.

    Each has an array, a vector unit, buffers and DMA engines of its own; all share the memory.
    `columns` divides every GEMM over its result columns, `heads` those of several products over the
    products, `utterances` gives each core whole calls.
    """

    count: Annotated[int, Ge(1)] = 1
    split: Split = "columns"


@dataclass(frozen=True)
class Architecture:
    """A chip with its memory stack; array, vector unit and buffers are those of each core."""

    name: Annotated[str, MinLen(1)]
    array: ProcessingArray
    vector_unit: VectorUnit
    buffers: Buffers
    memory: MemoryStack
    mapping: MappingChoice = MappingChoice()
    cores: Cores = Cores()


@dataclass(frozen=True)
class Vias:
    """Vias through the logic die to a memory on it: those of one channel, and their pitch."""

    per_channel: Annotated[int, Ge(1)]
    pitch_m: Figure
    source: Annotated[str, MinLen(1)]


@dataclass(frozen=True)
class MemoryTechnology:
    """A memory as the roofline model needs it; all figures are per channel.

    `peak_bytes_per_s: null` means unlimited. `efficiency` is the share of the peak that a long
    stream reaches. Addresses rotate over the channels every `interleave_bytes`; memory moves whole
    bursts of `burst_bytes`. `vias` are there where the memory lies on the logic die.
    """

    name: Annotated[str, MinLen(1)]
    channels: Annotated[int, Ge(1)]
    capacity_bytes: Annotated[int, Ge(1)]
    burst_bytes: Annotated[int, Ge(1)]
    interleave_bytes: Annotated[int, Ge(1)]
    organisation_source: Annotated[str, MinLen(1)]
    clock_hz: Figure
    peak_bytes_per_s: Figure | None
    efficiency: Figure
    latency_s: Figure
    read_j_per_bit: Figure
    write_j_per_bit: Figure
    background_w: Figure
    vias: Vias | None = None


def check(architecture: Architecture, technology: MemoryTechnology) -> None:
    """Raise ValueError with every rule between the fields that this chip and its memory break."""
    memory = architecture.memory
    problems = _array_problems(architecture.array)
    problems += check_functions(architecture.vector_unit.functions)
    if memory.channels > technology.channels:
        problems.append(
            f"memory.channels: found {memory.channels}, "
            f"but {technology.name} has {technology.channels}"
        )
    if not 0 < technology.efficiency.value <= 1:
        problems.append(
            f"{technology.name}: efficiency: found {technology.efficiency.value}, "
            "expected a share in (0, 1]"
        )
    if technology.peak_bytes_per_s is not None and technology.peak_bytes_per_s.value == 0:
        problems.append(f"{technology.name}: peak_bytes_per_s: found 0, expected more")
    if technology.interleave_bytes % technology.burst_bytes:
        problems.append(
            f"{technology.name}: interleave_bytes: found {technology.interleave_bytes}, expected a "
            f"multiple of burst_bytes, {technology.burst_bytes}"
        )
    problems += [
        f"{technology.name}: {name}: found low {figure.bounds[0]:g}, value {figure.value:g}, "
        f"high {figure.bounds[1]:g}, expected low <= value <= high"
        for name, figure in vars(technology).items()
        if isinstance(figure, Figure) and not _is_ordered(figure)
    ]
    if problems:
        raise ValueError("\n".join(f"{architecture.name}: {problem}" for problem in problems))


def _array_problems(array: ProcessingArray) -> list[str]:
    problems = check_cell(array.cell, array.supports, xnor=array.xnor)
    if array.drain == "none" and array.dataflow != "output_stationary":
        problems.append(
            f'array.drain: found "none", but {array.dataflow} moves results down the columns as it '
            'makes them; expected "shift_out", or "dataflow: output_stationary"'
        )
    if array.convention is not None:
        rules = CONVENTIONS[array.convention].rules
        if array.dataflow not in rules:
            problems.append(
                f'array.convention: found "{array.convention}", which counts '
                f"{', '.join(rules)} only; the array is {array.dataflow}"
            )
    if array.coupling is not None:
        problems += coupling_problems(
            array.coupling,
            rows=array.rows,
            columns=array.columns,
            how=f"{array.dataflow} {array.schedule}",
            a_bits=widest_bits(array.supports, 0),
            w_bits=widest_bits(array.supports, 1),
        )
        if array.cell.kind not in ("fixed", "float") or array.edge != Edge() or array.xnor:
            problems.append(
                "array.coupling: the core feeds one pair of operands per cell; found "
                f"{array.cell}, {array.edge} and {array.xnor}; expected a fixed or float cell, and "
                "neither edge nor xnor"
            )
    return problems


def _is_ordered(figure: Figure) -> bool:
    low, high = figure.bounds
    return low <= figure.value <= high
