from collections.abc import Mapping

import numpy as np
import pytest
import small_whisper
from ir_interpreter import Codes, kinds, program, random, run
from small_whisper import Policy, codes_of

from cosim.errors import CosimError
from cosim.ir import Graph, Program, from_text
from cosim.passes.quantize import (
    carry_out_policies,
    quantize_at_source,
    quantize_caches,
    write_policies,
)
from cosim.verify import problems

CONSTANTS = """\
constant @bias : f32<6> dense {} bits 192 index 0 sha256 0b
constant @conv : f32<6, 6, 3> bitpacked {"bits": 8} bits 864 index 0 sha256 0c
constant @float : f32<6, 6> dense {} bits 1152 index 0 sha256 0f
constant @pruned : f32<6, 6> csr {"bits": 32} bits 700 index 99 sha256 0e
constant @wk : f32<6, 6> bitpacked {"bits": 8} bits 288 index 0 sha256 0d
constant @wq : f32<6, 6> bitpacked {"bits": 8} bits 288 index 0 sha256 0a
constant @wv : f32<6, 6> bitpacked {"bits": 8} bits 288 index 0 sha256 1a
"""
SELF_ATTENTION = (
    'program "p"\n'
    + CONSTANTS
    + """\
graph main(rows) {
  input %x : f32<1, rows, 6>
  %q = linear(%x, @wq, @bias) : f32<1, rows, 6> in "q_proj"
  %k = linear(%x, @wk) : f32<1, rows, 6> in "k_proj"
  %v = linear(%x, @wv, @bias) : f32<1, rows, 6> in "v_proj"
  %y = attention(%q, %k, %v) {scale=float(0x1.8p-2)} : f32<1, rows, 6> in "attn"
  %t = transpose(%y) {order=[0, 2, 1]} : f32<1, 6, rows> in "attn"
  %z = conv1d(%t, @conv, @bias) {padding=1, stride=2} : f32<1, 6, ((rows - 1)//2) + 1> in "conv"
  return z = %z
}
"""
)

VALUES: Mapping[str, np.ndarray | Codes] = {
    "@bias": random(1, 6),
    "@conv": codes_of(random(2, 6, 6, 3)),
    "@float": random(3, 6, 6),
    "@pruned": random(4, 6, 6),
    "@wk": codes_of(random(5, 6, 6)),
    "@wq": codes_of(random(6, 6, 6)),
    "@wv": codes_of(random(7, 6, 6)),
}
QKV = [Policy(f"{name}_proj", "input") for name in "qkv"]
ATTENTION = [
    Policy("attn", "q"),
    Policy("attn", "k"),
    Policy("attn", "v", per="tensor"),
    Policy("attn", "p", signed=False, scale="unit"),
]
CONV = [Policy("conv", "input", per="tensor")]


def test_carrying_out_policies_makes_the_three_inputs_one_quantisation():
    before = write_policies(program(SELF_ATTENTION), QKV)
    graph = carry_out_policies(before).graphs[0]
    assert kinds(graph)[:4] == ["dynamic_quantize"] + ["quantized_linear"] * 3
    assert [op.inputs[0] for op in graph.ops[1:4]] == [graph.ops[0].outputs[0]] * 3


@pytest.mark.parametrize("policies", [QKV, ATTENTION, CONV, [*QKV, *ATTENTION, *CONV], QKV[:1]])
@pytest.mark.parametrize("rows", [2, 3, 7])
def test_carried_out_policies_mean_what_the_policies_say(policies, rows):
    before = write_policies(program(SELF_ATTENTION), policies)
    after = carry_out_policies(before)
    assert problems(after) == []
    x = random(rows, 1, rows, 6)
    wanted, _ = run(before.graphs[0], VALUES, {"x": x})
    found, _ = run(after.graphs[0], VALUES, {"x": x})
    plain, _ = run(program(SELF_ATTENTION).graphs[0], VALUES, {"x": x})
    np.testing.assert_array_equal(found["z"], wanted["z"])
    assert not np.array_equal(found["z"], plain["z"])
    np.testing.assert_allclose(found["z"], plain["z"], atol=0.1 * np.abs(plain["z"]).max())


