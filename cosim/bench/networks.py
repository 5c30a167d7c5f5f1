"""A whole encoder through the whole data path: compressed, lowered, executed, against torch.

Its sizes are those of wav2vec2-base (Baevski et al. 2020, section 4.2): 12 post-norm layers of
width 768, 12 heads, hidden size 3072; 499 frames are 10 s of speech. Weights are drawn, so nothing
is said of accuracy but the distance of the outputs from those of the fp32 network.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from cosim.bench.measure import Row
from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.execute import KernelChoice, Weights, plan
from cosim.lower import lower
from cosim.models import GraphSpec
from cosim.models.attention import Attention
from kernels import harness

ANCHOR = "torch"
LAYERS, WIDTH, HEADS, HIDDEN, FRAMES = 12, 768, 12, 3072, 499
_CODES = {"bits": 8, "scale": "dynamic", "per": "row"}
RECIPES: Mapping[str, list[dict[str, object]]] = {
    "fp32": [],
    "w8a8": [{"method": "quantize", "weight_bits": 8, "activations": _CODES}],
    "w4a8": [{"method": "quantize", "weight_bits": 4, "activations": _CODES}],
    "sparse80": [{"method": "prune_magnitude", "rate": 0.8, "scope": "local"}],
    "w1a1": [{"method": "binarize", "activations": {"bits": 1}}],
}


class Layer(nn.Module):
    """Post-norm self-attention and feed-forward block."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.final_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, frames, width] of x of the same shape."""
        k, v = self.attention.keys_values(x)
        x = self.attention_norm(x + self.attention(x, k, v))
        result: Tensor = self.final_norm(x + self.fc2(F.gelu(self.fc1(x))))
        return result


class Encoder(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, frames, width] of x of the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the one graph, of any number of frames."""
        return (
            GraphSpec(
                name="encoder",
                module=self,
                examples=(torch.zeros(1, 7, self.width),),
                inputs=("x",),
                shapes=((1, "frames", self.width),),
                outputs=("y",),
                dynamic_shapes={"x": {1: Dim("frames", min=2, max=1 << 14)}},
                states=(),
            ),
        )


@dataclass(frozen=True)
class Prepared:
    """One side of the comparison: its call, its last output and the kernels behind it."""

    run: Callable[[], object]
    output: Callable[[], NDArray[np.float32]]
    kernels: tuple[KernelChoice, ...] = ()


def encoder(seed: int = 0, *, layers: int = LAYERS) -> Encoder:
    """Return the network with torch's initial weights, drawn with `seed`."""
    torch.manual_seed(seed)
    return Encoder(layers, WIDTH, HEADS, HIDDEN).eval()


def prepared(network: Encoder, recipe: str, x: Tensor) -> Prepared:
    """Return the network compressed, lowered and planned for the frames of x."""
    methods = {"methods": RECIPES[recipe]}
    compressed = compress(network, parse_recipe(methods, name=recipe, source=recipe))
    program = lower(
        recipe,
        cast("Encoder", compressed.module).graphs(),
        encodings=compressed.encodings,
        policies=compressed.policies,
    )
    weights = Weights(program, {f"@{k}": v for k, v in compressed.encodings.items()})
    made = plan(weights, "encoder", bindings={"frames": x.shape[1]})
    made.input("x")[...] = x.numpy()
    return Prepared(made.run, partial(made.output, "y"), made.kernels)


def torch_sides(network: Encoder, x: Tensor) -> dict[str, Prepared]:
    """Return torch in fp32, and in dynamic int8 with every engine that this build has."""
    sides = {ANCHOR: network}
    for engine in ("fbgemm", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            quantized = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                copy.deepcopy(network), {nn.Linear}, dtype=torch.qint8
            )
            sides[f"torch_int8_{engine}"] = quantized
    return {name: _torch_side(module, x) for name, module in sides.items()}


def _torch_side(module: nn.Module, x: Tensor) -> Prepared:
    found: list[Tensor] = []

    def run() -> None:
        with torch.inference_mode():
            found[:] = [module(x)]

    def output() -> NDArray[np.float32]:
        result: NDArray[np.float32] = found[0].numpy()
        return result

    return Prepared(run, output)


def encoder_rows(text: str, *, rounds: int = 4, layers: int = LAYERS) -> Iterator[Row]:
    """Yield one row per recipe whose case id contains `text`; torch's int8 engines are peers.

    One thread, process CPU time, all sides in alternation. `error` is the distance of the output
    from torch's fp32 output, over its norm.
    """
    shape = f"{WIDTH}x{HIDDEN}-T{FRAMES}"
    recipes = [name for name in RECIPES if text in f"encoder_{name}/{shape}"]
    if not recipes:
        return
    network = encoder(layers=layers)
    x = torch.randn(1, FRAMES, WIDTH, generator=torch.Generator().manual_seed(1))
    sides = torch_sides(network, x)
    peers = [name for name in sides if name != ANCHOR]
    sides |= {f"encoder_{name}": prepared(network, name, x) for name in recipes}
    samples = harness.alternate(
        {name: side.run for name, side in sides.items()}, rounds=rounds, clock=process_time
    )
    wanted = sides[ANCHOR].output()

    def error(name: str) -> float:
        return float(np.linalg.norm(sides[name].output() - wanted) / np.linalg.norm(wanted))

    for recipe in recipes:
        name = f"encoder_{recipe}"
        against = harness.ratio(samples[ANCHOR], samples[name])
        yield {
            "kernel": name,
            "shape": shape,
            "threads": 1,
            "ratio_torch": against.median,
            "ratio_numpy": None,
            "share_of_limit": None,
            "gops": None,
            "case": f"{name}/{shape}",
            "weights": "hot",
            "seconds": samples[name].median_s,
            "ratio_torch_interval": [against.low, against.high, against.coverage],
            "error": error(name),
            "peers": {
                other: {
                    "ratio_torch": harness.ratio(samples[ANCHOR], samples[other]).median,
                    "ratio_ours": harness.ratio(samples[other], samples[name]).median,
                    "error": error(other),
                }
                for other in peers
            },
            "notes": [f"{layers} layers, weights drawn"],
        }
