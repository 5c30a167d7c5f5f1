"""Runs side by side, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from cosim.report.numbers import percent
from cosim.report.terminal import open_console, print_table


def print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print runs side by side, as ratios to the first."""
    print_table(
        open_console(),
        "against the first run: ratios below 1 are cheaper",
        (
            *("run", "WER", "difference (95 % interval)", "cycles", "energy"),
            *("shared figures wrong alike", "each apart", "DRAM", "size", "area", "speed per area"),
        ),
        (
            (
                str(row["run"]),
                percent(row["wer"]),
                str(row["wer_difference_text"]),
                _share(row["cycles_ratio"]),
                _share(row["energy_ratio"]),
                _span(row["energy_ratio_interval"]),
                _span(row["energy_ratio_interval_apart"]),
                _share(row["dram_ratio"]),
                _share(row["size_ratio"]),
                _share(row["area_ratio"]),
                _share(row["speed_per_area_ratio"]),
            )
            for row in rows
        ),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(bounds: Sequence[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
