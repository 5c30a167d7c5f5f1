"""The fp32 reference: Whisper run by torch with a key/value cache, for `greedy` decoding."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosim.errors import CosimError
from cosim.models import LoadedModel
from cosim.models.whisper import Whisper

Floats = NDArray[np.float32]


def torch_engine(loaded: LoadedModel, *, threads: int = 1) -> "TorchEngine":
    """Return the engine of a loaded model; CosimError for a family that torch cannot run here."""
    if not isinstance(loaded.module, Whisper):
        raise CosimError(f"model {loaded.name}: family {loaded.family} has no torch engine")
    return TorchEngine(loaded.module, threads=threads)


class TorchEngine:
    """Whisper in torch: `encode` one window, then `step` token by token.

    State: the cross-attention keys and values of the window and the cache of the tokens so far.
    `threads` is set for torch at each `encode`, because torch keeps it per process.
    """

    def __init__(self, module: Whisper, *, threads: int = 1) -> None:
        self.module = module
        self.threads = threads
        self.encoder, self.decoder = (spec.module for spec in module.graphs())
        d = module.dimensions
        self._empty = torch.zeros(1, d.heads, 0, d.width // d.heads)
        self._cross: tuple[Tensor, ...] = ()
        self._caches: list[Tensor] = []
        self._past = 0

    @property
    def cross(self) -> dict[str, Tensor]:
        """Cross-attention keys and values of the window by graph output name."""
        names = self.module.graphs()[0].outputs
        return dict(zip(names, self._cross, strict=True))

    @torch.inference_mode()
    def encode(self, features: Floats) -> None:
        """Take the window `features` (mels, frames) and forget all tokens."""
        torch.set_num_threads(self.threads)
        self._cross = self.encoder(torch.from_numpy(np.ascontiguousarray(features))[None])
        self._caches = [self._empty] * len(self._cross)
        self._past = 0

    @torch.inference_mode()
    def step(self, token: int, past: int) -> Floats:
        """Return logits (vocabulary,) after `token`, which follows the `past` tokens before.

        Raises ValueError if `past` is not the number of tokens stepped since `encode`.
        """
        if past != self._past or not self._cross:
            raise ValueError(f"step: found past {past}, expected {self._past} after encode")
        logits, *self._caches = self.decoder(torch.tensor([[token]]), *self._caches, *self._cross)
        self._past = past + 1
        result: Floats = logits[0].numpy()
        return result
