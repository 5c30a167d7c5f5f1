"""Times and ratios: kernels, simulators, memories, models and questions about chips."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cosim.cli.command import JSON, PATH, Command, echo_table
from cosim.errors import CosimError

if TYPE_CHECKING:
    from cosim.bench import Bench


@click.command("bench", cls=Command)
@click.option(
    "--filter",
    "text",
    default="",
    help="Only cases whose id contains TEXT; memory: memories beside published simulators.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=15, help="Alternating rounds.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of every side.")
@click.option("--out", type=PATH, help="Save rows and machine as JSON.")
@click.option("--load", "saved", type=PATH, help="Take the rows of a saved file, time nothing.")
@click.option("--markdown", type=PATH, help="Write the tables of docs/kernels.md.")
@click.option("--roofline", type=PATH, help="Write a picture: rates under limits (HTML).")
@click.option("--calibrate", is_flag=True, help="Measure and keep which kernel wins where.")
@click.option("--models", is_flag=True, help="Take every shipped model through the whole path.")
@click.option("--patterns", is_flag=True, help="Zeros in patterns against policies of chips.")
@click.option("--precision", is_flag=True, help="Widths of operands against cells of chips.")
@click.option("--tiles", is_flag=True, help="Blocks of zeros as large as the array, beside SASP.")
@click.option("--energy", is_flag=True, help="Joules of compressed versions, by cause, on chips.")
@click.option(
    "--wer", "runs", type=PATH, multiple=True, help="Of --energy: a run or study with WER."
)
@click.option("--efficiency", type=PATH, help="Of memories: write what memory.efficiency reads.")
@JSON
def bench_command(
    text: str,
    rounds: int,
    threads: int,
    out: Path | None,
    saved: Path | None,
    markdown: Path | None,
    roofline: Path | None,
    calibrate: bool,
    models: bool,
    patterns: bool,
    precision: bool,
    tiles: bool,
    energy: bool,
    runs: tuple[Path, ...],
    efficiency: Path | None,
    as_json: bool,
) -> None:
    """Time kernels and whole networks against peers and limits, all in one alternating run.

    A filter that begins with memory asks for figures of memories instead of times. With --patterns,
    --precision or --energy, rows that the --out file holds already are kept.
    """
    asked = {"models": models, "patterns": patterns, "precision": precision, "tiles": tiles}
    asked["energy"] = energy
    chosen = [name for name, is_asked in asked.items() if is_asked]
    others = "memory" if text.startswith("memory") else "kernels"
    subject = chosen[0] if chosen else others
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(threads)  # read when numpy and torch are imported
    if len(chosen) > 1:
        raise CosimError(f"--{', --'.join(chosen)}: found {len(chosen)}, expected one of them")
    if subject != "kernels" and (calibrate or roofline is not None or threads > 1):
        option = f"--{subject}" if chosen else "--filter memory"
        raise CosimError(f"{option}: found beside --calibrate, --roofline or --threads")
    if runs and not energy:
        raise CosimError("--wer: found without --energy, expected both")
    if efficiency is not None and subject != "memory":
        raise CosimError("--efficiency: found without --filter memory, expected both")
    if calibrate:
        _calibrate()
        return
    from cosim import bench  # noqa: PLC0415
    from cosim.bench.word_errors import word_errors  # noqa: PLC0415

    errors = word_errors(runs)
    found = (
        _measured_bench(subject, text, rounds=rounds, threads=threads, out=out)
        if saved is None
        else bench.load(saved, of=subject)
    )
    if runs:
        found = bench.with_word_errors(found, errors)
    if out is not None:
        bench.save(found, out)
    if efficiency is not None:
        _write_efficiency(found, efficiency)
    _show_bench(found, subject, markdown=markdown, roofline=roofline, as_json=as_json)


def _write_efficiency(found: "Bench", path: Path) -> None:
    """Write the shares of the peak among the rows as a table."""
    from cosim.bench.memory_efficiency import efficiency_table  # noqa: PLC0415
    from cosim.results import write_text  # noqa: PLC0415

    write_text(path, efficiency_table(found.rows, found.total))


def _measured_bench(
    subject: str, text: str, *, rounds: int, threads: int, out: Path | None
) -> "Bench":
    """Return the rows of one subject, measured now."""
    from cosim import bench  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415

    with TerminalProgress() as progress:
        if subject == "models":
            return bench.bench_models(text, rounds=rounds, progress=progress)
        if subject == "tiles":
            return bench.bench_tiles(text, progress=progress)
        if subject == "memory":
            return bench.bench_memory(text, rounds=rounds, progress=progress)
        if subject == "kernels":
            return bench.bench(text, rounds=rounds, threads=threads, progress=progress)
        return bench.bench_chips(subject, text, rounds=rounds, progress=progress, out=out)


def _show_bench(
    found: "Bench", subject: str, *, markdown: Path | None, roofline: Path | None, as_json: bool
) -> None:
    """Write the pages that are asked for, print the table, exit with 1 for cases that failed."""
    from cosim.report.bench_markdown import markdown_of  # noqa: PLC0415
    from cosim.report.bench_table import print_bench  # noqa: PLC0415
    from cosim.report.energy_markdown import energy_markdown, write_page  # noqa: PLC0415
    from cosim.report.memory_markdown import memory_markdown  # noqa: PLC0415
    from cosim.report.models_markdown import models_markdown  # noqa: PLC0415
    from cosim.report.patterns_markdown import patterns_markdown  # noqa: PLC0415
    from cosim.report.precision_markdown import precision_markdown  # noqa: PLC0415
    from cosim.report.roofline import roofline_of  # noqa: PLC0415
    from cosim.report.simulators_table import print_simulators  # noqa: PLC0415
    from cosim.report.tiles_markdown import tiles_markdown  # noqa: PLC0415
    from cosim.results import write_text  # noqa: PLC0415

    pages = {
        "energy": energy_markdown,
        "kernels": markdown_of,
        "memory": memory_markdown,
        "models": models_markdown,
        "patterns": patterns_markdown,
        "precision": precision_markdown,
        "tiles": tiles_markdown,
    }
    page = pages[subject]
    if subject == "energy" and markdown is not None:
        write_page(markdown, found.rows, found.total)
        markdown = None
    for path, made in ((markdown, page), (roofline, roofline_of)):
        if path is not None:
            write_text(path, made(found.rows, found.total))
    if as_json:
        echo_table(found.rows, found.total)
    elif subject == "kernels":
        print_simulators(found.rows)
        print_bench(found.rows, found.total)
    else:
        click.echo(page(found.rows, found.total))
    for problem in found.failed:
        click.echo(f"failed: {problem}", err=True)
    if found.failed:
        sys.exit(1)


def _calibrate() -> None:
    from cosim import dispatch  # noqa: PLC0415
    from cosim.bench.calibration import calibrate  # noqa: PLC0415
    from cosim.report.bench_table import print_dispatch  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415

    with TerminalProgress() as progress:
        found = calibrate(progress)
    print_dispatch(found, dispatch.save(found))
