"""The roofline picture of a benchmark: rates over operations per byte, under measured limits.

One HTML file with the drawing inside, which opens from disk without network. Roofs are those of
the instruction mixes, slopes those of the memories (Williams, Waterman and Patterson 2009).
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 1000, 640, 80, 60, 40, 210
_MEMORIES = ("DRAM", "L3", "L2")
_COLOURS = (
    *("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#9c6b4e"),
)


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis: values from ``low`` to ``high`` to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * share

    def decades(self) -> list[float]:
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        return [10.0**power for power in range(first, last + 1)]


def roofline_of(rows: Sequence[Row], total: Mapping[str, Any]) -> str:
    """Return the page; a row without rate or limit (a whole network) has no point.

    The rate of a point is that of the work left to do, so that it may be held to the limit.
    """
    points = [row for row in rows if row.get("limit_gops") and row.get("operations_per_byte")]
    peaks = total.get("peaks", {})
    body = _drawing(points, peaks) if points and peaks else "<p>No case has a rate and a limit.</p>"
    load = ", ".join(f"{value:.2f}" for value in total["load_average"])
    title = f"Roofline of one core: {total['cpu']}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(str(total['created']))}, load {load}. "
        "A point is a case, coloured by the limit over it; hover over it for its name. Dashed: "
        "instruction mixes; slopes: memory."
        f"</p>\n{body}\n</body></html>\n"
    )


_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:24px;color:#222;background:#fff}"
    "h1{font-size:18px}text{font:12px system-ui,sans-serif;fill:#222}"
    ".grid{stroke:#e4e4e4}.roof{stroke:#888;stroke-dasharray:6 4}.slope{stroke:#888}"
    "circle{fill-opacity:.75}circle:hover{stroke:#000;stroke-width:2}"
)


def _drawing(points: Sequence[Row], peaks: Mapping[str, Any]) -> str:
    rates = {str(row["case"]): _rate(row) for row in points}
    intensities = [float(row["operations_per_byte"]) for row in points]
    mixes = {name: peak["rate"] for name, peak in peaks.items() if name not in _MEMORIES}
    x = _Axis(min(intensities) / 2, max(intensities) * 2, _LEFT, _WIDTH - _RIGHT)
    highest = max(*mixes.values(), *rates.values()) * 1.5
    y = _Axis(min(rates.values()) / 2, highest, _HEIGHT - _BOTTOM, _TOP)
    limits = [name for name in peaks if any(row["limit"] == name for row in points)]
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(limits)}
    parts = [*_grid(x, y), *_roofs(x, y, mixes), *_slopes(x, y, peaks, max(mixes.values()))]
    for row in points:
        name, rate = str(row["case"]), rates[str(row["case"])]
        share = row["share_of_limit"]
        told = f"{name}: {rate / 1e9:.0f} GOP/s, {share:.0%} of {row['limit']}"
        at_x, colour = x.at(float(row["operations_per_byte"])), colours[str(row["limit"])]
        parts.append(
            f'<circle cx="{at_x:.1f}" cy="{y.at(rate):.1f}" r="5" fill="{colour}">'
            f"<title>{html.escape(told)}</title></circle>"
        )
    for i, name in enumerate(limits):
        top = _TOP + 14 * i
        parts.append(
            f'<circle cx="{_WIDTH - 190}" cy="{top}" r="5" fill="{colours[name]}"/>'
            f'<text x="{_WIDTH - 178}" y="{top + 4}">bound by {html.escape(name)}</text>'
        )
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">{inside}</svg>'
    )


def _rate(row: Row) -> float:
    """Operations a second of the work that was left to do."""
    return float(row["work"]) / float(row["seconds"])


def _grid(x: _Axis, y: _Axis) -> list[str]:
    parts = []
    for value in x.decades():
        at = x.at(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{y.end}" y2="{y.start}"/>'
        )
        parts.append(f'<text x="{at:.1f}" y="{y.start + 18}" text-anchor="middle">{value:g}</text>')
    for value in y.decades():
        at = y.at(value)
        parts.append(
            f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(
            f'<text x="{x.start - 8}" y="{at + 4:.1f}" text-anchor="end">{value / 1e9:g}</text>'
        )
    middle = (x.start + x.end) / 2
    parts.append(
        f'<text x="{middle}" y="{y.start + 40}" text-anchor="middle">operations per byte</text>'
    )
    parts.append(f'<text x="{x.start - 60}" y="{y.end - 14}">GOP/s</text>')
    return parts


def _roofs(x: _Axis, y: _Axis, mixes: Mapping[str, float]) -> list[str]:
    parts = []
    for name, rate in mixes.items():
        at = y.at(rate)
        parts.append(
            f'<line class="roof" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>'
        )
        parts.append(
            f'<text x="{x.end - 4}" y="{at - 4:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
    return parts


def _slopes(x: _Axis, y: _Axis, peaks: Mapping[str, Any], roof: float) -> list[str]:
    parts = []
    for name in _MEMORIES:
        if name not in peaks:
            continue
        rate = peaks[name]["rate"]
        first = max(x.low, y.low / rate)
        last = min(x.high, roof / rate)
        if first >= last:
            continue
        parts.append(
            f'<line class="slope" x1="{x.at(first):.1f}" y1="{y.at(first * rate):.1f}" '
            f'x2="{x.at(last):.1f}" y2="{y.at(last * rate):.1f}"/>'
        )
        parts.append(
            f'<text x="{x.at(first) + 6:.1f}" y="{y.at(first * rate) - 6:.1f}">{name}</text>'
        )
    return parts
