"""What a module says of its channels: which tensors hold them, so that some can be taken out."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Place:
    """A tensor, by its path in the module that speaks, with channels along `axis`.

    Channel c has the indices [c * size, (c + 1) * size), in each of `copies` equal parts of the
    axis. A tensor that the module does not have, as a bias, is passed over.
    """

    tensor: str
    axis: int = 0
    size: int = 1
    copies: int = 1


@dataclass(frozen=True)
class Channels:
    """The outputs of the layer `name`, with every place that computes, normalises or reads them.

    `grouped` is the weight of a convolution in `groups` whose inputs and outputs are both these.
    `is_exact` says that no normalisation runs over them.
    """

    name: str
    places: tuple[Place, ...]
    is_exact: bool = True
    grouped: str = ""
    groups: int = 1

    def under(self, path: str) -> "Channels":
        """Return the same with the paths of a module around, in which this one stands at `path`."""

        def joined(name: str) -> str:
            return f"{path}.{name}" if path and name else name

        places = tuple(replace(place, tensor=joined(place.tensor)) for place in self.places)
        return replace(self, name=joined(self.name), places=places, grouped=joined(self.grouped))


@runtime_checkable
class HasChannels(Protocol):
    """A module that says who reads the outputs of its layers.

    Of two that name the same layer, the outer one knows more readers.
    """

    def channels(self) -> tuple[Channels, ...]:
        """Return the channels of each."""
        ...


@runtime_checkable
class HasHidden(Protocol):
    """A module with a stack whose width may be cut."""

    def hidden(self) -> Channels:
        """Return the hidden units of the stack: the width that its residuals have."""
        ...


def outputs(name: str) -> tuple[Place, Place]:
    """Return where the outputs of a layer or normalisation stand: weight and bias.

    Example:
        >>> outputs("conv1")[1]
        Place(tensor='conv1.bias', axis=0, size=1, copies=1)

    """
    return Place(f"{name}.weight"), Place(f"{name}.bias")


def inputs(name: str, size: int = 1) -> Place:
    """Return where a layer reads channels, `size` columns of its weight each."""
    return Place(f"{name}.weight", axis=1, size=size)
