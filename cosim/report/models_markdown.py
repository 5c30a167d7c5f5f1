"""docs/models.md: the table of every model file, from rows of `cosim bench --models`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosim.report.numbers import percent, scaled

Row = Mapping[str, Any]
_HEAD = (
    "model",
    "parameters",
    "MACs",
    "of torch",
    "capture s",
    "ops",
    "difference",
    "execution s",
    "ratio to torch",
    "cycles",
    "utilisation",
    "energy",
)


_PAGE = """# Models

Written by `cosim bench --models --rounds {rounds} --markdown docs/models.md`.

Each model file of `configs/models` at its true size: captured once with a symbolic length,
verified, executed in fp32 by the kernels on {seconds:g} s of recorded speech, and simulated.

- *MACs*: one encoder call and one decoding step, counted on the program; *of torch*: whether
  `torch.utils.flop_counter` counts as many on the module. Sparse attention counts dense on both
  sides here.
- *difference*: largest difference of any output from torch over torch's largest value; with a
  decoder its first steps count too.
- *ratio to torch*: CPU time of torch fp32 over ours for the encoder, one thread, the sides in
  turns, median of {rounds} rounds; above 1 ours is faster.
- *cycles*, *utilisation*, *energy*: {seconds:g} s of audio (Whisper: its 30 s window) under recipe
  `{recipe}` on `{chip}`, {steps} decoding steps where there is a decoder (assumed).

Drawn weights: WER not measured.

{machine}
"""


def models_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the page as Markdown, a table per family."""
    listed = list(rows)
    lines = [_PAGE.format(machine=machine_line(total), **total).rstrip()]
    for family in dict.fromkeys(str(row.get("family", "")) for row in listed):
        chosen = [row for row in listed if row.get("family", "") == family]
        lines += ["", f"## {family or 'failed'}", "", *_table(chosen)]
    return "\n".join(lines) + "\n"


def machine_line(total: Row) -> str:
    """Return what was measured on, how busy it was, when, and with which libraries."""
    versions = ", ".join(f"{name} {version}" for name, version in total["versions"].items())
    before, after = (total[key][0] for key in ("load_average", "load_average_after"))
    return (
        f"Measured on {total['cpu']}, {total['cores']} cores, load {before:g} before and {after:g} "
        f"after, {total['created']}; {versions}."
    )


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|" + "---:|" * (len(_HEAD) - 1)]
    for row in rows:
        if row.get("note"):
            lines.append(f"| {row['model']} | {row['note']}" + " |" * (len(_HEAD) - 1))
            continue
        low, high, _ = row["ratio_torch_interval"]
        cells = (
            row["model"],
            f"{row['parameters']:,}",
            f"{row['macs_program']:,}",
            "equal" if row["macs_torch"] == row["macs_program"] else f"{row['macs_torch']:,}",
            f"{row['capture_seconds']:.1f}",
            str(row["ops"]),
            f"{row['error']:.1e}",
            f"{row['execute_seconds']:.2f}",
            f"{row['ratio_torch']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['cycles']:,}",
            percent(row["array_utilization"]),
            scaled(row["energy_j"], "J"),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines
