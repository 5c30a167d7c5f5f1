"""Tables of `cosim profile` and `cosim reproduce`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cosim.profile import Group, Profile
from cosim.report.numbers import scaled
from cosim.report.terminal import open_console, print_table

if TYPE_CHECKING:
    from rich.console import Console

_VERDICTS = ("reproduced", "misprint", "ambiguous", "not reproducible")


def print_profile(counted: Profile) -> None:
    """Print what a model holds and does, per module group."""
    console = open_console()
    steps = f" and {counted.steps} decoding step{'s' * (counted.steps != 1)}"
    audio = f", {counted.seconds:g} s of audio" if counted.seconds is not None else ""
    bound = ", ".join(
        f"{graph}: {' '.join(f'{name}={size}' for name, size in lengths.items())}"
        for graph, lengths in counted.lengths.items()
    )
    print_table(
        console,
        f"{counted.name}: one encoder call{steps if counted.steps else ''}{audio} ({bound})",
        (
            "module",
            "parameters",
            "%",
            "bytes",
            "zipped",
            "MACs",
            "%",
            "FLOPs",
            "BOPs (bits x bits)",
            "BOPs (003), Gi",
            "activations",
            "%",
        ),
        [_profile_row(group, counted.total) for group in (*counted.groups, counted.total)],
    )
    if counted.total.buffers:
        console.print(f"bytes hold {counted.total.buffers} values that are not parameters")


def _profile_row(group: Group, total: Group) -> list[str]:
    row: Mapping[str, Any] = group.row(total)
    mark = f" ({group.mark})" if group.mark else ""
    bops = row["bops_003_gi"]
    return [
        f"{group.module}{mark}",
        f"{row['parameters']:,}",
        f"{row['parameters_percent']:.2f}",
        scaled(row["size_bytes"]),
        "" if row["zipped_bytes"] is None else scaled(row["zipped_bytes"]),
        scaled(row["macs"]),
        f"{row['macs_percent']:.2f}",
        scaled(row["flops"]),
        scaled(row["bops_bayesian_bits"]),
        "no rule" if bops is None else f"{bops:.4g}",
        scaled(row["activation_bytes"]),
        f"{row['activation_percent']:.2f}",
    ]


def print_reproduction(
    paper: str, rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, int]
) -> None:
    """Print figures of a paper beside ours, a table for each of its tables."""
    console = open_console()
    for table in dict.fromkeys(row["table"] for row in rows):
        chosen = [row for row in rows if row["table"] == table]
        title = f"paper {paper}, {'text' if table == 'text' else f'Table {table}'}"
        columns = ("quantity", "paper", "ours", "difference", "unit", "verdict")
        print_table(console, title, columns, [_figure(row) for row in chosen])
        _print_notes(console, chosen)
    told = ", ".join(f"{verdicts[name]} {name}" for name in _VERDICTS)
    console.print(f"{len(rows)} rows: {told}")


def _figure(row: Mapping[str, Any]) -> list[str]:
    def text(value: object) -> str:
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)

    difference = row["difference"]
    return [
        str(row["quantity"]),
        str(row["printed"]),
        text(row["ours"]),
        "" if difference is None else f"{difference:+.3g}",
        str(row["unit"]),
        str(row["verdict"]),
    ]


def _print_notes(console: "Console", rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each note once, behind the quantities that it explains."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            notes.setdefault(str(row["note"]), []).append(str(row["quantity"]))
    for note, quantities in notes.items():
        more = f" and {len(quantities) - 1} more" if len(quantities) > 1 else ""
        console.print(f"  {quantities[0]}{more}: {note}", soft_wrap=True)
    console.print()
