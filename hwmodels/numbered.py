"""Numbers that equal things share: what was found out about one holds for all of them."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Thing = TypeVar("Thing", bound=Hashable)


@dataclass
class Numbered(Generic[Thing]):
    """Numbers of things, counted from 0 in the order in which they first come.

    Things are kept alive, so that one that comes again as the same object is known at once.
    """

    _numbers: dict[Thing, int] = field(default_factory=dict)
    _known: dict[int, tuple[int, Thing]] = field(default_factory=dict)

    def of(self, thing: Thing) -> int:
        """Return a number that equal things share, and no others.

        Example:
            >>> numbered = Numbered()
            >>> [numbered.of(word) for word in ("fold", "tile", "fold")]
            [0, 1, 0]

        """
        known = self._known.get(id(thing))
        if known is None:
            number = self._numbers.setdefault(thing, len(self._numbers))
            known = self._known[id(thing)] = number, thing
        return known[0]
