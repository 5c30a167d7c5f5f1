"""Times beside peers and limits, for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.dispatch import Dispatch
from cosim.report.numbers import interval, scaled, shown
from cosim.report.terminal import open_console, print_table


def print_bench(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """Print speed ratios, above 1 ours is faster; then peers, and what was not measured."""
    console = open_console()
    load = ", ".join(f"{value:.2f}" for value in total["load_average"])
    console.print(f"{total['cpu']}, load {load}, {total['rounds']} rounds", soft_wrap=True)
    if "peaks" in total:
        console.print(
            "limits of one core: "
            + ", ".join(f"{name} {scaled(peak['rate'])}" for name, peak in total["peaks"].items()),
            soft_wrap=True,
        )
    clock = "CPU time" if total["threads"] == 1 else "wall time"
    timed = [row for row in rows if "cycles_per_second" not in row]  # simulators have their own
    if timed:
        print_table(
            console,
            f"{total['threads']} thread(s), {clock}, sides alternating; above 1 ours is faster",
            (
                *("case", "vs torch", "95 %", "vs numpy", "quantising too", "of limit", "limit"),
                *("GOP/s", "error"),
            ),
            (
                (
                    row.get("case") or f"{row['kernel']}/{row['shape']}",
                    shown(row["ratio_torch"]),
                    interval(row.get("ratio_torch_interval")),
                    shown(row["ratio_numpy"]),
                    shown(row.get("ratio_torch_quantizing")),
                    shown(row["share_of_limit"], ".0%"),
                    row.get("limit") or "-",
                    shown(row["gops"], ".0f"),
                    shown(row.get("error"), ".2g"),
                )
                for row in timed
            ),
        )
    peers = [
        (
            row.get("case") or f"{row['kernel']}/{row['shape']}",
            name,
            shown(peer["ratio_torch"]),
            shown(peer["ratio_ours"]),
            shown(peer.get("error"), ".2g"),
        )
        for row in timed
        for name, peer in row.get("peers", {}).items()
        if name not in {"torch", "numpy"} and not name.startswith("ours")
    ]
    if peers:
        columns = ("case", "peer", "peer vs torch", "ours vs peer", "error")
        print_table(console, "\npeers", columns, peers)
    for note in notes_of(rows, total):
        console.print(note, soft_wrap=True)


def notes_of(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> list[str]:
    """Return what was left out of a benchmark and why, cases of one reason together."""
    cases: dict[str, list[str]] = {}
    for row in rows:
        for note in row.get("notes", ()):
            cases.setdefault(str(note), []).append(str(row["case"]))
    for kind in ("skipped", "failed"):
        for one in total.get(kind, ()):
            cases.setdefault(f"{kind}: {one['note']}", []).append(str(one["case"]))
    return [
        f"{note} ({found[0] if len(found) == 1 else f'{len(found)} cases, the first {found[0]}'})"
        for note, found in cases.items()
    ]


def print_dispatch(found: Dispatch, path: Path) -> None:
    """Print how many times each stored form is as fast as dense float weights, by density."""
    densities = sorted({density for row in found.table for density in row.densities})
    print_table(
        open_console(),
        f"{found.cpu}: speed relative to dense float weights, by share of weights kept",
        ("form", "activations", "rows", *(f"{density:g}" for density in densities)),
        (
            (
                row.values,
                row.activation,
                str(row.rows),
                *(
                    shown(dict(zip(row.densities, row.speeds, strict=True)).get(density))
                    for density in densities
                ),
            )
            for row in found.table
        ),
    )
    open_console().print(f"kept in {path}", soft_wrap=True)
