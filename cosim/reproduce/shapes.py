"""Models for counting: every parameter on torch's meta device, so only shapes are held."""

from dataclasses import replace

from cosim.config import load, resolve
from cosim.models import LoadedModel, ModelConfig, RandomWeights, Weights
from cosim.models import load as load_model


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


def wav2vec2_positions(samples: int) -> int:
    """Return the positions that wav2vec2's convolutional front end makes of samples.

    Seven layers without padding (Baevski et al. 2020, section 4.2).

    Example:
        >>> wav2vec2_positions(160_000)
        499

    """
    length = samples
    for taps, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        length = (length - taps) // stride + 1
    return length
