from dataclasses import dataclass

import numpy as np
import pytest
from ir_interpreter import kinds, program, random, run

from cosim.errors import CosimError
from cosim.ir import Program, from_text
from cosim.passes.caches import append_caches
from cosim.passes.clean import merge_equal, remove_dead, remove_identities
from cosim.verify import problems


@dataclass(frozen=True)
class Carried:
    input: str
    output: str
    axis: int = 1
    capacity: int = 9


GROWING = program(
    """\
program "p"
graph step(past) {
  input %new : f32<2, 1, 6>
  input %old : f32<2, past, 6>
  %both = concat(%old, %new) {axis=1} : f32<2, past + 1, 6> in "attn"
  %y = gelu(%both) : f32<2, past + 1, 6>
  return y = %y
  return grown = %both
}
"""
).graphs[0]


def test_a_carried_concatenation_becomes_a_state():
    graph = append_caches(GROWING, [Carried("old", "grown")])
    assert graph.inputs == ("%new",)
    assert graph.states == (("%old", 9),)
    assert graph.outputs == (("y", "%y"),)
    assert kinds(graph) == ["cache_append", "gelu"]
    assert problems(Program("p", (graph,), {})) == []


def test_appending_means_what_concatenating_meant():
    graph = append_caches(GROWING, [Carried("old", "grown")])
    for past in (0, 1, 5):
        new, old = random(past, 2, 1, 6), random(8, 2, past, 6)
        before, _ = run(GROWING, {}, {"new": new, "old": old})
        after, states = run(graph, {}, {"new": new}, {"%old": old})
        np.testing.assert_array_equal(after["y"], before["y"])
        np.testing.assert_array_equal(states["%old"], before["grown"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("concat(%old, %new) {axis=1}", "concat(%new, %old) {axis=1}"),
        ("concat(%old, %new) {axis=1}", "concat(%old, %new, %new) {axis=1}"),
        ("concat(%old, %new) {axis=1}", "add(%old, %new)"),
        ("return grown = %both", "return other = %both"),
        ("return grown = %both", "return grown = %old"),
    ],
)
def test_what_is_no_concatenation_of_the_input_is_refused(old, new):
    text = (
        'program "p"\ngraph step(past) {\n  input %new : f32<2, 1, 6>\n'
        "  input %old : f32<2, past, 6>\n"
        "  %both = concat(%old, %new) {axis=1} : f32<2, past + 1, 6>\n"
        "  return grown = %both\n}\n"
    )
    assert text.count(old) == 1
    graph = from_text(text.replace(old, new)).graphs[0]
    with pytest.raises(CosimError, match=r"graph step: grown is not concat\(%old, new\)"):
        append_caches(graph, [Carried("old", "grown")])


def test_every_pair_that_does_not_fit_is_named():
    with pytest.raises(CosimError) as caught:
        append_caches(
            GROWING,
            [Carried("old", "grown", axis=0), Carried("lost", "gone"), Carried("new", "y")],
        )
    assert caught.value.problems == [
        "graph step: grown is not concat(%old, new)",
        "graph step: gone is not concat(%lost, new)",
        "graph step: y is not concat(%new, new)",
    ]


def test_ops_that_nobody_reads_are_removed_and_their_types():
    graph = from_text(
        """\
program "p"
graph g(n) {
  input %x : f32<n, 6>
  state %s : f32<n, 6> capacity 4
  %dead = gelu(%x) : f32<n, 6>
  %deader = gelu(%dead) : f32<n, 6>
  %kept = cache_append(%s, %x) {axis=0} : f32<2*n, 6>
  %y = gelu(%x) : f32<n, 6>
  return y = %y
}
"""
    ).graphs[0]
    cleaned = remove_dead(graph)
    assert [op.outputs[0] for op in cleaned.ops] == ["%kept", "%y"]
    assert set(cleaned.types) == {"%x", "%s", "%kept", "%y"}


def test_views_that_change_nothing_are_removed_and_others_kept():
    before = program(
        """\
program "p"
graph g(n) {
  input %x : f32<n, n, 6>
  %a = reshape(%x) {shape=[n, n, 6]} : f32<n, n, 6>
  %b = slice(%a) {axis=2, start=0, stop=6} : f32<n, n, 6>
  %c = transpose(%b) {order=[0, 1, 2]} : f32<n, n, 6>
  %d = transpose(%c) {order=[1, 0, 2]} : f32<n, n, 6>
  %e = reshape(%d) {shape=[n, n, 6]} : f32<n, n, 6>
  return y = %e
}
"""
    )
    after = remove_identities(before)
    (op,) = after.graphs[0].ops
    assert (op.kind, op.inputs, op.attribute("order")) == ("transpose", ("%x",), (1, 0, 2))
    assert after.graphs[0].outputs == (("y", "%d"),)
    x = random(0, 3, 3, 6)
    wanted, _ = run(before.graphs[0], {}, {"x": x})
    found, _ = run(after.graphs[0], {}, {"x": x})
    np.testing.assert_array_equal(found["y"], wanted["y"])


def test_only_equal_ops_are_merged():
    before = program(
        """\
program "p"
graph g(n) {
  input %x : f32<n, 6>
  %a = gelu(%x) : f32<n, 6> in "one"
  %b = gelu(%x) : f32<n, 6> in "two"
  %c = add(%a, %x) : f32<n, 6>
  %d = add(%x, %b) : f32<n, 6>
  %r, %rs = dynamic_quantize(%c) {per="row"} : i8<n, 6>, f32<n>
  %t, %ts = dynamic_quantize(%d) {per="tensor"} : i8<n, 6>, f32<1>
  return r = %r
  return rs = %rs
  return t = %t
  return ts = %ts
}
"""
    ).graphs[0]
    after = merge_equal(before)
    assert kinds(after) == ["gelu", "add", "add", "dynamic_quantize", "dynamic_quantize"]
    x = random(0, 4, 6)
    wanted, found = run(before, {}, {"x": x})[0], run(after, {}, {"x": x})[0]
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
