"""Which tensors stay in the kept part of an operand buffer: least recently used goes first."""

from collections.abc import Collection
from dataclasses import dataclass

Kept = tuple[tuple[str, int], ...]  # ids and bytes of kept constants, least recently used first

State = tuple[int, tuple[tuple[str, int, bool, int], ...]]  # ops so far; ids and entries


@dataclass
class Entry:
    """One tensor on chip. `is_dirty`: memory does not hold it yet. `last_use`: number of an op."""

    size_bytes: int
    is_dirty: bool
    last_use: int


class Pool:
    """The kept part of one operand buffer. Tensors are whole or absent.

    `most` are the bytes in use at once during each op so far, and those that were claimed since by
    later ops, of which there are `claims`.
    """

    def __init__(self, capacity_bytes: int, kept: Kept = ()) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._entries: dict[str, Entry] = {}
        self.most: list[int] = []
        self.claims = 0
        for ref_id, size_bytes in kept:
            self.insert(ref_id, size_bytes, use=-1)

    def __contains__(self, ref_id: str) -> bool:
        return ref_id in self._entries

    def touch(self, ref_id: str, *, use: int) -> None:
        """Make a tensor the most recently used, by op number `use`."""
        self._reach(use)
        entry = self._entries.pop(ref_id)
        entry.last_use = use
        self._entries[ref_id] = entry

    def insert(
        self,
        ref_id: str,
        size_bytes: int,
        *,
        use: int,
        is_dirty: bool = False,
        pinned: Collection[str] = (),
    ) -> dict[str, Entry] | None:
        """Keep a tensor and return what had to go; None, and nothing changes, when it cannot fit.

        `pinned` tensors may not go.
        """
        self._reach(use)
        self.drop(ref_id)
        free = self.capacity_bytes - self.used_bytes
        leaving: dict[str, Entry] = {}
        for name, entry in self._entries.items():
            if free >= size_bytes:
                break
            if name not in pinned:
                leaving[name] = entry
                free += entry.size_bytes
        if free < size_bytes:
            return None
        for name in leaving:
            self.drop(name)
        self._entries[ref_id] = Entry(size_bytes, is_dirty, use)
        self.used_bytes += size_bytes
        if use >= 0:
            self.most[use] = max(self.most[use], self.used_bytes)
        return leaving

    def claim_before(self, size_bytes: int, *, use: int) -> int:
        """Return the op behind which `size_bytes` have been free until op number `use`; take them.

        -1 when they always were. What is to be used by that op can be loaded so early.
        """
        self._reach(use)
        self.claims += 1
        first = use
        while first and self.most[first - 1] + size_bytes <= self.capacity_bytes:
            first -= 1
            self.most[first] += size_bytes
        return first - 1

    def _reach(self, use: int) -> None:
        """Let op number `use` begin with what is here."""
        self.most += [self.used_bytes] * (use + 1 - len(self.most))

    def drop(self, ref_id: str) -> None:
        """Forget a tensor, if it is here."""
        entry = self._entries.pop(ref_id, None)
        if entry is not None:
            self.used_bytes -= entry.size_bytes

    def kept(self) -> Kept:
        """Return what is here, least recently used first."""
        return tuple((name, entry.size_bytes) for name, entry in self._entries.items())

    def state(self) -> State:
        """Return what is here, least recently used first, and how many ops `most` knows."""
        entries = [
            (name, entry.size_bytes, entry.is_dirty, entry.last_use)
            for name, entry in self._entries.items()
        ]
        return len(self.most), tuple(entries)

    def hold(self, state: State) -> None:
        """Hold what another pool did, and nothing else; `most` is not touched."""
        _, entries = state
        self._entries = {name: Entry(size, dirty, use) for name, size, dirty, use in entries}
        self.used_bytes = sum(entry.size_bytes for entry in self._entries.values())
