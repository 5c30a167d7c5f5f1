"""Where every tensor lies in memory: base address and layout, aligned and apart.

Constants come first, then states, then inputs and outputs, so that their addresses do not depend on
lengths bound later in the run; activations share one region behind them that every call reuses, and
within a call those that are not needed at the same time share room.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hwmodels.architecture import Architecture, MemoryTechnology
from hwmodels.workload import TensorKind, TensorRef, VectorOp, Workload

LayoutName = Literal["tile_major", "row_major", "append"]
LAYOUTS: dict[TensorKind, LayoutName] = {
    "constant": "tile_major",
    "activation": "row_major",
    "input": "row_major",
    "output": "row_major",
    "state": "append",
}
_ORDER: tuple[TensorKind, ...] = ("constant", "state", "input", "output")


class Placement(NamedTuple):
    """Where one tensor lies. `size_bytes` is the room kept for it."""

    base: int
    size_bytes: int
    layout: LayoutName


@dataclass(frozen=True)
class Layout:
    """Placements of one call's tensors by id."""

    placements: Mapping[str, Placement]

    def base(self, ref: TensorRef) -> int:
        """Return the address of the first byte of a tensor."""
        return self.placements[ref.id].base


def place(
    workloads: Sequence[Workload], architecture: Architecture, technology: MemoryTechnology
) -> tuple[Layout, ...]:
    """Return the layout of each workload's tensors; tensors they share lie at one place.

    Tensors start at a multiple of channels times interleave, so a stream begins on the first
    channel. Raises ValueError when one id means constants of different size or digest, and when the
    stack is too small: how many bytes it lacks and which tensors are largest.
    """
    turn = architecture.memory.channels * technology.interleave_bytes
    lasting = _lasting(workloads)
    placements: dict[str, Placement] = {}
    end = 0
    for kind in _ORDER:
        for ref, size in lasting[kind].values():
            placements[ref.id] = Placement(end, size, LAYOUTS[kind])
            end += -(-size // turn) * turn
    cores = architecture.cores
    is_shared = cores.count == 1 or cores.split == "utterances"
    layouts: list[Layout] = []
    offsets: dict[tuple[Span, ...], list[int]] = {}  # calls whose tensors live alike share them
    highest = end
    for workload in workloads:
        own = {
            ref.id: placements[ref.id]
            for item in workload.items
            for ref in item.refs
            if ref.id in placements
        }
        lives = _lives(workload)
        spans = tuple((life.first, life.last, -(-life.size // turn)) for life in lives.values())
        if spans not in offsets:
            offsets[spans] = _offsets(spans, is_shared=is_shared)
        for (ref_id, life), span, at in zip(lives.items(), spans, offsets[spans], strict=True):
            own[ref_id] = Placement(end + at * turn, life.size, "row_major")
            highest = max(highest, end + (at + span[2]) * turn)
        layouts.append(Layout(own))
    have = architecture.memory.channels * technology.capacity_bytes
    if highest > have:
        raise ValueError(_too_small(architecture, technology, layouts, need=highest, have=have))
    return tuple(layouts)


def _lasting(
    workloads: Iterable[Workload],
) -> dict[TensorKind, dict[str, tuple[TensorRef, int]]]:
    """Return the tensors that outlive a call, by kind and id, with the largest room asked for."""
    found: dict[TensorKind, dict[str, tuple[TensorRef, int]]] = {kind: {} for kind in _ORDER}
    kinds: dict[str, TensorKind] = {}
    problems: list[str] = []
    for workload, ref in _tensors(workloads):
        if ref.kind == "activation":
            continue
        kind = kinds.setdefault(ref.id, ref.kind)  # an output that a later call takes as input
        known = found[kind].get(ref.id)
        if known and "constant" in (kind, ref.kind) and not _is_same(known[0], ref):
            problems.append(
                f'{workload.name}: constant "{ref.id}" has {ref.room_bytes} bytes, digest '
                f'"{ref.digest}"; an earlier use has {known[0].room_bytes} bytes, digest '
                f'"{known[0].digest}"'
            )
        first, size = known or (ref, 0)
        if known is None or ref.room_bytes > size:
            found[kind][ref.id] = first, ref.room_bytes
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))
    return found


def _is_same(first: TensorRef, second: TensorRef) -> bool:
    return first.kind == second.kind and (first.size_bits, first.digest) == (
        second.size_bits,
        second.digest,
    )


Span = tuple[int, int, int]  # first and last phase of a tensor, and the turns of room it takes


@dataclass(slots=True)
class _Life:
    """The phases in which a tensor is first and last used, and the bytes it needs."""

    first: int
    last: int
    size: int


def _offsets(spans: Sequence[Span], *, is_shared: bool) -> list[int]:
    """Return the offset of every activation, in turns; those that live together lie apart.

    All do unless room `is_shared`: several cores are not at the same op at the same time.
    A tensor takes the first gap that holds it, in the order of `spans` (Pisarchyk and Lee 2020
    compare such plans).
    """
    found: list[int] = []
    living: list[tuple[int, int, int]] = []  # offset, end, last phase, by offset
    for first, last, turns in spans:
        if is_shared:
            living = [entry for entry in living if entry[2] >= first]
        offset, at = 0, 0
        for at, (start, stop, _) in enumerate(living):  # noqa: B007 (where it goes in)
            if start - offset >= turns:
                break
            offset = max(offset, stop)
        else:
            at = len(living)
        living.insert(at, (offset, offset + turns, last))
        found.append(offset)
    return found


def _lives(workload: Workload) -> dict[str, _Life]:
    """Return when activations are needed, by when they come to life, larger ones first.

    A phase is a product or transfer with what follows it. That may work on the same tiles at the
    same time, so all of a phase needs its own room.
    """
    lives: dict[str, _Life] = {}
    phase = 0
    for item in workload.items:
        phase += not isinstance(item, VectorOp)
        for ref in item.refs:
            if ref.kind == "activation":
                life = lives.get(ref.id)
                if life is None:
                    life = lives[ref.id] = _Life(phase, phase, 0)
                life.last, life.size = phase, max(life.size, ref.room_bytes)
    return dict(sorted(lives.items(), key=lambda pair: (pair[1].first, -pair[1].size)))


def _tensors(workloads: Iterable[Workload]) -> Iterator[tuple[Workload, TensorRef]]:
    for workload in workloads:
        for item in workload.items:
            for ref in item.refs:
                yield workload, ref


def _too_small(
    architecture: Architecture,
    technology: MemoryTechnology,
    layouts: Iterable[Layout],
    *,
    need: int,
    have: int,
) -> str:
    sizes = {name: p.size_bytes for layout in layouts for name, p in layout.placements.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
    return (
        f"{architecture.name}: memory: {architecture.memory.channels} channels of "
        f"{technology.name} hold {have} bytes, the tensors need {need}: {need - have} bytes are "
        f"missing; largest: {', '.join(f'{name} {sizes[name]}' for name in largest)}"
    )
