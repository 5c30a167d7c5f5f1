from dataclasses import replace

import pytest
import small_whisper

from cosim.ir import Op, from_text
from cosim.verify import problems, verify

HEAD = """\
program "p"
constant @b : f32<4> dense {} bits 128 index 0 sha256 0b
constant @w : f32<4, 8> dense {} bits 1024 index 0 sha256 0a
"""
LEGAL = (
    HEAD
    + """\
graph encoder(frames) {
  input %x : f32<frames, 8>
  %h = linear(%x, @w, @b) : f32<frames, 4>
  %c, %s = dynamic_quantize(%h) {per="row"} : i8<frames, 4>, f32<frames>
  return c = %c
  return s = %s
}
graph step(past, rows) {
  input %c : i8<rows, 4>
  input %new : f32<1, 4>
  state %cache : f32<past, 4> capacity 9
  %all = cache_append(%cache, %new) {axis=0} : f32<past + 1, 4>
  %y = gelu(%all) : f32<past + 1, 4>
  return y = %y
}
"""
)


def found(*edits: tuple[str, str], text: str = LEGAL) -> list[str]:
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return problems(from_text(text))


def test_legal_programs_have_no_problem():
    assert found() == []
    program = from_text(LEGAL)
    assert verify(program) is program
    assert problems(small_whisper.program(quantized=False)) == []
    assert problems(small_whisper.program(quantized=True)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("gelu(%all)", "gelu(%none)", ["step.%y: %none is used before it is defined"]),
        (
            "  %y = gelu(%all) : f32<past + 1, 4>",
            "  %y = gelu(%z) : f32<past + 1, 4>\n  %z = gelu(%all) : f32<past + 1, 4>",
            ["step.%y: %z is used before it is defined"],
        ),
        (
            "  return y",
            "  %y = gelu(%y) : f32<past + 1, 4>\n  return y",
            ["step.%y: defined twice"],
        ),
        ("input %new :", "input %c :", None),
        (
            "linear(%x, @w, @b)",
            "linear(%x, @w2, @b)",
            ["encoder.%h: constant @w2 does not exist", "@w: constant is not used"],
        ),
        ("linear(%x, @w, @b)", "linear(%x, @w)", ["@b: constant is not used"]),
        (
            "@b) : f32<frames, 4>",
            "@b) : f32<frames, 5>",
            [
                "encoder.%h: declared f32<frames, 5>, linear gives f32<frames, 4>",
                "encoder.%c: declared i8<frames, 4>, dynamic_quantize gives i8<frames, 5>",
            ],
        ),
        (
            "input %x : f32<frames, 8>",
            "input %x : f32<frames, 7>",
            ["encoder.%h: linear %h: contracts 7 with 8"],
        ),
        (
            "constant @b : f32<4>",
            "constant @b : f32<5>",
            ["encoder.%h: linear %h: f32<5>: expected shape <4>"],
        ),
        (
            "input %x : f32<frames, 8>",
            "input %x : i32<frames, 8>",
            ["encoder.%h: linear operand %x is i32, expected f32"],
        ),
        (
            "input %x : f32<frames, 8>",
            "input %x : f32<length, 8>",
            [
                "encoder.%x: length is not a symbol of the graph",
                "encoder.%h: declared f32<frames, 4>, linear gives f32<length, 4>",
            ],
        ),
        (
            '{per="row"}',
            '{per="column"}',
            ["encoder.%c: dynamic_quantize %c: per is 'column', not row or tensor"],
        ),
        (' {per="row"}', "", ["encoder.%c: dynamic_quantize %c: no attribute 'per'"]),
        (
            "{per=",
            '{policy="input:i8/row/dynamic", per=',
            ["encoder.%c: policy 'input:i8/row/dynamic' was never carried out"],
        ),
        (
            "%y = gelu(%all)",
            "%y = gelu(%all, %all)",
            ["step.%y: gelu takes 1 operands, has ('%all', '%all')"],
        ),
        (
            "linear(%x, @w, @b)",
            "linear(%x)",
            [
                "encoder.%h: linear takes 2 to 3 operands, has ('%x',)",
                "@b: constant is not used",
                "@w: constant is not used",
            ],
        ),
        ("%y = gelu(", "%y = gleu(", ["step.%y: unknown op 'gleu'"]),
        (
            "%y = gelu(%all) : f32<past + 1, 4>",
            "%y, %z = gelu(%all) : f32<past + 1, 4>, f32<1>",
            ["step.%y: gelu has 1 results, names ('%y', '%z')"],
        ),
        ("return y = %y", "return y = %z", ["step.%z: returned as y but not defined"]),
        (
            "%all = cache_append(%cache, %new) {axis=0}",
            "%all = concat(%new, %new) {axis=past, rest=[1, memory]}",
            [
                "step.%all: rest: memory is not a symbol of the graph",
                "step.%all: concat %all: axis is not an integer",
                "step.%cache: a state is appended to exactly once, found 0",
            ],
        ),
        (
            "  return y",
            "  %more = cache_append(%cache, %new) {axis=0} : f32<past + 1, 4>\n  return y",
            ["step.%cache: a state is appended to exactly once, found 2"],
        ),
        (
            "cache_append(%cache, %new)",
            "cache_append(%new, %new)",
            [
                "step.%all: declared f32<past + 1, 4>, cache_append gives f32<2, 4>",
                "step.%cache: a state is appended to exactly once, found 0",
                "step.%all: cache_append writes %new, not a state",
            ],
        ),
        (
            "gelu(%all) : f32<past + 1, 4>",
            "gelu(%cache) : f32<past, 4>",
            ["step.%y: reads state %cache, expected the result of its cache_append"],
        ),
        (
            "return y = %y",
            "return y = %cache",
            ["step.%cache: a state is kept, not returned (as y)"],
        ),
        (
            "input %new : f32<1, 4>",
            "input %new : f32<1, 5>",
            ["step.%all: cache_append %all: f32<past, 4> and f32<1, 5> differ beside axis 0"],
        ),
        ("{axis=0}", "{axis=2}", ["step.%all: cache_append %all: f32<past, 4> has no axis 2"]),
        (
            "state %cache : f32<past, 4>",
            "state %cache : i8<past, 4>",
            [
                "step.%all: cache_append operand %new is f32, expected i8",
                "step.%all: declared f32<past + 1, 4>, cache_append gives i8<past + 1, 4>",
            ],
        ),
        (
            "input %c : i8<rows, 4>",
            "input %c : f32<rows, 4>",
            ["step.%c: is f32<rows, 4>, encoder returns i8<frames, 4>"],
        ),
        (
            "input %c : i8<rows, 4>",
            "input %c : i8<rows, 5>",
            ["step.%c: is i8<rows, 5>, encoder returns i8<frames, 4>"],
        ),
        ("graph step(", "graph encoder(", None),
    ],
)
def test_each_violation_is_told_and_nothing_else(old, new, expected):
    told = found((old, new))
    if expected is None:  # what follows from it depends on which of the two is meant
        assert any("defined twice" in text or "several graphs" in text for text in told)
    else:
        assert told == expected


