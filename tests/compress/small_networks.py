"""Small networks of every family with weights in which every vector counts, and what they say."""

from functools import lru_cache

import numpy as np
import torch

from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.execute import ProgramEngine, Weights
from cosim.lower import lower
from cosim.models import ModelConfig, RandomWeights, load
from cosim.models import Weights as Source
from cosim.models.torch_engine import TorchEngine
from cosim.models.whisper import Whisper, WhisperDimensions

ENCODER = {"width": 16, "heads": 4, "layers": 2, "subsampling": "conv2d"}
DECODER = {"layers": 2, "heads": 4, "hidden": 24, "positions": 12}
GATED = {"gate_hidden": 24, "taps": 5}
UPSTREAM = {"width": 16, "heads": 4, "layers": 2, "hidden": 24, "position_taps": 8}
UPSTREAM |= {"position_groups": 4, "channels": [8, 12, 10], "taps": [10, 8, 4]}
UPSTREAM |= {"strides": [10, 8, 4]}
LAYER_NORM = {"convolution_norm": "layer", "is_norm_first": True, "convolution_bias": True}


def _espnet(**encoder):
    features, decoder = {"mels": 20}, DECODER
    encoder = {**ENCODER, **encoder}
    return {"vocabulary": 11, "encoder": encoder, "decoder": decoder, "features": features}


FAMILIES = {
    "transformer": ("transformer", _espnet(hidden=24)),
    "conformer": ("conformer", _espnet(hidden=24, taps=5, is_macaron=True)),
    "branchformer": ("branchformer", _espnet(**GATED)),
    "e_branchformer": ("e_branchformer", _espnet(**GATED, hidden=24, merge_taps=3)),
    "wav2vec2": ("wav2vec2", {**UPSTREAM, "vocabulary": 6}),
    "hubert": ("hubert", {**UPSTREAM, **LAYER_NORM, "vocabulary": 6}),
    "wavlm": ("wavlm", {**UPSTREAM, "vocabulary": 6, "buckets": 32, "furthest": 100}),
    "squeezeformer": (
        "hubert_variant",
        {
            **UPSTREAM,
            "vocabulary": 6,
            "blocks": {"kind": "squeezeformer", "taps": 5, "reduced": 0, "recovered": 1},
        },
    ),
    "sparse": (
        "hubert_variant",
        {
            **UPSTREAM,
            "vocabulary": 6,
            "blocks": {"kind": "transformer", "patterns": ["fixed span=2 summary=1 block=16"]},
        },
    ),
    "tiny_conformer": (
        "tiny_conformer",
        {
            "width": 16,
            "heads": 4,
            "hidden": 24,
            "taps": 4,
            "features": 20,
            "vocabulary": 5,
            "sharing": {"block": [1, 1, 2]},
        },
    ),
}
WHISPER = WhisperDimensions(
    width=16,
    heads=4,
    encoder_layers=2,
    decoder_layers=2,
    hidden=24,
    mels=5,
    vocabulary=31,
    source_positions=16,
    target_positions=8,
)
NAMES = ("whisper", *FAMILIES)
SAMPLES = ("wav2vec2", "hubert", "wavlm", "squeezeformer", "sparse")
TOKENS = (1, 4, 0)


@lru_cache
def network(name):
    """Return a network of which nothing is zero: norms and running statistics too."""
    if name == "whisper":
        module = Whisper(WHISPER).eval().requires_grad_(requires_grad=False)
    else:
        family, dimensions = FAMILIES[name]
        source = Source(random=RandomWeights(seed=3))
        module = load(ModelConfig(name, family, source, dimensions)).module
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            noise = torch.rand(tensor.shape, generator=random)
            is_scale = tensor.ndim == 1 and key.endswith(("weight", "running_var"))
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(noise + 0.5 if is_scale else (noise - 0.5) * (12 / fan_in) ** 0.5)
    return module


def made(module, *entries):
    recipe = parse_recipe({"methods": list(entries)}, name="r", source="r.yaml")
    return compress(module, recipe)


def heard(name):
    """Return one utterance, without the axis of a batch."""
    shape = (6400,) if name in SAMPLES else (32, 20)
    if name == "whisper":
        shape = (5, 32)
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def said(engine, name):
    """Return what an engine makes of the utterance and some tokens after it."""
    outputs = engine.encode(heard(name))
    found = [np.array(value) for key, value in outputs.items() if not key.startswith("cross_")]
    if name in ("whisper", "transformer", "conformer", "branchformer", "e_branchformer"):
        # What an engine returns it may write to again.
        found += [np.array(engine.step(token, past)) for past, token in enumerate(TOKENS)]
    return np.concatenate([np.ravel(value) for value in found])


def in_torch(module, name):
    return said(TorchEngine(module.graphs()), name)


@lru_cache
def plain(name):
    """Return the network as it is stored without a method."""
    return made(network(name))


@lru_cache
def lowered(compressed):
    module = compressed.module
    return lower("small", module.graphs(), encodings=compressed.encodings)


def executed(compressed, name):
    """Return what the kernels compute of the captured graphs."""
    program = lowered(compressed)
    encodings = {f"@{key}": value for key, value in compressed.encodings.items()}
    return said(ProgramEngine(Weights(program, encodings)), name)


def deviation(found, wanted):
    """Return the largest difference by the largest magnitude that was wanted."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
