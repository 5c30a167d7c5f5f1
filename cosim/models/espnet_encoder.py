"""What ESPnet's encoders have in common: subsampling, scaled input, positions, layers, a norm."""

from collections.abc import Iterable

from torch import Tensor, nn

from cosim.models.espnet_attention import LEGACY_TABLE, distances_of
from cosim.models.espnet_layers import Subsampling, SubsamplingKind, layer_norm
from cosim.models.marks import positions

LONGEST = 1 << 16
"""Positions that an encoder is captured for; a choice, there is no table that ends."""


class Encoder(nn.Module):
    """The parts of an encoder; each kind of positions has its own `forward`."""

    def __init__(
        self, features: int, width: int, subsampling: SubsamplingKind, layers: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.features = features
        self.width = width
        self.embed = Subsampling(features, width, subsampling)
        self.encoders = nn.ModuleList(layers)
        self.after_norm = layer_norm(width)

    @property
    def most(self) -> int:
        """The most positions that it takes."""
        return LONGEST

    def least(self, memory: int) -> int:
        """Return the fewest frames that give so many positions."""
        return self.embed.least(memory)


class AbsoluteEncoder(Encoder):
    """Sinusoid positions added to the input (Vaswani et al. 2017, section 3.5)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return [1, memory, width] of features [1, frames, features]."""
        x = self.embed(features) * self.width**0.5
        x = x + positions(x, 0, x.shape[1], self.width)
        for layer in self.encoders:
            x = layer(x)
        result: Tensor = self.after_norm(x)
        return result


class RelativeEncoder(Encoder):
    """Sinusoids of distances handed to the attention of every layer (Dai et al. 2019)."""

    def __init__(
        self,
        features: int,
        width: int,
        subsampling: SubsamplingKind,
        layers: Iterable[nn.Module],
        *,
        is_legacy: bool = False,
    ) -> None:
        super().__init__(features, width, subsampling, layers)
        self.is_legacy = is_legacy

    @property
    def most(self) -> int:
        """The most positions that it takes."""
        return LEGACY_TABLE if self.is_legacy else LONGEST

    def forward(self, features: Tensor) -> Tensor:
        """Return [1, memory, width] of features [1, frames, features]."""
        x = self.embed(features) * self.width**0.5
        distances = distances_of(x, is_legacy=self.is_legacy)
        for layer in self.encoders:
            x = layer(x, distances)
        result: Tensor = self.after_norm(x)
        return result
