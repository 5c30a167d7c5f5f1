"""Claims about capturing wav2vec2-type models: one graph means what torch computes, at any length.

The networks are small but convolve as the published ones do: 320 samples to a position.
"""

from functools import lru_cache

import numpy as np
import pytest
import torch
from ir_interpreter import run
from ssl_reference import PUBLISHED_BASE, counted_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosim import config
from cosim.execute import ProgramEngine
from cosim.execute import Weights as Constants
from cosim.lower import lower
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.schedule import schedule
from hwmodels.workload import Gemm
from kernels.encodings import encode_dense

SECONDS = (2.0, 10.0, 17.3)
SIZES = {"width": 16, "heads": 2, "layers": 2, "hidden": 24, "position_taps": 8}
SIZES |= {"position_groups": 4, "channels": [8] * 7, "vocabulary": 6}
SIZES |= {"taps": [10, 3, 3, 3, 3, 2, 2], "strides": [5, 2, 2, 2, 2, 2, 2]}
LAYER_NORM = {"convolution_norm": "layer", "is_norm_first": True, "convolution_bias": True}
# HuBERT is the same network as wav2vec2 but for the heads of pretraining.
NETWORKS = {
    "wav2vec2, group norm": ("wav2vec2", {}),
    "wavlm, layer norm": ("wavlm", {**LAYER_NORM, "buckets": 32, "furthest": 100}),
}


@lru_cache
def loaded(name):
    family, extra = NETWORKS[name]
    weights = Weights(random=RandomWeights(seed=4))
    return load(ModelConfig(name, family, weights, {**SIZES, **extra}))


def values(name):
    return {key: tensor.numpy() for key, tensor in loaded(name).module.state_dict().items()}


@lru_cache
def program(name):
    encodings = {key: encode_dense(value) for key, value in values(name).items()}
    return lower(name, loaded(name).module.graphs(), encodings=encodings)


def samples(seconds):
    count = round(seconds * 16000)
    return np.random.default_rng(count).standard_normal((1, count), np.float32)


def logits(name, given):
    with torch.no_grad():
        return loaded(name).module(torch.from_numpy(given)).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_graph_means_what_torch_computes(name):
    given = samples(0.2)
    graph = program(name).graph("encoder")
    constants = {f"@{key}": value for key, value in values(name).items()}
    found, _ = run(graph, constants, {"samples": given})
    np.testing.assert_allclose(found["logits"], logits(name, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_capture_is_executed_at_every_length(name):
    encodings = {f"@{key}": encode_dense(value) for key, value in values(name).items()}
    engine = ProgramEngine(Constants(program(name), encodings))
    for seconds in SECONDS:
        given = samples(seconds)
        found = engine.encode(given[0])["logits"]
        np.testing.assert_allclose(found, logits(name, given), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_of_the_program_are_those_that_torch_counts(name):
    given = samples(2.0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits(name, given)
    workload = schedule(program(name), "encoder", bindings={"samples": given.shape[1]})
    macs = sum(item.macs for item in workload.items if isinstance(item, Gemm))
    assert 2 * macs == counter.get_total_flops()


def test_parameters_of_no_use_in_inference_are_in_no_graph():
    name = "wavlm, layer norm"
    unused = values(name).keys() - {key[1:] for key in program(name).constants}
    assert unused == {"wavlm.masked_spec_embed"}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm"])
def test_ten_seconds_at_true_size_are_computed_and_counted_as_elsewhere(family):
    """Logits are those of torch; MACs are those that torch counts in transformers' network."""
    name = f"{family}_base"
    made = load(config.load(config.configs_root() / "models" / f"{name}.yaml", ModelConfig))
    encodings = {key: encode_dense(t.numpy()) for key, t in made.module.state_dict().items()}
    lowered = lower(name, made.module.graphs(), encodings=encodings)
    given = samples(10.0)
    workload = schedule(lowered, "encoder", bindings={"samples": given.shape[1]})
    macs = sum(item.macs for item in workload.items if isinstance(item, Gemm))
    assert 2 * macs == counted_flops(family, PUBLISHED_BASE, given.shape[1])
    by_name = {f"@{key}": value for key, value in encodings.items()}
    found = ProgramEngine(Constants(lowered, by_name)).encode(given[0])["logits"]
    with torch.no_grad():
        wanted = made.module(torch.from_numpy(given)).numpy()
    assert np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max()
