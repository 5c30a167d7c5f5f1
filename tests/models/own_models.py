"""Small networks of the families that have folders of our own, and what they compute."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from ir_interpreter import run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim.compress.compressed import compress
from cosim.compress.recipe import Recipe
from cosim.config import configs_root
from cosim.config import load as read_config
from cosim.execute import ProgramEngine
from cosim.execute import Weights as Constants
from cosim.lower import lower
from cosim.models import LoadedModel, ModelConfig, RandomWeights, Weights, load
from cosim.schedule import schedule
from hwmodels.workload import Gemm
from kernels.encodings import encode_dense

BLOCKS = {
    "dense": {"kind": "transformer"},
    "sparse": {"kind": "transformer", "patterns": ["fixed span=2 summary=1 block=16"]},
    "conformer": {"kind": "conformer", "taps": 5},
    "squeezeformer": {"kind": "squeezeformer", "taps": 5, "reduced": 0, "recovered": 1},
    "narrow": {
        "kind": "squeezeformer",
        "taps": 3,
        "expansion": 1,
        "is_scaled": False,
        "has_convolution_bias": False,
        "reduced": 1,
        "recovered": 2,
    },
}
# 320 samples to a position, as the published front end has
VARIANT = {
    "width": 16,
    "heads": 4,
    "layers": 2,
    "hidden": 24,
    "channels": [6, 8, 12],
    "taps": [10, 8, 4],
    "strides": [10, 8, 4],
    "position_taps": 8,
    "position_groups": 4,
    "projected": 5,
}
TINY = {
    "width": 8,
    "heads": 2,
    "hidden": 12,
    "taps": 4,
    "features": 9,
    "vocabulary": 5,
    "sharing": {"block": [1, 2]},
}


def config(family: str, dimensions: dict | None, **weights) -> ModelConfig:
    chosen = weights or {"random": RandomWeights(seed=7)}
    return ModelConfig("small", family, Weights(**chosen), dimensions)


@lru_cache
def variant(blocks: str) -> LoadedModel:
    return load(config("hubert_variant", {**VARIANT, "blocks": BLOCKS[blocks]}))


def tiny(**dimensions) -> LoadedModel:
    return load(config("tiny_conformer", {**TINY, **dimensions}))


def shipped(name: str) -> LoadedModel:
    """A model file's network without values."""
    found = read_config(configs_root() / "models" / f"{name}.yaml", ModelConfig)
    only_shapes = Weights(random=RandomWeights("none"))
    return load(ModelConfig(found.name, found.family, only_shapes, found.dimensions))


def drawn(name: str) -> LoadedModel:
    """A model file's network with its drawn weights."""
    return load(read_config(configs_root() / "models" / f"{name}.yaml", ModelConfig))


def files(pattern: str) -> list[str]:
    return sorted(path.stem for path in Path(configs_root() / "models").glob(pattern))


def compute(loaded: LoadedModel, given: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return loaded.module(torch.from_numpy(given)).numpy()


def executed(loaded: LoadedModel, given: np.ndarray) -> np.ndarray:
    """What the kernels compute of one utterance [1, ...]."""
    program, constants = lowered(loaded)
    encodings = {name: encode_dense(values) for name, values in constants.items()}
    engine = ProgramEngine(Constants(program, encodings))
    return next(iter(engine.encode(given[0]).values()))


def macs(loaded: LoadedModel, **bindings: int) -> int:
    program, _ = lowered(loaded)
    workload = schedule(program, "encoder", bindings=bindings)
    return sum(item.macs for item in workload.items if isinstance(item, Gemm))


def counted_macs(loaded: LoadedModel, given: np.ndarray) -> int:
    """Multiplications that torch counts; block-sparse attention is a call it does not know."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        compute(loaded, given)
    return counter.get_total_flops() // 2


def lowered(loaded: LoadedModel):
    """The program, and its constants as arrays."""
    return _lowered(loaded.module)


@lru_cache
def _lowered(module: torch.nn.Module):
    plain = compress(module, Recipe("fp32"))
    program = lower("small", plain.module.graphs(), encodings=plain.encodings)
    state = dict(plain.module.named_parameters()) | dict(plain.module.named_buffers())
    return program, {f"@{name}": state[name].numpy() for name in plain.encodings}


def interpret(program, constants, name: str, given: np.ndarray) -> np.ndarray:
    outputs, _ = run(program.graph("encoder"), constants, {name: given})
    return next(iter(outputs.values()))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)
