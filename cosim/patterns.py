"""Attention patterns as data: which keys each query sees, and their text in the IR.

A pattern knows no lengths: `seen` says what it means for so many queries and keys. Query t stands
at key t + keys - rows, so the last query stands at the last key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from cosim.errors import CosimError, suggestion

Kind = Literal["local", "strided", "fixed", "global", "custom"]
Bools = NDArray[np.bool_]
_NEEDED: Mapping[str, tuple[str, ...]] = {
    "local": ("window",),
    "strided": ("near", "stride"),
    "fixed": ("span", "summary"),
    "global": ("count", "window"),
    "custom": ("seen_blocks",),
}
_LEAST: Mapping[str, int] = {"stride": 1, "span": 1}
WORD = 16  # blocks are whole words of the kernels' masks


@dataclass(frozen=True)
class AttentionPattern:
    """Which keys each query sees, stored and computed in blocks of `block` by `block`.

    `local`: keys at most `window` away (not causal: on both sides).
    `global`: besides, all see the first `count` keys and the first `count` queries see all
    (Beltagy, Peters and Cohan 2020, section 3.1).
    `strided`: blocks at most `near` blocks away, and those a multiple of `stride` blocks away
    (Child, Gray, Radford and Sutskever 2019, section 4.3, on blocks).
    `fixed`: blocks of the same span of `span` blocks, and the last `summary` blocks of each span
    (the same section).
    `custom`: block i sees block j where character j of `seen_blocks[i]` is 1; it holds for any
    lengths up to as many blocks. `causal` hides keys behind the query.

    CosimError lists parameters that are missing, too small, or belong to another kind.

    Example:
        >>> pattern = AttentionPattern("local", window=1, block=16)
        >>> pattern.seen(3, 3).astype(int).tolist()
        [[1, 1, 0], [1, 1, 1], [0, 1, 1]]
        >>> pattern.to_text()
        'local window=1 block=16'

    """

    kind: Kind
    block: Annotated[int, Ge(WORD)] = 64
    causal: bool = False
    window: int | None = None
    near: int | None = None
    stride: int | None = None
    span: int | None = None
    summary: int | None = None
    count: int | None = None
    seen_blocks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise CosimError(f"pattern {self.kind}: {problem}" for problem in problems)

    def _problems(self) -> list[str]:
        if self.kind not in _NEEDED:
            return [f"unknown kind{suggestion(str(self.kind), get_args(Kind))}"]
        needed = _NEEDED[self.kind]
        own = {name: getattr(self, name) for pair in _NEEDED.values() for name in pair}
        found = [f"{name}: missing" for name in needed if own[name] is None]
        found += [
            f"{name}: found {value}, belongs to another kind; expected {', '.join(needed)}"
            for name, value in own.items()
            if name not in needed and value is not None
        ]
        if self.block < WORD or self.block % WORD:
            found.append(f"block: found {self.block}, expected a multiple of {WORD}")
        for name in needed:
            value, least = own[name], _LEAST.get(name, 0)
            if isinstance(value, int) and value < least:
                found.append(f"{name}: found {value}, expected at least {least}")
        if self.kind == "fixed" and (self.summary or 0) > (self.span or 0):
            found.append(f"summary: found {self.summary}, expected at most span {self.span}")
        rows = self.seen_blocks
        if self.kind == "custom" and rows is not None:
            widths = {len(row) for row in rows}
            if len(widths) != 1 or 0 in widths or any(set(row) - set("01") for row in rows):
                found.append(
                    f"seen_blocks: found {list(rows)}, expected rows of 0 and 1 of equal length"
                )
        return found

    def to_text(self) -> str:
        """Return the text that stands in the IR; `from_text` gives the equal pattern back."""
        parts = [str(self.kind)]
        for name in _NEEDED[self.kind]:
            value = getattr(self, name)
            parts.append(f"{name}={'/'.join(value) if isinstance(value, tuple) else value}")
        parts.append(f"block={self.block}")
        return " ".join([*parts, "causal=true"] if self.causal else parts)

    def seen(self, rows: int, keys: int) -> Bools:
        """Return the matrix [rows, keys] of what each query sees.

        CosimError for lengths below 1 and lengths that a custom pattern does not reach.
        """
        if rows < 1 or keys < 1:
            raise CosimError(f"pattern {self.kind}: found {rows} queries and {keys} keys")
        place = np.arange(rows, dtype=np.int64)[:, None] + (keys - rows)
        key = np.arange(keys, dtype=np.int64)[None, :]
        seen = self._rule(place, key)
        if self.causal:
            seen &= key <= place
        return seen

    def _rule(self, place: NDArray[np.int64], key: NDArray[np.int64]) -> Bools:
        """Return who sees whom, causal or not, of queries at the keys `place`."""
        near: Bools = np.abs(place - key) <= (self.window or 0)
        query_block, key_block = place // self.block, key // self.block
        if self.kind == "local":
            return near
        if self.kind == "global":
            first = self.count or 0
            query = np.arange(len(place), dtype=np.int64)[:, None]
            return near | (key < first) | (query < first)
        if self.kind == "custom":
            return self._custom(np.arange(len(place), dtype=np.int64) // self.block, key_block[0])
        seen: Bools
        if self.kind == "strided":
            blocks = query_block - key_block
            seen = (np.abs(blocks) <= (self.near or 0)) | (blocks % (self.stride or 1) == 0)
        else:
            span, summary = self.span or 1, self.summary or 0
            seen = (query_block // span == key_block // span) | (key_block % span >= span - summary)
        return seen

    def _custom(self, query_block: NDArray[np.int64], key_block: NDArray[np.int64]) -> Bools:
        rows = self.seen_blocks or ()
        bits = np.array([[bit == "1" for bit in row] for row in rows], np.bool_)
        down, across = int(query_block[-1]) + 1, int(key_block[-1]) + 1
        if down > bits.shape[0] or across > bits.shape[1]:
            raise CosimError(
                f"pattern custom: seen_blocks: found {bits.shape[0]} x {bits.shape[1]} blocks of "
                f"{self.block}, expected at least {down} x {across} for these lengths"
            )
        seen: Bools = bits[np.ix_(query_block, key_block)]
        return seen

    def sizes(self, length: int) -> NDArray[np.int64]:
        """Return how many positions each block of `length` positions has; the last is cut short."""
        starts = np.arange(0, length, self.block, dtype=np.int64)
        return np.minimum(starts + self.block, length) - starts

    def stored(self, rows: int, keys: int) -> Bools:
        """Return the matrix of the blocks that are stored: one of its queries sees one of its keys.

        Example:
            >>> AttentionPattern("local", window=1, block=16).stored(40, 40).astype(int).tolist()
            [[1, 1, 0], [1, 1, 1], [0, 1, 1]]

        """
        starts = [np.arange(0, length, self.block) for length in (rows, keys)]
        by_row = np.logical_or.reduceat(self.seen(rows, keys), starts[0], axis=0)
        return np.logical_or.reduceat(by_row, starts[1], axis=1)


def from_text(text: str) -> AttentionPattern:
    """Return the pattern that `to_text` wrote; CosimError lists what is not understood.

    Example:
        >>> from_text("fixed span=4 summary=1 block=32").summary
        1

    """
    kind, *parts = text.split(" ")
    known = [field.name for field in fields(AttentionPattern) if field.name != "kind"]
    values: dict[str, int | bool | tuple[str, ...]] = {}
    problems: list[str] = []
    if kind not in get_args(Kind):
        problems.append(f"unknown kind {kind!r}{suggestion(kind, get_args(Kind))}")
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in known or not equals:
            problems.append(f"unknown parameter {part!r}{suggestion(name, known)}")
        elif name in values:
            problems.append(f"{name}: stated twice")
        elif name == "seen_blocks":
            values[name] = tuple(value.split("/"))
        elif name == "causal" and value in ("true", "false"):
            values[name] = value == "true"
        elif name != "causal" and value.removeprefix("-").isdecimal():
            values[name] = int(value)
        else:
            wanted = "true or false" if name == "causal" else "an integer"
            problems.append(f"{name}: found {value!r}, expected {wanted}")
    if problems:
        raise CosimError(f"pattern {text!r}: {problem}" for problem in problems)
    return AttentionPattern(kind, **values)  # type: ignore[arg-type]  # checked above
