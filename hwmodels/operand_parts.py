"""Parts of operands and results that one step of a GEMM moves, as descriptors."""

from typing import NamedTuple

from hwmodels.architecture import ProcessingArray
from hwmodels.descriptors import Requester, rows, run
from hwmodels.gemm_blocks import Block
from hwmodels.mapping import Mapping
from hwmodels.memory import Descriptor
from hwmodels.pattern import Tensors, Write
from hwmodels.workload import Nonzero

Part = tuple[int, int]  # start and stop
REQUESTERS: tuple[Requester, ...] = ("input", "weight")
"""Who asks for each operand."""


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
    if by_runs := _in_runs(kind, 0, block, {kind.k: (block.m, block.k)}):
        return by_runs
    is_by_row = kind.tensors.reads[0].elements == kind.products * kind.m * kind.terms
    return _operand(kind, 0, block, kind.m, block.m, is_by_row=is_by_row)


def weight_part(kind: GemmKind, block: Block) -> Descriptor:
    """Return the bytes of the weights of a block: constants lie tile by tile, others by row.

    Values of heads that lie side by side have their runs along n, keys along k.
    """
    lies = {kind.n: (block.k, block.n), kind.k: (block.n, block.k)}
    if by_runs := _in_runs(kind, 1, block, lies):
        return by_runs
    read = kind.tensors.reads[1]
    is_by_row = not read.is_constant and read.elements == kind.products * kind.n * kind.terms
    return _operand(kind, 1, block, kind.n, block.n, is_by_row=is_by_row)


def _operand(
    kind: GemmKind,
    source: int,
    block: Block,
    across: int,
    part: Part,
    *,
    is_by_row: bool,
) -> Descriptor:
    """Return a part of `across` vectors of an operand, each over all of k or a chunk of it.

    A chunk is one run per vector where these lie one after the other, else one run tile by tile.
    """
    read, total = kind.tensors.reads[source], kind.products * across * kind.k
    number, requester = part[1] - part[0], REQUESTERS[source]
    first = (block.product * across + part[0]) * kind.k
    if block.depth == kind.k:
        stop = first + number * kind.k
        return run(read.size_bytes, first=first, stop=stop, total=total, requester=requester)
    if is_by_row:
        return rows(
            read.size_bytes,
            total,
            first=first + block.k[0],
            number=number,
            pitch=kind.k,
            width=block.depth,
            requester=requester,
        )
    first += number * block.k[0]
    stop = first + number * block.depth
    return run(read.size_bytes, first=first, stop=stop, total=total, requester=requester)


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
        requester=REQUESTERS[source],
    )
