"""Weights of one bit, and signs of activations as policies for their ops (XNOR-Net)."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

from cosim.compress.network import F32, Kind, Layer, OperandPolicy, Selector, State, Weight
from cosim.compress.quantize import Activations, operand_policies
from cosim.compress.recipe import compressor


@dataclass(frozen=True)
class Signs:
    """Operands as the sign of each element times the mean magnitude of its row."""

    bits: Literal[1]
    scale: Literal["dynamic"] = "dynamic"
    per: Literal["row"] = "row"


@dataclass(frozen=True)
class BinarizeConfig:
    """Weights of the layers in `scope` as signs times one scale per output channel.

    Without `activations`, operands stay fp32; with bits 1 they are signs, with bits 8 codes.
    """

    method: Literal["binarize"]
    layers: Selector = "*"
    activations: Signs | Activations | None = None
    scope: Annotated[tuple[Literal["linear"], ...], MinLen(1)] = ("linear",)
    sets_format: ClassVar[bool] = True
    holds_zeros: ClassVar[bool] = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scope."""
        return self.scope


@compressor(BinarizeConfig)
def binarize(state: State, config: BinarizeConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the selected weights as signs and a policy for each operand.

    What an earlier entry decided for a selected layer is replaced.
    """
    names = dict.fromkeys(layer.weight for layer in selected)
    changed = {name: binarized(state.weights[name].values) for name in names}
    targets = {layer.name for layer in selected}
    kept = tuple(policy for policy in state.policies if policy.target not in targets)
    added: list[OperandPolicy] = []
    for layer in selected:
        if isinstance(config.activations, Activations):
            added += operand_policies(layer, config.activations)
        elif config.activations is not None:
            added.append(OperandPolicy(layer.name, "input", 1, True, "row", "dynamic"))
    return replace(state.with_weights(changed), policies=(*kept, *added))


def binarized(values: F32) -> Weight:
    """Return signs and their scale, the mean magnitude of each output channel.

    This is the scale of least squared error for the signs (Rastegari et al. 2016, XNOR-Net,
    equation 6). The sign of zero is +1; a channel of zeros has scale 0.

    Example:
        >>> weight = binarized(np.array([[1.0, -3.0, 2.0]], np.float32))
        >>> weight.table.tolist(), weight.scale.tolist()
        ([[1, -1, 1]], [[2.0]])

    """
    signs = np.where(values >= 0, 1, -1).astype(np.int8)
    scale = np.abs(values.reshape(len(values), -1)).mean(axis=1, keepdims=True)
    return Weight(signs, 1, scale.astype(np.float32))