def test_inputs_with_different_granularity_are_quantised_apart():
    policies = [Policy("q_proj", "input"), Policy("k_proj", "input", per="tensor")]
    graph = carry_out_policies(write_policies(program(SELF_ATTENTION), policies)).graphs[0]
    made = [op.attribute("per") for op in graph.ops if op.kind == "dynamic_quantize"]
    assert made == ["row", "tensor"]


def test_policies_without_effect_leave_the_program_alone():
    before = program(SELF_ATTENTION)
    assert carry_out_policies(write_policies(before, [])).hash == before.hash


def test_policies_that_match_nothing_are_all_named():
    policies = [
        *QKV,
        Policy("q_projection", "input"),
        Policy("q_proj", "weight"),
        Policy("attn", "input"),
        Policy("attn", "output"),
    ]
    with pytest.raises(CosimError) as caught:
        write_policies(program(SELF_ATTENTION), policies)
    assert caught.value.problems == [
        f"operand policy {name}: no op of the program stands there"
        for name in ("q_projection.input", "q_proj.weight", "attn.input", "attn.output")
    ]


def test_policies_that_nothing_can_carry_out_are_all_named():
    text = SELF_ATTENTION.replace("(%x, @wq,", "(%x, @float,").replace("@wk)", "@pruned)")
    policies = [
        *QKV[:2],
        Policy("v_proj", "input", bits=4),
        Policy("conv", "input"),
        Policy("attn", "q", signed=False),
        Policy("attn", "v"),
        Policy("attn", "p"),
    ]
    with pytest.raises(CosimError) as caught:
        carry_out_policies(write_policies(program(text), policies))
    expected = (
        "expected i8/row/dynamic, i8/tensor/dynamic, i8/tensor/static (probabilities: u8/row/unit)"
    )
    assert caught.value.problems == [
        "q_proj (linear): integer activations need integer weights; @float is float",
        "k_proj (linear): integer activations need integer weights; @pruned is float",
        f"v_proj (linear): operand input as i4/row/dynamic: {expected}",
        f"attn (attention): operand q as u8/row/dynamic: {expected}",
        f"attn (attention): operand p as i8/row/dynamic: {expected}",
        "attn (attention): operands k stay float while others do not",
        "attn (attention): v per row: its rows are summed over, expected per tensor",
        "conv (conv1d): a window spans several rows, expected activations per tensor",
    ]


CACHED = """\
program "p"
graph step(past) {
  input %k : f32<2, 1, 6>
  input %q : f32<2, 1, 6>
  state %ks : f32<2, past, 6> capacity 9
  state %vs : f32<2, past, 6> capacity 9
  %ka = cache_append(%ks, %k) {axis=1} : f32<2, past + 1, 6>
  %va = cache_append(%vs, %q) {axis=1} : f32<2, past + 1, 6>
  %qc, %qz = dynamic_quantize(%q) {per="row"} : i8<2, 1, 6>, f32<2, 1>
  %kc, %kz = dynamic_quantize(%ka) {per="row"} : i8<2, past + 1, 6>, f32<2, past + 1>
  %vc, %vz = dynamic_quantize(%va) {per="tensor"} : i8<2, past + 1, 6>, f32<1>
  %y = quantized_attention(%qc, %qz, %kc, %kz, %vc, %vz) {scale=float(0x1p-1)} : f32<2, 1, 6>
  return y = %y
}
"""


def steps(graph: Graph, count: int) -> list[np.ndarray]:
    """Run `count` calls, each appending a row, and return what each of them gives."""
    empty = {
        name: np.zeros(graph.types[name].bind({"past": 0}), dtype)
        for name, _ in graph.states
        for dtype in [{"f32": np.float32, "i8": np.int8}[graph.types[name].dtype]]
    }
    found = []
    for call in range(count):
        inputs = {"k": random(call, 2, 1, 6), "q": random(99 - call, 2, 1, 6)}
        outputs, empty = run(graph, {}, inputs, empty)
        found.append(outputs["y"])
    return found


