"""What the kernels are meant to reach: ratios to torch fp32 on one thread, shares of the limit.

A goal is for T activation rows ("499", "100", "16") or one row with cold weights ("1-cold"), over
the shapes of ``cases.SHAPES``. ``share`` is that of the limit at 499 rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Least ratio to torch by rows, least share of the limit, and the shapes it holds for."""

    ratios: Mapping[str, float]
    share: float | None = None
    least_k: int = 0


def _rows(t499: float, t100: float, t16: float, cold: float) -> dict[str, float]:
    return {"499": t499, "100": t100, "16": t16, "1-cold": cold}


TARGETS: Mapping[str, Target] = {
    "f32_dense": Target(_rows(1.05, 1.15, 1.8, 1.5), 0.85),
    "w8a8": Target(_rows(1.75, 2.1, 4.0, 4.0)),
    "w8a7": Target(_rows(2.2, 2.6, 5.0, 5.0), 0.92),
    "w4a8": Target(_rows(3.0, 3.4, 6.5, 9.0), 0.85),
    "w2a8": Target(_rows(3.4, 3.6, 7.0, 14.0), 0.92),
    "w1a1": Target(_rows(11.0, 13.0, 22.0, 25.0), 0.85, least_k=512),
    "w8a32": Target(_rows(1.0, 1.0, 1.5, 3.0)),
    "w4a32": Target(_rows(1.0, 1.0, 1.5, 5.0)),
    "w2a32": Target(_rows(1.0, 1.0, 1.5, 8.0)),
    "csr_50": Target({"499": 1.7}),
    "csr_80": Target({"499": 3.8}),
    "csr_90": Target({"499": 6.5}),
    "blk16x1_80": Target({"499": 4.8, "16": 8.0, "1-cold": 7.0}, 0.75),
    "blk16x1_90": Target({"499": 8.5, "16": 8.0, "1-cold": 7.0}, 0.75),
}
NARROW = {"w1a1": 6.0, "w1a1_codes": 9.0}
"""At 256 steps and 499 rows the outputs of one-bit products bind, not the products."""
NUMPY_F32 = 0.97
BREAK_EVEN_SPARSITY = 0.25
NETWORK = {
    "whisper_w8a8": 1.5,
    "whisper_w4a8": 1.7,
    "encoder_w8a8": 1.9,
    "encoder_w4a8": 2.4,
    "encoder_sparse80": 2.5,
    "encoder_w1a1": 4.5,
}


def target_of(kernel: str, shape: str, *, is_cold: bool) -> float | None:
    """Return the least ratio to torch of a linear case, or None where nothing is asked.

    >>> target_of("w8a8", "768x768-T100", is_cold=False)
    2.1
    """
    sizes, _, rows = shape.partition("-T")
    k = int(sizes.partition("x")[0]) if sizes.partition("x")[0].isdigit() else 0
    if kernel in NARROW and k == 256 and rows == "499":
        return NARROW[kernel]
    target = TARGETS.get(kernel)
    if target is None or k < target.least_k:
        return None
    return target.ratios.get(f"{rows}-cold" if is_cold else rows)
