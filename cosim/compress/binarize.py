"""Weights and operands of one bit (Liu et al. 2022, BiT; Rastegari et al. 2016, XNOR-Net)."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

from cosim.compress.bit_levels import Move, with_levels
from cosim.compress.calibrate import with_scales
from cosim.compress.network import F32, Kind, Layer, OperandPolicy, Selector, State, Weight
from cosim.compress.quantize import Activations, operand_policies
from cosim.compress.recipe import compressor
from cosim.errors import CosimError

_HEADS: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")


@dataclass(frozen=True)
class Signs:
    """Operands of one bit; `scale: dynamic` scales each row while running.

    Signed, {-a, +a}: a sign(x) with a = mean |x| of the row, sign(0) = +1. Where ReLU or softmax
    makes the operand it is unsigned, {0, a}: a clip(round(x / a), 0, 1), half to even, with a =
    sum x^2 / sum x of the row, the mean of x weighted by itself. Values of an attention are summed
    over their rows, so theirs is one scale for a head: the mean of those of its rows.

    `scale: static` has one a per operand from calibration inputs instead, and signs of x + move
    with a `move` of each channel: zero, or minus its mean. See `cosim.compress.bit_levels`.
    """

    bits: Literal[1]
    scale: Literal["dynamic", "static"] = "dynamic"
    move: Move | None = None

    def __post_init__(self) -> None:
        if self.scale == "dynamic" and self.move is not None:
            raise CosimError("move: found one with a dynamic scale, expected it with a static one")


@dataclass(frozen=True)
class BinarizeConfig:
    """Weights of the layers in `scope` as signs times one scale per output channel or tensor.

    `center` takes the sign of w less the mean of the whole tensor, as BiT does; without it weights
    are those of XNOR-Net. Without `activations`, operands stay fp32; with bits 1 they are signs,
    with bits 8 codes. `attention` in `scope` means the products inside attention, which have no
    weights.
    """

    method: Literal["binarize"]
    layers: Selector = "*"
    center: bool = True
    granularity: Literal["channel", "tensor"] = "channel"
    activations: Signs | Activations | None = None
    scope: Annotated[tuple[Literal["linear", "attention"], ...], MinLen(1)] = (
        "linear",
        "attention",
    )
    sets_format: ClassVar[bool] = True
    holds_zeros: ClassVar[bool] = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scope; attention only where activations are binarised or quantised."""
        if self.activations is not None:
            return self.scope
        return tuple(kind for kind in self.scope if kind != "attention")


@compressor(BinarizeConfig)
def binarize(state: State, config: BinarizeConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the selected weights as signs and a policy for each operand.

    What an earlier entry decided for a selected layer's operands is replaced.
    """
    names = dict.fromkeys(layer.weight for layer in selected if layer.weight)
    weights = {name: state.weights[name] for name in names}
    changed = {
        name: replace(
            binarized(weight.values, center=config.center, granularity=config.granularity),
            encoding=weight.encoding,
        )
        for name, weight in weights.items()
    }
    targets = {layer.name for layer in selected}
    kept = tuple(policy for policy in state.policies if policy.target not in targets)
    if config.activations is None:
        return replace(state.with_weights(changed), policies=kept)
    state, added = _with_policies(state, selected, config.activations)
    floats = [layer for layer in selected if not layer.takes_codes]
    if floats:
        state = state.with_notes(
            f"binarize: products of {len(floats)} attentions stay fp32 ({floats[0].name}, ...): "
            "scores with a bias or a pattern are not made of bits or codes"
        )
    return replace(state.with_weights(changed), policies=(*kept, *added))


def _with_policies(
    state: State, selected: tuple[Layer, ...], activations: Signs | Activations
) -> tuple[State, tuple[OperandPolicy, ...]]:
    """Return the policies of the operands, and the state with what static ones have to know.

    Calibration runs the network as it is before its weights are binarised.
    """
    if isinstance(activations, Activations):
        if activations.scale == "static":
            state = with_scales(state, selected, activations.range or "minmax")
        made = (policy for layer in selected for policy in operand_policies(layer, activations))
        return state, tuple(made)
    if activations.scale == "static":
        return with_levels(state, selected, activations.move or "zero")
    return state, tuple(policy for layer in selected for policy in bit_policies(layer))


def binarized(
    values: F32,
    *,
    center: bool = True,
    granularity: Literal["channel", "tensor"] = "channel",
) -> Weight:
    """Return signs and their scale m: W_b = m sign(W - mean(W)), m = mean |W|.

    The mean that is taken off is that of the whole tensor, 0 without `center`; m is that of each
    output channel or of the tensor (Liu et al. 2022, BiT, section 3.1). Without `center` and by
    channel m is the scale of least squared error for the signs (Rastegari et al. 2016, XNOR-Net,
    equation 6). The sign of zero is +1; a channel of zeros has scale 0. Means are taken in float64.

    Example:
        >>> weight = binarized(np.array([[1.0, -3.0, 2.0]], np.float32), center=False)
        >>> weight.table.tolist(), weight.scale.tolist()
        ([[1, -1, 1]], [[2.0]])
        >>> binarized(np.array([[1.0, 3.0, 2.0]], np.float32)).table.tolist()
        [[-1, 1, 1]]

    """
    middle = values.mean(dtype=np.float64) if center and values.size else 0.0
    signs = np.where(values >= np.float32(middle), 1, -1).astype(np.int8)
    sizes = np.abs(values).reshape(len(values) if granularity == "channel" else 1, -1)
    scale = sizes.mean(axis=1, keepdims=True, dtype=np.float64)
    return Weight(signs, 1, scale.astype(np.float32))


def bit_policies(layer: Layer) -> list[OperandPolicy]:
    """Return the policies of one layer's operands as bits that are scaled while running."""
    if not layer.takes_codes:
        return []
    if layer.kind == "attention":
        signs = [OperandPolicy(layer.name, name, 1, True, "row", "dynamic") for name in _HEADS]
        return [*signs, OperandPolicy(layer.name, "p", 1, False, "row", "dynamic")]
    return [OperandPolicy(layer.name, "input", 1, True, "row", "dynamic")]
