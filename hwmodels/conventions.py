"""Cycles of a product as other simulators count them, each by its own published rule.

They differ by design: on one 16 x 16 output-stationary fold of k = 64, SCALE-Sim counts 93 and
STONNE 99, and an array that shifts its results out takes 110. None is what `hwmodels.array` counts,
and none carries its claim to equal the register-transfer model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hwmodels.dataflow import fold_count, fold_length

Rule = Callable[[int, int, int, int], int]


@dataclass(frozen=True)
class Convention:
    """A published way to count: cycles by dataflow from (folds F, length L, rows R, columns C).

    L is the number of elements that pass through the array in each fold, see
    `hwmodels.dataflow.fold_length`.
    """

    rules: dict[str, Rule]
    source: str


def _load_each(folds: int, length: int, rows: int, columns: int) -> int:
    return folds * (2 * rows + columns + length - 2) - 1


def _leave_results(folds: int, length: int, rows: int, columns: int) -> int:
    return folds * (rows + columns + length - 2) - 1


def _hide_preload(folds: int, length: int, rows: int, columns: int) -> int:
    last = rows + columns - 2 + max(length, 4)
    return 2 * rows - 1 + (folds - 1) * max(length, rows, 4) + last


def _one_instruction_each(folds: int, length: int, rows: int, columns: int) -> int:
    return folds * (rows + columns - 2 + length)


def _mesh(folds: int, length: int, rows: int, columns: int) -> int:
    return folds * (rows + columns + length + 3)


CONVENTIONS: dict[str, Convention] = {
    "scale_sim": Convention(
        {
            "weight_stationary": _load_each,
            "input_stationary": _load_each,
            "output_stationary": _leave_results,
        },
        "SCALE-Sim 3.0.0, stall-free compute cycles as it reports them: the formulas of Samajdar "
        "et al. 2020 less one cycle per product; results that stay are not drained",
    ),
    "onnxim": Convention(
        {"weight_stationary": _hide_preload, "output_stationary": _one_instruction_each},
        "ONNXim (Ham et al. 2024), src/SystolicWS.cc with one instruction per fold: the first "
        "weights take 2R - 1, later ones hide, no instruction is shorter than 4 rows; "
        "src/SystolicOS.cc gives the latency of one fold, here one after the other",
    ),
    "stonne": Convention(
        {"output_stationary": _mesh},
        "STONNE 22634b8b, OS_MESH with TEMPORALRN, T_K = 1: measured on 32^3, 64^3 and "
        "128 x 128 x 64 on 16 x 16",
    ),
}


def cycles_by(
    convention: str, dataflow: str, *, m: int, n: int, k: int, rows: int, columns: int
) -> int:
    """Return the stall-free cycles of one untiled product as `convention` counts them.

    Raises ValueError that lists what there is for an unknown convention, and for a dataflow that
    the convention does not have.

    Example:
        >>> shape = {"m": 499, "n": 768, "k": 768, "rows": 128, "columns": 128}
        >>> cycles_by("scale_sim", "weight_stationary", **shape)
        31715
        >>> cycles_by("onnxim", "weight_stationary", **shape)
        18473

    """
    found = CONVENTIONS.get(convention)
    if found is None:
        names = ", ".join(CONVENTIONS)
        raise ValueError(f'convention: found "{convention}", expected one of {names}')
    if dataflow not in found.rules:
        names = ", ".join(found.rules)
        raise ValueError(f'convention {convention}: found "{dataflow}", it counts {names} only')
    folds = fold_count(dataflow, m=m, n=n, k=k, rows=rows, columns=columns)
    return found.rules[dataflow](folds, fold_length(dataflow, m=m, n=n, k=k), rows, columns)
