"""Uniform quantisation of weights, and of activations as policies for their ops."""

from dataclasses import dataclass, replace
from math import prod
from typing import Annotated, ClassVar, Literal

from annotated_types import MinLen

from cosim.compress import quanto
from cosim.compress.calibrate import Reach, with_scales
from cosim.compress.codes import Granularity, Group, Range, Scheme, quantized
from cosim.compress.network import Kind, Layer, OperandPolicy, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.errors import CosimError

__all__ = ["Activations", "QuantizeConfig", "operand_policies", "quantize", "quantized"]


@dataclass(frozen=True)
class Activations:
    """Operands in `bits` bits, signed and symmetric.

    `scale: dynamic` scales while running by the largest magnitude `per` row (a frame or token) or
    tensor. Convolutions and the values of an attention sum over rows, so theirs is one scale per
    tensor in any case. `scale: static` has one fixed scale per operand from calibration inputs, by
    their largest magnitude or a percentile of all (`range`); what is beyond saturates.
    """

    bits: Literal[8] = 8
    scale: Literal["dynamic", "static"] = "dynamic"
    per: Literal["row", "tensor"] | None = None
    range: Reach | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.scale == "static" and self.per == "row":
            problems.append("per: found row with a static scale, expected tensor")
        if self.scale == "dynamic" and self.range is not None:
            problems.append("range: found one with a dynamic scale, expected it with a static one")
        if problems:
            raise CosimError(problems)

    @property
    def granularity(self) -> Literal["row", "tensor"]:
        """What one scale is for: `per`, which is a row unless it is given or the scale static."""
        return self.per or ("row" if self.scale == "dynamic" else "tensor")


@dataclass(frozen=True)
class QuantizeConfig:
    """Weights of the layers in `scope` as codes of `weight_bits`, computed with per `activations`.

    `scheme`, `granularity` and `range` say where codes lie (see `cosim.compress.codes`). Without
    `activations`, operands stay fp32 and weights are dequantised. `attention` in `scope` means the
    products inside attention, which have no weights.

    `preset: quanto` is the rule of optimum-quanto 0.2.7: weights of linear layers and of 2-D
    convolutions alone; 8 bits symmetric with a scale per output channel, 4 and 2 bits with a float
    scale and shift for each group of 128, 96, 64 or 32 weights, the first that divides a row.
    """

    method: Literal["quantize"]
    weight_bits: Literal[2, 3, 4, 8]
    layers: Selector = "*"
    preset: Literal["quanto"] | None = None
    scheme: Scheme = "symmetric"
    granularity: Granularity = "channel"
    range: Range = "minmax"
    activations: Activations | None = None
    scope: Annotated[tuple[Kind, ...], MinLen(1)] = ("linear", "conv", "embedding", "attention")
    sets_format: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.preset is None:
            return
        usual = type(self)(self.method, 8)
        decided = ("scheme", "granularity", "range", "scope", "activations")
        problems = [
            f"{key}: found beside preset {self.preset}, which decides it; leave out one of the two"
            for key in decided
            if getattr(self, key) != getattr(usual, key)
        ]
        if self.weight_bits == 3:
            problems.append(f"weight_bits: found 3, expected 2, 4 or 8 with preset {self.preset}")
        if problems:
            raise CosimError(problems)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The scope; attention only where activations are quantised."""
        if self.preset is not None:
            return ("linear", "conv")
        if self.activations is not None:
            return self.scope
        return tuple(kind for kind in self.scope if kind != "attention")

    @property
    def holds_zeros(self) -> bool:
        """Whether there is a code for 0: not where a float shift stands beside the scale."""
        return self.preset is None or self.weight_bits == 8

    def takes(self, layer: Layer) -> bool:
        """Return whether a layer of one of the kinds is in scope."""
        return self.preset is None or layer.dimensions != 1


@compressor(QuantizeConfig)
def quantize(state: State, config: QuantizeConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the selected weights as codes and a policy for each operand.

    What an earlier entry decided for a selected layer's operands is replaced.
    """
    names = dict.fromkeys(layer.weight for layer in selected if layer.weight)
    changed = {name: _coded(state.weights[name], config) for name in names}
    targets = {layer.name for layer in selected}
    kept = tuple(policy for policy in state.policies if policy.target not in targets)
    before, state = state, replace(state.with_weights(changed), policies=kept)
    if config.preset is not None:
        return state.with_notes(*_quanto_notes(state, selected, config))
    if config.activations is None:
        return state
    taking = tuple(layer for layer in selected if not _is_torn(layer, config))
    if config.activations.scale == "static":
        reach = config.activations.range or "minmax"
        state = with_scales(before, taking, reach).with_weights(changed)
    added = [policy for layer in taking for policy in operand_policies(layer, config.activations)]
    state = replace(state, policies=(*kept, *added))
    return state.with_notes(*_operand_notes(selected, config, config.activations))


