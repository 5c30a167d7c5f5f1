"""Operands, meaning and limits for whatever linear kernel is registered.

All tests of the registry draw on this file, so that a new kernel is tested without further edits.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kernels import encodings as enc
from kernels.bits import CODE_LIMITS, pack_bitmask
from kernels.panels import LinearPanel
from kernels.registry import KERNELS, Kernel, Matrix

ROOT = Path(__file__).resolve().parents[2]
EPSILON = float(np.finfo(np.float32).eps)
GROUP = 32
USABLE = [row.name for row in KERNELS.values() if row.op == "linear" and row.is_usable()]


def stored(row: Kernel) -> tuple[int, str]:
    """Bits of a stored value, and what follows them in the name: "", "group" or a pattern."""
    kind, _, form = row.values.partition("_")
    return {"f32": 32, "b1": 1}.get(kind) or int(kind[1:]), form


def matrix_for(row: Kernel, n: int, k: int, seed: int) -> Matrix:
    """Return a random matrix of the row's kind; a pattern has 2 of 4 columns at most."""
    rng = np.random.default_rng(seed)
    bits, form = stored(row)
    keep = np.ones((n, k), bool)
    if form not in {"", "group"}:
        keep = np.isin(np.arange(k) % 4, rng.integers(0, 4, 2)) & (rng.random((n, k)) < 0.8)
    if bits == 32:
        return Matrix((rng.standard_normal((n, k)) * keep).astype(np.float32), group=k)
    if bits == 1:
        signs = rng.choice(np.array([-1, 1], np.int8), (n, k))
        return Matrix(signs, rng.uniform(0.1, 1, (n, 1)).astype(np.float32), group=k)
    limit = CODE_LIMITS[bits]
    if form == "group":
        groups = -(-k // GROUP)
        codes = rng.integers(-limit - 1, limit + 1, (n, k)).astype(np.int8)
        zero = rng.integers(-limit - 1, limit + 1, (n, groups)).astype(np.int8)
        return Matrix(codes, rng.uniform(0.1, 1, (n, groups)).astype(np.float32), zero, GROUP)
    codes = (rng.integers(-limit, limit + 1, (n, k)) * keep).astype(np.int8)
    return Matrix(codes, rng.uniform(0.1, 1, (n, 1)).astype(np.float32), group=k)


def panel_for(row: Kernel, matrix: Matrix) -> LinearPanel:
    """Return a panel for this kernel, whatever the choice of kernels would say."""
    n, k = matrix.shape
    has_scale = not row.values.startswith("f32") and not row.values.endswith("_group")
    scale = matrix.scale[:, 0].copy() if has_scale else np.zeros(0, np.float32)
    arguments = row.layout.pack(matrix)
    return LinearPanel(row.name, "asked for", n, k, row.activation, arguments, scale, row.run)


def values_of(matrix: Matrix) -> np.ndarray:
    """float64 ``(n, k)`` that the matrix stands for."""
    table = matrix.values.astype(np.float64)
    if matrix.scale is None:
        return table
    k = matrix.shape[1]
    column = np.arange(k) // (matrix.group if matrix.scale.shape[1] > 1 else k)
    if matrix.zero_point is not None:
        table -= matrix.zero_point.astype(np.float64)[:, column]
    return table * matrix.scale.astype(np.float64)[:, column]


@dataclass(frozen=True)
class Operand:
    """Activations as a kernel takes them, their scale, and the float64 values ``(T, k)``."""

    x: np.ndarray
    x_scale: np.ndarray | None
    values: np.ndarray


def operand_for(row: Kernel, rows: int, k: int, seed: int) -> Operand:
    """Return random activations of the row's kind with one scale a row."""
    rng = np.random.default_rng(seed)
    if row.activation == "f32":
        x = rng.standard_normal((rows, k)).astype(np.float32)
        return Operand(x, None, x.astype(np.float64))
    scale = rng.uniform(0.1, 1, rows).astype(np.float32)
    if row.activation in {"b1", "u1"}:
        flags = rng.random((rows, k)) < 0.5
        codes = flags.astype(np.float64) if row.activation == "u1" else np.where(flags, 1.0, -1.0)
        return Operand(pack_bitmask(flags), scale, codes * scale[:, None].astype(np.float64))
    limit = {"i8": 127, "i7": 63}[row.activation]
    codes = rng.integers(-limit, limit + 1, (rows, k)).astype(np.int8)
    return Operand(codes, scale, codes * scale[:, None].astype(np.float64))


def bound(operand: Operand, matrix: Matrix) -> np.ndarray:
    """Largest error of any order of float32 operations: (k + 8) eps sum |x| |w|."""
    table = np.abs(values_of(matrix))
    if matrix.zero_point is not None:  # codes and zero points are summed apart
        codes, zero = (np.abs(a.astype(np.float64)) for a in (matrix.values, matrix.zero_point))
        limit = codes.max() + zero.max(axis=1, keepdims=True)
        table = np.broadcast_to(limit * matrix.scale.max(axis=1, keepdims=True), matrix.shape)
    return (matrix.shape[1] + 8) * EPSILON * (np.abs(operand.values) @ table.T) + 1e-30


def packed_bytes(row: Kernel, matrix: Matrix) -> tuple[int, int]:
    """Bytes of the values that must be held, and how many places say where they stand.

    A dense form holds all values and no places, a block form (``16x1``) all of its kept blocks,
    any other pattern the nonzeros, each with a place.
    """
    bits, form = stored(row)
    block = re.fullmatch(r"(\d+)x(\d+)", form)
    if form in {"", "group"}:
        count, places = matrix.values.size, 0
    elif block:
        size = int(block[1]), int(block[2])
        places = enc.encode_block_sparse(matrix.values.astype(np.float32), block=size).columns.size
        count = places * size[0] * size[1]
    else:
        count = places = int(np.count_nonzero(matrix.values))
    return -(-count * bits // 8), places


def every_encoding(n: int, k: int, seed: int) -> dict[str, enc.Encoding]:
    """One or more encodings of every kind, by a name that says which."""
    rng = np.random.default_rng(seed)
    keep = np.isin(np.arange(k) % 4, (1, 2)) & (rng.random((n, k)) < 0.6)
    floats = (rng.standard_normal((n, k)) * keep).astype(np.float32)
    scale = rng.uniform(0.1, 1, (n, 1)).astype(np.float32)
    grouped = rng.uniform(0.1, 1, (n, -(-k // GROUP))).astype(np.float32)
    made: dict[str, enc.Encoding] = {
        "dense": enc.encode_dense(floats),
        "binary": enc.encode_binary(floats > 0, scale),
        "csr": enc.encode_csr(floats),
        "csc": enc.encode_csc(floats),
        "coo": enc.encode_coo(floats),
        "bitmap": enc.encode_bitmap(floats),
        "block_sparse": enc.encode_block_sparse(floats, block=(16, 1)),
        "block_sparse_4x4": enc.encode_block_sparse(floats, block=(4, 4)),
        "n_of_m": enc.encode_n_of_m(floats, n_kept=2, m=4),
    }
    for bits, limit in CODE_LIMITS.items():
        codes = (rng.integers(-limit, limit + 1, (n, k)) * keep).astype(np.int8)
        zero = rng.integers(-limit - 1, limit + 1, grouped.shape)
        made |= {
            f"bitpacked_{bits}": enc.encode_bitpacked(codes, scale, bits=bits),
            f"bitpacked_{bits}_group": enc.encode_bitpacked(codes, grouped, bits=bits, group=GROUP),
            f"bitpacked_{bits}_zero": enc.encode_bitpacked(
                codes, grouped, bits=bits, group=GROUP, zero_point=zero
            ),
            f"csr_{bits}": enc.encode_csr(codes, scale, bits=bits),
            f"csc_{bits}": enc.encode_csc(codes, scale, bits=bits),
            f"coo_{bits}": enc.encode_coo(codes, scale, bits=bits),
            f"bitmap_{bits}": enc.encode_bitmap(codes, scale, bits=bits),
            f"block_sparse_{bits}": enc.encode_block_sparse(codes, scale, block=(16, 1), bits=bits),
            f"n_of_m_{bits}": enc.encode_n_of_m(codes, scale, n_kept=2, m=4, bits=bits),
        }
    return made


def python(code: str, folder: Path = ROOT, **variables: str) -> str:
    """Return what a new Python prints that finds the package in ``folder`` and these tests."""
    paths = os.pathsep.join((str(folder), str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        env=environment, capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout.strip()


def for_each_kernel(function: str, *arguments: object, **variables: str) -> dict[str, str]:
    """Call ``module.function(name, *arguments)`` for every kernel in one new Python.

    Returns what each returned, as text. What raises or kills the process fails, with the names.
    """
    module = function.partition(".")[0]
    given = "".join(f", {argument!r}" for argument in arguments)
    code = f"""
import traceback, every_kernel, {module}
for name in every_kernel.USABLE:
    print(name, end="\\t", flush=True)
    try:
        print({function}(name{given}), flush=True)
    except Exception:
        print("FAILED", traceback.format_exc().replace(chr(10), chr(11)), flush=True)
"""
    lines = python(code, **variables).split("\n")
    found = dict(line.split("\t", 1) for line in lines)
    failed = {name: text.replace(chr(11), "\n") for name, text in found.items() if "FAILED" in text}
    assert not failed, "\n".join(f"{name}: {text}" for name, text in failed.items())
    return found
