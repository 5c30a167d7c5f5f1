"""docs/kernels.md: the tables of one benchmark, and what it was measured on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cosim.bench.measure import ROUNDS
from cosim.bench.targets import (
    BREAK_EVEN_SPARSITY,
    NARROW,
    NETWORK,
    NUMPY_F32,
    TARGETS,
    target_of,
)
from cosim.report.bench_table import notes_of
from cosim.report.numbers import interval, scaled, shown
from cosim.report.simulators_table import is_simulated, simulators_markdown

Row = Mapping[str, Any]
_TITLES = {
    "499": "499 rows",
    "100": "100 rows",
    "16": "16 rows",
    "1-cold": "1 row, cold weights",
    "1": "1 row, hot weights",
}
_DETAIL = "768x3072"
_AGAIN = """\
## Again

- Peers are optional: `pip install -e '.[asr,bench]'` has them all; one that is absent is skipped.
- `cosim bench --filter w4a8/768x3072` times a part, `--threads 2` on two threads in wall time,
  `--out FILE` keeps the rows as JSON, `--load FILE` makes this document (`--markdown`) or the
  roofline picture (`--roofline FILE.html`) of kept rows.
- Two commits: run `pytest -m benchmark tests/bench --benchmark-save=NAME` on each, with
  `OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1`, then `pytest-benchmark compare`; rates, ratios, shares
  of limits and bytes stand in `extra_info`.
- `cosim bench --calibrate` measures where sparse kernels start to win on this machine and keeps it
  in the user's cache.
