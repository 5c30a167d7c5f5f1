"""docs/tiles.md: pruned blocks of the size of the array, beside the figures of SASP."""

from collections.abc import Iterable, Mapping
from typing import Any

from cosim.report.chips_tables import change
from cosim.report.markdown import table
from cosim.report.models_markdown import machine_line
from cosim.report.numbers import percent

Row = Mapping[str, Any]
PUBLISHED = 0.44
"""Palacios et al., GLSVLSI 2025, arXiv 2411.10285v2, abstract: up to 44 % system-wide speed-up."""
_PAGE = """# Blocks of zeros as large as the array

Written by `cosim bench --tiles --markdown docs/tiles.md`.

SASP (Palacios et al., GLSVLSI 2025, arXiv 2411.10285v2) prunes blocks as large as a TiC-SAT array,
which passes over them, and quantises. Its abstract tells of a speed-up of the whole system of up to
{published:.0f} %, for 1.4 % more word errors on LibriSpeech. Below are the same blocks in the
feed-forward layers of {model}, {seconds:g} s of audio, on `ticsat_4` to `ticsat_32`; speed-ups are
over the same chip with all weights, both sides in 8 bits.

{machine}
"""
_DIFFERENCES = """
## What differs

- System: theirs is a processor with caches and its operating system in gem5-X; here an in-order
  core only feeds the array, a vector unit does the rest, and memory is a roofline.
- Quantisation: it is part of their method, and the abstract does not tell what the 44 % are
  measured against; here both sides have 8 bits, so that zeros alone make the speed-up.
- Model: theirs is a smaller, trained one for speech; here {model}, {weights}.
- Blocks: which ones and how many of them they prune the abstract does not tell; here those of least
  magnitude in each layer, the share as in the table. The number of blocks decides the cycles, which
  ones they are does not.
- Word errors: 1.4 % more there at the greatest speed-up; not measured here.
- Finding blocks of zeros is not counted here.

The share of cycles in the feed-forward layers bounds all that their zeros can save, so that the two
speed-ups stand beside each other and are not the same quantity.
"""


def tiles_markdown(rows: Iterable[Row], total: Row) -> str:
    """Return the page as Markdown."""
    known = list(rows)
    first = known[0]
    weights = "weights are drawn, nothing is trained" if first["is_random"] else "trained weights"
    head = _PAGE.format(
        published=100 * PUBLISHED,
        model=first["model"],
        seconds=first["seconds"],
        machine=machine_line(total),
    )
    lines = table(
        (
            *("array = block", "blocks pruned", "array cycles", "simulated cycles"),
            *("array speed-up", "speed-up", "SASP, up to", "at most", "energy"),
        ),
        (
            (
                f"{row['size']} x {row['size']}",
                f"{row['rate']:.0%}",
                f"{row['array_cycles']:,}",
                f"{row['cycles']:,}",
                percent(row["dense_array_cycles"] / row["array_cycles"] - 1),
                percent(row["dense_cycles"] / row["cycles"] - 1),
                percent(PUBLISHED),
                percent(most(row)),
                change(row["energy_j"], row["dense_energy_j"]),
            )
            for row in known
        ),
    )
    told = "`at most` is the speed-up if the array did nothing for the feed-forward layers."
    notes = [f"- {note}" for note in dict.fromkeys(note for row in known for note in row["notes"])]
    tail = _DIFFERENCES.format(model=first["model"], weights=weights)
    return "\n".join([head, *lines, "", told, *(["", *notes] if notes else []), tail])


def most(row: Row) -> float:
    """Return the speed-up without any array cycle of the feed-forward layers."""
    return float(row["dense_cycles"] / (row["dense_cycles"] - row["feed_forward_cycles"]) - 1)
