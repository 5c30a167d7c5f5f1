"""What the overlapping windows of a convolution cost, by where they are unfolded (im2col).

`buffer`: the input buffer holds rows as memory does and the array reads windows from it; memory
delivers each row once per pass, and windows cost reads of the buffer. `dma`: the DMA engine unfolds
while it loads, so that memory is read again for every window that shares a row, and the buffer
holds windows. `materialised`: windows are written out before the product, which then reads them
like any other operand. Lanes that take all groups at once (`hwmodels.lane_steps`) read windows from
the buffer unless they are materialised.
"""

from dataclasses import replace

from hwmodels.architecture import Im2col
from hwmodels.workload import NUMBER_BITS, Gemm, TensorRef, Transfer, WorkItem, Workload


def loaded_bytes(gemm: Gemm, im2col: Im2col) -> int:
    """Return the bytes that one pass over the activations of a GEMM loads.

    Example: windows of 3 taps, 2 apart, over 9 positions of one channel.
        >>> x, w = TensorRef("x", "input", (1, 9), 72), TensorRef("w", "constant", (5, 3), 120)
        >>> conv = Gemm("c", "conv", 4, 5, 3, x, w, x, "i8", "i8", "i32", window_elements=12)
        >>> loaded_bytes(conv, "buffer"), loaded_bytes(conv, "dma")
        (9, 12)

    """
    if im2col != "dma":
        return gemm.a.size_bytes
    return max(gemm.a.size_bytes, gemm.window_elements * NUMBER_BITS[gemm.a_number] // 8)


def materialised(workload: Workload) -> Workload:
    """Return the workload with a transfer before each convolution that writes out its windows.

    What has no overlapping windows stays as it is.
    """
    if not any(isinstance(item, Gemm) and item.window_elements for item in workload.items):
        return workload
    return Workload(workload.name, tuple(one for item in workload.items for one in _unfold(item)))


def _unfold(item: WorkItem) -> tuple[WorkItem, ...]:
    if not isinstance(item, Gemm) or item.window_elements <= item.a.elements:
        return (item,)
    shape = (item.count, item.m, item.k)
    bits = item.count * item.m * item.k * NUMBER_BITS[item.a_number]
    windows = TensorRef(f"{item.name}.windows", "activation", shape, bits)
    unfolding = Transfer(
        f"{item.name}.im2col",
        "im2col",
        (item.a,),
        (windows,),
        item.a.size_bytes,
        windows.size_bytes,
    )
    return unfolding, replace(item, a=windows, window_elements=0)