def test_all_violations_are_told_at_once():
    edits = [
        ("input %x : f32<frames, 8>", "input %x : i8<length, 8>"),
        ('{per="row"}', '{per="column"}'),
        ("linear(%x, @w, @b)", "linear(%x, @w)"),
        ("return s = %s", "return s = %t"),
        ("%y = gelu(%all)", "%y = gelu(%nothing)"),
        ("cache_append(%cache, %new)", "cache_append(%cache)"),
    ]
    alone = [text for edit in edits for text in found(edit) if "declared" not in text]
    told = found(*edits)
    assert set(alone) <= set(told)
    text = LEGAL
    for old, new in edits:
        text = text.replace(old, new)
    with pytest.raises(ValueError, match="program p is not legal:") as caught:
        verify(from_text(text))
    assert str(caught.value).splitlines()[1:] == told


def test_a_value_without_a_type_and_a_type_without_a_value_are_told():
    program = from_text(LEGAL)
    graph = program.graph("step")
    types = {name: kind for name, kind in graph.types.items() if name != "%y"}
    types["%old"] = graph.types["%y"]
    changed = replace(program, graphs=(program.graphs[0], replace(graph, types=types)))
    assert problems(changed) == [
        "step.%y: has no type",
        "step.%old: has a type but is not defined",
    ]


def test_quantized_products_are_checked_operand_by_operand():
    text = (
        HEAD
        + """\
graph main(rows) {
  input %x : f32<rows, 8>
  %c, %s = dynamic_quantize(%x) {per="row"} : i8<rows, 8>, f32<rows>
  %y = quantized_linear(%c, %s, @w, @b) : f32<rows, 4>
  return y = %y
}
"""
    )
    assert found(text=text) == []
    assert found(("(%c, %s, @w, @b)", "(%x, %s, @w, @b)"), text=text) == [
        "main.%y: quantized_linear operand %x is f32, expected i8"
    ]
    assert found(("(%c, %s, @w, @b)", "(%c, @b, @w, @b)"), text=text) == [
        "main.%y: quantized_linear %y: scales f32<4> do not belong to i8<rows, 8>"
    ]


def test_an_operand_list_without_operands_is_told():
    program = from_text(LEGAL)
    graph = program.graph("step")
    op = Op("cache_append", (), ("%all",), graph.ops[0].attributes)
    changed = replace(graph, ops=(op, *graph.ops[1:]))
    assert problems(replace(program, graphs=(program.graphs[0], changed))) == [
        "step.%all: cache_append takes 2 operands, has ()",
        "step.%cache: a state is appended to exactly once, found 0",
    ]