"""


def markdown_of(rows: Sequence[Row], total: Mapping[str, Any]) -> str:
    """Return the document; sections without rows are left out.

    Every ratio is a median over rounds of one alternating run; above 1 ours is faster.
    """
    parts = [
        _head(total),
        _goals(rows),
        *(_shapes(rows, key, title) for key, title in _TITLES.items()),
        _limits(rows),
        _peers(rows),
        _break_even(rows),
        _others(rows),
        _networks([row for row in rows if not is_simulated(row)]),
        simulators_markdown(rows),
        _absent(rows, total),
        _AGAIN,
    ]
    return "\n".join(part for part in parts if part)


# --- pieces of rows -----------------------------------------------------------------------------


def _is_linear(row: Row) -> bool:
    sizes = str(row["shape"]).partition("-T")[0].split("x")
    return len(sizes) == 2 and row.get("limit") is not None and "/" not in str(row["shape"])


def _key(row: Row) -> str:
    """Activation rows of a linear case, `-cold` where its weights are."""
    rows = str(row["shape"]).partition("-T")[2]
    return f"{rows}-cold" if row.get("weights") == "cold" else rows


def _sizes(row: Row) -> str:
    return str(row["shape"]).partition("-T")[0]


def _goal(row: Row) -> float | None:
    cold = row.get("weights") == "cold"
    return target_of(str(row["kernel"]), str(row["shape"]), is_cold=cold)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


# --- sections -----------------------------------------------------------------------------------


def _head(total: Mapping[str, Any]) -> str:
    caches = ", ".join(
        f"{name} {scaled(size, 'B')}" for name, size in total["caches_bytes"].items()
    )
    load = " / ".join(f"{value:.2f}" for value in total["load_average"])
    after = " / ".join(f"{value:.2f}" for value in total["load_average_after"])
    versions = ", ".join(f"{name} {text}" for name, text in sorted(total["versions"].items()))
    threads = total["threads"]
    clock = "CPU time of one thread" if threads == 1 else f"wall time of {threads} threads"
    how = (
        f"Made by `{_command(total)}`; do not edit. All sides of a case take turns (A B A B ...) "
        f"in one process, {total['rounds']} rounds, {clock}. A ratio is the median over rounds of "
        "the peer's time over ours: above 1 ours is faster. Hot weights are one layer called "
        "again and again, cold ones so many layers in rotation that each comes from memory. Errors "
        "are relative Frobenius distances of the outputs from float64, on Gaussian weights and "
        "activations; integer kernels are exact on their codes, so theirs is that of quantisation."
    )
    features = ", ".join(total["features"]) or "no AVX2"
    lines = [
        "# Kernels: speed, limits, error",
        "",
        how,
        "",
        f"- {total['created']}, {total['cpu']}, {total['cores']} cores ({caches}), {features}",
        f"- load average {load} before, {after} after",
        f"- {versions}",
        "",
    ]
    if "peaks" in total:
        lines += ["## Limits of one core, measured in the same run", ""]
        lines.append(
            _table(
                ("limit", "rate", "what"),
                (
                    (name, scaled(peak["rate"], _unit(name)), peak["meaning"])
                    for name, peak in total["peaks"].items()
                ),
            )
        )
    return "\n".join(lines)


def _command(total: Mapping[str, Any]) -> str:
    """Return the command that measures these rows; defaults are left out."""
    words = ["cosim bench"]
    words += [f"--filter {total['filter']}"] if total["filter"] else []
    words += [f"--rounds {total['rounds']}"] if total["rounds"] != ROUNDS else []
    words += [f"--threads {total['threads']}"] if total["threads"] != 1 else []
    return " ".join([*words, "--markdown docs/kernels.md"])


def _unit(limit: str) -> str:
    return "B/s" if limit[:1] in "LD" else "OP/s"


def _goals(rows: Sequence[Row]) -> str:
    """Median over shapes, with the range, beside the goal; shares of the limit at 499 rows."""
    linear = [row for row in rows if _is_linear(row) and row["ratio_torch"] is not None]
    keys = [key for key in _TITLES if key != "1"]
    lines: list[tuple[str, ...]] = []
    for kernel in _unique(row["kernel"] for row in linear if row["kernel"] in TARGETS):
        mine = [row for row in linear if row["kernel"] == kernel and not _is_narrow(row)]
        cells = []
        for key in keys:
            found = [row["ratio_torch"] for row in mine if _key(row) == key]
            goal = TARGETS[kernel].ratios.get(key)
            cells.append(_against(found, goal) if goal is not None else "")
        shares = [row["share_of_limit"] for row in mine if _key(row) == "499"]
        share = TARGETS[kernel].share
        cells.append(_shares(shares, share) if share is not None else "")
        if any(cells):
            lines.append((kernel, *cells))
    if not lines:
        return ""
    text = (
        "## Against the goals\n\nRatio to torch fp32: median over the shapes (least to most; goal)."
        " The share is that of the limit at 499 rows, best round against best round.\n\n"
    )
    titles = [_TITLES[key] for key in keys]
    table = _table(("kernel", *titles, "share of limit"), lines)
    return text + table + _dense_note(linear) + _narrow_note(linear)


def _against(found: Sequence[float], goal: float) -> str:
    if not found:
        return ""
    middle = float(np.median(found))
    mark = "**" if middle >= goal else ""
    return f"{mark}{middle:.2f}{mark} ({min(found):.2f} to {max(found):.2f}; {goal:g})"


def _shares(found: Sequence[float | None], goal: float) -> str:
    known = [value for value in found if value is not None]
    if not known:
        return ""
    middle = float(np.median(known))
    mark = "**" if middle >= goal else ""
    return f"{mark}{middle:.0%}{mark} ({min(known):.0%} to {max(known):.0%}; {goal:.0%})"


def _dense_note(linear: Sequence[Row]) -> str:
    found = [
        row["ratio_numpy"]
        for row in linear
        if row["kernel"] == "f32_dense" and _key(row) == "499" and row["ratio_numpy"] is not None
    ]
    if not found:
        return ""
    return f"\nf32_dense against numpy at 499 rows: {_against(found, NUMPY_F32)}.\n"


def _is_narrow(row: Row) -> bool:
    """Tell whether a one-bit case has so few steps that its outputs bind: it has its own goal."""
    return row["kernel"] in NARROW and int(_sizes(row).partition("x")[0]) < TARGETS["w1a1"].least_k


def _narrow_note(linear: Sequence[Row]) -> str:
    found = [
        f"{row['case']} {_against([row['ratio_torch']], NARROW[str(row['kernel'])])}"
        for row in linear
        if _is_narrow(row) and _goal(row) is not None
    ]
    return f"\nOne-bit products with few steps: {', '.join(found)}.\n" if found else ""


def _shapes(rows: Sequence[Row], key: str, title: str) -> str:
    """One table for a number of rows: kernels by shapes, ratio to torch with its interval."""
    mine = [row for row in rows if _is_linear(row) and _key(row) == key]
    mine = [row for row in mine if row["ratio_torch"] is not None]
    if not mine:
        return ""
    shapes = _unique(_sizes(row) for row in mine)
    by_case = {(row["kernel"], _sizes(row)): row for row in mine}

    def cell(kernel: str, shape: str) -> str:
        row = by_case.get((kernel, shape))
        if row is None:
            return ""
        text = f"{row['ratio_torch']:.2f}"
        found = row.get("ratio_torch_interval")
        return f"{text} ({interval(found)})" if found else text

    lines = (
        (kernel, *(cell(kernel, shape) for shape in shapes))
        for kernel in _unique(row["kernel"] for row in mine)
    )
    head = f"## {title}\n\nRatio to torch fp32 (95 % interval), by steps x outputs.\n\n"
    return head + _table(("kernel", *shapes), lines)


def _limits(rows: Sequence[Row]) -> str:
    mine = [row for row in rows if _is_linear(row) and _sizes(row) == _DETAIL]
    if not mine:
        return ""
    lines = (
        (
            str(row["case"]),
            shown(row["gops"], ".0f"),
            str(row["limit"]),
            shown(row["share_of_limit"], ".0%"),
            shown(row["operations_per_byte"], ".1f"),
            scaled(row["bytes"], "B"),
            shown(row["ratio_numpy"]),
            shown(row["ratio_torch_quantizing"]),
            shown(row["error"], ".2g"),
        )
        for row in mine
    )
    columns = (
        *("case", "GOP/s", "limit", "share of it", "operations a byte", "bytes"),
        *("vs numpy", "vs torch, quantising too", "error"),
    )
    head = (
        f"## Rates and limits, {_DETAIL}\n\nGOP/s count the dense product; the share counts what "
        "is left to do. The limit is the lower of the instruction mix and of the memory that holds "
        "the data.\n\n"
    )
    return head + _table(columns, lines)


def _peers(rows: Sequence[Row]) -> str:
    lines = [
        (
            str(row["case"]),
            name,
            shown(peer["ratio_torch"]),
            shown(peer["ratio_ours"]),
            shown(peer.get("ratio_ours_quantizing")),
            shown(peer["error"], ".2g"),
            shown(row["error"], ".2g"),
        )
        for row in rows
        if _is_linear(row)
        for name, peer in row["peers"].items()
        if name not in {"torch", "numpy"} and not name.startswith("ours")
    ]
    if not lines:
        return ""
    columns = (
        *("case", "peer", "peer vs torch", "ours vs peer", "ours with quantising vs peer"),
        *("error of peer", "error of ours"),
    )
    head = (
        "## Peers\n\nEach quantises the same float weights in its own way; integer peers quantise "
        "the activations within their time.\n\n"
    )
    return head + _table(columns, lines)


def _break_even(rows: Sequence[Row]) -> str:
    mine = [row for row in rows if "ratio_dense_by_sparsity" in row]
    if not mine:
        return ""
    names = _unique(name for row in mine for name in row["ratio_dense_by_sparsity"])
    lines = (
        (
            str(row["shape"]),
            *(shown(row["ratio_dense_by_sparsity"].get(name)) for name in names),
            shown(row["break_even_sparsity"], ".0%"),
        )
        for row in mine
    )
    head = (
        "## Break-even of unstructured zeros\n\nSparse float kernel over dense float kernel of "
        f"ours by sparsity; the goal is a break-even of at most {BREAK_EVEN_SPARSITY:.0%}.\n\n"
    )
    return head + _table(("shape", *names, "break-even"), lines)


def _others(rows: Sequence[Row]) -> str:
    mine = [
        row
        for row in rows
        if not _is_linear(row) and "limit" in row and "ratio_dense_by_sparsity" not in row
    ]
    if not mine:
        return ""
    lines = (
        (
            str(row["case"]),
            shown(row["ratio_torch"]),
            interval(row["ratio_torch_interval"]),
            shown(row["gops"], ".1f"),
            str(row["limit"]),
            shown(row["share_of_limit"], ".0%"),
            shown(row["error"], ".2g"),
        )
        for row in mine
    )
    head = (
        "## Attention, row functions, norms\n\nOperations of a row function are its elements.\n\n"
    )
    columns = ("case", "vs torch", "95 %", "G operations/s", "limit", "share of it", "error")
    return head + _table(columns, lines)


def _networks(rows: Sequence[Row]) -> str:
    lines = list(_network_lines(rows))
    if not lines:
        return ""
    head = (
        "## Whole networks\n\nOne thread, process CPU time. The error of a transcriber is the "
        "share of utterances whose tokens differ from torch's, the length its tokens over "
        "torch's; that of an encoder is the distance of its output from torch fp32.\n\n"
    )
    return head + _table(
        ("network", "vs torch", "95 %", "goal", "seconds", "error", "length"), lines
    )


def _network_lines(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    shown_peers = set()
    for row in rows:
        if "limit" in row:
            continue
        yield (
            f"{row['kernel']}/{row['shape']}",
            shown(row["ratio_torch"]),
            interval(row.get("ratio_torch_interval")),
            shown(NETWORK.get(str(row["kernel"]))),
            shown(row.get("seconds"), ".3f"),
            shown(row.get("error", row.get("relative_error")), ".2g"),
            shown(row.get("length_ratio")),
        )
        for name, peer in row.get("peers", {}).items():
            if name != "torch" and (name, row["shape"]) not in shown_peers:
                shown_peers.add((name, row["shape"]))
                error = shown(peer["error"], ".2g")
                yield (f"{name} (peer)", shown(peer["ratio_torch"]), "", "", "", error, "")


def _absent(rows: Sequence[Row], total: Mapping[str, Any]) -> str:
    notes = [f"- {note}" for note in notes_of(rows, total)]
    return "\n".join(["## Notes", "", *notes, ""]) if notes else ""
