"""What a call finishes in cache has the bits of separate calls, and is taken where it may be."""

import numpy as np
import pytest
from drafts import Draft, agree, heard

from cosim.execute import builder, plan, products

LENGTHS = ({"t": 7}, {"t": 130})


def _norm(d: Draft, x: str, width: int) -> str:
    return d.add("layer_norm", x, d.constant(width), d.constant(width), eps=1e-5)


def _fixed_norm(d: Draft, x: str, channels: int) -> str:
    vectors = [d.constant(channels) for _ in range(3)]
    return d.add("batch_norm", x, *vectors, d.constant(channels, positive=True), eps=1e-5)


def _turned(d: Draft, x: str) -> str:
    return d.add("transpose", x, order=(0, 2, 1))


def _conv(d: Draft, x: str, filters: int, taps: int, groups: int = 1) -> str:
    depth = d.types[x].shape[1] // groups
    w, b = d.constant(filters, depth, taps), d.constant(filters)
    return d.add("conv1d", x, w, b, stride=1, padding=taps // 2, groups=groups)


def gated_linear(d: Draft) -> list[str]:
    x, r = d.input(1, "t", 10), d.input(1, "t", 8)
    y = d.add("linear", x, d.constant(16, 10), d.constant(16))
    return [d.add("add", r, d.add("glu", y, axis=2))]


def macaron(d: Draft) -> list[str]:
    x = d.input(1, "t", 8)
    y = d.add("silu", d.add("linear", x, d.constant(16, 8), d.constant(16)))
    y = d.add("linear", y, d.constant(8, 16), d.constant(8))
    return [d.add("add", x, d.add("affine", y, scale=0.3, shift=0.0))]


def gated_pointwise(d: Draft) -> list[str]:
    x = d.input(1, "t", 6)
    return [d.add("glu", _conv(d, _turned(d, x), 20, 1), axis=1)]


def normed_filters(d: Draft) -> list[str]:
    x = d.input(1, 6, "t")
    y = _norm(d, _turned(d, _conv(d, x, 20, 3)), 20)
    return [d.add("gelu", _turned(d, y))]


def fixed_norm_of_filters(d: Draft) -> list[str]:
    return [d.add("relu", _fixed_norm(d, _conv(d, d.input(1, 6, "t"), 20, 3), 20))]


def codes_of_frames(d: Draft) -> list[str]:
    x, r = d.input(1, "t", 6), d.input(1, "t", 20)
    y = d.add("add", _turned(d, d.add("gelu", _conv(d, _turned(d, x), 20, 3))), r)
    codes = d.add("dynamic_quantize", y, per="row", results=2)
    return [codes, codes[:-1] + "1"]


def positional(d: Draft) -> list[str]:
    x = d.input(1, "t", 12)
    y = d.add("gelu", _conv(d, _turned(d, x), 12, 5, groups=3))
    return [d.add("add", x, _turned(d, y))]


def depthwise_norm(d: Draft) -> list[str]:
    y = _conv(d, d.input(1, 20, "t", order=(0, 2, 1)), 20, 5, groups=20)
    return [d.add("silu", _fixed_norm(d, y, 20))]


def depthwise_activation(d: Draft) -> list[str]:
    y = _conv(d, d.input(1, 20, "t", order=(0, 2, 1)), 20, 5, groups=20)
    return [d.add("silu", _turned(d, y))]


def image(d: Draft) -> list[str]:
    x = d.input(1, 1, "t", 9)
    y = d.add("conv2d", x, d.constant(5, 1, 3, 3), d.constant(5), stride=2, padding=0, groups=1)
    return [d.add("relu", y)]


def norms(d: Draft) -> list[str]:
    x = d.input(1, 6, "t")
    by_group = d.add("group_norm", x, d.constant(6), d.constant(6), eps=1e-5, groups=6)
    fixed = d.add("silu", _fixed_norm(d, x, 6))
    return [d.add("gelu", by_group), fixed, d.add("tanh", _norm(d, _turned(d, x), 6))]


def scores(d: Draft) -> list[str]:
    q, k = (d.input(1, 2, "t", 8, order=(0, 2, 1, 3)) for _ in range(2))
    p = d.input(1, 2, 8, "2*t - 1")
    by_key = d.add("rel_shift", d.add("matmul", q, p))
    bias = d.add("affine", by_key, scale=0.3, shift=0.0)
    own = d.add("matmul", q, d.add("transpose", k, order=(0, 1, 3, 2)))
    return [
        d.add("attention", q, k, k, bias, scale=0.3),
        d.add("affine", own, scale=0.3, shift=0.0),
    ]


DRAFTS = [
    gated_linear, macaron, gated_pointwise, normed_filters, fixed_norm_of_filters, codes_of_frames,
    positional, depthwise_norm, depthwise_activation, image, norms, scores,
]  # fmt: skip


@pytest.mark.parametrize("write", DRAFTS)
def test_fused_calls_give_the_bits_of_separate_ones(write, monkeypatch):
    monkeypatch.setattr(products, "CHUNK_BYTES", 1)  # several chunks of rows behind a norm
    d = Draft()
    weights = d.weights(*write(d))
    for lengths in LENGTHS:
        inputs = d.operands(weights.program.graph("encoder"), lengths)
        fused = plan(weights, "encoder", bindings=lengths)
        with monkeypatch.context() as patched:
            patched.setattr(builder, "tails", lambda _graph: {})
            separate = plan(weights, "encoder", bindings=lengths)
        assert len(fused.calls) < len(separate.calls)
        for a, b in zip(heard(fused, inputs), heard(separate, inputs), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("write", [w for w in DRAFTS if w is not codes_of_frames])
def test_fused_calls_give_what_the_ops_mean(write):
    d = Draft()
    agree(d, *write(d), lengths=LENGTHS, tolerance=4e-6)


def kinds(d: Draft, *outputs: str) -> list[str]:
    """Return the ops that each call after the first op's finishes."""
    found = builder.tails(d.graph(*outputs))
    return [op.kind for op in next(iter(found.values())).ops] if found else []


def test_a_value_that_others_read_is_not_fused_away():
    for write in (gated_linear, normed_filters, depthwise_norm, scores, norms):
        d = Draft()
        outputs = write(d)
        read = [value for op in d.ops for value in op.outputs]
        assert not [tail for tail in builder.tails(d.graph(*outputs, *read)).values() if tail.ops]


def test_a_gate_over_frames_is_left_to_its_own_call():
    d = Draft()
    y = _conv(d, d.input(1, 6, 8), 20, 1)
    assert kinds(d, d.add("glu", y, axis=2)) == []


def test_a_norm_over_channels_first_is_left_to_its_own_call():
    d = Draft()
    y = _conv(d, d.input(1, 6, 8), 20, 1)
    assert kinds(d, _norm(d, y, 8)) == []


def test_a_shift_is_no_factor_of_a_residual():
    d = Draft()
    x = d.input(1, "t", 8)
    y = d.add("affine", x, scale=0.5, shift=1.0)
    assert kinds(d, d.add("add", x, y)) == []


def test_a_residual_that_is_made_later_is_not_waited_for():
    d = Draft()
    x = d.input(1, "t", 8)
    y = d.add("affine", x, scale=0.5, shift=0.0)
    late = d.add("gelu", x)
    assert kinds(d, d.add("add", late, y)) == []
    agree(d, d.ops[-1].outputs[0], lengths=LENGTHS)
