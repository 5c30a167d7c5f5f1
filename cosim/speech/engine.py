"""What decoding asks of a network in execution, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Engine(Protocol):
    """A network in execution, with its memory and caches inside.

    A network without a decoder has only `encode` to offer; the rest is not called for CTC rules.
    """

    def encode(self, features: F32) -> Mapping[str, F32]:
        """Return the encoder's outputs by name, such as `logits` [1, positions, vocabulary].

        `features` has no batch axis. What the steps attend to is kept, and no token is cached. The
        caller does not change what it gets.
        """
        ...

    def step(self, token: int, past: int) -> F32:
        """Return logits float32[vocabulary] after `token` at position `past`.

        They may be overwritten by the next call.
        """
        ...

    def saved(self, past: int) -> object:
        """Return the caches of the first `past` tokens, for `restore`."""
        ...

    def restore(self, saved: object) -> None:
        """Make the caches those that were saved."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Token ids without prompt and end; `steps` counts the calls of `Engine.step`.

    `hit_limit` is true where decoding stopped for lack of room and not at the end token. `score` is
    the natural logarithm that the search maximised, None where none was computed. `widths` counts
    the steps at each position from 0; a greedy search takes one at each.
    """

    tokens: tuple[int, ...]
    steps: int
    hit_limit: bool
    score: float | None = None
    widths: tuple[int, ...] = ()


def log_probabilities(logits: F32, where: str) -> F64:
    """Return the log-softmax over the last axis in float64.

    Raises FloatingPointError saying `where` when logits are not finite.
    """
    exact = logits.astype(np.float64)
    if not np.isfinite(exact).all():
        raise FloatingPointError(f"logits are not finite {where}")
    exact -= exact.max(axis=-1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    return exact


def largest(scores: F64, count: int) -> NDArray[np.intp]:
    """Return the indices of the `count` largest of scores [n], best first, equal ones by index.

    Example:
        >>> largest(np.array([0.0, 2.0, 1.0, 2.0]), 3).tolist()
        [1, 3, 2]

    """
    near = np.arange(scores.size)
    if count < scores.size:
        near = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return near[np.argsort(-scores[near], kind="stable")[:count]]