def test_caches_that_are_quantised_by_rows_hold_codes_with_equal_results():
    before = program(CACHED).graphs[0]
    after = quantize_caches(before)
    assert problems(Program("p", (after,), {})) == []
    assert after.states == (("%ks.codes", 9), ("%ks.scales", 9), ("%vs", 9))
    assert [after.types[name].dtype for name, _ in after.states] == ["i8", "f32", "f32"]
    assert kinds(after).count("dynamic_quantize") == 3
    for wanted, found in zip(steps(before, 6), steps(after, 6), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('(%ka) {per="row"}', '(%ka) {per="tensor"}'),  # the scale of old rows may change
        ("  return y = %y\n", "  return y = %y\n  return all = %ka\n"),
        ("  return y = %y\n", "  %more = gelu(%ka) : f32<2, past + 1, 6>\n  return y = %more\n"),
    ],
)
def test_caches_that_are_needed_as_floats_stay(old, new):
    assert CACHED.count(old) == 1
    graph = from_text(CACHED.replace(old, new)).graphs[0]
    assert quantize_caches(graph) == graph


def test_a_cache_that_grows_along_the_quantised_rows_stays():
    graph = from_text(
        """\
program "p"
graph step(past) {
  input %k : f32<2, 1>
  state %s : f32<2, past> capacity 9
  %a = cache_append(%s, %k) {axis=1} : f32<2, past + 1>
  %c, %z = dynamic_quantize(%a) {per="row"} : i8<2, past + 1>, f32<2>
  return c = %c
  return z = %z
}
"""
    ).graphs[0]
    assert quantize_caches(graph) == graph


HANDED = """\
program "p"
graph encoder(rows) {
  input %x : f32<rows, 6>
  %h = gelu(%x) : f32<rows, 6>
  return extra = %h
  return memory = %h
  return rest = %x
}
graph step(length) {
  input %memory : f32<length, 6>
  input %rest : f32<length, 6>
  %c, %s = dynamic_quantize(%memory) {per="row"} : i8<length, 6>, f32<length>
  %y = add(%rest, %rest) : f32<length, 6>
  return c = %c
  return s = %s
  return y = %y
}
"""


def two_graphs(whole: Program) -> dict[str, np.ndarray]:
    """Run the first graph, hand its outputs to the second, return what that one gives."""
    encoder, step = whole.graphs
    made, _ = run(encoder, {}, {"x": random(3, 5, 6)})
    taken = {name[1:]: made[name[1:]] for name in step.inputs}
    return run(step, {}, taken)[0]


def test_an_input_that_is_only_quantised_is_quantised_where_it_is_made():
    before = program(HANDED)
    after = quantize_at_source(before)
    assert problems(after) == []
    encoder, step = after.graphs
    assert step.inputs == ("%memory.codes", "%memory.scales", "%rest")
    assert [public for public, _ in encoder.outputs] == [
        "extra",
        "memory.codes",
        "memory.scales",
        "rest",
    ]
    assert kinds(step) == ["add"]
    wanted, found = two_graphs(before), two_graphs(after)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize(
    "change",
    [
        ("%y = add(%rest, %rest)", "%y = add(%memory, %rest)"),
        ("  return y = %y\n", "  return y = %y\n  return again = %memory\n"),
        ("  return memory = %h\n", ""),
        (
            "graph step",
            (
                "graph ctc(n) {\n  input %memory : f32<n, 6>\n  %y = gelu(%memory) : f32<n, 6>\n"
                "  return y = %y\n}\ngraph step"
            ),
        ),
    ],
)
def test_an_input_that_somebody_needs_as_floats_is_handed_over_as_floats(change):
    assert HANDED.count(change[0]) == 1
    before = program(HANDED.replace(*change))
    assert quantize_at_source(before) == before


def test_whisper_quantises_each_activation_once():
    encoder, step = small_whisper.program(quantized=True).graphs
    for graph in (encoder, step):
        quantised = [op.inputs for op in graph.ops if op.kind == "dynamic_quantize"]
        assert len(quantised) == len(set(quantised))
    layers = small_whisper.DIMENSIONS.decoder_layers
    # two convolutions; qkv, q, k, v, out, fc1, fc2 a layer; the memory; k and v handed over
    assert kinds(encoder).count("dynamic_quantize") == 2 + 7 + 1 + 2 * layers
    # qkv, q, k, v, out; q input, q, out; fc1, fc2 a layer; proj_out
    assert kinds(step).count("dynamic_quantize") == 10 * layers + 1
    assert {op.kind for op in step.ops} & {"linear", "attention", "conv1d"} == set()
    assert step.states[:3] == (
        ("%past_k_0.codes", 8),
        ("%past_k_0.scales", 8),
        ("%past_v_0", 8),
    )


