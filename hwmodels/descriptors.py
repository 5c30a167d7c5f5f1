"""Parts of tensors as descriptors: shares of a run of bytes, and rows with a pitch."""

from typing import Literal

from hwmodels.memory import Descriptor
from hwmodels.workload import TensorRef

Requester = Literal["input", "weight", "output"]
PRIORITY: dict[Requester, int] = {"input": 0, "weight": 1, "output": 2}


def run(
    ref: TensorRef, base: int, *, first: int, stop: int, total: int, requester: Requester
) -> Descriptor:
    """Return the share [first, stop) of `total` positions of a tensor at `base` as one run.

    Neighbouring shares meet at the same byte, so all shares together are the tensor, once.
    """
    start_byte = ref.size_bytes * first // total
    stop_byte = ref.size_bytes * stop // total
    return Descriptor(
        base + start_byte,
        stop_byte - start_byte,
        is_write=requester == "output",
        requester=requester,
        priority=PRIORITY[requester],
    )


def rows(
    ref: TensorRef,
    base: int,
    *,
    first: int,
    number: int,
    pitch: int,
    width: int,
    requester: Requester,
) -> Descriptor:
    """Return `number` runs of `width` elements, `pitch` elements apart, from element `first`."""
    total = ref.elements
    return Descriptor(
        base + ref.size_bytes * first // total,
        -(-ref.size_bytes * width // total),
        stride=ref.size_bytes * pitch // total,
        rows=number,
        is_write=requester == "output",
        requester=requester,
        priority=PRIORITY[requester],
    )
