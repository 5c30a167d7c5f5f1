"""Other simulators, each in an environment of its own: their packages do not go with ours.

An environment variable names the Python of that environment. A worker script runs there, answers
jobs by lines of JSON, and measures its own CPU time around nothing but the simulation.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cosim.bench import scale_sim_worker, zigzag_worker
from cosim.bench.cases import AbsentError
from cosim.errors import CosimError


@dataclass(frozen=True)
class Simulator:
    """A simulator by name: what to install, which variable names its Python, and its module."""

    name: str
    distribution: str
    variable: str
    module: str


SIMULATORS: tuple[Simulator, ...] = (
    Simulator(
        "scale_sim", scale_sim_worker.DISTRIBUTION, "COSIM_SCALE_SIM_PYTHON", "scale_sim_worker"
    ),
    Simulator("zigzag", zigzag_worker.DISTRIBUTION, "COSIM_ZIGZAG_PYTHON", "zigzag_worker"),
)


@dataclass(frozen=True)
class Worker:
    """A running worker: `ask` it one job after the other. `errors` holds what it complains of."""

    simulator: Simulator
    process: "subprocess.Popen[str]"
    errors: IO[str]

    def ask(self, job: Mapping[str, object]) -> dict[str, Any]:
        """Return the answer to one job; RuntimeError with the last error line when it ends."""
        _pipe(self.process.stdin).write(json.dumps(job) + "\n")
        _pipe(self.process.stdin).flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next line that it writes, the first being its version."""
        line = _pipe(self.process.stdout).readline()
        if not line:
            self.errors.seek(0)
            told = self.errors.read().strip().splitlines() or ["it says nothing"]
            raise RuntimeError(f"{self.simulator.name} ended: {told[-1]}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def started(simulator: Simulator) -> Iterator[tuple[Worker, str]]:
    """Start a simulator's worker, tell its version, and end it.

    AbsentError where the variable is not set, CosimError where it names no file, RuntimeError where
    the worker does not run there.
    """
    python = os.environ.get(simulator.variable, "")
    if not python:
        raise AbsentError(
            f"{simulator.name}: not measured, {simulator.variable} names no Python that has "
            f"{simulator.distribution}"
        )
    if not Path(python).is_file():
        raise CosimError(
            f"{simulator.variable}: found {python!r}, no such file; expected the Python of an "
            f"environment with {simulator.distribution}"
        )
    script = Path(__file__).with_name("simulator_worker.py")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603, the Python that the user names
            [python, str(script), simulator.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | threads,
        ) as process,
    ):
        try:
            worker = Worker(simulator, process, errors)
            yield worker, str(worker.answer()["version"])
        finally:
            process.kill()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("started without a pipe")
    return pipe
