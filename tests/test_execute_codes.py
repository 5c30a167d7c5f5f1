"""Weights of a few bits, zeros and codes of activations in every product; panels made once."""

import ir_interpreter
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from drafts import Draft, agree, heard

from cosim.execute import plan, products
from kernels.encodings import (
    decode,
    encode_binary,
    encode_bitpacked,
    encode_csr,
    encode_dense,
)

LENGTHS = ({"t": 5}, {"t": 40})


def codes_of(d: Draft, *shape: int, bits: int = 8) -> str:
    """Add a constant of codes with one scale a row."""
    limit = 2 ** (bits - 1) - 1
    codes = d.generator.integers(-limit, limit + 1, shape).astype(np.int8)
    scale = d.generator.uniform(0.01, 0.1, (shape[0], 1)).astype(np.float32)
    matrix = codes.reshape(shape[0], -1)
    meaning = ir_interpreter.Codes(matrix, scale, shape)
    return d.encoded(encode_bitpacked(codes, scale, bits=bits), meaning)


def by_group(d: Draft, *shape: int) -> str:
    """Add a constant of 4-bit codes with a scale and a zero point for every 16 columns."""
    codes = d.generator.integers(-8, 8, shape).astype(np.int8)
    groups = -(-int(np.prod(shape[1:])) // 16)
    scale = d.generator.uniform(0.01, 0.1, (shape[0], groups)).astype(np.float32)
    zero = d.generator.integers(-8, 8, (shape[0], groups))
    return d.encoded(encode_bitpacked(codes, scale, bits=4, group=16, zero_point=zero))


def pruned(d: Draft, *shape: int) -> str:
    values = d.generator.standard_normal(shape).astype(np.float32)
    return d.encoded(encode_csr(values * (d.generator.random(shape) < 0.1)))


def signs(d: Draft, *shape: int) -> str:
    values = np.where(d.generator.random(shape) < 0.5, 1, -1).astype(np.int8)
    scale = d.generator.uniform(0.1, 1, (shape[0], 1)).astype(np.float32)
    return d.encoded(encode_binary(values, scale))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)])
def test_codes_of_heads_are_multiplied_where_they_lie(order):
    d = Draft()
    x = d.input(1, 3, "t", 32, order=order)
    codes = d.add("dynamic_quantize", x, per="row", results=2)
    scale = codes[:-1] + "1"
    y = d.add("quantized_linear", codes, scale, codes_of(d, 7, 32), d.constant(7))
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize(("taps", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_codes_are_convolved(order, taps, stride, padding):
    d = Draft()
    x = d.input(1, 6, "t", order=order)
    codes = d.add("dynamic_quantize", x, per="tensor", results=2)
    values = {"stride": stride, "padding": padding}
    w, b = codes_of(d, 20, 6, taps, bits=4), d.constant(20)
    y = d.add("quantized_conv1d", codes, codes[:-1] + "1", w, b, **values)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


def convolved(d: Draft, op: str, x: str, w: str, *bias: str, **values) -> str:
    codes = d.add("dynamic_quantize", x, per="tensor", results=2)
    return d.add(op, codes, codes[:-1] + "1", w, *bias, **values)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
@pytest.mark.parametrize(("taps", "stride", "padding"), [(1, 1, 0), (4, 1, 2), (5, 3, 0)])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_convolved_in_groups(order, taps, stride, padding, bits):
    d = Draft()
    x = d.input(1, 9, "t", order=order)
    w, b = codes_of(d, 15, 3, taps, bits=bits), d.constant(15)
    values = {"stride": stride, "padding": padding, "groups": 3}
    bare = convolved(d, "quantized_conv1d", x, w, **values)
    finished = d.add("relu", convolved(d, "quantized_conv1d", x, w, b, **values))
    agree(d, bare, finished, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)])
@pytest.mark.parametrize(("channels", "taps", "stride", "padding"), [(1, 3, 2, 0), (7, 2, 1, 1)])
@pytest.mark.parametrize("bits", [4, 8])
def test_codes_of_images_are_convolved(order, channels, taps, stride, padding, bits):
    d = Draft()
    x = d.input(1, channels, "t", 11, order=order)
    w, b = codes_of(d, 5, channels, taps, taps, bits=bits), d.constant(5)
    values = {"stride": stride, "padding": padding}
    bare = convolved(d, "quantized_conv2d", x, w, **values)
    finished = d.add("relu", convolved(d, "quantized_conv2d", x, w, b, **values))
    agree(d, bare, finished, lengths=LENGTHS, tolerance=2e-5)


