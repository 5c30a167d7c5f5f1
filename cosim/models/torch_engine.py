"""The fp32 reference: the graphs of a network run by torch, as an engine for decoding."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosim.models import GraphSpec, LoadedModel, Network

F32 = NDArray[np.float32]


def torch_engine(loaded: LoadedModel, *, threads: int = 1) -> "TorchEngine":
    """Return the engine of a loaded model."""
    return TorchEngine(cast("Network", loaded.module).graphs(), threads=threads)


@dataclass(frozen=True)
class Saved:
    """The caches of `past` tokens; torch makes new tensors at each step, so nothing is copied."""

    past: int
    caches: Mapping[str, Tensor]


class TorchEngine:
    """The graphs of a network in torch: `encode` one utterance, then `step` token by token.

    State: what the encoder handed over and the caches of the tokens so far. `threads` is set for
    torch at each `encode`, because torch keeps it per process.
    """

    def __init__(self, graphs: tuple[GraphSpec, ...], *, threads: int = 1) -> None:
        self.graphs = {spec.name: spec for spec in graphs}
        self.threads = threads
        self.handed: dict[str, Tensor] = {}
        self._caches: dict[str, Tensor] = {}
        self._past = 0

    @torch.inference_mode()
    def encode(self, features: F32) -> Mapping[str, F32]:
        """Take features without the batch axis, forget all tokens, return the encoder's outputs."""
        torch.set_num_threads(self.threads)
        spec = self.graphs["encoder"]
        found = spec.module(torch.from_numpy(np.ascontiguousarray(features))[None])
        tensors = found if isinstance(found, tuple) else (found,)
        self.handed = dict(zip(spec.outputs, tensors, strict=True))
        self._caches = self._empty()
        self._past = 0
        return {name: tensor.numpy() for name, tensor in self.handed.items()}

    def _empty(self) -> dict[str, Tensor]:
        if "step" not in self.graphs:
            return {}
        spec = self.graphs["step"]
        shapes = dict(zip(spec.inputs, spec.shapes, strict=True))
        caches = {}
        for state in spec.states:
            shape = shapes[state.input]
            sizes = [0 if axis == state.axis else int(size) for axis, size in enumerate(shape)]
            caches[state.input] = torch.zeros(sizes)
        return caches

    @torch.inference_mode()
    def step(self, token: int, past: int) -> F32:
        """Return logits (vocabulary,) after `token`, which follows the `past` tokens before.

        Raises ValueError if `past` is not the number of tokens stepped since `encode`.
        """
        if past != self._past or not self.handed:
            raise ValueError(f"step: found past {past}, expected {self._past} after encode")
        spec = self.graphs["step"]
        given = {"token": torch.tensor([[token]]), **self._caches, **self.handed}
        found = dict(zip(spec.outputs, spec.module(*map(given.get, spec.inputs)), strict=True))
        self._caches = {state.input: found[state.output] for state in spec.states}
        self._past = past + 1
        result: F32 = found["logits"].reshape(-1).numpy()
        return result

    def saved(self, past: int) -> Saved:
        """Return the caches of the `past` tokens so far."""
        return Saved(past, dict(self._caches))

    def restore(self, saved: object) -> None:
        """Go on after the tokens that were saved."""
        if not isinstance(saved, Saved):
            raise TypeError(f"restore: found {type(saved).__name__}, expected what saved returns")
        self._caches, self._past = dict(saved.caches), saved.past