def _coded(weight: Weight, config: QuantizeConfig) -> Weight:
    """Return a weight in codes, with the pattern of zeros that it had."""
    if config.preset is not None:
        made = quanto.quantized(weight.values, quanto_bits(config))
    else:
        made = quantized(
            weight.values,
            bits=config.weight_bits,
            granularity=config.granularity,
            scheme=config.scheme,
            reach=config.range,
        )
    return replace(made, form=weight.form, encoding=weight.encoding)


def quanto_bits(config: QuantizeConfig) -> quanto.Bits:
    """Return the bits of a config with preset quanto."""
    if config.weight_bits == 3:
        raise ValueError("preset quanto has no 3 bits")
    return config.weight_bits


def _is_torn(layer: Layer, config: QuantizeConfig) -> bool:
    """Return whether windows, which order columns by taps, tear groups of codes apart."""
    return layer.kind == "conv" and isinstance(config.granularity, Group)


def _operand_notes(
    selected: tuple[Layer, ...], config: QuantizeConfig, activations: Activations
) -> list[str]:
    notes = []
    floats = [layer for layer in selected if not layer.takes_codes]
    if floats:
        notes.append(
            f"quantize: operands of {len(floats)} layers stay fp32 ({floats[0].name}, ...): "
            "depthwise convolutions, 2-D ones in groups, and attention with a bias or a pattern, "
            "multiply floats"
        )
    torn = [layer for layer in selected if layer.takes_codes and _is_torn(layer, config)]
    if torn:
        notes.append(
            f"quantize: operands of {len(torn)} convolutions stay fp32 ({torn[0].name}, ...): "
            "integer kernels know one scale per output channel of a window"
        )
    if activations.granularity == "row" and any(
        layer.kind == "conv" and layer.takes_codes and layer not in torn for layer in selected
    ):
        notes.append(
            "quantize: inputs of convolutions are scaled per tensor, because a window spans rows"
        )
    return notes


def _quanto_notes(state: State, selected: tuple[Layer, ...], config: QuantizeConfig) -> list[str]:
    """Return what quanto's file holds that the ledger, which is of the network in use, does not."""
    count = len(selected)
    scalars = (
        f"quantize: quanto stores two fp32 scalars (input_scale, output_scale) beside each of "
        f"{count} modules, {8 * count} bytes that the ledger does not count"
    )
    notes = [scalars]
    inside = {layer.name for layer in selected}
    extra, names = 0, []
    for name in dict.fromkeys(layer.weight for layer in selected):
        sharing = [layer for layer in state.layers if layer.weight == name]
        shape = state.weights[name].table.shape
        coded = quanto.size_bytes(quanto.stored_weight(shape, quanto_bits(config)))
        copies = sum(layer.name in inside for layer in sharing)
        more = (copies - 1) * coded + (4 * prod(shape) if copies < len(sharing) else 0)
        if more:
            extra += more
            names.append(name)
    if names:
        notes.append(
            f"quantize: {len(names)} tied weights ({names[0]}{', ...' if len(names) > 1 else ''}) "
            f"are stored once, in codes; quanto unties them, which takes {extra} bytes more"
        )
    return notes


def operand_policies(layer: Layer, activations: Activations) -> list[OperandPolicy]:
    """Return the policies of one layer's operands; an embedding is a gather and has none."""
    bits, per, how = activations.bits, activations.granularity, activations.scale
    if not layer.takes_codes:
        return []
    if layer.kind == "linear":
        return [OperandPolicy(layer.name, "input", bits, True, per, how)]
    if layer.kind == "conv":
        return [OperandPolicy(layer.name, "input", bits, True, "tensor", how)]
    if layer.kind == "attention":
        return [
            OperandPolicy(layer.name, "q", bits, True, per, how),
            OperandPolicy(layer.name, "k", bits, True, per, how),
            OperandPolicy(layer.name, "v", bits, True, "tensor", how),
            OperandPolicy(layer.name, "p", bits, False, "tensor", "unit"),
        ]
    return []
