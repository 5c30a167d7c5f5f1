"""Parts of tensors as descriptors, from the first byte: shares of a run, and rows with a pitch."""

from typing import Literal

from hwmodels.memory import Descriptor

Requester = Literal["input", "weight", "output"]
PRIORITY: dict[Requester, int] = {"input": 0, "weight": 1, "output": 2}


def run(
    size_bytes: int, *, first: int, stop: int, total: int, requester: Requester, base: int = 0
) -> Descriptor:
    """Return the share [first, stop) of `total` positions of `size_bytes` bytes as one run.

    Neighbouring shares meet at the same byte, so all shares together are all bytes, once.

    Example:
        >>> run(10, first=1, stop=2, total=4, requester="input").base
        2

    """
    start_byte = size_bytes * first // total
    return Descriptor(
        base + start_byte,
        size_bytes * stop // total - start_byte,
        is_write=requester == "output",
        requester=requester,
        priority=PRIORITY[requester],
    )


def rows(
    size_bytes: int,
    elements: int,
    *,
    first: int,
    number: int,
    pitch: int,
    width: int,
    requester: Requester,
) -> Descriptor:
    """Return `number` runs of `width` elements, `pitch` elements apart, from element `first`.

    `elements` of them make up the tensor of `size_bytes` bytes.
    """
    return Descriptor(
        size_bytes * first // elements,
        -(-size_bytes * width // elements),
        stride=size_bytes * pitch // elements,
        rows=number,
        is_write=requester == "output",
        requester=requester,
        priority=PRIORITY[requester],
    )
