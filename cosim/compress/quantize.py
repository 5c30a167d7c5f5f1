"""Uniform symmetric quantisation of weights, and of activations as policies for their ops."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import MinLen

from cosim.compress.network import F32, Kind, Layer, OperandPolicy, Selector, State, Weight
from cosim.compress.recipe import compressor


@dataclass(frozen=True)
class Activations:
    """Operands in `bits` bits, scaled while running by the largest magnitude `per` row or tensor.

    A row is one frame or token. Convolutions and the values of an attention sum over rows, so
    theirs is one scale per tensor in any case.
    """

    bits: Literal[8] = 8
    scale: Literal["dynamic"] = "dynamic"
    per: Literal["row", "tensor"] = "row"


@dataclass(frozen=True)
class QuantizeConfig:
    """Weights of the layers in `scope` as codes of `weight_bits`, computed with per `activations`.

    Without `activations`, operands stay fp32 and weights are dequantised. `attention` in `scope`
    means the products inside attention, which have no weights.
    """

    method: Literal["quantize"]
    weight_bits: Literal[4, 8]
    layers: Selector = "*"
    granularity: Literal["channel", "tensor"] = "channel"
    activations: Activations | None = None
    scope: Annotated[tuple[Kind, ...], MinLen(1)] = ("linear", "conv", "embedding", "attention")
    sets_format: ClassVar[bool] = True

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scope; attention only where activations are quantised."""
        if self.activations is not None:
            return self.scope
        return tuple(kind for kind in self.scope if kind != "attention")


@compressor(QuantizeConfig)
def quantize(state: State, config: QuantizeConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the selected weights as codes and a policy for each operand.

    What an earlier entry decided for a selected layer is replaced.
    """
    names = dict.fromkeys(layer.weight for layer in selected if layer.weight)
    changed = {
        name: quantized(
            state.weights[name].values, bits=config.weight_bits, granularity=config.granularity
        )
        for name in names
    }
    targets = {layer.name for layer in selected}
    kept = tuple(policy for policy in state.policies if policy.target not in targets)
    if config.activations is None:
        return replace(state.with_weights(changed), policies=kept)
    added = [policy for layer in selected for policy in operand_policies(layer, config.activations)]
    notes = []
    floats = [layer for layer in selected if not layer.takes_codes]
    if floats:
        notes.append(
            f"quantize: operands of {len(floats)} layers stay fp32 ({floats[0].name}, ...): "
            "depthwise convolutions, 2-D ones in groups, and attention with a bias or a pattern, "
            "multiply floats"
        )
    if config.activations.per == "row" and any(
        layer.kind == "conv" and layer.takes_codes for layer in selected
    ):
        notes.append(
            "quantize: inputs of convolutions are scaled per tensor, because a window spans rows"
        )
    return replace(
        state.with_weights(changed),
        policies=(*kept, *added),
        notes=(*state.notes, *(note for note in notes if note not in state.notes)),
    )


def quantized(values: F32, *, bits: int, granularity: Literal["channel", "tensor"]) -> Weight:
    """Return codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1] and scale = largest magnitude / that.

    Output channels are the first axis. A channel of zeros, or so small that its scale would not be
    a normal float32, has scale 1 and codes 0. Rounds half to even, so that
    |value - code * scale| <= scale / 2 up to float32 rounding.

    Example:
        >>> weight = quantized(np.array([[1.2, -2.0]], np.float32), bits=4, granularity="tensor")
        >>> weight.table.tolist()
        [[4, -7]]

    """
    limit = 2 ** (bits - 1) - 1
    rows = values.reshape(len(values), -1)
    largest = np.abs(rows).max(axis=1 if granularity == "channel" else None, initial=0)
    scale = (largest.reshape(-1, 1) / np.float32(limit)).astype(np.float32)
    scale[scale < np.finfo(np.float32).tiny] = 1
    codes = np.clip(np.rint(rows / scale), -limit, limit).astype(np.int8)
    return Weight(codes.reshape(values.shape), bits, scale)


def operand_policies(layer: Layer, activations: Activations) -> list[OperandPolicy]:
    """Return the policies of one layer's operands; an embedding is a gather and has none."""
    bits, per = activations.bits, activations.per
    if not layer.takes_codes:
        return []
    if layer.kind == "linear":
        return [OperandPolicy(layer.name, "input", bits, True, per, "dynamic")]
    if layer.kind == "conv":
        return [OperandPolicy(layer.name, "input", bits, True, "tensor", "dynamic")]
    if layer.kind == "attention":
        return [
            OperandPolicy(layer.name, "q", bits, True, per, "dynamic"),
            OperandPolicy(layer.name, "k", bits, True, per, "dynamic"),
            OperandPolicy(layer.name, "v", bits, True, "tensor", "dynamic"),
            OperandPolicy(layer.name, "p", bits, False, "tensor", "unit"),
        ]
    return []
