"""The picture of docs/energy.md: joules with their range, and what they go to, as one SVG.

A line per version and chip. To the left joules on a logarithmic axis, from the low end to the high
one with a dot at the value; to the right the shares of four causes.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cosim.report.numbers import scaled
from hwmodels.energy_split import CAUSES

Row = Mapping[str, Any]
_WIDTH, _LINE, _HEAD = 960, 18, 66
_LABEL, _RANGE, _SHARE = 150, (160, 590), (640, 940)
_MARGIN = 1.2
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#9aa0a6")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.head{font-weight:600}"
    ".grid{stroke:#e4e4e4}.span{stroke:#4269d0;stroke-width:3}.value{fill:#1b2f6b}"
)


def picture_of(rows: Sequence[Row]) -> str:
    """Return the SVG of all rows that did not fail: a panel per model, in it one part per chip."""
    panels = [_lines(rows, model) for model in dict.fromkeys(str(row["model"]) for row in rows)]
    panels = [panel for panel in panels if panel[1]]
    parts = [f'<rect width="{_WIDTH}" height="100%" fill="#fff"/>', *_legend()]
    top = 40
    for model, lines in panels:
        parts += _panel(model, lines, top)
        top += _HEAD + _LINE * len(lines)
    inside = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" '
        f'height="{top}"><style>{_STYLE}</style>\n{inside}\n</svg>\n'
    )


def _lines(rows: Sequence[Row], model: str) -> tuple[str, list[tuple[str, Row | None]]]:
    """Return (label, figures) line by line; a chip's name is a line without figures."""
    mine = [row for row in rows if row["model"] == model and not row["note"]]
    found: list[tuple[str, Row | None]] = []
    for chip in dict.fromkeys(str(one["chip"]) for row in mine for one in row["chips"]):
        found.append((chip, None))
        for row in mine:
            one = next(each for each in row["chips"] if each["chip"] == chip)
            if not one["note"]:
                found.append((str(row["version"]), one))
    return model, [] if all(one is None for _, one in found) else found


def _legend() -> list[str]:
    parts = []
    for i, cause in enumerate(CAUSES):
        left = _SHARE[1] - 620 + 160 * i
        parts.append(
            f'<rect x="{left}" y="10" width="12" height="12" fill="{_COLOURS[i]}"/>'
            f'<text x="{left + 17}" y="20">{cause.replace("_", " ")}</text>'
        )
    return parts


def _panel(model: str, lines: Sequence[tuple[str, Row | None]], top: float) -> list[str]:
    drawn = [one for _, one in lines if one is not None]
    low = math.log10(min(one["energy_low_j"] for one in drawn) / _MARGIN)
    high = math.log10(max(one["energy_high_j"] for one in drawn) * _MARGIN)
    first = top + _HEAD - 22
    bottom = first + _LINE * len(lines)

    def at(joules: float) -> float:
        share = (math.log10(joules) - low) / (high - low)
        return _RANGE[0] + (_RANGE[1] - _RANGE[0]) * share

    parts = [
        f'<text class="head" x="10" y="{top + 16}">{html.escape(model)}</text>',
        f'<text x="{_SHARE[0]}" y="{first - 10}">share of the joules</text>',
    ]
    marks = [k * 10.0**power for power in range(math.floor(low), math.ceil(high)) for k in (1, 3)]
    for joules in (one for one in marks if low <= math.log10(one) <= high):
        x = at(joules)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{first - 4}" y2="{bottom}"/>'
            f'<text x="{x:.1f}" y="{first - 10}" text-anchor="middle">{scaled(joules, "J")}</text>'
        )
    for i, (label, one) in enumerate(lines):
        y = first + _LINE * i + _LINE / 2
        if one is None:
            parts.append(f'<text class="head" x="10" y="{y + 4}">{html.escape(label)}</text>')
            continue
        parts.append(
            f'<text x="{_LABEL}" y="{y + 4}" text-anchor="end">{html.escape(label)}</text>'
        )
        parts.append(
            f'<line class="span" x1="{at(one["energy_low_j"]):.1f}" y1="{y}" '
            f'x2="{at(one["energy_high_j"]):.1f}" y2="{y}"/>'
            f'<circle class="value" cx="{at(one["energy_j"]):.1f}" cy="{y}" r="4.5"/>'
        )
        parts += _shares(one, y)
    return parts


def _shares(one: Row, y: float) -> list[str]:
    parts, left = [], float(_SHARE[0])
    for cause, colour in zip(CAUSES, _COLOURS, strict=True):
        joules = one["energy_by_cause_j"][cause]
        width = (_SHARE[1] - _SHARE[0]) * joules / one["energy_j"]
        parts.append(
            f'<rect x="{left:.1f}" y="{y - 6}" width="{width:.1f}" height="12" fill="{colour}">'
            f"<title>{cause.replace('_', ' ')}: {scaled(joules, 'J')}</title></rect>"
        )
        left += width
    return parts
