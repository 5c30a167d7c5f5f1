"""What a chip's policy for zeros asks of the chip, and which zero pattern it sees of a GEMM."""

from functools import lru_cache

import numpy as np

from hwmodels.architecture import ProcessingArray, SparseUnit
from hwmodels.skipping import POLICIES
from hwmodels.sparsity import full_mask, uniform_mask
from hwmodels.workload import Gemm, Nonzero


def sparsity_problems(array: ProcessingArray) -> list[str]:
    """Return a line per mistake in the `sparsity` and `sparse_unit` of an array."""
    policy, unit, name = POLICIES[array.sparsity], array.sparse_unit, array.sparsity
    problems: list[str] = []
    if array.dataflow not in policy.dataflows:
        problems.append(
            f'array.sparsity: found "{name}", which {policy.does}; expected '
            f'"dataflow: {" or ".join(policy.dataflows)}", found {array.dataflow}'
        )
    if unit is None:
        if policy.needs is not None:
            keys = ", ".join(("decoded_per_cycle", *policy.needs))
            problems.append(f"array.sparse_unit: missing, {name} needs it with {keys}")
        return problems
    if policy.needs is None:
        return [*problems, f"array.sparse_unit: found one, but {name} uses none"]
    for key in ("banks", "kept", "run"):
        is_there = getattr(unit, key) is not None
        if key in policy.needs and not is_there:
            problems.append(f"array.sparse_unit.{key}: missing, {name} needs it")
        if is_there and key not in policy.needs:
            problems.append(f"array.sparse_unit.{key}: found one, but {name} uses none")
    return problems + _run_problems(array, unit)


def _run_problems(array: ProcessingArray, unit: SparseUnit) -> list[str]:
    if array.sparsity != "nm" or unit.kept is None or unit.run is None:
        return []
    problems: list[str] = []
    if unit.kept >= unit.run:
        problems.append(
            f"array.sparse_unit.kept: found {unit.kept}, expected less than run, {unit.run}"
        )
    if array.rows % unit.run:
        problems.append(
            f"array.rows: found {array.rows}, expected a multiple of array.sparse_unit.run, "
            f"{unit.run}, so that no run lies in two blocks of a sum"
        )
    return problems


def pattern_of(gemm: Gemm, array: ProcessingArray) -> Nonzero | None:
    """Return the zero pattern that the array's policy works with, None where it computes zeros.

    It computes them where the sum has scale groups, and where a policy asks for a pattern of single
    operands but words hold several. Otherwise a word of several is zero when all of them are. The
    pattern has `gemm.n` rows for every product, or once where all products are alike. Weights
    without zeros, and second operands that are no constants, have a full one. A bare density is
    `assumed uniform`: every weight is zero or not by itself, drawn with a fixed seed; `nm` takes
    weights of density up to N / M as pruned to its pattern, N in every M.
    """
    depth = array.pace.depth
    if array.sparsity == "dense" or why_dense(array):
        return None
    found = _operands(gemm, array)
    return found if depth == 1 else _words(found, gemm.k, depth)


def why_dense(array: ProcessingArray) -> str:
    """Return why the array's policy cannot work at its pace, empty when it can."""
    name, pace = array.sparsity, array.pace
    if name != "dense" and pace.group:
        return f"{name} does not take a sum in scale groups: computed dense"
    if POLICIES[name].is_choosy and pace.depth > 1:
        return f"{name} does not take words of several operands: computed dense"
    return ""


def _operands(gemm: Gemm, array: ProcessingArray) -> Nonzero:
    """Return the zero pattern of a GEMM's weights, operand by operand."""
    if isinstance(gemm.nonzero, Nonzero):
        return gemm.nonzero
    if gemm.nonzero is None:
        return _full(gemm.n, gemm.k)
    unit = array.sparse_unit
    if array.sparsity != "nm" or unit is None or not unit.kept or not unit.run:
        return _uniform(gemm.n, gemm.k, gemm.nonzero)
    if gemm.nonzero <= unit.kept / unit.run:
        return _regular(gemm.n, gemm.k, unit.kept, unit.run)
    return _uniform(gemm.n, gemm.k, gemm.nonzero)


@lru_cache(maxsize=4096)
def _words(nonzero: Nonzero, k: int, depth: int) -> Nonzero:
    """Return where words of `depth` weights along k are not zero."""
    words = -(-k // depth)
    bits = np.zeros((len(nonzero.mask), words * depth), np.bool_)
    bits[:, :k] = np.unpackbits(nonzero.mask, axis=1, count=k, bitorder="little")
    mask = np.packbits(bits.reshape(-1, words, depth).any(axis=2), axis=1, bitorder="little")
    return Nonzero(mask, f"{nonzero.digest} of {k} by {depth}")


@lru_cache(maxsize=256)
def _full(n: int, k: int) -> Nonzero:
    return Nonzero(full_mask(n, k), f"full {n} x {k}")


@lru_cache(maxsize=256)
def _uniform(n: int, k: int, density: float) -> Nonzero:
    mask = uniform_mask(n, k, density=density, generator=np.random.default_rng(0))
    return Nonzero(mask, f"uniform {n} x {k} at {density!r}")


@lru_cache(maxsize=256)
def _regular(n: int, k: int, kept: int, run: int) -> Nonzero:
    row = np.packbits(np.arange(k) % run < kept, bitorder="little")
    return Nonzero(np.tile(row, (n, 1)), f"{kept} of {run}, {n} x {k}")
