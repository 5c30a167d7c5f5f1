"""Weights and operands as floats of 16 bits: half precision, or bfloat16."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.compress.network import F32, Kind, Layer, OperandPolicy, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.errors import CosimError
from kernels.encodings import HalfNumber, narrowed, widened

LARGEST = {"f16": 65504.0, "bf16": 3.3895313892515355e38}
"""Largest finite number of each format."""


@dataclass(frozen=True)
class CastConfig:
    """Weights of the layers in `scope` as `number`: f16 (IEEE 754 binary16) or bf16.

    With `compute`, inputs of linear layers and convolutions are rounded to the same format too;
    products add up in float32, and results stay float32. Products inside attention stay float32,
    because the probabilities between them do.
    """

    method: Literal["cast"]
    number: HalfNumber
    layers: Selector = "*"
    compute: bool = True
    scope: Annotated[tuple[Literal["linear", "conv", "embedding"], ...], MinLen(1)] = (
        "linear",
        "conv",
        "embedding",
    )
    sets_format: ClassVar[bool] = True

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scope."""
        return self.scope


@compressor(CastConfig)
def cast(state: State, config: CastConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the selected weights rounded, and a policy for each operand.

    What an earlier entry decided for a selected layer's operands is replaced. CosimError names
    every tensor with a weight that the format does not hold: it is not made infinite or cut.
    """
    names = dict.fromkeys(layer.weight for layer in selected)
    limit = LARGEST[config.number]
    problems = [
        f"{name}: found a weight of magnitude {largest:g}, expected at most {limit:g} for "
        f"{config.number}{'; bf16 holds it' if config.number == 'f16' else ''}"
        for name in names
        if (largest := _magnitude(state.weights[name].values)) > limit
    ]
    if problems:
        raise CosimError(problems)
    changed = {name: rounded(state.weights[name], config.number) for name in names}
    targets = {layer.name for layer in selected}
    kept = tuple(policy for policy in state.policies if policy.target not in targets)
    added = [
        OperandPolicy(layer.name, "input", 16, True, "tensor", config.number)
        for layer in selected
        if config.compute and layer.kind != "embedding"
    ]
    return replace(state.with_weights(changed), policies=(*kept, *added))


def _magnitude(values: F32) -> float:
    return float(np.abs(values).max(initial=0))


def rounded(weight: Weight, number: HalfNumber) -> Weight:
    """Return a weight whose values are the nearest of a format, half to even.

    Example:
        >>> rounded(Weight(np.array([[0.1]], np.float32)), "bf16").values.tolist()
        [[0.10009765625]]

    """
    values = widened(narrowed(weight.values, number))
    return Weight(values, number=number, form=weight.form, encoding=weight.encoding)
