"""Every ATen call and mark of the table, captured from a torch module, means what torch computes.

The captured graph is lowered, interpreted in numpy at two lengths, and compared with the module;
MACs of its work are those that torch counts.
"""

from collections.abc import Callable
from functools import lru_cache
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from ir_interpreter import kinds, run
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim.ir import Program, from_text, to_text
from cosim.lower import lower
from cosim.models import GraphSpec
from cosim.models.marks import (
    block_attention,
    first,
    positions,
    rel_shift,
    relative_buckets,
    relative_positions,
)
from cosim.ops import ATEN, CUTS
from cosim.schedule import schedule
from kernels.encodings import encode_dense

WIDTH = 12


class Calls(nn.Module):
    """A function of itself and x [1, T, 12]; parts are its modules."""

    def __init__(self, function: Callable[..., object], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
    return module.eval()


def channels_first(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda m, x: function(m, x.transpose(1, 2)).transpose(1, 2)


def heads(x: Tensor) -> Tensor:
    return x.reshape(1, x.shape[1], 3, 4).transpose(1, 2)


def biased(_m: nn.Module, x: Tensor) -> Tensor:
    """Attention with Transformer-XL's relative positions."""
    q = heads(x)
    p = relative_positions(x, WIDTH).reshape(1, 2 * x.shape[1] - 1, 3, 4).transpose(1, 2)
    bias = rel_shift(torch.matmul(q, p.transpose(2, 3))) * 0.5
    return F.scaled_dot_product_attention(q, q, q, attn_mask=bias)


def gated(m: nn.Module, x: Tensor) -> Tensor:
    """WavLM's gated bias: buckets of distances through a table, times a gate of the query."""
    table = m.table(relative_buckets(x, 8, 16)).transpose(0, 1).unsqueeze(1)
    bias = rel_shift(table.expand(3, x.shape[1], 2 * x.shape[1] - 1).unsqueeze(0))
    a, b = torch.sigmoid(heads(x).unflatten(-1, (2, 2)).sum(-1)).chunk(2, dim=-1)
    return F.scaled_dot_product_attention(*[heads(x)] * 3, attn_mask=(a * (b - 1) + 2) * bias)


CALLS: dict[str, nn.Module] = {
    "views": Calls(lambda _m, x: x.view(x.shape[1], 2, 6).flatten(1).unsqueeze(0).squeeze(0)),
    "reshape": Calls(lambda _m, x: x.reshape(1, x.shape[1], 3, 4)),
    "permute": Calls(lambda _m, x: x.permute(2, 0, 1)),
    "step": Calls(lambda _m, x: x[:, 1::3]),
    "step of a part": Calls(lambda _m, x: x[..., 2:9:2]),
    "expand": Calls(lambda _m, x: x.unsqueeze(2).expand(1, x.shape[1], 4, WIDTH) * 1.5),
    "embedding": Calls(lambda m, x: m.table(relative_buckets(x, 8, 16)), table=nn.Embedding(8, 3)),
    "relative positions": Calls(lambda _m, x: relative_positions(x, 6)),
    "positions": Calls(lambda _m, x: x + positions(x, x.shape[1], x.shape[1], WIDTH)),
    "concat": Calls(lambda _m, x: torch.cat((x, x), dim=1)),
    "pad": Calls(lambda _m, x: F.pad(x, (0, 0, 2, 3))),
    "constant pad": Calls(lambda _m, x: torch.ops.aten.constant_pad_nd(x, [1, 0])),
    "repeat": Calls(lambda _m, x: x.repeat_interleave(3, dim=1)),
    "first": Calls(lambda _m, x: first(x[:, ::2].repeat_interleave(2, dim=1), 1, x.shape[1])),
    "chunk": Calls(lambda _m, x: torch.cat(x.chunk(3, dim=-1)[::-1], dim=-1)),
    "chunk of unequal parts": Calls(lambda _m, x: x.chunk(5, dim=-1)[-1]),
    "split": Calls(lambda _m, x: x.split(5, dim=2)[1]),
    "split with sizes": Calls(lambda _m, x: x.split([3, 7, 2], dim=2)[1]),
    "unbind": Calls(lambda _m, x: x.unbind(2)[-2]),
    "select": Calls(lambda _m, x: x[:, -1] + x[:, 2]),
    "gelu": Calls(lambda _m, x: F.gelu(x)),
    "relu": Calls(lambda _m, x: F.relu(x)),
    "silu": Calls(lambda _m, x: F.silu(x)),
    "tanh": Calls(lambda _m, x: torch.tanh(x)),
    "sigmoid": Calls(lambda _m, x: torch.sigmoid(x)),
    "glu": Calls(lambda _m, x: F.glu(x)),
    "glu of channels": Calls(channels_first(lambda _m, x: F.glu(x, dim=1))),
    "numbers": Calls(lambda _m, x: (1 - (2 * x + 3) / 4 - 1) * -0.5),
    "scalar overloads": Calls(
        lambda _m, x: torch.ops.aten.add.Scalar(
            torch.ops.aten.sub.Scalar(
                torch.ops.aten.div.Scalar(torch.ops.aten.mul.Scalar(x, 3), 2), 1.5, 2
            ),
            0.25,
        )
    ),
    "negative": Calls(lambda _m, x: -x),
    "pairs": Calls(lambda _m, x: (x + x[:, :1]) * (x - x[..., :1])),
    "sum": Calls(lambda _m, x: x.sum(-1)),
    "layer_norm": Calls(lambda m, x: m.norm(x), norm=nn.LayerNorm(WIDTH)),
    "batch_norm": Calls(channels_first(lambda m, x: m.norm(x)), norm=nn.BatchNorm1d(WIDTH)),
    "group_norm": Calls(channels_first(lambda m, x: m.norm(x)), norm=nn.GroupNorm(3, WIDTH)),
    "linear": Calls(lambda m, x: m.fc(x), fc=nn.Linear(WIDTH, 5)),
    "conv1d": Calls(
        channels_first(lambda m, x: m.conv(x)), conv=nn.Conv1d(WIDTH, 5, 3, stride=2, padding=1)
    ),
    "grouped conv1d": Calls(
        channels_first(lambda m, x: m.conv(x)), conv=nn.Conv1d(WIDTH, 6, 4, padding=2, groups=3)
    ),
    "depthwise conv1d": Calls(
        channels_first(lambda m, x: m.conv(x)),
        conv=nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False),
    ),
    "conv2d": Calls(lambda m, x: m.conv(x.unsqueeze(1)), conv=nn.Conv2d(1, 4, 3, stride=2)),
    "depthwise conv2d": Calls(
        lambda m, x: m.conv(x.reshape(1, x.shape[1], 3, 4).permute(0, 2, 1, 3)),
        conv=nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3),
    ),
    "matmul": Calls(lambda _m, x: heads(x) @ heads(x).transpose(2, 3)),
    "bmm": Calls(lambda _m, x: torch.bmm(x, x.transpose(1, 2))),
    "attention": Calls(lambda _m, x: F.scaled_dot_product_attention(*[heads(x)] * 3)),
    "attention with a bias": Calls(biased),
    "attention with a gated bias": Calls(gated, table=nn.Embedding(8, 3)),
    "block attention": Calls(
        lambda _m, x: block_attention(*[heads(x)] * 3, "local window=5 block=16")
    ),
}


