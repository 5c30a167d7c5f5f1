"""Levels and moves of static operands of one bit from calibration inputs (Liu et al. 2022, BiT)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from cosim.compress.calibrate import Key, as_it_is, require_batches, tell_missed, watch
from cosim.compress.network import F32, Layer, OperandPolicy, State, Weight
from cosim.errors import CosimError
from cosim.passes.binarize import move_name
from cosim.passes.quantize import scale_name

if TYPE_CHECKING:
    from torch import Tensor

Move = Literal["zero", "mean"]
_SMALLEST = 2.0**-100
"""Level of an operand that was zero throughout."""


@dataclass
class Moments:
    """Sums over all values of an operand, and over those of each channel, [K] or [heads, 1, K].

    Probabilities have no channels: theirs are keys, of which each call may have another number.
    """

    count: int = 0
    total: float = 0.0
    magnitudes: float = 0.0
    squares: float = 0.0
    least: float = np.inf
    by_channel: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    rows: int = 0

    def see(self, key: Key, values: F32) -> None:
        """Take notice of the values of one call."""
        self.count += values.size
        self.total += float(values.sum(dtype=np.float64))
        self.magnitudes += float(np.abs(values).sum(dtype=np.float64))
        self.squares += float(np.square(values, dtype=np.float64).sum())
        self.least = min(self.least, float(values.min(initial=np.inf)))
        if not np.isfinite(self.squares):
            raise CosimError(f"{key[0]}: {key[1]}: found values that are not finite in calibration")
        if key[1] != "p":
            sums = _over_rows(values)
            self.by_channel = self.by_channel + sums
            self.rows += values.size // sums.size

    @property
    def is_signed(self) -> bool:
        """Whether a value was negative."""
        return self.least < 0

    @property
    def means(self) -> F32:
        """Mean of each channel."""
        return (self.by_channel / max(1, self.rows)).astype(np.float32)

    @property
    def level(self) -> float:
        """Mean of the values weighted by themselves, for what is never negative."""
        return self.squares / self.total if self.total > 0 else 0.0


def with_levels(
    state: State, selected: Sequence[Layer], move: Move
) -> tuple[State, tuple[OperandPolicy, ...]]:
    """Return the state with levels and moves of the operands of `selected`, and their policies.

    What was never negative is unsigned: its level a = sum x^2 / sum x over all values. What was is
    signed: a = mean |x + move|, where the move of a channel is 0, which is not stored, or minus its
    mean. They are tensors beside the weights, stored and counted like them. The network is run with
    the weights that earlier entries made, twice where means are to be known first. Raises
    CosimError without batches and for values that are not finite.
    """
    require_batches(state)
    layers = [layer for layer in selected if layer.takes_codes]
    module = as_it_is(state)
    found: dict[Key, Moments] = {}

    def see(key: Key, values: "Tensor") -> None:
        found.setdefault(key, Moments()).see(key, values.numpy())

    watch(module, state.batches, layers, see, has_probabilities=True)
    signed = {key for key, moments in found.items() if _is_signed(key, moments)}
    moves = {key: -found[key].means for key in signed if move == "mean"}
    sums = {key: found[key].magnitudes for key in signed} | dict.fromkeys(moves, 0.0)

    def measure(key: Key, values: "Tensor") -> None:
        if key in moves:
            sums[key] += float(np.abs(values.numpy() + moves[key]).sum(dtype=np.float64))

    if moves:
        watch(module, state.batches, layers, measure)
    tensors = {
        scale_name(*key): _one(sums[key] / moments.count if key in sums else moments.level)
        for key, moments in found.items()
    }
    tensors |= {move_name(*key): Weight(values) for key, values in moves.items()}
    state = tell_missed(state, layers, found)
    state = replace(state, weights={**state.weights, **tensors})
    return state, tuple(_policies(layers, found))


def _over_rows(values: F32) -> NDArray[np.float64]:
    """Sum values [..., K] to [K], those of heads [1, heads, rows, K] to [heads, 1, K]."""
    is_heads = values.ndim == 4
    rows = values[0] if is_heads else values.reshape(-1, values.shape[-1])
    sums: NDArray[np.float64] = rows.sum(axis=-2, keepdims=is_heads, dtype=np.float64)
    return sums


def _is_signed(key: Key, moments: Moments) -> bool:
    """Return whether an operand is: heads always, as kernels want, inputs where they showed it."""
    return key[1] in "qkv" or (key[1] == "input" and moments.is_signed)


def _one(level: float) -> Weight:
    return Weight(np.array([max(level, _SMALLEST)], np.float32))


def _policies(layers: Sequence[Layer], found: Mapping[Key, Moments]) -> list[OperandPolicy]:
    made = []
    for layer in layers:
        operands: tuple[Literal["input", "q", "k", "v", "p"], ...] = ("input",)
        if layer.kind == "attention":
            operands = ("q", "k", "v", "p")
        for operand in operands:
            key = (layer.name, operand)
            is_signed = operand != "p" and (key not in found or _is_signed(key, found[key]))
            made.append(OperandPolicy(layer.name, operand, 1, is_signed, "tensor", "static"))
    return made
