"""docs/sparsity.md: which pattern of zeros pays on which array, from rows of `bench --patterns`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cosim.report.chips_tables import (
    base_of,
    change,
    listed,
    on_chip,
    page,
    speedup,
)
from cosim.report.markdown import table
from cosim.report.numbers import percent, scaled

Row = Mapping[str, Any]
_UNCHECKED = "cycles: closed form, not RTL-checked"
_PAGE = """# Sparsity: which pattern pays on which array

Written by `cosim bench --patterns --rounds {rounds} --markdown docs/sparsity.md`.

Zeros are put into the linear layers of the blocks, each layer by itself, those of least magnitude;
then everything is quantised to 8-bit weights and activations. Nothing is trained, so what the zeros
cost in word errors is another question (`docs/compression.md`). Cycles come from the zero patterns
of these very weights. Every chip is the shipped one with another policy for zeros:

- `dense` computes them; `dense, results stay` is the same array in output-stationary dataflow.
- `skip_zero_fold` leaves out a fold whose block of weights, as large as the array, is all zero.
- `row_skip` leaves out a row of weights, one k by as many result columns as the array has.
- `column_compact` leaves out a column of weights, one result by as many k as the array has rows.
- `nm` keeps 2 of every 4 weights along k in the cells, beside a selector.
- `csr_gather` gives every lane one result, which takes only weights that are not zero and gathers
  their activations; results stay. Operands come by wires of their own, so that no fold fills
  (assumed): products of all kinds gain from that, with zeros or without.

Speed-ups are cycles of `dense` weights on the `dense` array over those of the row: the whole
simulated utterance, and behind it, in brackets, the array alone without any stall. Tables of cycles
leave out policies that change nothing.

Executed: CPU time of the linear layers of one block in dense 8-bit kernels over that of the same
layers with zeros, one thread, in turns, median of {rounds} rounds with its interval; first with the
kernels that the executor chooses, then, where those are dense, with the ones that leave zeros out
and should be the fastest of these by the speeds that it chooses by.

{machine}
"""


def patterns_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the page as Markdown: a section per model, in it one per chip."""
    return page(
        _PAGE, rows, total, findings=_findings, costs=_costs, executed_findings=_executed_findings
    )


def _findings(rows: Sequence[Row], chip: str) -> Iterator[str]:
    """Yield what pays, what bounds it, and what each policy left of the work."""
    base = base_of(rows, chip)
    for row in rows[1:]:
        sound = [one for one in on_chip(row, chip) if _is_comparable(rows, chip, one)]
        if not sound:
            continue
        gains = {one["variant"]: _gain(rows, chip, one) for one in sound}
        best = max(sound, key=lambda one: gains[one["variant"]])
        if gains[best["variant"]] < 1.01:
            yield f"{row['version']}: no policy saves as much as 1 % of the cycles."
            continue
        least = min(sound, key=lambda one: one["energy_j"])
        paying = sorted(
            (one for one in sound if gains[one["variant"]] >= 1.01),
            key=lambda one: -gains[one["variant"]],
        )
        told = ", ".join(f"`{one['variant']}` {gains[one['variant']]:.2f}" for one in paying)
        yield (
            f"{row['version']}: faster than dense weights under the same policy with {told}; "
            f"energy beside the dense chip {change(best['energy_j'], base['energy_j'])} with "
            f"`{best['variant']}`, at best {change(least['energy_j'], base['energy_j'])} with "
            f"`{least['variant']}`."
        )
    share = base["linear_array_cycles"] / base["cycles"]
    yield (
        f"The linear layers of the blocks take {percent(share)} of the dense cycles, and zeros "
        "shorten nothing else: without these layers the utterance would be at most "
        f"{1 / (1 - share):.2f} times as fast."
    )
    if rows[1:]:
        yield from _reasons(rows, chip)
    unchecked = dict.fromkeys(
        f"`{one['variant']}`"
        for row in rows
        for one in on_chip(row, chip)
        if any(_UNCHECKED in note for note in one.get("notes", ()))
    )
    if unchecked:
        yield f"{_UNCHECKED}: {', '.join(unchecked)}."


def _gain(rows: Sequence[Row], chip: str, one: Row) -> float:
    """Return the speed-up over dense weights on the very same variant."""
    return speedup(one, _dense(rows, chip, one))


