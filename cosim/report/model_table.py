"""An artefact and its word errors, for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosim.artefact import Artefact
from cosim.artefact_folder import WEIGHTS, header_bytes
from cosim.report.numbers import percent, scaled
from cosim.report.terminal import open_console


def print_artefact(artefact: Artefact, folder: Path) -> None:
    """Print what a recipe made of a model."""
    done, header = artefact.compression, header_bytes(artefact)
    open_console().print(
        f"{artefact.model.name}: {scaled(artefact.model.size_bytes, 'B')} -> "
        f"{scaled(done.size_bytes, 'B')} ({_zipped(done.zipped_bytes)}), "
        f"{done.mean_bits:.2f} bits a weight, {percent(done.sparsity)} zeros\n"
        + "".join(f"note: {note}\n" for note in done.notes)
        + f"{WEIGHTS}: {done.size_bytes + header} bytes, {done.size_bytes} of tensors and {header} "
        f"of header\nprogram {artefact.program.hash[:16]} in {folder}",
        soft_wrap=True,
    )


def _zipped(size: int | None) -> str:
    return "zipped: not measured" if size is None else f"{scaled(size, 'B')} zipped"


def print_evaluation(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    """Print the WER of an artefact."""
    worst = sorted(rows, key=lambda row: -int(row["errors"] or 0))[:5]
    console = open_console()
    console.print(
        f"{total['speech']}: "
        f"WER {percent(total['wer'])} on {total['utterances']} utterances, {total['words']} words "
        f"({total['normalizer']}); S/I/D {total['substitutions']}/{total['insertions']}/"
        f"{total['deletions']}; {total['hit_limit']} hit the step limit; "
        f"{total['skipped']} recordings skipped",
        soft_wrap=True,
    )
    for row in worst:
        if row["errors"]:
            console.print(f"{row['errors']} errors in {row['id']}: {row['text']}", soft_wrap=True)
