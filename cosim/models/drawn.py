"""Weights drawn from a named distribution, for models without a checkpoint.

What a chip is charged for without sparsity depends on shapes alone; zipped bytes and zero patterns
depend on the distribution, so it has a name and a seed.
"""

import math
import re

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cosim.models import RandomWeights

_DEPTH = re.compile(r"\.(\d+)\.")
_CHUNK = 1 << 22
"""Numbers drawn at a time, so that float64 of a whole embedding is never held."""


def draw(module: nn.Module, weights: RandomWeights) -> None:
    """Fill every parameter and buffer of `module` in place (it may live on the meta device).

    Matrices and filters have mean 0 and variance 1 / fan_in; embeddings 1 / width. Vectors: norms
    are the identity (running mean 0, variance 1), other vectors have deviation 0.02. Each tensor
    has a generator of its own, seeded by `weights.seed` and its place, so that equal names and
    shapes give equal numbers. A shared parameter is drawn once. `none` changes nothing.
    """
    if weights.distribution == "none":
        return
    names = _places(module)
    depths = [int(found[1]) for name in names if (found := _DEPTH.search(name))]
    deepest = max(depths, default=0)
    filled: dict[int, Tensor] = {}
    for index, (name, (owner, key, tensor)) in enumerate(names.items()):
        if id(tensor) not in filled:
            found = _DEPTH.search(name)
            depth = int(found[1]) / deepest if found and deepest else 0.0
            rng = np.random.default_rng([weights.seed, index])
            filled[id(tensor)] = _values(owner, key, tensor, weights, rng, depth)
        made = filled[id(tensor)]
        if isinstance(tensor, nn.Parameter):
            if not isinstance(made, nn.Parameter):
                made = filled[id(tensor)] = nn.Parameter(made, requires_grad=False)
            setattr(owner, key, made)
        else:
            owner.register_buffer(key, made, persistent=True)


def _places(module: nn.Module) -> dict[str, tuple[nn.Module, str, Tensor]]:
    """Return owner, attribute and tensor of every parameter and buffer by its full name."""
    places: dict[str, tuple[nn.Module, str, Tensor]] = {}
    for path, owner in module.named_modules(remove_duplicate=True):
        own = (*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False))
        for key, tensor in own:
            places[f"{path}.{key}" if path else key] = (owner, key, tensor)
    return places


def _values(
    owner: nn.Module,
    key: str,
    tensor: Tensor,
    weights: RandomWeights,
    rng: np.random.Generator,
    depth: float,
) -> Tensor:
    shape = tuple(tensor.shape)
    if not tensor.dtype.is_floating_point:  # counts such as num_batches_tracked
        return torch.zeros(shape, dtype=tensor.dtype)
    is_norm = isinstance(owner, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm)  # noqa: SLF001
    if is_norm:
        is_one = key in ("weight", "running_var")
        return torch.full(shape, 1.0 if is_one else 0.0, dtype=torch.float32)
    count = math.prod(shape)
    if len(shape) < 2:
        deviation = 0.02
    else:
        fan_in = shape[-1] if isinstance(owner, nn.Embedding) else count // shape[0]
        deviation = fan_in**-0.5 * (1.0 + weights.growth * depth)
    values = np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        part = values[start : start + _CHUNK]
        part[:] = _standard(rng, part.size, weights) * deviation
    if weights.half:
        values = values.astype(np.float16).astype(np.float32)
    return torch.from_numpy(values).reshape(shape)


def _standard(rng: np.random.Generator, count: int, weights: RandomWeights) -> NDArray[np.float64]:
    """Return `count` numbers of mean 0 and variance 1."""
    if weights.distribution == "normal":
        return rng.standard_normal(count)
    if weights.distribution == "laplace":
        return rng.laplace(scale=0.5**0.5, size=count)
    # |x|^p is gamma distributed with shape 1/p (Nardon and Pianca 2009, section 2).
    p = float(weights.exponent or 2.0)
    sizes = rng.gamma(1.0 / p, size=count) ** (1.0 / p)
    signs = rng.integers(0, 2, size=count) * 2.0 - 1.0
    return np.asarray(signs * sizes * math.sqrt(math.gamma(1.0 / p) / math.gamma(3.0 / p)))