def _dense(rows: Sequence[Row], chip: str, one: Row) -> Row:
    return next(each for each in on_chip(rows[0], chip) if each["variant"] == one["variant"])


def _is_comparable(rows: Sequence[Row], chip: str, one: Row) -> bool:
    return not one["note"] and not _dense(rows, chip, one)["note"]


def _left(rows: Sequence[Row], chip: str, one: Row) -> float:
    """Return the share of the products in the linear layers of blocks that the array still does."""
    return float(one["linear_array_macs"] / base_of(rows, chip)["linear_array_macs"])


def _reasons(rows: Sequence[Row], chip: str) -> Iterator[str]:
    """Yield for every policy what it asks of a pattern and how many products each pattern left."""
    base = base_of(rows, chip)
    r, c = base["rows"], base["columns"]
    half = 0.5
    why = {
        "skip_zero_fold": f"needs whole blocks of {c} results by {r} k without a nonzero",
        "row_skip": (
            f"needs {c} results in a row that have none at the same k; of weights that are zero by "
            f"themselves with probability 0.5 that is {half**c:.0e}"
        ),
        "column_compact": (
            f"needs {r} k in a row that have none for the same result, and fills {c} columns again"
        ),
        "nm": "takes weights with at most 2 nonzeros in every 4 along k, and others dense",
        "csr_gather": (
            "takes any zero, but the lanes of a fold wait for the one with most weights and for "
            "banks"
        ),
    }
    for variant, reason in why.items():
        found = [
            (row, one)
            for row in rows[1:]
            for one in on_chip(row, chip)
            if one["variant"] == variant and not one["note"]
        ]
        left = ", ".join(
            f"{row['version']} {percent(_left(rows, chip, one))}" for row, one in found
        )
        if found:
            yield f"`{variant}` {reason}. Products left: {left}."
    lanes = [
        (row, one)
        for row in rows[1:]
        for one in on_chip(row, chip)
        if one["variant"] == "csr_gather" and not one["note"]
    ]
    if lanes:
        used = ", ".join(
            f"{row['version']} {percent(one['linear_array_macs'] / _slots(one))}"
            for row, one in lanes
        )
        yield f"Lanes of `csr_gather` in use in these layers: {used}."


def _slots(one: Row) -> float:
    return float(one["linear_array_cycles"] * one["rows"] * one["columns"])


def _costs(rows: Sequence[Row], chip: str) -> list[str]:
    """Return cycles, bytes and joules of every version under policies that change its cycles."""
    return table(
        (
            *("version, policy", "array cycles", "vector", "stalls", "simulated cycles"),
            *("products left", "DRAM", "energy"),
        ),
        (
            (
                f"{row['version']}, `{one['variant']}`",
                f"{one['array_cycles']:,}",
                f"{one['vector_cycles']:,}",
                f"{one['stall_cycles']:,}",
                f"{one['cycles']:,}",
                percent(_left(rows, chip, one)),
                scaled(one["dram_bytes"], "B"),
                scaled(one["energy_j"], "J"),
            )
            for row in rows
            for one in on_chip(row, chip)
            if not one["note"]
            and (one["variant"] == "dense" or one["cycles"] != on_chip(row, chip)[0]["cycles"])
        ),
    )


def _executed_findings(rows: Sequence[Row]) -> Iterator[str]:
    """Yield where kernels gain from zeros, and where the executor computes them instead."""
    for index, block in enumerate(one["block"] for one in rows[0]["executed"]):
        others = [row for row in rows[1:] if row["executed"]]
        faster = [row for row in others if _sparse(row, index)["speedup_interval"][0] > 1]
        slower = [row for row in others if _sparse(row, index)["speedup_interval"][1] < 1]

        def told(row: Row, index: int = index) -> str:
            return f"{_sparse(row, index)['speedup']:.2f}"

        if faster:
            yield f"{block}: leaving zeros out pays on this CPU for {listed(faster, told)}."
        else:
            yield f"{block}: leaving zeros out pays on this CPU for none of the patterns."
        if slower:
            yield (
                f"{block}: it is slower than computing them for {listed(slower, told)}; the "
                "executor then takes the dense kernel."
            )


def _sparse(row: Row, index: int) -> Row:
    """Return the kernels that leave zeros out; the executor's own where these are the same."""
    one = row["executed"][index]
    found: Row = one.get("sparse", one["own"])
    return found
