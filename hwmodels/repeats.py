"""Products of a GEMM that repeat the first: its steps again, with every part of a tensor moved on.

Equal products in a row take the same blocks in the same time. Where their parts of each tensor lie
equally far apart, to the byte, the steps of the first are those of all.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hwmodels.gemm_blocks import Block
from hwmodels.memory import Descriptor
from hwmodels.operand_parts import GemmKind, input_part, weight_part
from hwmodels.pattern import Builder
from hwmodels.plan import Load, Step, Store


class Pitches(NamedTuple):
    """Bytes from a product's part to that of the next, of each tensor read and written."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


def pitches(kind: GemmKind, block: Block) -> Pitches | None:
    """Return how far apart the products of a GEMM lie, by its first block.

    None where they do not all do the same: there is only one, their zeros differ, or a tensor that
    comes or goes part by part does not fall into parts of equal whole bytes.
    """
    products, tensors = kind.products, kind.tensors
    operands, extras = tensors.reads[:2], tensors.reads[2:]
    moving = [
        *(read.size_bytes for read in operands if not read.is_here),
        *(read.size_bytes for read in extras if not read.is_kept),
        *(write.size_bytes for write in tensors.writes if write.is_stored),
        *(elements for _, elements in tensors.fused),
    ]
    if products == 1 or kind.nonzero is not None or any(size % products for size in moving):
        return None
    for read in operands:
        if read.runs is not None and read.size_bytes * read.runs.apart % read.elements:
            return None
    following = block._replace(product=block.product + 1)
    apart = [
        part(kind, following).base - part(kind, block).base for part in (input_part, weight_part)
    ]
    return Pitches(
        (*apart, *(read.size_bytes // products for read in extras)),
        tuple(write.size_bytes // products for write in tensors.writes),
    )


def repeat(builder: Builder, products: int, apart: Pitches) -> None:
    """Add the steps of all further products to those of product 0."""
    steps = tuple(builder.steps)
    for product in range(1, products):
        _add(builder, steps, product, apart)


def _add(builder: Builder, steps: Sequence[Step], product: int, apart: Pitches) -> None:
    """Add the steps of a product, given those of product 0.

    What is kept for the ops fused behind it has come with product 0.
    """
    reads = builder.tensors.reads
    moved: dict[Load, Load] = {}
    for step in steps:
        for load in step.loads:
            source = load.source
            if source < 2 or not reads[source].is_kept:
                descriptor = _on(load.descriptor, product * apart.reads[source])
                moved[load] = again = builder.load(source, descriptor)
                again.shift_cycles = load.shift_cycles
        builder.steps.append(
            Step(
                [moved[load] for load in step.loads if load in moved],
                [moved[load] for load in step.releases],
                step.array,
                step.vector,
                step.opens_bytes,
                step.closes_bytes,
                [_stored(builder, store, product, apart) for store in step.stores],
            )
        )


def _stored(builder: Builder, store: Store, product: int, apart: Pitches) -> Store:
    descriptor = _on(store.descriptor, product * apart.writes[store.target])
    return builder.store(store.target, descriptor)


def _on(descriptor: Descriptor, size_bytes: int) -> Descriptor:
    """Return a descriptor that begins so many bytes further on."""
    return Descriptor(
        descriptor.base + size_bytes,
        descriptor.bytes,
        descriptor.stride,
        descriptor.rows,
        descriptor.is_write,
        descriptor.requester,
        descriptor.priority,
    )
