"""What a product finishes in cache: the right ops, and the same bits as one call each."""

import numpy as np
import pytest
import small_whisper

from cosim import expr
from cosim.execute import ProgramEngine, Weights, builder
from cosim.execute.fusion import tails
from cosim.ir import Graph, Op, TensorType

ROWS = TensorType((5, 8), "f32")


def graph(*ops: Op, outputs: tuple[str, ...], **types: TensorType) -> Graph:
    values = {name: ROWS for op in ops for name in op.outputs}
    values |= {"%x": ROWS, "%r": ROWS} | {f"%{name}": kind for name, kind in types.items()}
    returned = tuple((name[1:], name) for name in outputs)
    return Graph("encoder", (), ("%x", "%r"), (), returned, ops, values)


PAST = expr.parse("past")
PRODUCT = Op("linear", ("%x", "@w"), ("%y",))
GELU = Op("gelu", ("%y",), ("%g",))
CODES = Op("dynamic_quantize", ("%g",), ("%c", "%s"), (("per", "row"),))


def kinds(found: Graph) -> list[str]:
    tail = tails(found).get("%y")
    return [] if tail is None else [op.kind for op in tail.ops]


def test_activation_residual_and_codes_follow_a_product():
    add = Op("add", ("%g", "%r"), ("%a",))
    codes = Op("dynamic_quantize", ("%a",), ("%c", "%s"), (("per", "row"),))
    whole = graph(PRODUCT, GELU, add, codes, outputs=("%c", "%s"))
    assert kinds(whole) == ["gelu", "add", "dynamic_quantize"]
    assert not tails(whole)["%y"].keeps_floats
    assert tails(graph(PRODUCT, GELU, add, codes, outputs=("%a", "%c")))["%y"].keeps_floats


def test_a_value_that_others_read_is_written_before_anything_is_done_to_it():
    other = Op("layer_norm", ("%y", "@g", "@b"), ("%n",))
    assert kinds(graph(PRODUCT, GELU, other, outputs=("%g", "%n"))) == []
    assert kinds(graph(PRODUCT, GELU, outputs=("%g", "%y"))) == []


def test_codes_beside_floats_come_from_the_same_call():
    other = Op("layer_norm", ("%g", "@g", "@b"), ("%n",))
    found = tails(graph(PRODUCT, GELU, CODES, other, outputs=("%c", "%n")))["%y"]
    assert [op.kind for op in found.ops] == ["gelu", "dynamic_quantize"]
    assert found.keeps_floats


def test_codes_per_tensor_wait_for_all_rows():
    codes = Op("dynamic_quantize", ("%g",), ("%c", "%s"), (("per", "tensor"),))
    assert kinds(graph(PRODUCT, GELU, codes, outputs=("%c", "%s"))) == ["gelu"]


@pytest.mark.parametrize(
    "other",
    [
        Op("gelu", ("%x",), ("%late",)),  # made after the product
        Op("slice", ("%x",), ("%late",), (("axis", 0), ("start", PAST), ("stop", PAST + 5))),
    ],
)
def test_a_residual_must_be_there_and_stay_where_it_is(other):
    add = Op("add", ("%y", "%late"), ("%a",))
    before = (other,) if other.kind == "slice" else ()
    after = () if before else (other,)
    assert kinds(graph(*before, PRODUCT, *after, add, outputs=("%a",))) == []


def test_a_sum_with_itself_and_a_broadcast_row_are_no_residuals():
    assert kinds(graph(PRODUCT, Op("add", ("%y", "%y"), ("%a",)), outputs=("%a",))) == []
    add = Op("add", ("%y", "%row"), ("%a",))
    row = TensorType((1, 8), "f32")
    assert kinds(graph(PRODUCT, add, outputs=("%a",), row=row)) == []


def test_a_convolution_keeps_its_order_in_memory_and_takes_the_activation_only():
    conv = Op("conv1d", ("%x", "@w"), ("%y",))
    add = Op("add", ("%g", "%r"), ("%a",))
    assert kinds(graph(conv, GELU, add, outputs=("%a",))) == ["gelu"]


@pytest.mark.parametrize("quantized", [False, True])
def test_fused_calls_give_the_bits_of_separate_ones(quantized, monkeypatch):
    encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=quantized).items()}
    program = small_whisper.program(quantized=quantized)
    x = np.random.default_rng(3).standard_normal((small_whisper.DIMENSIONS.mels, 21))

    def heard() -> tuple[int, list[np.ndarray]]:
        engine = ProgramEngine(Weights(program, encodings), length=21)
        engine.encode(x.astype(np.float32))
        found = [engine.encoder.output(name).copy() for name, _ in engine.encoder.graph.outputs]
        calls = len(engine.encoder.calls) + len(engine.decoder.calls)
        return calls, [*found, *(engine.step(t, i).copy() for i, t in enumerate((1, 2, 3)))]

    fewer, fused = heard()
    monkeypatch.setattr(builder, "tails", lambda _graph: {})
    more, separate = heard()
    assert fewer < more
    assert all(np.array_equal(a, b) for a, b in zip(fused, separate, strict=True))
