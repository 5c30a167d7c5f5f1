"""Kernels stay inside their arrays, allocate little, and hold weights once, packed."""

import ctypes
import gc
import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import every_kernel as every
import numpy as np
import pytest

from kernels import panels
from kernels.registry import KERNELS

PAGE = mmap.PAGESIZE
WORKSPACE_BYTES = 1 << 20
"""What a call may allocate beside its results, however many rows it is given.

A block of 96 rows of the layer measured here is 0.2 MB as float32; the system counts in batches.
"""
PANEL_SHAPE = (768, 3072)
PANEL_FACTOR = 1.05
"""Panels of dense values may be so much larger than the packed values: sums of rows, padding."""
HELD_BITS = {3: 4}
"""Codes of 3 bits are held as nibbles; the plain kernels of other CPUs hold codes as bytes."""
PLACE_BYTES = 6
"""Bytes for the place of each nonzero or block of a pattern, and the padding of its run."""


def _guarded(array: np.ndarray, *, align: int = 1) -> np.ndarray:
    """Return a copy that ends where reading is forbidden, up to ``align - 1`` bytes before.

    The page before its first page is forbidden, too.
    """
    pages = -(-array.nbytes // PAGE) or 1
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for page in (start, start + (pages + 1) * PAGE):
        assert protect(page, PAGE, 0) == 0
    offset = ((pages + 1) * PAGE - array.nbytes) // align * align
    made = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    made[...] = array
    return made


def _guarded_panel(row, matrix) -> panels.LinearPanel:
    panel = every.panel_for(row, matrix)
    arguments = tuple(
        _guarded(item, align=64) if isinstance(item, np.ndarray) else item
        for item in panel.arguments
    )
    scale = _guarded(panel.scale) if panel.scale.size else panel.scale
    n, k = matrix.shape
    return panels.LinearPanel(row.name, "", n, k, panel.activation, arguments, scale, panel.run)


def call_between_forbidden_pages(name: str) -> None:
    """Run a kernel whose every array ends at a page that may not be touched."""
    row = KERNELS[name]
    for n, k in ((1, 1), (16, 128), (17, 37), (50, 131), (33, 400)):
        matrix = every.matrix_for(row, n, k, seed=n)
        panel = _guarded_panel(row, matrix)
        bias = _guarded(np.ones(n, np.float32))
        for rows in (1, 2, 5, 7, 97):
            operand = every.operand_for(row, rows, k, seed=rows)
            x = _guarded(operand.x)
            x_scale = None if operand.x_scale is None else _guarded(operand.x_scale)
            out = _guarded(np.zeros((rows, n), np.float32))
            panels.linear(panel, x, out, x_scale=x_scale, bias=bias)
            error = np.abs(out - (operand.values @ every.values_of(matrix).T + 1))
            assert (error <= every.bound(operand, matrix) + 4 * every.EPSILON).all(), (name, n, k)
            # rows of a longer matrix: nothing beyond the outputs is written
            wide = _guarded(np.full((rows, n + 3), np.nan, np.float32))
            panels.linear(panel, x, wide[:, :n], x_scale=x_scale, bias=bias)
            np.testing.assert_array_equal(wide[:, :n], out)
            assert np.isnan(wide[:, n:]).all(), (name, n, k, rows)


def test_no_kernel_reads_or_writes_beyond_its_arrays():
    """One process for all: the last name printed before it dies is the one that went too far."""
    every.for_each_kernel("test_memory.call_between_forbidden_pages")


def _resident_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def risen_bytes(call: Callable[[], object]) -> int:
    """Return how far resident memory rises above what stood before the call."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _resident_bytes("VmRSS")
    call()
    return _resident_bytes("VmHWM") - before


def workspace_bytes(name: str, rows: str) -> int:
    """Return what a kernel needs beside operands and results, by whichever way it ends."""
    row, many, (n, k) = KERNELS[name], int(rows), (16, 512)
    panel = every.panel_for(row, every.matrix_for(row, n, k, seed=1))
    operand = every.operand_for(row, many, k, seed=2)
    x, x_scale = operand.x, operand.x_scale
    del operand
    out, codes = np.ones((many, n), np.float32), np.ones((many, n), np.int8)
    codes_scale = np.ones(many, np.float32)

    def run(count: int, *, to_codes: bool) -> None:
        scale = None if x_scale is None else x_scale[:count]
        if to_codes:
            panels.linear(
                panel, x[:count], x_scale=scale, activation="gelu",
                codes=codes[:count], codes_scale=codes_scale[:count], quantize="row",
            )  # fmt: skip
        else:
            panels.linear(panel, x[:count], out[:count], x_scale=scale)

    found = 0
    for to_codes in (False, True):
        run(8, to_codes=to_codes)
        found = max(found, risen_bytes(partial(run, many, to_codes=to_codes)))
    return found


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from /proc"
)


@pytest.mark.slow
@needs_linux
def test_workspace_does_not_grow_with_rows():
    found = every.for_each_kernel("test_memory.workspace_bytes", 8192)
    assert list(found) == every.USABLE
    # 8192 rows of 512 columns are 4 MiB as codes, 8 as int16, 16 as float32
    large = {name: int(size) for name, size in found.items() if int(size) > WORKSPACE_BYTES}
    assert not large


@needs_linux
def test_the_measure_of_workspace_sees_one():
    code = "import test_memory as t, numpy as np; print(t.risen_bytes(lambda: np.ones(2**21)))"
    assert abs(int(every.python(code)) - 2**24) < 2**20  # the system counts in batches


@pytest.mark.parametrize("name", every.USABLE)
def test_weights_are_held_once_in_packed_form(name):
    row = KERNELS[name]
    matrix = every.matrix_for(row, *PANEL_SHAPE, seed=0)
    panel = every.panel_for(row, matrix)
    packed, places = every.packed_bytes(row, matrix)
    bits, _ = every.stored(row)
    held = HELD_BITS.get(bits, bits) if row.requires else max(bits, 8)
    packed = packed * held // bits
    scales = 0 if matrix.scale is None else 8 * matrix.scale.size  # and zero points, and sums
    allowed = PANEL_FACTOR * packed + PLACE_BYTES * places + 16 * PANEL_SHAPE[0] + scales + 4096
    assert panel.nbytes <= allowed
