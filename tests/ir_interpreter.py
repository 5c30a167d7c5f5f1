"""What a graph means, op by op, in plain numpy: the oracle of the tests on programs.

Written from the definitions of the ops, without the kernels. Float ops are computed in float64 and
rounded once to float32; products of codes are exact. An op that carries a policy means: quantise
the named operands, then multiply integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from ir_meanings import MEANINGS, SHAPED, windows
from numpy.typing import NDArray

from cosim.ir import Graph, Op, Program, from_text, is_constant

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Codes:
    """A weight held as codes (n, k) with one scale each row (n, 1)."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    shape: tuple[int, ...]

    @property
    def values(self) -> NDArray[np.float32]:
        return (self.codes.astype(np.float32) * self.scale).reshape(self.shape)


Constants = Mapping[str, "Array | Codes"]


def run(
    graph: Graph,
    constants: Constants,
    inputs: Mapping[str, Array],
    states: Mapping[str, Array] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the outputs by public name, and the states after the call.

    `inputs` are keyed by public name, `states` (and constants) by value name. Lengths are learnt
    from the shapes, which must be those that the graph declares.
    """
    states = dict(states or {})
    values = {f"%{name}": array for name, array in inputs.items()} | states
    lengths = _lengths(graph, values)
    for op in graph.ops:
        operands = [constants[n] if is_constant(n) else values[n] for n in op.inputs]
        results = _call(op, operands, lengths)
        for name, result in zip(op.outputs, results, strict=True):
            declared = graph.types[name]
            assert result.shape == declared.bind(lengths), (name, result.shape, declared)
            assert result.dtype == DTYPES[declared.dtype], (name, result.dtype, declared)
            values[name] = result
        if op.kind == "cache_append":
            states[op.inputs[0]] = values[op.outputs[0]]
    return {public: values[name] for public, name in graph.outputs}, states


def program(text: str) -> Program:
    """Read a program, without the constants that nothing uses."""
    whole = from_text(text)
    used = {name for graph in whole.graphs for op in graph.ops for name in op.inputs}
    constants = {name: value for name, value in whole.constants.items() if name in used}
    return replace(whole, constants=constants)


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


DTYPES = {
    **dict.fromkeys(("f32", "f16", "bf16"), np.float32),
    **dict.fromkeys(("i8", "i1", "u1"), np.int8),
    "i64": np.int64,
}


def _lengths(graph: Graph, values: Mapping[str, Array]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in (*graph.inputs, *(state for state, _ in graph.states)):
        for dim, size in zip(graph.types[name].shape, values[name].shape, strict=True):
            if isinstance(dim, int):
                assert dim == size, (name, graph.types[name], values[name].shape)
            else:
                assert found.setdefault(str(dim), size) == size, (name, str(dim))
    return found


def _call(op: Op, operands: list[Array | Codes], lengths: Mapping[str, int]) -> list[Array]:
    if policy := str(op.get("policy", "")):
        return [_with_policy(op, operands, dict(part.split(":") for part in policy.split(" ")))]
    if op.kind == "dynamic_quantize":
        return list(quantize(operands[0], str(op.attribute("per"))))
    if op.kind == "dynamic_binarize":
        return list(binarize(operands[0], str(op.attribute("set"))))
    if op.kind in _ON_CODES:
        return [_ON_CODES[op.kind](op, operands)]
    plain = [value.values if isinstance(value, Codes) else value for value in operands]
    if op.kind in SHAPED:
        return [SHAPED[op.kind](op, plain, lengths)]
    return [MEANINGS[op.kind](op, plain)]


def quantize(x: Array, per: str) -> tuple[Array, Array]:
    """Return codes in [-127, 127] and the scale: largest magnitude over 127, 1 where all is 0."""
    largest = np.abs(x).max(axis=-1) if per == "row" else np.abs(x).max().reshape(1)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    divisor = scale[..., None] if per == "row" else scale
    return np.clip(np.rint(x / divisor), -127, 127).astype(np.int8), scale


def binarize(x: Array, chosen: str) -> tuple[Array, Array]:
    """Return signs and the mean magnitude of each row, or steps and the level of each row."""
    wide = x.astype(np.float64)
    if chosen == "signed":
        return np.where(x >= 0, 1, -1).astype(np.int8), np.abs(wide).mean(-1).astype(np.float32)
    level = level_of(np.maximum(wide, 0)).astype(np.float32)
    return (x > level[..., None] / 2).astype(np.int8), level


def level_of(x: Array) -> Array:
    """Return the mean of rows weighted by themselves, 0 for rows of zeros."""
    return (x * x).sum(-1) / np.where(x.sum(-1) > 0, x.sum(-1), 1)


def _static_bits(op: Op, operands: list[Array]) -> Array:
    x, level, *move = operands
    if op.attribute("set") == "signed":
        return np.where(x >= (-move[0] if move else 0), 1, -1).astype(np.int8)
    steps = np.rint(np.clip(x.astype(np.float64) / level.astype(np.float64), 0, 1))
    return steps.astype(np.int8)


def _static_codes(_op: Op, operands: list[Array]) -> Array:
    x, scale = operands
    return np.clip(np.rint(x / scale), -127, 127).astype(np.int8)


def _cast(op: Op, operands: list[Array]) -> Array:
    number = {"f16": torch.float16, "bf16": torch.bfloat16}[str(op.attribute("number"))]
    return torch.from_numpy(np.ascontiguousarray(operands[0])).to(number).float().numpy()


def _binary_attention(op: Op, operands: list[Array | Codes]) -> Array:
    q, q_scale, k, k_scale, v, v_scale, *level = operands
    exact = q.astype(np.int64) @ np.swapaxes(k.astype(np.int64), -1, -2)
    k_rows = k_scale if k_scale.shape == (1,) else k_scale[..., None, :]
    scores = exact * _scale_rows(q_scale) * k_rows * float(str(op.attribute("scale")))
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    step = level[0].astype(np.float64) if level else level_of(p)[..., None]
    bits = (p > step / 2).astype(np.int64)
    worth = v_scale.astype(np.float64).mean(axis=-1)[..., None, None]
    return (bits @ v.astype(np.int64) * step * worth).astype(np.float32)


def _with_policy(op: Op, operands: list[Array | Codes], policy: Mapping[str, str]) -> Array:
    names = ["q", "k", "v"] if op.kind == "attention" else ["input"]
    made: list[Array | Codes] = []
    for name, operand in zip(names, operands, strict=False):
        kind, per, scale = policy[name].split("/")
        assert (kind, scale) == ("i8", "dynamic")
        made += quantize(operand, per)
    return _ON_CODES[f"quantized_{op.kind}"](op, [*made, *operands[len(names) :]])


def _scale_rows(scale: Array) -> NDArray[np.float64]:
    return scale.astype(np.float64) if scale.shape == (1,) else scale.astype(np.float64)[..., None]


def _quantized_linear(_op: Op, operands: list[Array | Codes]) -> Array:
    x, scale, weight, *bias = operands
    total = x.astype(np.int64) @ weight.codes.astype(np.int64).T
    y = total * _scale_rows(scale) * weight.scale[:, 0]
    return (y + bias[0] if bias else y).astype(np.float32)


def _quantized_conv1d(op: Op, operands: list[Array | Codes]) -> Array:
    x, scale, weight, *bias = operands
    groups, taps = op.get("groups", 1), weight.shape[2]
    parts = []
    for g, part in enumerate(np.split(x, groups, axis=1)):
        own = slice(g * weight.shape[0] // groups, (g + 1) * weight.shape[0] // groups)
        filters = Codes(weight.codes[own], weight.scale[own], weight.shape)
        biases = [values[own] for values in bias]
        parts.append(_quantized_linear(op, [windows(op, part, taps), scale, filters, *biases]))
    return np.concatenate(parts, axis=2).transpose(0, 2, 1)


def _quantized_conv2d(op: Op, operands: list[Array | Codes]) -> Array:
    x, scale, weight, *bias = operands
    padding, stride = op.integer("padding"), op.integer("stride")
    padded = np.pad(x, ((0, 0), (0, 0), *[(padding, padding)] * 2))
    seen = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    rows = seen[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
    rows = rows.reshape(*rows.shape[:3], -1)
    return _quantized_linear(op, [rows, scale, weight, *bias]).transpose(0, 3, 1, 2)


def _quantized_attention(op: Op, operands: list[Array | Codes]) -> Array:
    q, q_scale, k, k_scale, v, v_scale = operands
    exact = q.astype(np.int64) @ np.swapaxes(k.astype(np.int64), -1, -2)
    k_rows = k_scale if k_scale.shape == (1,) else k_scale[..., None, :]
    scores = exact * _scale_rows(q_scale) * k_rows * float(str(op.attribute("scale")))
    assert not op.get("pattern", ""), "kernels round the probabilities of a pattern by panels"
    shares = 255 * np.exp(scores - scores.max(axis=-1, keepdims=True))
    codes = np.zeros(shares.shape, np.int64)
    carried = np.zeros((*shares.shape[:-1], 32))
    for s in range(shares.shape[-1]):  # the rest of a key goes to the key 32 places on
        share = np.minimum(shares[..., s] + carried[..., s % 32], 255)
        codes[..., s] = np.rint(share)
        carried[..., s % 32] = share - codes[..., s]
    context = codes @ v.astype(np.int64) * v_scale.astype(np.float64)
    return (context / codes.sum(axis=-1, keepdims=True)).astype(np.float32)


_ON_CODES = {
    "quantize": _static_codes,
    "cast": _cast,
    "binarize": _static_bits,
    "binary_attention": _binary_attention,
    "quantized_linear": _quantized_linear,
    "quantized_conv1d": _quantized_conv1d,
    "quantized_conv2d": _quantized_conv2d,
    "quantized_attention": _quantized_attention,
}
