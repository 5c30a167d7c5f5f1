from dataclasses import replace

import numpy as np
import pytest
import small_whisper
from hypothesis import given
from hypothesis import strategies as st

from cosim.expr import parse
from cosim.ir import (
    Constant,
    Graph,
    Op,
    Program,
    TensorType,
    attributes,
    from_text,
    is_constant,
    to_text,
    value_names,
)
from cosim.lower import lower
from kernels.encodings import encode_bitpacked, encode_csr, encode_dense

PAST = parse("past")
ROW = TensorType((1, 4), "f32")
WEIGHT = Constant(TensorType((4, 4), "f32"), "bitpacked", '{"bits": 4}', 192, 0, "ab12")
TEXT = """\
program "two graphs"
constant @a.bias : f32<4> dense {} bits 128 index 0 sha256 00ff
constant @a.weight : f32<4, 4> csr {"bits": 8, "group": 4, "shape": [4, 4]} bits 300 index 44 sha256 ab
graph encoder(frames) {
  input %x : f32<frames, 4>
  %h = linear(%x, @a.weight, @a.bias) : f32<frames, 4> in "encoder.a"
  %c, %s = dynamic_quantize(%h) {per="row"} : i8<frames, 4>, f32<frames>
  return cross = %c
  return scales = %s
}
graph step(past, memory) {
  input %cross : i8<memory, 4>
  input %new : f32<1, 4>
  state %cache : f32<past, 4> capacity 16
  %all = cache_append(%cache, %new) {axis=0} : f32<past + 1, 4> in "step"
  %part = slice(%all) {axis=0, start=past, stop=past + 1} : f32<1, 4>
  %flat = reshape(%part) {shape=[4]} : f32<4>
  return y = %flat
}
"""  # noqa: E501 (one constant is one line)


def one_op(**values: object) -> Program:
    op = Op("gelu", ("%x",), ("%y",), attributes(**values), "a.b")
    graph = Graph("main", ("past",), ("%x",), (), (("out", "%y"),), (op,), {"%x": ROW, "%y": ROW})
    return Program("p", (graph,), {"@w": WEIGHT})


