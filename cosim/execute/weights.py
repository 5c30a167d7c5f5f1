"""Constants of a program in the forms that kernels read, made once for all plans and threads."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (stops at a foreign kernels package)
from cosim.execute.layout import Array
from cosim.ir import Program
from cosim.patterns import from_text
from kernels import attention_blocks, depthwise, encodings, panels
from kernels.encodings import Binary, BitPacked, Dense, Encoding, Half
from kernels.sparse_speeds import DEFAULT_BREAK_EVEN, Speed

PanelKey = tuple[str, str, int, int]
"""Constant, activations, rows that the choice of a kernel was made for, group of filters."""
_WIDENED = "codes with group scales in a convolution, widened to float beforehand"


@dataclass
class Weights:
    """Constants of a program as their kernels read them; shared by all plans and threads.

    `speeds` say when a sparse kernel pays. Encoded payloads are read when a constant is first
    prepared and not kept. Tables that depend on lengths are kept for the longest one asked for.
    """

    program: Program
    encodings: Mapping[str, Encoding]
    speeds: Sequence[Speed] = DEFAULT_BREAK_EVEN
    prepared: dict[PanelKey, panels.LinearPanel] = field(default_factory=dict)
    decoded: dict[str, Array] = field(default_factory=dict)
    channels: dict[str, Array] = field(default_factory=dict)
    sinusoids: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    patterns: dict[tuple[str, int, int], attention_blocks.BlockPattern] = field(
        default_factory=dict
    )

    @cached_property
    def measured_rows(self) -> list[int]:
        """Numbers of rows for which speeds were measured, ascending."""
        return sorted({speed.rows for speed in self.speeds})

    def panel(
        self,
        name: str,
        *,
        rows: int,
        activation: str,
        taps: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> panels.LinearPanel:
        """Return constant `name` laid out for products with `rows` activation rows.

        `part` (i, groups) is the i-th of as many groups of rows of the matrix: the filters of one
        group of a convolution. A kernel is chosen by the measured number of rows that `rows` falls
        under, so lengths that fall under the same one share the panel.
        """
        steps = self.measured_rows
        key = (name, activation, steps[min(bisect_left(steps, rows), len(steps) - 1)], part[0])
        if key not in self.prepared:
            self._prepare(key, taps, part[1])
        return self.prepared[key]

    def _prepare(self, key: PanelKey, taps: int, groups: int) -> None:
        """Prepare all groups of a constant; a panel of the same layout gives its arrays."""
        name, activation, rows, _ = key
        whole = self.encodings[name]
        for i, encoding in enumerate([whole] if groups == 1 else _parts(whole, groups)):
            made = [
                panel
                for (other, _, _, group), panel in self.prepared.items()
                if (other, group) == (name, i)
            ]
            widened = taps > 1 and activation == "f32" and _has_groups(encoding)
            panel = panels.prepare_linear(
                encodings.encode_dense(encodings.decode(encoding)) if widened else encoding,
                rows=rows,
                activation=activation,
                kernel_size=taps,
                share=made,
                table=self.speeds,
            )
            if widened:  # windows order columns by taps, which tears groups of codes apart
                panel = replace(panel, reason=_WIDENED, is_fallback=True)
            self.prepared[name, activation, rows, i] = panel

    def table(self, name: str) -> panels.LinearPanel:
        """Return a panel of `name` for gathering rows: one that a product uses, if there is."""
        for (constant, *_), panel in self.prepared.items():
            if constant == name:
                return panel
        return self.panel(name, rows=1, activation="f32")

    def array(self, name: str) -> Array:
        """Return a constant as plain float32, for vectors and position tables."""
        if name not in self.decoded:
            self.decoded[name] = np.ascontiguousarray(encodings.decode(self.encodings[name]))
        return self.decoded[name]

    def depthwise(self, name: str) -> Array:
        """Return filters [channels, 1, taps, ...] as panels of the depthwise kernel."""
        if name not in self.channels:
            values = encodings.decode(self.encodings[name])
            self.channels[name] = depthwise.pack_depthwise(values.reshape(len(values), -1))
        return self.channels[name]

    def positions(self, first: int, count: int, width: int, *, step: int = 1) -> Array:
        """Return sinusoids [count, width] of the positions first, first + step, ... (step 1 or -1).

        Vaswani et al. 2017, section 3.5: even columns are sines, odd ones cosines; computed in
        float64 and rounded once.
        """
        furthest = max(abs(first), abs(first + step * (count - 1)))
        known = self.sinusoids.get(width)
        if known is None or len(known) <= 2 * furthest:
            known = self.sinusoids[width] = _sinusoids(2 * furthest, width)
        middle = len(known) // 2  # position 0; rows fall from the largest position to the least
        start = middle - first
        return (
            known[start : start + count] if step < 0 else known[start - count + 1 : start + 1][::-1]
        )

    def pattern(self, text: str, rows: int, keys: int) -> attention_blocks.BlockPattern:
        """Return the blocks that a pattern keeps of `rows` queries and `keys` keys."""
        if (text, rows, keys) not in self.patterns:
            pattern = from_text(text)
            seen = pattern.seen(rows, keys)
            self.patterns[text, rows, keys] = attention_blocks.custom(seen, block=pattern.block)
        return self.patterns[text, rows, keys]


def _sinusoids(furthest: int, width: int) -> NDArray[np.float32]:
    pairs = np.arange(0, width, 2, dtype=np.float64)
    angles = np.arange(furthest, -furthest - 1, -1)[:, None] * np.exp(
        pairs * (-math.log(10000.0) / width)
    )
    rows = np.stack((np.sin(angles), np.cos(angles)), axis=-1)
    return rows.reshape(len(angles), width).astype(np.float32)


def _has_groups(encoding: Encoding) -> bool:
    scales = encodings.scales(encoding)
    return scales is not None and scales.shape[1] > 1


def _parts(encoding: Encoding, groups: int) -> list[Encoding]:
    """Return encodings of equal shares of the rows of a matrix, of the same values and kind."""
    filters = encoding.shape[0] // groups
    shares = [slice(i * filters, (i + 1) * filters) for i in range(groups)]
    bits = encodings.value_bits(encoding)
    is_sparse = not isinstance(encoding, Dense | Half | BitPacked | Binary)
    scale = encodings.scales(encoding)
    if scale is None:
        return [_floats(encoding, share, is_sparse=is_sparse) for share in shares]
    codes = encodings.codes(encoding)
    shaped = codes.reshape(encoding.shape)
    rows: NDArray[np.float32] = np.broadcast_to(scale, (encoding.shape[0], scale.shape[1]))
    if bits == 1:
        return [encodings.encode_binary(shaped[share], rows[share]) for share in shares]
    group = encodings.group(encoding)
    if is_sparse:
        return [
            encodings.encode_csr(shaped[share], rows[share], bits=bits, group=group)
            for share in shares
        ]
    zero = encodings.zero_points(encoding)
    zeros: NDArray[Any] | None = None
    if zero is not None:
        zeros = np.broadcast_to(zero, (encoding.shape[0], zero.shape[1]))
    return [
        encodings.encode_bitpacked(
            shaped[share],
            rows[share],
            bits=bits,
            group=group,
            zero_point=None if zeros is None else zeros[share],
        )
        for share in shares
    ]


def _floats(encoding: Encoding, share: slice, *, is_sparse: bool) -> Encoding:
    """Return some rows of an encoding of floats, stored alike."""
    values = encodings.decode(encoding)[share]
    if encodings.value_bits(encoding) == 32:
        return encodings.encode_csr(values) if is_sparse else encodings.encode_dense(values)
    stored = encodings.tensors(encoding)
    number = encodings.number_of(stored["values" if isinstance(encoding, Half) else "payload"])
    if is_sparse:
        return encodings.encode_csr(encodings.narrowed(values, number), bits=16)
    return encodings.encode_half(values, number)
