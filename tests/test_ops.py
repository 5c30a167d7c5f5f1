from collections.abc import Callable

import pytest
import small_whisper
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim.ir import Op, TensorType, attributes, from_text
from cosim.ops import ATEN, OPS, AtenCall, UnsupportedCallError, infer, row
from cosim.schedule import schedule
from hwmodels.workload import Gemm, Transfer, VectorOp

SIZES = st.integers(1, 7)
Case = tuple[list[tuple[int, ...]], dict[str, object], list[tuple[int, ...]]]


def shape_of(function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that torch gives, without computing."""
    return tuple(function(*(torch.empty(shape, device="meta") for shape in shapes)).shape)


# Each case draws operand shapes, attributes, and the result shapes that torch gives.


def reshape(draw) -> Case:
    a, b, c, d = (draw(SIZES) for _ in range(4))
    source = (a * b, c * d)
    shape = draw(st.permutations([a, b, c, d]))
    return [source], {"shape": tuple(shape)}, [shape_of(lambda x: x.reshape(shape), source)]


def transpose(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    order = tuple(draw(st.permutations(range(len(source)))))
    return [source], {"order": order}, [shape_of(lambda x: x.permute(order), source)]


def take(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    axis = draw(st.integers(0, len(source) - 1))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, source[axis])] * 2)))
    result = shape_of(lambda x: torch.ops.aten.slice(x, axis, start, stop), source)
    return [source], {"axis": axis, "start": start, "stop": stop}, [result]


def embedding(draw) -> Case:
    ids = tuple(draw(st.lists(SIZES, min_size=1, max_size=3)))
    table = (draw(SIZES), draw(SIZES))
    return [ids, table], {}, [shape_of(lambda i, w: F.embedding(i.long(), w), ids, table)]


def linear(draw) -> Case:
    rows = draw(st.lists(SIZES, max_size=3))
    k, n = draw(SIZES), draw(SIZES)
    shapes = [(*rows, k), (n, k), (n,)][: draw(st.integers(2, 3))]
    return shapes, {}, [shape_of(F.linear, *shapes)]


def conv1d(draw) -> Case:
    taps = draw(SIZES)
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    x = (draw(SIZES), draw(SIZES), draw(st.integers(max(taps - 2 * padding, 1), 30)))
    n = draw(SIZES)
    shapes = [x, (n, x[1], taps), (n,)][: draw(st.integers(2, 3))]
    result = shape_of(lambda *t: F.conv1d(*t, stride=stride, padding=padding), *shapes)
    return shapes, {"stride": stride, "padding": padding}, [result]


def gelu(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, max_size=4)))
    return [source], {}, [shape_of(F.gelu, source)]


def layer_norm(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    last = source[-1:]
    result = shape_of(lambda x, w, b: F.layer_norm(x, last, w, b), source, last, last)
    return [source, last, last], {"eps": 1e-5}, [result]


def add(draw) -> Case:
    full = draw(st.lists(SIZES, min_size=1, max_size=4))
    left = tuple(1 if draw(st.booleans()) else size for size in full)
    right = tuple(1 if draw(st.booleans()) else size for size in full)
    right = right[draw(st.integers(0, len(full))) :]
    shapes = [left, right] if draw(st.booleans()) else [right, left]
    return shapes, {}, [shape_of(torch.add, *shapes)]


def attention(draw) -> Case:
    heads = tuple(draw(st.lists(SIZES, min_size=1, max_size=2)))
    t, s, d, e = (draw(SIZES) for _ in range(4))
    shapes = [(*heads, t, d), (*heads, s, d), (*heads, s, e)]
    return shapes, {"scale": 0.5}, [shape_of(F.scaled_dot_product_attention, *shapes)]


def joined(draw, count: st.SearchStrategy[int]) -> Case:
    base = draw(st.lists(SIZES, min_size=1, max_size=4))
    axis = draw(st.integers(0, len(base) - 1))
    shapes = [(*base[:axis], draw(SIZES), *base[axis + 1 :]) for _ in range(draw(count))]
    return shapes, {"axis": axis}, [shape_of(lambda *t: torch.cat(t, axis), *shapes)]


def concat(draw) -> Case:
    return joined(draw, st.integers(2, 8))


def cache_append(draw) -> Case:
    return joined(draw, st.just(2))


def dynamic_quantize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    per = draw(st.sampled_from(["row", "tensor"]))
    scales = shape_of(lambda x: x.amax(-1), source) if per == "row" else (1,)
    return [source], {"per": per}, [source, scales]


def dynamic_binarize(draw) -> Case:
    source = tuple(draw(st.lists(SIZES, min_size=1, max_size=4)))
    return [source], {}, [source, shape_of(lambda x: x.amax(-1), source)]


def quantized_linear(draw) -> Case:
    (x, *rest), values, results = linear(draw)
    return [x, draw(st.sampled_from([x[:-1], (1,)])), *rest], values, results


def quantized_conv1d(draw) -> Case:
    (x, *rest), values, results = conv1d(draw)
    return [x, (1,), *rest], values, results


def quantized_attention(draw) -> Case:
    (q, k, v), values, results = attention(draw)
    return [q, q[:-1], k, k[:-1], v, (1,)], values, results


CASES = {
    "reshape": reshape,
    "transpose": transpose,
    "slice": take,
    "embedding": embedding,
    "linear": linear,
    "conv1d": conv1d,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "add": add,
    "attention": attention,
    "concat": concat,
    "cache_append": cache_append,
    "dynamic_quantize": dynamic_quantize,
    "dynamic_binarize": dynamic_binarize,
    "quantized_linear": quantized_linear,
    "quantized_conv1d": quantized_conv1d,
    "quantized_attention": quantized_attention,
}


@pytest.mark.parametrize("kind", OPS)
@settings(max_examples=40)
@given(data=st.data())
def test_shape_rule_gives_the_shapes_of_torch(kind, data):
    shapes, values, expected = CASES[kind](data.draw)
    assert OPS[kind].least <= len(shapes) <= OPS[kind].most
    types = [TensorType(shape, "f32") for shape in shapes]
    wanted = OPS[kind].operand_dtypes(types)
    types = [TensorType(shape, dtype) for shape, dtype in zip(shapes, wanted, strict=True)]
    names = tuple(f"%{i}" for i in range(len(shapes)))
    op = Op(kind, names, ("%y",), attributes(**values))
    assert [result.shape for result in infer(op, types)] == expected


@pytest.mark.parametrize("kind", OPS)
def test_row_is_found_by_its_kind(kind):
    assert row(Op(kind, (), ("%y",))) is OPS[kind]
    assert OPS[kind].kind == kind


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="%y: unknown op 'softmax'; known: reshape, transpose"):
        row(Op("softmax", (), ("%y",)))


@pytest.mark.parametrize(
    ("kind", "shapes", "values", "why"),
    [
        ("reshape", [(4, 3)], {"shape": (5, 2)}, "has not the elements"),
        ("transpose", [(4, 3)], {"order": (0, 0)}, "does not permute"),
        ("transpose", [(4, 3)], {"order": (1,)}, "does not permute"),
        ("slice", [(4, 3)], {"axis": 2, "start": 0, "stop": 1}, "has no axis 2"),
        ("slice", [(4, 3)], {"axis": 1, "start": 0, "stop": 4}, "is not inside"),
        ("slice", [(4, 3)], {"axis": 1, "start": -1, "stop": 1}, "is not inside"),
        ("slice", [(4, 3)], {"axis": 1, "start": 2, "stop": 1}, "is not inside"),
        ("embedding", [(1,), (4, 3, 2)], {}, "expected 2 axes"),
        ("linear", [(2, 3), (4, 5)], {}, "contracts 3 with 5"),
        ("linear", [(2, 3), (4, 3), (3,)], {}, "expected shape <4>"),
        ("linear", [(2, 3), (4, 3, 1)], {}, "expected 2 axes"),
        ("conv1d", [(1, 5, 9), (4, 6, 3)], {"stride": 1, "padding": 0}, "contracts 5 with 6"),
        ("conv1d", [(5, 9), (4, 5, 3)], {"stride": 1, "padding": 0}, "expected 3 axes"),
        ("layer_norm", [(2, 3), (2,), (3,)], {"eps": 1e-5}, "expected shape <3>"),
        ("add", [(2, 3), (2,)], {}, "do not fit"),
        ("attention", [(2, 4, 8), (3, 5, 8), (3, 5, 8)], {}, "batch and heads differ"),
        ("attention", [(2, 4, 8), (2, 5, 7), (2, 5, 8)], {}, "contracts 8 with 7"),
        ("attention", [(2, 4, 8), (2, 5, 8), (2, 6, 8)], {}, "contracts 5 with 6"),
        ("concat", [(2, 3), (3, 3)], {"axis": 1}, "differ beside axis 1"),
        ("concat", [(2, 3), (2, 3, 1)], {"axis": 1}, "expected 2 axes"),
        ("quantized_linear", [(2, 3), (3,), (4, 3)], {}, "do not belong"),
        (
            "quantized_conv1d",
            [(1, 5, 9), (1, 5), (4, 5, 3)],
            {"stride": 1, "padding": 0},
            "expected shape <1>",
        ),
        (
            "quantized_attention",
            [(2, 4, 8), (2, 4), (2, 5, 8), (2, 4), (2, 5, 8), (1,)],
            {},
            "do not belong",
        ),
    ],
)
def test_operands_that_do_not_fit_are_refused_with_the_op(kind, shapes, values, why):
    op = Op(kind, tuple(f"%{i}" for i in range(len(shapes))), ("%y",), attributes(**values))
    with pytest.raises(ValueError, match=why) as caught:
        infer(op, [TensorType(shape, "f32") for shape in shapes])
    assert str(caught.value).startswith(f"{kind} %y: ")


@pytest.mark.parametrize("target", ATEN)
def test_aten_target_exists_in_torch(target):
    name, overload = target.split(".")
    assert isinstance(getattr(getattr(torch.ops.aten, name), overload), torch._ops.OpOverload)


@pytest.mark.parametrize(
    ("target", "arguments", "why"),
    [
        ("conv1d.default", ("%x", "%w", None, [2], [1], [2], 1), "dilation and groups"),
        ("conv1d.default", ("%x", "%w", None, [2], [1], [1], 3), "dilation and groups"),
        ("conv1d.default", ("%x", "%w", None, [2, 3]), "expected one integer"),
        ("gelu.default", ("%x", "tanh"), "tanh approximation"),
        ("slice.Tensor", ("%x", 0, 0, 9, 2), "step 2"),
        ("add.Tensor", ("%x", 1.5), "operand 1.5 is not a tensor"),
        ("add.Tensor", ("%x", "%w", 2), "alpha 2"),
        ("layer_norm.default", ("%x", [8], None, None), "expected weight, bias"),
        ("layer_norm.default", ("%x", [4, 8], "%w", "%b"), "the last axis alone"),
        ("scaled_dot_product_attention.default", ("%x", "%x", "%x", "%m"), "a mask: not"),
        ("scaled_dot_product_attention.default", ("%x", "%x", "%x", None, 0.1), "dropout: not"),
        ("scaled_dot_product_attention.default", ("%x",) * 3 + (None, 0.0, True), "is_causal"),
        (
            "scaled_dot_product_attention.default",
            ("%x",) * 3 + (None, 0.0, False, None, True),
            "enable_gqa",
        ),
        ("cat.default", ("%x",), "expected a list"),
        ("embedding.default", ("@w", None), "operand None is not a tensor"),
    ],
)
def test_arguments_that_no_op_expresses_are_refused_by_name(target, arguments, why):
    kind = TensorType((4, 8), "f32")
    types = {"%x": kind, "%w": kind, "%b": kind, "%m": kind, "@w": kind}
    _, read = ATEN[target]
    with pytest.raises(UnsupportedCallError, match=why) as caught:
        read(AtenCall(target, arguments, types, kind))
    assert str(caught.value).startswith(f"{target}: ")


@pytest.mark.parametrize("start", [-3, -5, 0, 2])
def test_a_slice_is_imported_with_the_rows_that_torch_takes(start):
    x = torch.arange(7 * 2).reshape(7, 2)
    taken = x[start:]
    call = AtenCall(
        "slice.Tensor",
        ("%x", 0, start, 2**63 - 1),
        {"%x": TensorType((7, 2), "f32")},
        TensorType(tuple(taken.shape), "f32"),
    )
    inputs, values = ATEN["slice.Tensor"][1](call)
    assert inputs == ("%x",)
    assert torch.equal(x[values["start"] : values["stop"]], taken)


@pytest.mark.parametrize(("past", "frames"), [(0, 9), (3, 16)])
def test_work_has_the_macs_that_torch_counts(past, frames):
    specs = small_whisper.specs()
    memory = (frames - 1) // 2 + 1
    d = small_whisper.DIMENSIONS
    head = d.width // d.heads
    own = [torch.zeros(1, d.heads, past, head)] * (2 * d.decoder_layers)
    cross = [torch.zeros(1, d.heads, memory, head)] * (2 * d.decoder_layers)
    calls = {
        "encoder": ((torch.zeros(1, d.mels, frames),), {"frames": frames}),
        "step": ((torch.zeros(1, 1, dtype=torch.int64), *own, *cross), None),
    }
    for name, (arguments, bindings) in calls.items():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            specs[name].module(*arguments)
        counted = counter.get_total_flops()
        for quantized in (False, True):
            program = small_whisper.program(quantized=quantized)
            bound = bindings or {"past": past, "memory": memory}
            assert schedule(program, name, bindings=bound).macs * 2 == counted


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", ["encoder", "step"])
def test_work_items_agree_with_the_tensors_they_name(name, quantized):
    program = small_whisper.program(quantized=quantized)
    bindings = {"encoder": {"frames": 11}, "step": {"past": 3, "memory": 6}}[name]
    workload = schedule(program, name, bindings=bindings)
    kinds = {Gemm: 0, VectorOp: 0, Transfer: 0}
    for item in workload.items:
        kinds[type(item)] += 1
        assert len({ref.id for ref in item.reads}) == len(item.reads)
        if isinstance(item, Gemm):
            assert item.result.elements == item.count * item.m * item.n
            assert item.w.elements == item.count * item.n * item.k
            is_conv = item.kind == "conv"
            assert is_conv or item.a.elements == item.count * item.m * item.k
        elif isinstance(item, VectorOp):
            assert item.elements % item.row_length == 0
            assert item.elements in {ref.elements for ref in (*item.reads, *item.writes)}
        else:
            assert 0 < item.read_bytes <= sum(ref.size_bytes for ref in item.reads)
            assert 0 < item.write_bytes <= sum(ref.size_bytes for ref in item.writes)
    assert all(kinds.values())


@settings(max_examples=30)
@given(*[st.integers(1, 6)] * 4)
def test_convolution_work_is_one_product_over_frames(channels, filters, frames, taps):
    program = from_text(
        f'program "c"\nconstant @w : f32<{filters}, {channels}, {taps}> dense {{}} bits 32 '
        f"index 0 sha256 aa\ngraph g(n) {{\n  input %x : f32<1, {channels}, n>\n"
        f"  %y = conv1d(%x, @w) {{padding=0, stride=1}} : f32<1, {filters}, n - {taps - 1}>\n"
        "  return y = %y\n}\n"
    )
    (gemm,) = schedule(program, "g", bindings={"n": frames + taps - 1}).items
    assert (gemm.m, gemm.n, gemm.k) == (frames, filters, channels * taps)
