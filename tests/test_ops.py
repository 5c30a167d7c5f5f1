import pytest
import small_whisper
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import CASES
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim.ir import Op, TensorType, attributes, from_text
from cosim.ops import ATEN, CUTS, OPS, AtenCall, UnsupportedCallError, infer, row
from cosim.schedule import schedule
from hwmodels.workload import Gemm, Transfer, VectorOp


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
        ("slice", [(4, 3)], {"axis": 1, "start": 0, "stop": 3, "step": 0}, "step is 0"),
        (
            "conv1d",
            [(1, 6, 9), (4, 3, 3)],
            {"stride": 1, "padding": 0, "groups": 3},
            "contracts 6 with 9",
        ),
        (
            "conv1d",
            [(1, 6, 9), (4, 2, 3)],
            {"stride": 1, "padding": 0, "groups": 3},
            "4 filters in 3 groups",
        ),
        ("conv2d", [(1, 5, 9), (4, 5, 3, 3)], {"stride": 1, "padding": 0}, "expected 4 axes"),
        ("matmul", [(2, 4, 8), (3, 8, 5)], {}, "leading axes"),
        ("matmul", [(2, 4, 8), (2, 7, 5)], {}, "contracts 8 with 7"),
        ("glu", [(4, 3)], {"axis": 1}, "no two halves on axis 1"),
        ("batch_norm", [(1, 3, 5), (3,), (3,), (5,), (3,)], {"eps": 1e-5}, "expected shape <3>"),
        ("group_norm", [(1, 4, 5), (4,), (4,)], {"eps": 1e-5, "groups": 3}, "4 channels in 3"),
        ("pad", [(4,)], {"axis": 0, "before": -1, "after": 0}, "before is -1"),
        ("repeat", [(4,)], {"axis": 0, "times": 0}, "times is 0"),
        ("expand", [(4, 3)], {"shape": (4, 5)}, "is no part of"),
        ("expand", [(4, 3)], {"shape": (3,)}, "is no part of"),
        ("rel_shift", [(2, 7, 6)], {}, "fewer positions than rows"),
        ("attention", [(2, 4, 8), (2, 5, 8), (2, 5, 8), (2, 5, 4)], {}, "does not fit <2, 4, 5>"),
        ("attention", [(2, 4, 8), (2, 5, 8), (2, 5, 8), (3, 4, 5)], {}, "does not fit <2, 4, 5>"),
        (
            "attention",
            [(2, 4, 8), (2, 5, 8), (2, 5, 8), (2, 4, 5)],
            {"pattern": "local window=1 block=16"},
            "a pattern and a bias exclude each other",
        ),
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
            "quantized_conv2d",
            [(1, 5, 9, 7), (1, 5, 9), (4, 5, 3, 3)],
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


@pytest.mark.parametrize("target", [*ATEN, *CUTS])
def test_aten_target_exists_in_torch(target):
    *space, name, overload = target.split(".")
    packet = getattr(getattr(torch.ops, space[0] if space else "aten"), name)
    assert isinstance(getattr(packet, overload), torch._ops.OpOverload)


@pytest.mark.parametrize(
    ("target", "arguments", "why"),
    [
        ("conv1d.default", ("%x", "%w", None, [2], [1], [2], 1), "dilation other than 1"),
        ("conv2d.default", ("%x", "%w", None, [2, 3]), "expected one integer for all axes"),
        ("gelu.default", ("%x", "tanh"), "tanh approximation"),
        ("div.Tensor", ("%x", 0), "division by zero"),
        ("mul.Tensor", ("%x", None), "operand None is not a tensor"),
        ("add.Tensor", ("%x", "%w", 2), "alpha 2"),
        ("layer_norm.default", ("%x", [8], None, None), "expected weight, bias"),
        ("layer_norm.default", ("%x", [4, 8], "%w", "%b"), "the last axis alone"),
        ("scaled_dot_product_attention.default", ("%x", "%x", "%x", "%i"), "a mask that is not"),
        ("cosim.block_attention.default", ("%x", "%x", "%x", "near window=1"), "unknown kind"),
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
    types = {"%x": kind, "%w": kind, "%b": kind, "@w": kind}
    types["%i"] = TensorType((4, 8), "i64")
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
    inputs, values, _ = ATEN["slice.Tensor"][1](call)
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
