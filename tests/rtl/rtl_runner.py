"""Products on the Verilog arrays of this folder, by Icarus Verilog or Verilator.

One call compiles a top module with one bench per array and runs all cases of all of them, because
starting a simulator costs more than a small product.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCES = sorted(Path(__file__).parent.glob("*.v"))
SIMULATORS = [name for name in ("iverilog", "verilator") if shutil.which(name)]

# How an operand enters the array: bits, in two's complement. An unsigned byte gets a sign of 0.
OPERAND_BITS = {"i8": 8, "u8": 9, "i4": 4, "i2": 2, "i1": 1}


@dataclass(frozen=True)
class Engine:
    """One array: where operands lie, its size, and its operands as (activations, weights).

    `per_cell` pairs of operands, side by side along k, are multiplied in each cell and cycle.
    """

    dataflow: str
    schedule: str
    drain: str
    rows: int
    columns: int
    operands: tuple[str, str]
    per_cell: int

    @property
    def is_left_weights(self) -> bool:
        """Whether weights enter from the left: they do where activations stay."""
        return self.dataflow == "input_stationary"

    def parameters(self, *, words: int, folds: int, limit: int) -> dict[str, int]:
        """Return the parameters of the bench."""
        bits = [OPERAND_BITS[operand] for operand in self.operands]
        left, top = reversed(bits) if self.is_left_weights else bits
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "LANES": self.per_cell,
            "LEFT_BITS": left,
            "TOP_BITS": top,
            "OUTPUT_STATIONARY": self.dataflow == "output_stationary",
            "DOUBLE": self.schedule == "double_buffered",
            "DRAIN": self.drain == "shift_out",
            "WORDS": words,
            "FOLDS": folds,
            "LIMIT": limit,
        }


@dataclass(frozen=True, eq=False)
class Case:
    """A product a[m, k] w[n, k]^T and which folds are computed, in the engine's order."""

    a: NDArray[np.int64]
    w: NDArray[np.int64]
    occupied: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Cycles from the first word in to the last result out, and result[m, n]."""

    cycles: int
    result: NDArray[np.int64]


def run(
    runs: list[tuple[Engine, list[Case]]], *, folder: Path, simulator: str
) -> list[list[Outcome]]:
    """Return the outcomes of all cases on each engine; files are left in `folder`."""
    benches = []
    for number, (engine, cases) in enumerate(runs):
        (folder / f"cases{number}.txt").write_text("".join(_case(engine, case) for case in cases))
        operands = [side for case in cases for side in (case.a, case.w)]
        parameters = engine.parameters(
            words=max(
                *(side.size for side in operands),
                *(len(case.a) * len(case.w) for case in cases),
            ),
            folds=max(case.occupied.size for case in cases),
            limit=10 * max(_serial_work(engine, case) for case in cases),
        )
        values = [f".{name}({int(value)})" for name, value in parameters.items()]
        values += [f'.CASES("cases{number}.txt")', f'.RESULTS("results{number}.txt")']
        benches.append(f"  bench #({', '.join(values)}) bench{number}();\n")
    (folder / "top.v").write_text(
        f"`timescale 1ns / 1ps\nmodule top;\n{''.join(benches)}endmodule\n"
    )
    _simulate(folder, simulator)
    return [
        _outcomes(engine, cases, folder / f"results{number}.txt")
        for number, (engine, cases) in enumerate(runs)
    ]


def _simulate(folder: Path, simulator: str) -> None:
    sources = [str(path) for path in [folder / "top.v", *SOURCES]]
    if simulator == "iverilog":
        commands = [["iverilog", "-g2012", "-s", "top", "-o", "top.vvp", *sources]]
        commands += [["vvp", "-N", "top.vvp"]]
    else:
        flags = ["--binary", "-O3", "--x-assign", "fast", "-Wno-lint", "-Wno-style"]
        commands = [["verilator", *flags, "--top-module", "top", *sources]]
        commands += [["./obj_dir/Vtop"]]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])} failed:\n{done.stdout}{done.stderr}")


def _case(engine: Engine, case: Case) -> str:
    """Return a case as the bench reads it: sizes, occupied folds, left and top words."""
    activations, weights = engine.operands
    sides = [_words(case.a, activations, engine), _words(case.w, weights, engine)]
    is_signs = set(engine.operands) == {"i1"}
    if engine.is_left_weights:
        sides.reverse()
    left, top = sides
    k = case.a.shape[1]
    if is_signs:  # lanes of the last word that hold nothing must differ
        top[:, -1] |= _empty_lanes(k, engine.per_cell)
    sizes = [len(left), len(top), left.shape[1], case.occupied.size, k]
    lines = [" ".join(str(size) for size in sizes)]
    lines.append(" ".join(str(int(bit)) for bit in case.occupied))
    lines += [" ".join(f"{word:x}" for word in row) for row in (*left, *top)]
    return "\n".join(lines) + "\n"


def _words(values: NDArray[np.int64], operand: str, engine: Engine) -> NDArray[np.uint64]:
    """Return values[rows, k] as uint64[rows, words], the first in the lowest bits."""
    bits, per_cell = OPERAND_BITS[operand], engine.per_cell
    if bits * per_cell > 64:
        raise ValueError(f"{per_cell} operands of {bits} bits do not fit a word of 64")
    codes = (values > 0).astype(np.int64) if bits == 1 else values & ((1 << bits) - 1)
    rows, k = codes.shape
    lanes = np.pad(codes, ((0, 0), (0, -k % per_cell))).astype(np.uint64)
    shifts = np.arange(per_cell, dtype=np.uint64) * np.uint64(bits)
    return np.bitwise_or.reduce(lanes.reshape(rows, -1, per_cell) << shifts, axis=2)


def _empty_lanes(k: int, per_cell: int) -> np.uint64:
    used = (k - 1) % per_cell + 1
    return np.uint64(sum(1 << lane for lane in range(used, per_cell)))


def _serial_work(engine: Engine, case: Case) -> int:
    """Return an ample number of clocks for a case: every dimension in turn for every fold."""
    size = engine.rows + engine.columns + len(case.a) + len(case.w) + case.a.shape[1]
    return (case.occupied.size + 1) * size


def _outcomes(engine: Engine, cases: list[Case], path: Path) -> list[Outcome]:
    outcomes = []
    for case, line in zip(cases, path.read_text().splitlines(), strict=True):
        if "x" in line:
            raise RuntimeError(f"{engine}: a result is undefined")
        cycles, *values = line.split()
        result = np.array([int(value) for value in values], dtype=np.int64)
        if engine.is_left_weights:
            result = result.reshape(len(case.w), len(case.a)).T
        outcomes.append(Outcome(int(cycles), result.reshape(len(case.a), len(case.w))))
    return outcomes
