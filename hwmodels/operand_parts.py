"""Parts of operands and results that one step of a GEMM moves, as descriptors."""

from typing import NamedTuple

from hwmodels.architecture import ProcessingArray
from hwmodels.descriptors import rows, run
from hwmodels.gemm_blocks import Block
from hwmodels.mapping import Mapping
from hwmodels.memory import Descriptor
from hwmodels.pattern import Tensors, Write
from hwmodels.workload import Nonzero

Part = tuple[int, int]  # start and stop


class GemmKind(NamedTuple):
    """All that the pattern of a GEMM depends on; the first two reads are its operands.

    The sum of `terms` products is `k` places long on `array`, which packs them. Where
    `is_rescaling` the vector unit rescales the results of each scale group. `nonzero` is the zero
    pattern of the weights where the array leaves zeros out.
    """

    m: int
    n: int
    k: int
    terms: int
    products: int
    is_on_array: bool
    is_rescaling: bool
    array: ProcessingArray
    mapping: Mapping
    tensors: Tensors
    nonzero: Nonzero | None


def input_part(kind: GemmKind, block: Block) -> Descriptor:
    """Return the bytes of the activations of a block.

    Row-major activations give one run over all of k, or one run per row for a chunk; heads that lie
    side by side always one run per row. A convolution reads its share of the rows before im2col,
    without the rows that two tiles share.
    """
    along = (0, kind.k) if kind.mapping.input_unit == "whole_k" else block.k
    if by_runs := _in_runs(kind, 0, block, {kind.k: (block.m, along)}):
        return by_runs
    read, total = kind.tensors.reads[0], kind.products * kind.m * kind.k
    first = (block.product * kind.m + block.m[0]) * kind.k
    if kind.mapping.input_unit == "whole_k":
        stop = first + block.rows * kind.k
        return run(read.size_bytes, first=first, stop=stop, total=total, requester="input")
    if read.elements == kind.products * kind.m * kind.terms:
        return rows(
            read.size_bytes,
            total,
            first=first + block.k[0],
            number=block.rows,
            pitch=kind.k,
            width=block.depth,
            requester="input",
        )
    first += block.rows * block.k[0]
    stop = first + block.rows * block.depth
    return run(read.size_bytes, first=first, stop=stop, total=total, requester="input")


def weight_part(kind: GemmKind, block: Block) -> Descriptor:
    """Return the bytes of the weights of a block: constants lie tile by tile, others by row.

    Values of heads that lie side by side have their runs along n, keys along k.
    """
    depth = (0, kind.k) if kind.mapping.weight_unit == "whole_k" else block.k
    lies = {kind.n: (depth, block.n), kind.k: (block.n, depth)}
    if by_runs := _in_runs(kind, 1, block, lies):
        return by_runs
    read, total = kind.tensors.reads[1], kind.products * kind.n * kind.k
    first = (block.product * kind.n + block.n[0]) * kind.k
    if kind.mapping.weight_unit == "whole_k":
        stop = first + block.columns * kind.k
        return run(read.size_bytes, first=first, stop=stop, total=total, requester="weight")
    if not read.is_constant and read.elements == kind.products * kind.n * kind.terms:
        return rows(
            read.size_bytes,
            total,
            first=first + block.k[0],
            number=block.columns,
            pitch=kind.k,
            width=block.depth,
            requester="weight",
        )
    first += block.columns * block.k[0]
    stop = first + block.columns * block.depth
    return run(read.size_bytes, first=first, stop=stop, total=total, requester="weight")


def result_part(kind: GemmKind, write: Write, block: Block) -> Descriptor:
    """Return the bytes of the results of a block: one run of whole rows, or one per row."""
    total = kind.products * kind.m * kind.n
    first = (block.product * kind.m + block.m[0]) * kind.n
    if write.elements == total and block.columns < kind.n:
        return rows(
            write.size_bytes,
            total,
            first=first + block.n[0],
            number=block.rows,
            pitch=kind.n,
            width=block.columns,
            requester="output",
        )
    first += block.rows * block.n[0]
    stop = first + block.rows * block.columns
    return run(write.size_bytes, first=first, stop=stop, total=total, requester="output")


def _in_runs(
    kind: GemmKind, source: int, block: Block, lies: dict[int, tuple[Part, Part]]
) -> Descriptor | None:
    """Return the part of an operand whose matrices lie in runs, None where they lie in order.

    `lies` says, by the length of a run, which part of a block goes from run to run and which along
    them.
    """
    read = kind.tensors.reads[source]
    if read.runs is None or read.runs.elements not in lies or kind.k != kind.terms:
        return None
    across, along = lies[read.runs.elements]
    return rows(
        read.size_bytes,
        read.elements,
        first=block.product * read.runs.apart + across[0] * read.runs.pitch + along[0],
        number=across[1] - across[0],
        pitch=read.runs.pitch,
        width=along[1] - along[0],
        requester="input" if source == 0 else "weight",
    )
