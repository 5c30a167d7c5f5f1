"""Which tensors stay in the kept part of an operand buffer: least recently used goes first."""

from collections.abc import Collection
from typing import NamedTuple

Kept = tuple[tuple[str, int], ...]  # ids and bytes of kept constants, least recently used first


class Entry(NamedTuple):
    """One tensor on chip. `is_dirty`: memory does not hold it yet. `last_use`: number of an op."""

    size_bytes: int
    is_dirty: bool
    last_use: int


class State(NamedTuple):
    """What a pool holds, least recently used first, and how many ops its `most` knows."""

    ops: int
    used_bytes: int
    entries: tuple[tuple[str, Entry], ...]


class Claim(NamedTuple):
    """Bytes for op number `use` that were free since op number `after`, -1 for always.

    They are in use from then on, unless they were only asked for.
    """

    size_bytes: int
    use: int
    after: int
    is_taken: bool = True


class Use(NamedTuple):
    """What some ops in a row did to a pool: the `most` of each without claims, and the claims."""

    most: tuple[int, ...]
    claims: tuple[Claim, ...]


class Pool:
    """The kept part of one operand buffer. Tensors are whole or absent.

    `most` are the bytes in use at once during each op so far, and those that were claimed since by
    later ops, in `claims`.
    """

    def __init__(self, capacity_bytes: int, kept: Kept = ()) -> None:
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._entries: dict[str, Entry] = {}
        self.most: list[int] = []
        self.claims: list[Claim] = []
        for ref_id, size_bytes in kept:
            self.insert(ref_id, size_bytes, use=-1)

    def __contains__(self, ref_id: str) -> bool:
        return ref_id in self._entries

    def touch(self, ref_id: str, *, use: int) -> None:
        """Make a tensor the most recently used, by op number `use`."""
        self._reach(use)
        entry = self._entries.pop(ref_id)
        self._entries[ref_id] = Entry(entry.size_bytes, entry.is_dirty, use)

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
        leaving = self.leaving(size_bytes, pinned)
        if leaving is None:
            return None
        for name in leaving:
            self.drop(name)
        self._entries[ref_id] = Entry(size_bytes, is_dirty, use)
        self.used_bytes += size_bytes
        if use >= 0:
            self.most[use] = max(self.most[use], self.used_bytes)
        return leaving

    def leaving(self, size_bytes: int, pinned: Collection[str] = ()) -> dict[str, Entry] | None:
        """Return what would have to go for so many bytes; None when they cannot fit."""
        free = self.capacity_bytes - self.used_bytes
        found: dict[str, Entry] = {}
        for name, entry in self._entries.items():
            if free >= size_bytes:
                break
            if name not in pinned:
                found[name] = entry
                free += entry.size_bytes
        return None if free < size_bytes else found

    def ask_before(self, size_bytes: int, *, use: int) -> int:
        """Return what `claim_before` would, without taking the bytes."""
        self._reach(use)
        after = self._claim([*self.most], size_bytes, use)
        self.claims.append(Claim(size_bytes, use, after, is_taken=False))
        return after

    def claim_before(self, size_bytes: int, *, use: int) -> int:
        """Return the op behind which `size_bytes` have been free until op number `use`; take them.

        -1 when they always were. What is to be used by that op can be loaded so early.
        """
        self._reach(use)
        after = self._claim(self.most, size_bytes, use)
        self.claims.append(Claim(size_bytes, use, after))
        return after

    def _claim(self, most: list[int], size_bytes: int, use: int) -> int:
        """Add bytes to `most` of the ops before `use` that have room; return the last without."""
        first = use
        while first and most[first - 1] + size_bytes <= self.capacity_bytes:
            first -= 1
            most[first] += size_bytes
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
        return State(len(self.most), self.used_bytes, tuple(self._entries.items()))

    def hold(self, state: State) -> None:
        """Hold what another pool did, and nothing else; `most` is not touched."""
        self._entries, self.used_bytes = dict(state.entries), state.used_bytes

    def since(self, ops: int, claims: int) -> Use:
        """Return what was done to this pool since it knew so many ops and claims."""
        most, made = self.most[ops:], tuple(self.claims[claims:])
        for claim in made:
            if not claim.is_taken:
                continue
            for op in range(max(ops, claim.after + 1), claim.use):
                most[op - ops] -= claim.size_bytes
        return Use(tuple(most), made)

    def allows(self, use: Use) -> bool:
        """Whether the claims of ops that follow would find the room here that they found before."""
        if not use.claims:
            return True
        most = [*self.most, *use.most]
        for claim in use.claims:
            room = most if claim.is_taken else [*most]
            if self._claim(room, claim.size_bytes, claim.use) != claim.after:
                return False
        return True

    def repeat(self, use: Use) -> None:
        """Let the ops that follow do to `most` what they did before, where that is allowed."""
        self.most += use.most
        for claim in use.claims:
            if claim.is_taken:
                self.claim_before(claim.size_bytes, use=claim.use)
