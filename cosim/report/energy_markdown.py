"""The section of docs/energy.md on versions of models, from rows of `bench --energy`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.report.chips_tables import by_model, heading, on_chip
from cosim.report.energy_picture import picture_of
from cosim.report.markdown import bullets, marks, table, with_section
from cosim.report.numbers import percent, scaled
from cosim.results import write_text
from hwmodels.energy_split import CAUSES, Range, Ratio, ratio_of

Row = Mapping[str, Any]
PICTURE = "energy_versions.svg"
_NAME = "energy"
_ON_LANES = "vector_mac"
_INTRO = """{begin}
## Versions of two models on three chips

Written by `cosim bench --energy --wer STUDY --markdown docs/energy.md`. Nothing is trained after
it is compressed.

- `fp32` is nothing compressed. `w8a8` and `w4a8` have weights of 8 and 4 bits, activations of 8.
- `prune80_w8a8` has zeros for the least 80 % of the weights of every linear layer in the blocks,
  then 8 bits throughout. No chip here skips zeros: they shorten what is stored, and moved.
- `w1a1` has single bits for weights and operands in the blocks, and floats outside of them;
  `w1a1_w8a8` has 8 bits there.

Joules are of one utterance, memory refreshed as the chip's own heat asks for. Behind them, in
brackets, the low and the high end. In ratios figures that both versions use are wrong alike, so
that their range is narrower than those of the joules. *Lanes* is the share of the products that the
array cannot run and the vector unit takes in its place, at one price whatever their width
(assumed); the chip is then slow, and pays for the wait. Where a chip cannot run a version at all,
its line says so and why.

![Joules with ranges, and what they go to]({picture})

Simulated on {day}; {versions}.
"""


def write_page(path: Path, rows: Sequence[Row], total: Row) -> None:
    """Write the section into a page, whose other text stays, and the picture beside the page."""
    text = energy_markdown(rows, total)
    write_text(path.parent / PICTURE, picture_of(rows))
    title = "# Energy, area and cost of an utterance\n"
    write_text(path, with_section(path, text, name=_NAME, title=title))


def energy_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the section as Markdown: a part per model, in it a table per chip."""
    known = list(rows)
    begin, end = marks(_NAME)
    versions = ", ".join(
        f"{name} {version}"
        for name, version in total["versions"].items()
        if version != "not installed"
    )
    day = str(total["created"])[:10]
    lines = [_INTRO.format(begin=begin, picture=PICTURE, day=day, versions=versions).rstrip()]
    for model, found in by_model(known):
        _, *told = heading(model, found)
        lines += ["", f"### {model}", *told, "", *_errors(found)]
        for chip in _chips(found):
            lines += ["", f"#### {model} on `{chip}`", "", *_joules(found, chip)]
            lines += ["", *bullets(_findings(found, chip))]
    broken = [f"`{row['case']}`: {row['note']}" for row in known if row["note"]]
    if broken:
        lines += ["", "### Not measured", "", *bullets(broken)]
    return "\n".join([*lines, "", end]) + "\n"


def _chips(rows: Sequence[Row]) -> list[str]:
    """Return every chip, those that hold no version too."""
    return list(dict.fromkeys(str(one["chip"]) for one in rows[0]["chips"]))


def _errors(rows: Sequence[Row]) -> list[str]:
    """Return a table of sizes and word errors by version, and what was heard."""
    heard = {one["speech"]: one for row in rows for one in row.get("wer", ())}
    columns = [f"WER {i}" for i in range(1, len(heard) + 1)] if len(heard) > 1 else ["WER"]
    lines = []
    for row in rows:
        found = {one["speech"]: one for one in row.get("wer", ())}
        cells = [
            percent(found[speech]["wer"]) if speech in found else _absent(row) for speech in heard
        ]
        sizes = (scaled(row["size_bytes"], "B"), percent(row["sparsity"]))
        lines.append((str(row["version"]), *sizes, *(cells or [_absent(row)])))
    told = table(("version", "size", "zeros", *columns), lines)
    notes = [
        f"{column}: {speech}, {one['words']} words ({one['normalizer']})."
        for column, (speech, one) in zip(columns, heard.items(), strict=False)
    ]
    return [*told, "", *bullets(notes)] if notes else told


def _absent(row: Row) -> str:
    return "not measured: " + ("weights are drawn" if row["is_random"] else "no run of it given")


def _wer(row: Row) -> str:
    """Return the word error rates of all corpora in short."""
    return " / ".join(percent(one["wer"]) for one in row.get("wer", ())) or "not measured"