DIMS = st.integers(-5, 10**12) | st.sampled_from([PAST, PAST + 1, (PAST - 1) // 2 + 1])
VALUES = (
    DIMS
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(['a, b="c"', "} : f32<1>", '\\"', "[1]", "true", "\n", "\u2028", "in"])
    | st.lists(DIMS, max_size=4).map(tuple)
)
NAMES = st.from_regex(r"[a-z_]\w{0,5}", fullmatch=True).filter(str.isascii)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_attribute_comes_back_from_the_text_with_its_type(values):
    program = one_op(**values)
    text = to_text(program)
    again = from_text(text)
    assert again == program
    assert to_text(again) == text
    found = again.graphs[0].ops[0].attributes
    assert [type(value) for _, value in found] == [
        type(value) for _, value in program.graphs[0].ops[0].attributes
    ]


@given(st.text(max_size=10), st.text(max_size=10))
def test_any_program_name_and_module_path_comes_back(name, scope):
    program = one_op()
    graph = program.graphs[0]
    op = replace(graph.ops[0], scope=scope)
    program = replace(program, name=name, graphs=(replace(graph, ops=(op,)),))
    assert from_text(to_text(program)) == program


def test_text_with_graphs_states_and_several_results_comes_back_exactly():
    program = from_text(TEXT)
    assert to_text(program) == TEXT
    assert from_text(to_text(program)) == program


def test_text_is_read_into_the_parts_that_it_says():
    program = from_text(TEXT)
    assert program.name == "two graphs"
    assert program.graph_names == ("encoder", "step")
    assert program.constants["@a.weight"] == Constant(
        TensorType((4, 4), "f32"),
        "csr",
        '{"bits": 8, "group": 4, "shape": [4, 4]}',
        300,
        44,
        "ab",
    )
    encoder, step = program.graphs
    assert encoder.symbols == ("frames",)
    assert step.states == (("%cache", 16),)
    assert encoder.outputs == (("cross", "%c"), ("scales", "%s"))
    quantize = encoder.ops[1]
    assert quantize == Op("dynamic_quantize", ("%h",), ("%c", "%s"), (("per", "row"),), "")
    assert encoder.types["%s"] == TensorType((parse("frames"),), "f32")
    assert step.types["%all"].bind({"past": 6, "memory": 1}) == (7, 4)
    assert step.ops[1].attribute("stop") == PAST + 1
    assert list(value_names(step)) == ["%cross", "%new", "%cache", "%all", "%part", "%flat"]
    assert list(step.consumers()) == ["%cache", "%new", "%all", "%part"]
    assert step.producers()["%part"] is step.ops[1]
    assert is_constant("@a.bias")
    assert not is_constant("%a.bias")


@pytest.mark.parametrize("quantized", [False, True])
def test_a_whisper_program_comes_back_exactly(quantized):
    program = small_whisper.program(quantized=quantized)
    text = to_text(program)
    again = from_text(text)
    assert again == program
    assert to_text(again) == text
    assert again.hash == program.hash


@pytest.mark.parametrize(
    ("old", "new", "number", "why"),
    [
        ("graph encoder(frames) {", "graph encoder(frames)", 4, "graph encoder(frames)"),
        ("bits 128 index", "bits many index", 2, "constant @a.bias"),
        ("  input %x : f32<frames, 4>", "  input x : f32<frames, 4>", 5, "input x"),
        ("%x : f32<frames", "%x : f24<frames", 5, "f24<frames"),
        ("%x : f32<frames", "%x : f32<frames ** 2", 5, "expected symbols"),
        ("= linear(", "= linear", 6, "linear%x"),
        ("{axis=0}", "{axis 0}", 15, "{axis 0}: expected {name=value"),
        ("{axis=0}", "{axis=0 1}", 15, "'0 1': not an integer expression"),
        ("stop=past + 1", "stop=past / 1", 16, "'past / 1': expected symbols"),
        ('{per="row"}', "{per=row}}", 7, "row}"),
        ("i8<frames, 4>, f32<frames>", "i8<frames, 4>", 7, "shorter"),
        ("capacity 16", "capacity", 14, "state %cache"),
        ("  return y", "  yield y", 18, "yield y"),
    ],
)
def test_a_line_that_is_not_understood_is_named(old, new, number, why):
    assert TEXT.count(old) == 1
    with pytest.raises(ValueError, match=f"program text line {number}: ") as caught:
        from_text(TEXT.replace(old, new))
    assert why in str(caught.value)


def test_a_text_that_ends_early_or_is_no_program_is_refused():
    with pytest.raises(ValueError, match="graph step is not closed"):
        from_text(TEXT[: TEXT.rindex("}")])
    for text in ("", "constant @w : f32<1> dense {} bits 32 index 0 sha256 00\n"):
        with pytest.raises(ValueError, match="expected a line `program"):
            from_text(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sha256 00ff", "sha256 00fe"),  # a weight
        ('"bits": 8', '"bits": 4'),  # an encoding
        ("a.weight : f32<4, 4> csr", "a.weight : f32<4, 4> bitmap"),
        ("bits 300", "bits 308"),
        ("index 44", "index 36"),
        ("start=past,", "start=0,"),  # an attribute
        ('per="row"', 'per="tensor"'),
        ("%c, %s = dynamic_quantize(%h) {per=", '%c, %s = dynamic_quantize(%h) {policy="p", per='),
        ("f32<1, 4>\n  state", "f32<2, 4>\n  state"),  # a type
        ("i8<memory, 4>", "u8<memory, 4>"),
        ("capacity 16", "capacity 17"),
        ("linear(%x, @a.weight, @a.bias)", "linear(%x, @a.weight)"),  # an operand
        ('in "encoder.a"', 'in "encoder.b"'),
        ("return y", "return z"),
        ("step(past, memory)", "step(memory, past)"),
    ],
)
def test_hash_changes_with_everything_that_decides_what_runs(old, new):
    assert TEXT.count(old) == 1
    assert from_text(TEXT.replace(old, new)).hash != from_text(TEXT).hash


def test_hash_and_equality_do_not_depend_on_the_order_of_dictionaries():
    program = from_text(TEXT)
    turned = replace(
        program,
        constants=dict(reversed(program.constants.items())),
        graphs=tuple(
            replace(graph, types=dict(reversed(graph.types.items()))) for graph in program.graphs
        ),
    )
    assert list(turned.constants) != list(program.constants)
    assert turned == program
    assert turned.hash == program.hash
    assert attributes(b=1, a=2) == attributes(a=2, b=1)


def test_hash_of_a_lowered_model_follows_weights_encodings_and_policies():
    spec = small_whisper.linear_spec()
    rng = np.random.default_rng(3)
    codes = rng.integers(-7, 8, (4, 3))
    scale = np.full((4, 1), 0.25, np.float32)
    values = (codes * scale).astype(np.float32)
    other = values.copy()
    other[0, 0] += 0.25
    packed = encode_bitpacked(codes, scale, bits=8)
    variants = [
        (encode_dense(values), ()),
        (encode_dense(other), ()),
        (encode_csr(values), ()),
        (packed, ()),
        (encode_bitpacked(codes, scale, bits=4), ()),
        (encode_bitpacked(codes, scale * 2, bits=8), ()),
        (packed, (small_whisper.Policy("fc", "input"),)),
        (packed, (small_whisper.Policy("fc", "input", per="tensor"),)),
    ]
    hashes = [
        lower("p", [spec], encodings={"fc.weight": encoding}, policies=policies).hash
        for encoding, policies in variants
    ]
    assert len(set(hashes)) == len(variants)
    again = lower("p", [spec], encodings={"fc.weight": encode_dense(values.copy())})
    assert again.hash == hashes[0]


def test_errors_of_lookups_name_what_exists():
    program = from_text(TEXT)
    with pytest.raises(KeyError, match=r"no graph 'ctc', has \('encoder', 'step'\)"):
        program.graph("ctc")
    with pytest.raises(ValueError, match=r"graph step: lengths missing \['memory'\]") as caught:
        program.graph("step").bind(past=3, frames=2)
    assert "unknown ['frames']" in str(caught.value)
    op = program.graph("step").ops[1]
    with pytest.raises(KeyError, match="slice %part: no attribute 'order'"):
        op.attribute("order")
    with pytest.raises(TypeError, match="slice %part: start is not an integer"):
        op.integer("start")
    assert op.with_attributes(axis=1).integer("axis") == 1
    assert op.integer("axis") == 0
