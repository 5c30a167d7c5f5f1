"""Policies of one bit: what they become, what is refused, and caches that hold bits."""

from dataclasses import replace

import numpy as np
import pytest
from ir_interpreter import Codes, kinds, program, random, run
from small_whisper import Policy

from cosim.errors import CosimError
from cosim.ir import Program, from_text
from cosim.passes.binarize import binarize_operands
from cosim.passes.quantize import quantize_at_source, quantize_caches, write_policies
from cosim.verify import problems

CONSTANTS = """\
constant @bias : f32<6> dense {} bits 192 index 0 sha256 0b
constant @conv : f32<6, 6, 3> binary {} bits 300 index 0 sha256 0c
constant @w : f32<6, 6> binary {} bits 288 index 0 sha256 0a
constant @wide : f32<6, 6> bitpacked {"bits": 8} bits 480 index 0 sha256 0d
constant @fc2.input_scale : f32<1> dense {} bits 32 index 0 sha256 0e
constant @attn.k_scale : f32<1> dense {} bits 32 index 0 sha256 1a
constant @attn.k_move : f32<6> dense {} bits 192 index 0 sha256 1b
constant @attn.p_scale : f32<1> dense {} bits 32 index 0 sha256 1c
constant @attn.q_scale : f32<1> dense {} bits 32 index 0 sha256 1d
constant @attn.q_move : f32<6> dense {} bits 192 index 0 sha256 1e
constant @attn.v_scale : f32<1> dense {} bits 32 index 0 sha256 1f
constant @attn.v_move : f32<6> dense {} bits 192 index 0 sha256 2a
"""
BLOCK = (
    'program "p"\n'
    + CONSTANTS
    + """\
graph main(rows) {
  input %x : f32<1, rows, 6>
  %q = linear(%x, @w, @bias) : f32<1, rows, 6> in "q_proj"
  %k = linear(%x, @w) : f32<1, rows, 6> in "k_proj"
  %y = attention(%q, %k, %x) {scale=float(0x1.8p-2)} : f32<1, rows, 6> in "attn"
  %h = linear(%y, @w, @bias) : f32<1, rows, 6> in "fc1"
  %r = relu(%h) : f32<1, rows, 6> in "act"
  %t = reshape(%r) {shape=[rows, 6]} : f32<rows, 6> in "act"
  %z = linear(%t, @w) : f32<rows, 6> in "fc2"
  return z = %z
}
"""
)
SIGNS = np.where(random(2, 6, 6) >= 0, 1, -1).astype(np.int8)
VALUES = {
    "@bias": random(1, 6),
    "@w": Codes(SIGNS, np.abs(random(3, 6, 1)), (6, 6)),
    "@fc2.input_scale": np.array([0.7], np.float32),
    **{f"@attn.{name}_scale": np.array([0.5], np.float32) for name in "qkvp"},
    **{f"@attn.{name}_move": random(seed, 6) * 0.2 for seed, name in enumerate("qkv")},
}


def bit(target, operand, **values):
    return Policy(target, operand, bits=1, **values)


LINEARS = [bit(name, "input") for name in ("q_proj", "k_proj", "fc1", "fc2")]
ATTENTION = [*(bit("attn", name) for name in "qkv"), bit("attn", "p", signed=False)]
STATIC = {"per": "tensor", "scale": "static"}


def carried(policies, text=BLOCK):
    """Carry policies out on a program that holds constants which they alone read."""
    after = binarize_operands(write_policies(from_text(text), policies))
    used = {name for graph in after.graphs for op in graph.ops for name in op.inputs}
    constants = {name: value for name, value in after.constants.items() if name in used}
    return replace(after, constants=constants)


def test_inputs_become_signs_and_what_relu_makes_becomes_steps():
    graph = carried([*LINEARS, *ATTENTION]).graphs[0]
    assert problems(carried([*LINEARS, *ATTENTION])) == []
    made = [op for op in graph.ops if op.kind == "dynamic_binarize"]
    # x is binarised once for q_proj, k_proj and as values of attention
    assert [(op.inputs[0], op.attribute("set")) for op in made] == [
        ("%x", "signed"),
        ("%q", "signed"),
        ("%k", "signed"),
        ("%y", "signed"),
        ("%t", "unsigned"),
    ]
    assert kinds(graph).count("quantized_linear") == 4
    assert kinds(graph).count("binary_attention") == 1


@pytest.mark.parametrize("rows", [2, 5])
def test_carried_out_policies_mean_what_bit_defines(rows):
    """Worked out from the definitions; sums of bits are exact, so that sums of 0 have a sign."""
    graph = carried([*LINEARS, *ATTENTION]).graphs[0]
    x = random(rows, 1, rows, 6)
    found, _ = run(graph, VALUES, {"x": x})

    def sign(value):
        return np.where(value >= 0, 1, -1)

    def size(value):
        return np.abs(value).mean(axis=-1, keepdims=True)

    def product(bits, level):
        return (bits @ SIGNS.T) * level * VALUES["@w"].scale[:, 0]

    x = x[0].astype(np.float64)
    q = product(sign(x), size(x)) + VALUES["@bias"]
    k = product(sign(x), size(x))
    scores = (sign(q) @ sign(k).T) * size(q) * size(k).T * 0.375
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    level = (p * p).sum(axis=1, keepdims=True)
    y = ((p > level / 2) @ sign(x)) * level * np.abs(x).mean()
    h = np.maximum(product(sign(y), size(y)) + VALUES["@bias"], 0)
    level = (h * h).sum(axis=1, keepdims=True) / np.maximum(h.sum(axis=1, keepdims=True), 1e-30)
    z = product((h > level / 2) * 1, level)
    np.testing.assert_allclose(found["z"], z, rtol=1e-4, atol=1e-5)