def _joules(rows: Sequence[Row], chip: str) -> list[str]:
    """Return joules of every version with range, ratio to the first, causes, and time."""
    first = rows[0]["version"]
    causes = [name.replace("_", " ") for name in CAUSES]
    lines = []
    for row in rows:
        one = _of(row, chip)
        if one["note"]:
            told = [f"cannot run: {one['note']}", *[""] * (3 + len(causes))]
        else:
            told = [
                joules(one),
                _ratio_text(ratio(one, _of(rows[0], chip))),
                *(scaled(one["energy_by_cause_j"][name], "J") for name in CAUSES),
                scaled(one["run_seconds"], "s"),
                percent(_lanes(one)),
            ]
        lines.append((str(row["version"]), _wer(row), *told))
    return table(
        ("version", "WER", "energy", f"of {first}", *causes, "run time", "lanes"),
        lines,
    )


def joules(one: Row) -> str:
    """Return joules with their range.

    Example:
        >>> joules({"energy_j": 0.111, "energy_low_j": 0.073, "energy_high_j": 0.186})
        '111 mJ (73 mJ to 186 mJ)'

    """
    low, high = (scaled(one[key], "J") for key in ("energy_low_j", "energy_high_j"))
    return f"{scaled(one['energy_j'], 'J')} ({low} to {high})"


def ratio(one: Row, other: Row) -> Ratio | None:
    """Return joules of one row over those of another; None where one of them could not run."""
    if one["note"] or other["note"]:
        return None
    return ratio_of(_factors(one), _factors(other))


def _factors(one: Row) -> dict[str, Range]:
    return {name: Range(**found) for name, found in one["energy_by_factor_j"].items()}


def _ratio_text(found: Ratio | None) -> str:
    if found is None:
        return "not measured"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _of(row: Row, chip: str) -> Row:
    return on_chip(row, chip)[0]


def _lanes(one: Row) -> float:
    return float(one["products"].get(_ON_LANES, 0) / one["macs"])


def _findings(rows: Sequence[Row], chip: str) -> Iterator[str]:
    """Yield the least joules, what cannot be told from them, what leads, and what is hot."""
    sound = [row for row in rows if not _of(row, chip)["note"]]
    if not sound:
        yield "No version runs here."
        return
    one = _of(sound[0], chip)
    yield f"Prices of `{one['energy_table']}`; the chip has {one['area_mm2']:.1f} mm2."
    best = min(sound, key=lambda row: float(_of(row, chip)["energy_j"]))
    close = [
        (row, found)
        for row in sound
        if row is not best
        and (found := ratio(_of(row, chip), _of(best, chip))) is not None
        and found.low <= 1
    ]
    told = "".join(f", or `{row['version']}` ({_ratio_text(found)} of it)" for row, found in close)
    yield f"Least: `{best['version']}`, {scaled(_of(best, chip)['energy_j'], 'J')}{told}."
    heard = [row for row in sound if _is_usable(row, rows[0])]
    if heard:
        least = min(heard, key=lambda row: float(_of(row, chip)["energy_j"]))
        yield (
            f"Least with at most twice the word errors of `{rows[0]['version']}`: "
            f"`{least['version']}`, {scaled(_of(least, chip)['energy_j'], 'J')}."
        )
    yield (
        "Most goes to: "
        + ", ".join(f"`{row['version']}` {_most(_of(row, chip))}" for row in sound)
        + "."
    )
    hot = [row for row in sound if _of(row, chip)["refresh_multiplier"] > 1]
    if hot:
        rates = ", ".join(
            f"`{row['version']}` {_of(row, chip)['refresh_multiplier']} times" for row in hot
        )
        yield f"Memory is so warm that it is refreshed more often: {rates}."


def _is_usable(row: Row, first: Row) -> bool:
    """Return whether word errors are known, and at most twice those of `first` on every corpus."""
    bounds = {one["speech"]: 2 * one["wer"] for one in first.get("wer", ())}
    found = {one["speech"]: one["wer"] for one in row.get("wer", ())}
    return bool(bounds) and all(
        speech in found and found[speech] <= most for speech, most in bounds.items()
    )


def _most(one: Row) -> str:
    """Return the component that takes most of the joules, and its share."""
    found = one["energy_by_component_j"]
    name = max(found, key=lambda key: float(found[key]))
    return f"{name.replace('_', ' ')} {percent(found[name] / one['energy_j'])}"