def test_windows_of_codes_that_are_gathered_in_several_blocks_agree(monkeypatch):
    monkeypatch.setattr(products, "WINDOW_BYTES", 0)
    d = Draft()
    x = d.input(1, 3, "t", 21)
    y = convolved(d, "quantized_conv2d", x, codes_of(d, 5, 3, 3, 3), stride=1, padding=1)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("op", "shape", "filters", "groups"),
    [
        ("quantized_conv1d", (1, 6, 33), (10, 3, 7), 2),
        ("quantized_conv2d", (1, 3, 13, 11), (5, 3, 3, 3), 1),
    ],
)
def test_sums_of_codes_are_exact(op, shape, filters, groups, bits):
    """With scales of 1 and sums below 2^24, floats hold the sums of int64 without rounding."""
    d = Draft()
    limit = 2 ** (bits - 1) - 1
    codes = d.generator.integers(-limit, limit + 1, filters).astype(np.int8)
    w = d.encoded(encode_bitpacked(codes, np.ones((len(codes), 1), np.float32), bits=bits))
    x = d.input(*shape)
    y = convolved(d, op, x, w, stride=1, padding=1, groups=groups)
    given = d.generator.integers(-127, 128, shape)
    given.flat[0] = 127
    made = plan(d.weights(y), "encoder", bindings={})
    (found,) = heard(made, {"in0": given.astype(np.float32)})
    torch_conv = F.conv1d if op.endswith("1d") else F.conv2d
    sums = torch_conv(
        torch.from_numpy(given), torch.from_numpy(codes.astype(np.int64)), padding=1, groups=groups
    )
    assert abs(sums).max() < 2**24
    np.testing.assert_array_equal(found, sums.numpy())


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("groups", [1, 4])
def test_pruned_codes_are_convolved(groups, granularity):
    d = Draft()
    shape = (32, 16 // groups, 5)
    codes = d.generator.integers(-127, 128, shape).astype(np.int8)
    codes[d.generator.random(shape) < 0.95] = 0
    rows = 32 if granularity == "channel" else 1
    scale = d.generator.uniform(0.01, 0.1, (rows, 1)).astype(np.float32)
    matrix = codes.reshape(32, -1)
    meaning = ir_interpreter.Codes(matrix, np.broadcast_to(scale, (32, 1)), shape)
    w = d.encoded(encode_csr(codes, scale, bits=8), meaning)
    x = d.input(1, 16, "t")
    y = convolved(d, "quantized_conv1d", x, w, stride=1, padding=2, groups=groups)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("weight", [codes_of, by_group, pruned, signs])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_weights_alone_are_compressed(weight, groups):
    d = Draft()
    x = d.input(1, 8, "t")
    w, b = weight(d, 32 if groups < 8 else 8, 8 // groups, 5), d.constant(32 if groups < 8 else 8)
    y = d.add("conv1d", x, w, b, stride=1, padding=2, groups=groups)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("weight", [codes_of, by_group, pruned, signs])
@pytest.mark.parametrize("groups", [1, 8])
def test_weights_of_images_alone_are_compressed(weight, groups):
    d = Draft()
    x = d.input(1, 8, "t", 9)
    w, b = weight(d, 8, 8 // groups, 3, 3), d.constant(8)
    agree(
        d,
        d.add("conv2d", x, w, b, stride=2, padding=1, groups=groups),
        lengths=LENGTHS,
        tolerance=2e-5,
    )


def test_what_is_widened_says_so():
    d = Draft()
    x = d.input(1, 8, 30)
    values = {"stride": 1, "padding": 2}
    outputs = [
        d.add("conv1d", x, by_group(d, 32, 8, 5), groups=1, **values),
        d.add("conv1d", x, codes_of(d, 8, 1, 5), groups=8, **values),
        d.add("conv1d", x, codes_of(d, 32, 8, 5), groups=1, **values),
    ]
    chosen = agree(d, *outputs, tolerance=2e-5, kernels=True)
    assert [choice.is_fallback for choice in chosen] == [True, True, False]
    assert "widened" in chosen[0].reason
    assert "widened" in chosen[1].reason


def test_every_group_of_filters_has_its_own_panel():
    d = Draft()
    x = d.input(1, 8, "t")
    w = d.constant(32, 2, 3)
    y = d.add("conv1d", x, w, stride=1, padding=1, groups=4)
    weights = d.weights(y)
    plan(weights, "encoder", bindings={"t": 20})
    values = decode(weights.encodings[w])
    for i in range(4):
        panel = weights.panel(w, rows=20, activation="f32", taps=3, part=(i, 4))
        found = panel.arguments[0].reshape(-1, 6, 16)[0, :, :8].T  # panels hold 16 outputs
        own = values[8 * i : 8 * i + 8].transpose(0, 2, 1).reshape(8, 6)
        np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("weight", [Draft.constant, codes_of, pruned])
def test_lengths_share_the_arrays_of_panels(weight):
    d = Draft()
    x = d.input(1, "t", 64)
    w = weight(d, 48, 64)
    weights = d.weights(d.add("linear", x, w))
    lengths = (1, 2, 3, 7, 60, 61, 200, 499, 500, 4000)
    for t in lengths:
        plan(weights, "encoder", bindings={"t": t})
    made = list(weights.prepared.values())
    assert len(made) < len(lengths)
    by_layout = {panel.kernel: panel.arguments[0] for panel in made}
    assert all(panel.arguments[0] is by_layout[panel.kernel] for panel in made)


def test_a_constant_that_layers_share_is_prepared_once():
    d = Draft()
    x = d.input(1, "t", 16)
    w, b = d.encoded(encode_dense(d.generator.standard_normal((16, 16)))), d.constant(16)
    for _ in range(3):
        x = d.add("gelu", d.add("linear", x, w, b))
    weights = d.weights(x)
    made = plan(weights, "encoder", bindings={"t": 9})
    assert len(weights.prepared) == 1
    agree(d, x, lengths=LENGTHS)
    assert heard(made, d.operands(made.graph, {"t": 9}))[0].shape == (1, 9, 16)
