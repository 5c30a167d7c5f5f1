"""Joules by cause, area, and one run under several energy tables, for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cosim.report.numbers import percent, scaled
from cosim.report.terminal import open_console, print_table

CAUSES = {
    "compute": "compute",
    "on_chip_movement": "on-chip movement",
    "off_chip_movement": "off-chip movement",
    "static": "at rest",
}


def energy_lines(totals: Mapping[str, Any]) -> Iterator[str]:
    """Yield where the joules of a run go, and the area of its chip where that is known."""
    causes, whole = totals["energy_by_cause_j"], totals["energy_j"]
    shares = ", ".join(
        f"{word} {percent(causes[name] / whole if whole else 0.0)}" for name, word in CAUSES.items()
    )
    line = f"of the energy: {shares}"
    if totals["energy_per_mac_j"] is not None:
        line += f"; per MAC {scaled(totals['energy_per_mac_j'], 'J')}"
    if totals["energy_inherited_fraction"]:
        line += f"; {percent(totals['energy_inherited_fraction'])} at prices inherited by "
        line += totals["energy_table"]
    yield line
    if totals["area_mm2"] is not None:
        yield (
            f"area {totals['area_mm2']:.3g} mm2 ({totals['area_low_mm2']:.3g} to "
            f"{totals['area_high_mm2']:.3g}; vias {percent(totals['via_area_fraction'])}; without "
            "pads and wires between blocks)"
        )


def print_tables(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one run under several energy tables."""
    console = open_console()
    print_table(
        console,
        "the same counts under other prices on the chip; memory as in the run",
        (
            "table",
            "node",
            "energy",
            "low",
            "high",
            "ratio",
            *CAUSES.values(),
            "inherited",
            "assumed",
        ),
        (
            (
                str(row["table"]),
                "" if row["node_m"] is None else f"{1e9 * row['node_m']:g} nm",
                *(scaled(row[key], "J") for key in ("energy_j", "energy_low_j", "energy_high_j")),
                "-" if row["energy_ratio"] is None else f"{row['energy_ratio']:.3f}",
                *(scaled(row["energy_by_cause_j"][name], "J") for name in CAUSES),
                percent(row["energy_inherited_fraction"]),
                percent(row["energy_assumed_fraction"]),
            )
            for row in rows
        ),
    )
    for row in rows:
        for warning in row["warnings"]:
            console.print(f"warning: {row['table']}: {warning}", soft_wrap=True)
