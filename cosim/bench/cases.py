"""What is compared: a case has sides that compute the same result, ours and those of peers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from kernels import harness

F32 = NDArray[np.float32]
Floats = NDArray[np.float32] | NDArray[np.float64]
Run = Callable[[], object]

OURS = "ours"
QUANTIZING = "ours_quantizing"
"""The same kernel with the quantisation of its activations, which peers in integers include."""
TORCH, NUMPY = "torch", "numpy"

SHAPES = ((256, 2048), (512, 2048), (768, 768), (768, 3072), (3072, 768))
"""Steps k and outputs n of the linear layers of speech encoders."""
ROWS = (499, 100, 16, 1)
"""Activation rows: ten seconds, two seconds, a chunk of a stream, a decoding step."""


class AbsentError(Exception):
    """A peer that is not installed, or a kernel that is not there; the text is the note."""


@dataclass(frozen=True)
class Side:
    """One way to compute a case.

    ``runs`` hold the same call on equal copies of the weights: one copy is hot, many in rotation
    are cold. ``output`` is the result (rows, outputs) of the first.
    """

    runs: Sequence[Run]
    output: Callable[[], Floats] | None = None

    @property
    def run(self) -> Run:
        """One call, on the next copy of the weights."""
        return self.runs[0] if len(self.runs) == 1 else harness.rotation(self.runs)


@dataclass(frozen=True)
class Case:
    """One comparison, ready to run.

    ``operations`` are those of the dense product, a multiply-add being two; ``work`` those that
    ours does, fewer where zeros are left out. ``size_bytes`` is what ours must read and write at
    least, ``weight_bytes`` of it the weights. ``limit`` names the instruction mix of
    ``kernels.peaks`` that bounds it ("" where only memory does). ``exact`` is the result in
    float64 before anything was quantised. ``summary`` adds columns from the samples of all sides.
    """

    sides: Mapping[str, Side]
    operations: int
    work: int
    size_bytes: int
    weight_bytes: int
    limit: str
    kernel_used: str
    exact: Callable[[], NDArray[np.float64]] | None = None
    notes: tuple[str, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    summary: Callable[[Mapping[str, harness.Sample]], dict[str, object]] | None = None


@dataclass(frozen=True)
class Plan:
    """A case by name; ``make`` builds it and raises AbsentError where something is missing."""

    kernel: str
    shape: str
    make: Callable[[], Case]
    threads: int = 1
    is_cold: bool = False

    @property
    def id(self) -> str:
        """Return `kernel/KxN-Tt`, with `-cold` and `@threads` where they apply."""
        cold = "-cold" if self.is_cold else ""
        threads = "" if self.threads == 1 else f"@{self.threads}"
        return f"{self.kernel}/{self.shape}{cold}{threads}"


def chosen(plans: Sequence[Plan], text: str) -> list[Plan]:
    """Return the plans whose id contains `text`."""
    return [plan for plan in plans if text in plan.id]
