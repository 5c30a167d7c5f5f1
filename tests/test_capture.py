from collections.abc import Callable

import numpy as np
import pytest
import small_whisper
import torch
import torch.nn.functional as F  # noqa: N812
from ir_interpreter import run
from torch import Tensor, nn
from torch.export import Dim

from cosim.capture import capture, parameter_names
from cosim.errors import CosimError
from cosim.ir import Graph
from cosim.models import GraphSpec


class Calls(nn.Module):
    """A module whose forward is a function of itself and its inputs."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def captured(
    module: nn.Module,
    *shapes: tuple[int | str, ...],
    outputs: int = 1,
    sizes: dict[str, int] | None = None,
    dims: dict[str, object] | None = None,
) -> Graph:
    """Capture a module of float inputs x0, x1, ...; sizes are examples of length symbols."""
    sizes = sizes or {}
    dims = dims if dims is not None else {name: Dim(name, min=2, max=64) for name in sizes}
    spec = GraphSpec(
        name="main",
        module=module.eval(),
        examples=tuple(torch.zeros(*(sizes.get(size, size) for size in shape)) for shape in shapes),
        inputs=tuple(f"x{i}" for i in range(len(shapes))),
        shapes=shapes,
        outputs=tuple(f"y{i}" for i in range(outputs)),
        dynamic_shapes={
            "inputs": tuple(
                {axis: dims[size] for axis, size in enumerate(shape) if isinstance(size, str)}
                for shape in shapes
            )
        },
        states=(),
    )
    return capture(spec)


def refusal(function: Callable[..., object], *shapes: tuple[int, ...], **parts: nn.Module) -> str:
    with pytest.raises(CosimError) as caught:
        captured(Calls(function, **parts), *shapes)
    return str(caught.value)


def test_all_unsupported_calls_are_listed_at_once_with_their_modules():
    block = nn.Sequential(nn.Linear(4, 4), nn.Softplus(), nn.GELU())
    wave = Calls(lambda _self, x: torch.sin(x).chunk(2)[0] + torch.sin(x / x).max(0)[0])
    message = refusal(lambda m, x: m.wave(m.block(x)).erf(), (2, 4), block=block, wave=wave)
    *places, known = message.splitlines()
    assert places == [
        "graph main: block.1: aten.softplus.default",
        "graph main: wave: aten.sin.default",
        "graph main: wave: div.Tensor: %gelu is not a fixed number",
        "graph main: wave: aten.sin.default",
        "graph main: wave: aten.max.dim",
        "graph main: top: aten.erf.default",
    ]
    assert known.startswith("ops that can be captured: add.Scalar, add.Tensor, batch_norm.default")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda _m, q, _b: F.scaled_dot_product_attention(q, q, q, is_causal=True), "is_causal"),
        (
            lambda _m, q, b: F.scaled_dot_product_attention(q, q, q, attn_mask=b, dropout_p=0.5),
            "dropout",
        ),
        (
            lambda _m, q, _b: F.scaled_dot_product_attention(
                q, q[:, :2], q[:, :2], enable_gqa=True
            ),
            "enable_gqa",
        ),
    ],
)
def test_attention_that_hides_keys_is_refused_by_name(function, why):
    message = refusal(function, (1, 4, 5, 8), (5, 5))
    call = "scaled_dot_product_attention.default"
    assert message.startswith(f"graph main: top: {call}: {why}: not supported")


@pytest.mark.parametrize(
    ("convolution", "why"),
    [
        (nn.Conv1d(4, 6, 3, dilation=2), "dilation other than 1"),
        (nn.Conv1d(4, 6, 3, padding="same"), "aten.conv1d.padding"),
        (
            nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)),
            "aten._weight_norm.default: fold the norm into the weight",
        ),
    ],
)
def test_convolutions_that_no_op_expresses_are_refused_by_name(convolution, why):
    message = refusal(lambda m, x: m.conv(x), (1, 4, 9), conv=convolution)
    assert message.startswith("graph main: conv")
    assert why in message.splitlines()[0]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda _m, x: torch.add(x, x, alpha=2), "add.Tensor: alpha 2 is not supported"),
        (lambda _m, x: F.gelu(x, approximate="tanh"), "gelu.default: the tanh approximation"),
        (lambda _m, x: F.layer_norm(x, (4, 8)), "layer_norm.default: expected the last axis"),
        (lambda _m, x: F.layer_norm(x, (8,)), "layer_norm.default: expected weight, bias"),
        (lambda _m, x: x / x, "div.Tensor: %x0 is not a fixed number"),
        (lambda _m, x: x.sum(0), "sum.dim_IntList: axes [0], keepdim None: expected the last"),
        (lambda _m, x: x.sum(-1, keepdim=True), "axes [1], keepdim True: expected the last"),
        (lambda _m, x: F.pad(x, (1, 1), value=2.0), "pad.default: constant 2.0: only zeros"),
        (lambda _m, x: F.pad(x, (1, 0, 0, 1)), "pad.default: [1, 0, 0, 1]: expected one axis"),
        (lambda _m, x: F.pad(x, (-1, 0)), "pad.default: [-1, 0]: expected fixed numbers"),
        (lambda _m, x: x.repeat_interleave(2), "repeat_interleave.self_int: expected an axis"),
        (
            lambda _m, x: F.batch_norm(x, None, None, training=True),
            "batch_norm.default: statistics of the batch",
        ),
        (lambda _m, x: F.group_norm(x, 2), "group_norm.default: expected weight and bias"),
        (lambda _m, x: F.conv2d(x[None], x[:, None, None], stride=(1, 2)), "one integer for all"),
        (lambda _m, x: x.max(dim=1)[0], "aten.max.dim"),
        (lambda _m, x: x.relu_(), "aten.relu_.default"),
    ],
)
def test_arguments_that_would_be_lost_are_refused_by_name(function, why):
    first, known = refusal(function, (4, 8)).splitlines()
    assert known.startswith("ops that can be captured: ")
    assert first.startswith("graph main: top: ")
    assert why in first


VIEWS = [
    lambda x: x[:, -3:],
    lambda x: x[1:3, 2:],
    lambda x: x.flatten(1),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: x.permute(2, 0, -2),
    lambda x: x.transpose(-1, 0),
    lambda x: x.reshape(2, -1),
    lambda x: x.view(-1),
    lambda x: torch.cat((x, x[:, :2]), dim=-2),
    lambda x: F.dropout(x, 0.5, training=False).contiguous().clone(),
    lambda x: x.transpose(0, 1).reshape(-1),
]


@pytest.mark.parametrize("function", VIEWS)
def test_views_keep_the_elements_that_torch_keeps(function):
    graph = captured(Calls(lambda _m, x: function(x)), (4, 6, 5))
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    outputs, _ = run(graph, {}, {"x0": x})
    np.testing.assert_array_equal(outputs["y0"], function(torch.from_numpy(x)).numpy())


def test_attention_scale_is_the_one_given_or_that_of_the_head_size():
    calls = Calls(
        lambda _m, q: (
            F.scaled_dot_product_attention(q, q, q),
            F.scaled_dot_product_attention(q, q, q, scale=0.125),
            F.scaled_dot_product_attention(q, q, q, scale=1),
        )
    )
    graph = captured(calls, (1, 2, 5, 16), outputs=3)
    assert [op.attribute("scale") for op in graph.ops] == [0.25, 0.125, 1.0]


def test_lengths_stay_symbols_and_derived_lengths_expressions():
    convolution = nn.Conv1d(3, 6, 3, stride=2, padding=1)
    graph = captured(
        Calls(lambda m, x: m.conv(x).transpose(1, 2), conv=convolution),
        (1, 3, "frames"),
        sizes={"frames": 21},
        dims={"frames": Dim("frames", min=3, max=64)},
    )
    assert graph.symbols == ("frames",)
    assert str(graph.types["%x0"]) == "f32<1, 3, frames>"
    result = graph.types[dict(graph.outputs)["y0"]]
    assert result.shape[0] == 1
    assert result.shape[2] == 6
    for frames in range(3, 65):
        found = convolution(torch.zeros(1, 3, frames)).shape[-1]
        assert result.bind({"frames": frames}) == (1, found, 6)


def test_a_dynamic_whisper_capture_has_no_length_of_its_example():
    for name, spec in small_whisper.specs().items():
        graph = capture(spec)
        lengths = {size for shape in spec.shapes for size in shape if isinstance(size, str)}
        assert set(graph.symbols) == lengths
        for value in graph.inputs:
            shape = spec.shapes[spec.inputs.index(value[1:])]
            assert tuple(map(str, graph.types[value].shape)) == tuple(map(str, shape)), name


def test_a_length_that_the_export_fixed_is_an_error_for_each_axis():
    class Fixes(nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return inputs[0].reshape(1, 28) + inputs[1].reshape(1, 28)

    with pytest.raises(CosimError) as caught:
        captured(
            Fixes(),
            (1, "frames", 4),
            (1, "rows", 4),
            sizes={"frames": 7, "rows": 7},
            dims={"frames": Dim.AUTO, "rows": Dim.AUTO},
        )
    assert caught.value.problems == [
        "graph main: x0: axis 1: found the fixed length 7, expected frames",
        "graph main: x1: axis 1: found the fixed length 7, expected rows",
    ]


def test_a_length_outside_the_promised_range_is_an_error_that_names_it():
    with pytest.raises(CosimError, match=r"graph main: Constraints violated.*frames"):
        captured(
            Calls(lambda m, x: m.conv(x), conv=nn.Conv1d(3, 6, 3, stride=2, padding=1)),
            (1, 3, "frames"),
            sizes={"frames": 21},
            dims={"frames": Dim("frames", min=2, max=64)},
        )


def test_two_lengths_that_must_be_equal_are_not_two_symbols():
    with pytest.raises(CosimError) as caught:
        captured(
            Calls(lambda _m, x, y: x + y),
            ("left", 4),
            ("right", 4),
            sizes={"left": 7, "right": 7},
            dims={"left": Dim.AUTO, "right": Dim.AUTO},
        )
    assert caught.value.problems == [
        "graph main: x1: axis 0: found the length left, expected right of its own"
    ]


def test_a_length_that_is_declared_fixed_but_was_not_is_an_error():
    spec = small_whisper.linear_spec()
    changed = GraphSpec(**{**vars(spec), "shapes": ((5, 3),)})
    with pytest.raises(CosimError, match=r"x: axis 0: found s.*, expected the fixed length 5"):
        capture(changed)


def test_ops_carry_the_module_whose_forward_made_them():
    inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    graph = captured(Calls(lambda m, x: F.gelu(m.block(x)) + x, block=inner), (2, 4))
    assert [(op.kind, op.scope) for op in graph.ops] == [
        ("linear", "block.0"),
        ("layer_norm", "block.1"),
        ("gelu", ""),
        ("add", ""),
    ]
    assert graph.ops[0].inputs == ("%x0", "@block.0.weight", "@block.0.bias")


def test_a_tied_weight_has_the_one_name_that_is_known():
    network = small_whisper.module()
    names = parameter_names(network, {name for name, _ in network.named_parameters()})
    assert names["proj_out.weight"] == names["decoder.embed_tokens.weight"]
    assert set(names.values()) == {name for name, _ in network.named_parameters()}


def test_parameters_without_an_encoding_are_all_named():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(CosimError) as caught:
        parameter_names(module, {"0.weight", "1.bias"})
    assert caught.value.problems == [
        "0.bias: parameter has no encoding",
        "1.weight: parameter has no encoding",
    ]


def test_an_embedding_takes_ids_first():
    table = nn.Embedding(5, 3)
    spec = GraphSpec(
        name="main",
        module=Calls(lambda m, ids: m.table(ids), table=table).eval(),
        examples=(torch.zeros(1, 4, dtype=torch.int64),),
        inputs=("ids",),
        shapes=((1, 4),),
        outputs=("y",),
        dynamic_shapes={"inputs": ({},)},
        states=(),
    )
    graph = capture(spec)
    assert graph.ops[0].inputs == ("%ids", "@table.weight")
    weight = table.weight.detach().numpy()
    ids = np.array([[4, 0, 2, 2]])
    outputs, _ = run(graph, {"@table.weight": weight}, {"ids": ids})
    np.testing.assert_array_equal(outputs["y"], weight[ids])
