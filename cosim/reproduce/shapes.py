"""Models for counting: every parameter on torch's meta device, so only shapes are held."""

from dataclasses import replace

from cosim.config import load, resolve
from cosim.models import LoadedModel, ModelConfig, RandomWeights, Weights
from cosim.models import load as load_model

WAV2VEC2_CNN = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Taps and stride of each layer of the front end, without padding (Baevski et al. 2020, 4.2)."""


def shapes_of(model: str) -> LoadedModel:
    """Return the model of a file without values; its checkpoint, if any, is not read."""
    config = load(resolve(model), ModelConfig)
    nothing = Weights(random=RandomWeights(distribution="none"))
    return load_model(replace(config, weights=nothing))


def drawn(model: str) -> LoadedModel:
    """Return the model of a file with its weights, drawn or read as the file says."""
    return load_model(load(resolve(model), ModelConfig))


def elements(model: LoadedModel, *patterns: str) -> int:
    """Return the parameters whose name contains all of `patterns`, one used twice counted once."""
    return sum(
        parameter.numel()
        for name, parameter in model.module.named_parameters()
        if all(pattern in name for pattern in patterns)
    )


def wav2vec2_positions(samples: int, layers: int = len(WAV2VEC2_CNN)) -> int:
    """Return the positions that the first `layers` layers of wav2vec2's front end make of samples.

    Example:
        >>> wav2vec2_positions(160_000), wav2vec2_positions(160_000, 1)
        (499, 31999)

    """
    length = samples
    for taps, stride in WAV2VEC2_CNN[:layers]:
        length = (length - taps) // stride + 1
    return length
