"""One constant used by several virtual layers: stored and loaded once, computed at every use."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from ir_interpreter import kinds, run
from torch import Tensor, nn
from torch.export import Dim

from cosim.chip import load_chip
from cosim.ir import Program
from cosim.lower import lower
from cosim.models import GraphSpec
from cosim.schedule import schedule
from hwmodels.simulate import simulate
from hwmodels.stats import RunStats
from hwmodels.workload import Gemm
from kernels.encodings import encode_bitpacked, encode_dense

WIDTH, HIDDEN, PHYSICAL = 8, 16, 2


@dataclass(frozen=True)
class Policy:
    target: str
    operand: str = "input"
    bits: int = 8
    signed: bool = True
    per: str = "row"
    scale: str = "dynamic"


class Block(nn.Module):
    """A feed-forward layer with its residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(x)))


class Shared(nn.Module):
    """Two physical layers, in turn, `times` times; `how` says where their sharing stands."""

    def __init__(self, times: int, how: str = "aliased") -> None:
        super().__init__()
        torch.manual_seed(5)
        physical = [Block() for _ in range(PHYSICAL)]
        self.times = times if how == "called again" else 1
        layers = physical * (1 if how == "called again" else times)
        if how == "tied":
            layers = [*physical, *(Block() for _ in layers[PHYSICAL:])]
            for index, layer in enumerate(layers):
                for name in ("up", "down"):
                    own, first = getattr(layer, name), getattr(physical[index % PHYSICAL], name)
                    own.weight, own.bias = first.weight, first.bias
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            for layer in self.layers:
                x = layer(x)
        return x


def program(module: nn.Module, *, is_quantized: bool = False) -> Program:
    spec = GraphSpec(
        name="main",
        module=module.eval(),
        examples=(torch.zeros(1, 5, WIDTH),),
        inputs=("x",),
        shapes=((1, "frames", WIDTH),),
        outputs=("y",),
        dynamic_shapes={"x": {1: Dim.DYNAMIC(min=2)}},
        states=(),
    )
    encodings = {}
    for name, parameter in module.named_parameters():
        table = parameter.detach().numpy()
        encodings[name] = encode_dense(table)
        if is_quantized and table.ndim == 2:
            codes = np.rint(table * 100).astype(np.int8)
            scale = np.full((len(table), 1), 0.01, np.float32)
            encodings[name] = encode_bitpacked(codes, scale, bits=8)
    layers = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    policies = [Policy(name) for name in layers] if is_quantized else []
    return lower("p", [spec], encodings=encodings, policies=policies)


HOW = ("aliased", "called again", "tied")


@pytest.mark.parametrize("how", HOW)
def test_a_shared_layer_is_one_constant_and_work_at_every_use(how):
    module = Shared(3, how)
    shared = program(module)
    assert set(shared.constants) == {
        f"@layers.{layer}.{name}.{kind}"
        for layer in range(PHYSICAL)
        for name in ("up", "down")
        for kind in ("weight", "bias")
    }
    graph = shared.graph("main")
    assert kinds(graph) == ["linear", "silu", "linear", "add"] * (3 * PHYSICAL)
    work = schedule(shared, "main", bindings={"frames": 7})
    gemms = [item for item in work.items if isinstance(item, Gemm)]
    assert work.macs == 3 * PHYSICAL * 2 * 7 * WIDTH * HIDDEN
    assert len({gemm.w for gemm in gemms}) == 2 * PHYSICAL
    assert len({gemm.name for gemm in gemms}) == len(gemms)
    constants = {f"@{name}": value.detach().numpy() for name, value in module.named_parameters()}
    x = torch.randn(1, 7, WIDTH)
    outputs, _ = run(graph, constants, {"x": x.numpy()})
    np.testing.assert_allclose(outputs["y"], module(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["aliased", "called again"])
def test_ops_stand_in_the_first_path_of_their_layer(how):
    graph = program(Shared(2, how)).graph("main")
    scopes = [op.scope for op in graph.ops if op.kind == "linear"]
    physical = [f"layers.{layer}.{name}" for layer in range(PHYSICAL) for name in ("up", "down")]
    assert scopes == physical * 2


@pytest.mark.parametrize("how", HOW)
def test_a_policy_holds_at_every_use_of_a_shared_layer(how):
    graph = program(Shared(3, how), is_quantized=True).graph("main")
    assert "linear" not in kinds(graph)
    assert kinds(graph).count("quantized_linear") == 3 * PHYSICAL * 2


class Lookalikes(nn.Module):
    """Layers of equal values that are not shared, and one that is given the same input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.two.load_state_dict(self.one.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x * 2) + self.two(x * 2) + self.one(x * 3) * self.one(x * 2)


def test_only_equal_ops_on_equal_operands_are_merged_and_no_product():
    graph = program(Lookalikes()).graph("main")
    assert kinds(graph).count("affine") == 2
    weights = [op.inputs[1] for op in graph.ops if op.kind == "linear"]
    assert sorted(weights) == ["@one.weight"] * 3 + ["@two.weight"]


@lru_cache
def simulated(times: int, weight_buffer_bytes: int) -> RunStats:
    """Simulate 7 frames on 4 x 4 cells with this weight buffer, and room for all activations."""
    shared = program(Shared(times), is_quantized=True)
    chip = load_chip(Path("configs/hardware/stacked_edge_32.yaml"))
    buffers = chip.architecture.buffers
    weight = replace(buffers.weight, size_bytes=weight_buffer_bytes)
    architecture = replace(
        chip.architecture,
        array=replace(chip.architecture.array, rows=4, columns=4),
        buffers=replace(buffers, weight=weight),
    )
    work = schedule(shared, "main", bindings={"frames": 7})
    return simulate(
        work, architecture, technology=chip.technology, energy=chip.energy, dram=chip.dram
    )


@lru_cache
def stored_bytes() -> int:
    constants = program(Shared(1), is_quantized=True).constants.values()
    return sum(-(-constant.size_bits // 8) for constant in constants)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_weights_that_fit_on_chip_are_loaded_once_however_often_they_are_used(times):
    stats = simulated(times, 4096)  # a quarter of it keeps tensors
    assert stored_bytes() <= 4096 // 4
    # Two products may fall into two panels of 80 bytes, whose ends are whole bursts of 32.
    assert 0 <= stats.memory["weight"]["read_bytes"] - stored_bytes() <= 2 * 32
    # 2 products of 7 rows, 8 x 16 weights in folds of 4 x 4, for 2 layers
    assert stats.cycles.compute == times * PHYSICAL * 2 * 7 * (8 // 4) * (16 // 4)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_weights_that_do_not_fit_on_chip_are_loaded_at_every_use(times):
    """Two layers in turn are the worst case of what is thrown out longest unused.

    Weights that nobody reads again throw nothing out, so that the last use finds some on chip.
    """
    read, stored = simulated(times, 2048).memory["weight"]["read_bytes"], stored_bytes()
    assert stored > 2048 // 4
    if times == 1:
        assert 0 <= read - stored <= 2 * 32
    else:
        assert (times - 1) * stored < read < times * stored


def test_cycles_grow_with_uses():
    totals = [simulated(times, 4096).cycles.total for times in (1, 2, 4)]
    assert totals[0] < totals[1] < totals[2]