def test_products_without_an_integer_kernel_are_refused_by_name():
    text = SELF_ATTENTION.replace("attention(%q, %k, %v)", "attention(%q, %k, %v, %b)")
    text = text.replace("  %q =", "  input %b : f32<1, rows, rows>\n  %q =", 1)
    text = text.replace("f32<6, 6, 3>", "f32<6, 1, 3>").replace(
        "{padding=1", "{groups=6, padding=1"
    )
    policies = [*ATTENTION, Policy("conv", "input", per="tensor")]
    with pytest.raises(CosimError) as caught:
        carry_out_policies(write_policies(program(text), policies))
    assert caught.value.problems == [
        "attn (attention): scores with a bias: there is no integer kernel for them",
        "conv (conv1d): one filter a channel: there is no integer kernel for it",
    ]


CONVOLUTIONS = """\
program "p"
constant @b : f32<6> dense {} bits 192 index 0 sha256 0b
constant @grouped : f32<6, 3, 3> bitpacked {"bits": 8} bits 432 index 0 sha256 0c
constant @image : f32<5, 2, 3, 3> bitpacked {"bits": 8} bits 720 index 0 sha256 0d
graph main(t) {
  input %i : f32<1, 2, t, 9>
  input %x : f32<1, 6, t>
  %y = conv1d(%x, @grouped, @b) {groups=2, padding=1, stride=1} : f32<1, 6, t> in "one"
  %z = conv2d(%i, @image) {padding=0, stride=2} : f32<1, 5, ((t - 3)//2) + 1, 4> in "two"
  return y = %y
  return z = %z
}
"""


@pytest.mark.parametrize("t", [3, 8])
def test_convolutions_in_groups_and_over_images_become_products_of_codes(t):
    policies = [Policy("one", "input", per="tensor"), Policy("two", "input", per="tensor")]
    before = write_policies(program(CONVOLUTIONS), policies)
    after = carry_out_policies(before)
    assert problems(after) == []
    assert set(kinds(after.graphs[0])) == {
        "dynamic_quantize",
        "quantized_conv1d",
        "quantized_conv2d",
    }
    values = {
        "@b": random(1, 6),
        "@grouped": codes_of(random(2, 6, 3, 3)),
        "@image": codes_of(random(3, 5, 2, 3, 3)),
    }
    inputs = {"x": random(4, 1, 6, t), "i": random(5, 1, 2, t, 9)}
    plain, _ = run(program(CONVOLUTIONS).graphs[0], values, inputs)
    wanted, _ = run(before.graphs[0], values, inputs)
    found, _ = run(after.graphs[0], values, inputs)
    for name in plain:
        np.testing.assert_array_equal(found[name], wanted[name])
        assert not np.array_equal(found[name], plain[name])
        np.testing.assert_allclose(found[name], plain[name], atol=0.05 * abs(plain[name]).max())


def test_convolutions_without_an_integer_kernel_are_refused_by_name():
    text = CONVOLUTIONS.replace("f32<5, 2, 3, 3>", "f32<6, 2, 3, 3>").replace(
        "f32<1, 5, ((t", "f32<1, 6, ((t"
    )
    text = text.replace("f32<1, 2, t, 9>", "f32<1, 4, t, 9>")
    text = text.replace("{padding=0, stride=2}", "{groups=2, padding=0, stride=2}")
    assert problems(program(text)) == []
    policies = [Policy("one", "input"), Policy("two", "input")]
    with pytest.raises(CosimError) as caught:
        carry_out_policies(write_policies(program(text), policies))
    assert caught.value.problems == [
        "one (conv1d): a window spans several rows, expected activations per tensor",
        "two (conv2d): 2 groups: there is no integer kernel for them",
        "two (conv2d): a window spans several rows, expected activations per tensor",
    ]
