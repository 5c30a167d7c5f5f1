"""How fast chips are simulated: the tables of `cosim bench --filter simulate`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosim.report.markdown import table
from cosim.report.numbers import scaled
from cosim.report.terminal import open_console, print_table

Row = Mapping[str, Any]
_COLUMNS = ("case", "simulator", "simulated cycles", "CPU time", "cycles a second", "ours faster")
_HEAD = (
    "Layers run on 128 x 128 cells that keep weights, beside equal buffers and ports; models on "
    "`stacked_edge_32` with its memory at the roofline. Every simulator does what it does by "
    "itself, so that their cycles differ; the search for tilings counts. Above 1 ours is faster."
)


def is_simulated(row: Row) -> bool:
    """Tell the rows of simulators from those of kernels and networks."""
    return "cycles_per_second" in row


def print_simulators(rows: Sequence[Row]) -> None:
    """Print the rows of simulators among `rows`, nothing where there is none."""
    lines = list(_lines(rows))
    if lines:
        print_table(open_console(), "simulators, CPU time, sides alternating", _COLUMNS, lines)


def simulators_markdown(rows: Sequence[Row]) -> str:
    """Return the section of docs/kernels.md, empty where no row is of a simulator."""
    lines = list(_lines(rows))
    return "\n".join(["## Simulators", "", _HEAD, "", *table(_COLUMNS, lines)]) if lines else ""


def _lines(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    for row in rows:
        if not is_simulated(row):
            continue
        who = f"ours, {row['fidelity']}" if "fidelity" in row else "ours"
        yield _line(str(row["case"]), who, row, "")
        for name, peer in row["peers"].items():
            low, high, _ = peer["ratio_ours_interval"]
            against = f"{peer['ratio_ours']:,.0f} ({low:,.0f} to {high:,.0f})"
            yield _line("", f"{name} {peer['version']}", peer, against)


def _line(case: str, who: str, found: Row, against: str) -> tuple[str, ...]:
    """Return one side; `against` says how much faster ours is."""
    rate = found["cycles"] / found["seconds"]
    return case, who, f"{found['cycles']:,}", scaled(found["seconds"], "s"), scaled(rate), against
