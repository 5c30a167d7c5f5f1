"""What docs/sparsity.md and docs/precision.md share: speed-ups on chips, and of kernels."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosim.report.markdown import bullets, table
from cosim.report.models_markdown import machine_line

Row = Mapping[str, Any]
Findings = Callable[[Sequence[Row], str], Iterable[str]]


def page(
    intro: str,
    rows: Iterable[Row],
    total: Row,
    *,
    findings: Findings,
    costs: Callable[[Sequence[Row], str], Sequence[str]],
    executed_findings: Callable[[Sequence[Row]], Iterable[str]] | None = None,
) -> str:
    """Return a page as Markdown: `intro`, a section per model, in it one per chip.

    `findings` and `costs` are of the rows on one chip. With `executed_findings`, of the executed
    rows, kernels that leave zeros out stand beside those that are executed.
    """
    known = list(rows)
    lines = [intro.format(machine=machine_line(total), rounds=total["rounds"]).rstrip()]
    for model, found in by_model(known):
        lines += ["", *heading(model, found)]
        for chip in chips(found):
            lines += ["", f"### {model} on `{chip}`", "", *speedups(found, chip)]
            lines += ["", *bullets(findings(found, chip)), "", *costs(found, chip)]
        has_sparse = executed_findings is not None
        lines += ["", f"### {model}, executed", "", *executed(found, has_sparse=has_sparse)]
        if executed_findings is not None:
            lines += ["", *bullets(executed_findings(found))]
    return "\n".join([*lines, *failures(known)]) + "\n"


def by_model(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield every model with its rows that did not fail, the first of which others need."""
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        found = [row for row in rows if row["model"] == model]
        if not found[0]["note"]:
            yield model, [row for row in found if not row["note"]]


def chips(rows: Sequence[Row]) -> list[str]:
    """Return the chips of the rows, in order, that hold the first version as shipped."""
    found = dict.fromkeys(str(one["chip"]) for one in rows[0]["chips"])
    return [chip for chip in found if not base_of(rows, chip)["note"]]


def on_chip(row: Row, chip: str) -> list[Row]:
    """Return what a row says of the variants of a chip."""
    return [one for one in row["chips"] if one["chip"] == chip]


def heading(model: str, rows: Sequence[Row]) -> list[str]:
    """Return the section heading of a model and what one utterance is."""
    first = rows[0]
    steps = f" and {first['steps']} decoding steps" if first["steps"] else ""
    drawn = (
        " Weights are drawn from a normal distribution, each by itself: trained ones may leave "
        "other patterns."
        if first["is_random"]
        else ""
    )
    return [f"## {model}", "", f"One utterance of {first['seconds']:g} s{steps}.{drawn}"]


def base_of(rows: Sequence[Row], chip: str) -> Row:
    """Return the first version on the first variant of a chip, which all else is compared with."""
    return on_chip(rows[0], chip)[0]


def speedup(one: Row, base: Row, key: str = "cycles") -> float:
    """Return how many times fewer cycles a row takes than the base."""
    return float(base[key]) / float(one[key])


def speedups(rows: Sequence[Row], chip: str) -> list[str]:
    """Return a table of versions by variants: simulated speed-up, that of array cycles behind.

    The most of a version is bold where it is 1 % or more.
    """
    base = base_of(rows, chip)
    names = [str(one["variant"]) for one in on_chip(rows[0], chip)]
    lines = []
    for row in rows:
        found = on_chip(row, chip)
        most = max((speedup(one, base) for one in found if not one["note"]), default=0.0)
        lines.append((str(row["version"]), *(_cell(one, base, most) for one in found)))
    return table(("version", *names), lines)


def _cell(one: Row, base: Row, most: float) -> str:
    if one["note"]:
        return "does not fit"
    whole = speedup(one, base)
    text = f"{whole:.2f}"
    if whole == most and most >= 1.01:
        text = f"**{text}**"
    return f"{text} ({speedup(one, base, 'array_cycles'):.2f})"


def executed(rows: Sequence[Row], *, has_sparse: bool) -> list[str]:
    """Return a table of versions by blocks: speed-up of kernels and their names.

    With `has_sparse` those that leave zeros out stand beside the ones that are executed.
    """
    blocks = [str(one["block"]) for one in rows[0]["executed"]]
    columns = [
        name for block in blocks for name in (f"{block}: executed", "kernels that leave zeros out")
    ]
    if not has_sparse:
        columns = [f"{block}: executed" for block in blocks]
    lines = []
    for row in rows:
        cells = []
        for one in row["executed"]:
            cells.append(_timed(one["own"]))
            if len(columns) > len(blocks):
                cells.append(_timed(one["sparse"]) if "sparse" in one else "the same")
        lines.append((str(row["version"]), *cells))
    return table(("version", *columns), lines)


def _timed(side: Row) -> str:
    low, high, _ = side["speedup_interval"]
    kernels = ", ".join(f"`{name}`" for name in side["kernels"])
    return f"{side['speedup']:.2f} ({low:.2f}-{high:.2f}) {kernels}"


def change(value: float, base: float) -> str:
    """Return how much more or less than the base a value is.

    Example:
        >>> change(0.9, 1.0)
        '-10.0 %'

    """
    return f"{100 * (value / base - 1):+.1f} %"


def listed(rows: Sequence[Row], text: Callable[[Row], str]) -> str:
    """Return `version text` of every row, separated by commas."""
    return ", ".join(f"{row['version']} {text(row)}" for row in rows)


def failures(rows: Sequence[Row]) -> list[str]:
    """Return what could not be measured, empty when all was."""
    broken = [f"`{row['case']}`: {row['note']}" for row in rows if row["note"]]
    broken += [
        f"`{row['case']}` on {one['chip']}, {one['variant']}: {one['note']}"
        for row in rows
        if not row["note"]
        for one in row["chips"]
        if one["note"]
    ]
    return ["", "## Not measured", "", *bullets(broken)] if broken else []