def test_static_operands_read_their_constants():
    policies = [
        *(bit("attn", name, **STATIC) for name in "qkv"),
        bit("attn", "p", signed=False, **STATIC),
        bit("fc2", "input", signed=False, **STATIC),
    ]
    after = carried(policies)
    assert problems(after) == []
    graph = after.graphs[0]
    made = {op.inputs[0]: op for op in graph.ops if op.kind == "binarize"}
    assert made["%q"].inputs == ("%q", "@attn.q_scale", "@attn.q_move")
    assert made["%t"].inputs == ("%t", "@fc2.input_scale")
    (attention,) = (op for op in graph.ops if op.kind == "binary_attention")
    assert attention.inputs[1::2] == ("@attn.q_scale", "@attn.k_scale", "@attn.v_scale")
    assert attention.inputs[6] == "@attn.p_scale"
    x = random(3, 1, 4, 6)
    plain, _ = run(program(BLOCK).graphs[0], VALUES, {"x": x})
    found, _ = run(graph, VALUES, {"x": x})
    assert not np.allclose(found["z"], plain["z"])


def test_other_widths_are_left():
    before = write_policies(program(BLOCK), [Policy("fc1", "input"), Policy("fc2", "input")])
    assert binarize_operands(before) == before


def test_what_cannot_be_carried_out_is_told_at_once():
    text = BLOCK.replace("linear(%y, @w,", "linear(%y, @wide,").replace(
        "attention(%q, %k, %x)", "attention(%q, %k, %x, %b)"
    )
    text = text.replace("  %q = ", "  input %b : f32<rows, rows>\n  %q = ", 1)
    text = text.replace("  %r = ", "  %c = conv1d(%m, @conv) {padding=1, stride=1} : "
                        'f32<1, 6, rows> in "conv"\n  %r = ')  # fmt: skip
    text = text.replace("  %r = ", "  %r = ").replace(
        "  %c = ", '  %m = transpose(%h) {order=[0, 2, 1]} : f32<1, 6, rows> in "turn"\n  %c = '
    )
    policies = [
        bit("fc1", "input"),
        bit("fc2", "input", per="tensor"),
        bit("conv", "input"),
        bit("attn", "q"),
        bit("attn", "k", signed=False),
    ]
    with pytest.raises(CosimError) as caught:
        carried(policies, text)
    signs = "expected i1/row/dynamic or i1/tensor/static"
    assert caught.value.problems == [
        f"attn (attention): operand k as u1/row/dynamic: {signs}",
        "attn (attention): operands v, p stay float while others do not",
        "attn (attention): scores with a bias or a pattern: no kernel makes them of bits",
        "fc1 (linear): activations of one bit need weights of one bit; @wide has more",
        "conv (conv1d): there is no kernel for inputs of one bit",
        f"fc2 (linear): operand input as i1/tensor/dynamic: {signs} or u1/tensor/static",
    ]


CACHED = """\
program "p"
graph step(past) {
  input %q : f32<2, 1, 6>
  input %k : f32<2, 1, 6>
  input %v : f32<2, 1, 6>
  state %ks : f32<2, past, 6> capacity 9
  state %vs : f32<2, past, 6> capacity 9
  %ka = cache_append(%ks, %k) {axis=1} : f32<2, past + 1, 6>
  %va = cache_append(%vs, %v) {axis=1} : f32<2, past + 1, 6>
  %y = attention(%q, %ka, %va) {scale=float(0x1p-1)} : f32<2, 1, 6> in "attn"
  return y = %y
}
"""
DTYPES = {"f32": np.float32, "i1": np.int8}


@pytest.mark.parametrize("values", [{}, STATIC])
def test_caches_hold_bits_with_equal_results(values):
    text = CACHED.replace("graph step", CONSTANTS + "graph step", 1)
    policies = [bit("attn", name, **values) for name in "qkv"]
    whole = carried([*policies, bit("attn", "p", signed=False, **values)], text)
    before = whole.graphs[0]
    after = quantize_caches(before)
    assert problems(Program("p", (after,), whole.constants)) == []
    names = ["%ks.codes", "%vs.codes"] if values else [
        f"{state}.{part}" for state in ("%ks", "%vs") for part in ("codes", "scales")
    ]  # fmt: skip
    assert [name for name, _ in after.states] == names
    assert {after.types[name].dtype for name in names if name.endswith("codes")} == {"i1"}
    results = []
    for graph in (before, after):
        states = {
            name: np.zeros(graph.types[name].bind({"past": 0}), DTYPES[graph.types[name].dtype])
            for name, _ in graph.states
        }
        found = []
        for call in range(5):
            inputs = {name: random(7 * call + i, 2, 1, 6) for i, name in enumerate("qkv")}
            outputs, states = run(graph, VALUES, inputs, states)
            found.append(outputs["y"])
        results.append(found)
    np.testing.assert_array_equal(*results)


HANDED = """\
program "p"
graph encoder(rows) {
  input %x : f32<rows, 6>
  %h = gelu(%x) : f32<rows, 6>
  return memory = %h
}
graph step(length) {
  input %memory : f32<length, 6>
  %c, %s = dynamic_binarize(%memory) {set="signed"} : i1<length, 6>, f32<length>
  return c = %c
  return s = %s
}
"""


def test_an_input_that_is_only_binarised_is_handed_over_as_bits():
    after = quantize_at_source(program(HANDED))
    assert problems(after) == []
    encoder, step = after.graphs
    assert step.inputs == ("%memory.codes", "%memory.scales")
    assert encoder.types[dict(encoder.outputs)["memory.codes"]].dtype == "i1"
    assert kinds(step) == []