@lru_cache
def program_of(name: str) -> tuple[Program, frozenset[str]]:
    """Lower a module; return the program and the targets that its export called."""
    module = drawn(CALLS[name])
    spec = GraphSpec(
        name="main",
        module=module,
        examples=(torch.zeros(1, 23, WIDTH),),
        inputs=("x",),
        shapes=((1, "frames", WIDTH),),
        outputs=("y",),
        dynamic_shapes={"x": {1: Dim.DYNAMIC(min=9, max=1000)}},
        states=(),
    )
    tensors = (*module.named_parameters(), *module.named_buffers())
    encodings = {
        name: encode_dense(tensor.detach().numpy())
        for name, tensor in tensors
        if tensor.is_floating_point()
    }
    targets: set[str] = set()
    export = torch.export.export

    def noted(*arguments: object, **options: object) -> torch.export.ExportedProgram:
        exported = export(*arguments, **options)
        calls = (node for node in exported.graph.nodes if node.op == "call_function")
        targets.update(str(node.target).removeprefix("aten.") for node in calls)
        return exported

    with patch("torch.export.export", noted):
        return lower("p", [spec], encodings=encodings), frozenset(targets)


@pytest.mark.parametrize("name", CALLS)
def test_a_captured_call_means_what_torch_computes_at_every_length(name):
    module = CALLS[name]
    program, _ = program_of(name)
    assert from_text(to_text(program)) == program
    constants = {f"@{key}": tensor.numpy() for key, tensor in module.state_dict().items()}
    for frames in (23, 40):
        x = torch.randn(1, frames, WIDTH, generator=torch.Generator().manual_seed(frames))
        outputs, _ = run(program.graph("main"), constants, {"x": x.numpy()})
        with torch.no_grad():
            want = module(x).numpy()
        np.testing.assert_allclose(outputs["y"], want, rtol=2e-5, atol=2e-5)


def test_the_captured_calls_are_all_that_the_table_has():
    reached = {target for name in CALLS for target in program_of(name)[1]}
    assert {*ATEN, *CUTS} - reached == set()


PRODUCTS = [name for name in CALLS if name != "block attention"]


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("frames", [9, 30])
def test_macs_are_half_of_the_flops_that_torch_counts(name, frames):
    module = CALLS[name]
    program, _ = program_of(name)
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        module(torch.zeros(1, frames, WIDTH))
    work = schedule(program, "main", bindings={"frames": frames})
    assert work.macs * 2 == counter.get_total_flops()
    assert (work.macs > 0) == any(
        kind in ("linear", "conv1d", "conv2d", "matmul", "attention")
        for kind in kinds(program.graph("main"))
    )
