"""Whole runs: make one, let its utterances arrive over time, compare several."""

import json
from pathlib import Path

import click

from cosim.cli.command import JSON, KEEP_GOING, PATH, Command, echo_table
from cosim.errors import CosimError


@click.command("run", cls=Command)
@click.argument("experiment", type=PATH)
@click.option("--out", type=PATH, help="Run folder (default: runs/NAME-HASH).")
@click.option("--set", "assignments", multiple=True, metavar="a.b=VALUE", help="Override a key.")
@click.option("--markdown", type=PATH, help="Of a study: the page whose section to write.")
@KEEP_GOING
@JSON
def run_command(
    experiment: Path,
    out: Path | None,
    assignments: tuple[str, ...],
    markdown: Path | None,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Compress, lower, execute on speech, simulate; write a run folder and print the table.

    A file with `recipes` is a study: word errors and sizes of every recipe on every corpus.
    """
    from cosim.report.run_table import print_run  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
    from cosim.study_file import is_study  # noqa: PLC0415

    if is_study(experiment, assignments):
        _run_study(experiment, out, assignments, markdown, keep_going, as_json)
        return
    if markdown is not None:
        raise CosimError(f"--markdown: {experiment} has no `recipes`; expected a study")
    from cosim.experiment import load_experiment  # noqa: PLC0415
    from cosim.run import default_folder, run  # noqa: PLC0415

    checked = load_experiment(experiment, assignments)
    folder = out or default_folder(checked)
    with TerminalProgress() as progress:
        document = run(checked, folder, progress=progress, keep_going=keep_going)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        print_run(document, folder)


def _told_path(path: Path) -> str:
    """Return a path for a page that others read: nothing of this machine's folders."""
    return path.name if path.is_absolute() else path.as_posix()


def _run_study(
    path: Path,
    out: Path | None,
    assignments: tuple[str, ...],
    markdown: Path | None,
    keep_going: bool,
    as_json: bool,
) -> None:
    from cosim.report.compression_markdown import TITLE, section  # noqa: PLC0415
    from cosim.report.markdown import with_section  # noqa: PLC0415
    from cosim.report.study_table import print_study  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
    from cosim.results import write_text  # noqa: PLC0415
    from cosim.study import default_folder, run_study  # noqa: PLC0415
    from cosim.study_file import load_study  # noqa: PLC0415

    checked = load_study(path, assignments)
    folder = out or default_folder(checked)
    with TerminalProgress() as progress:
        document = run_study(checked, folder, progress=progress, keep_going=keep_going)
    text = section(document, f"cosim run {_told_path(path)} --markdown PAGE.md")
    write_text(folder / "table.md", text)
    if markdown is not None:
        write_text(markdown, with_section(markdown, text, name=checked.name, title=TITLE))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        print_study(document, folder)


@click.command("stream", cls=Command)
@click.argument("run", type=PATH)
@click.option(
    "--arrivals",
    required=True,
    metavar="batch|poisson|continuous|FILE",
    help="All at once, at random, spoken without a pause, or JSON lines with `id` and `start`.",
)
@click.option("--rate-hz", type=float, help="Arrivals per second of `poisson`.")
@click.option("--draw", type=int, metavar="N", help="Draw so many (default: each once, in order).")
@click.option("--seed", type=int, help="Of random arrivals and draws (default: 0).")
@click.option("--chips", type=int, default=1, help="Equal chips behind one queue.")
@click.option("--battery-wh", type=float, help="Say how long a battery of so many Wh lasts.")
@click.option("--grid-g-per-kwh", type=float, help="Say grams of CO2 where a kWh takes so many.")
@click.option("--rest", type=PATH, help="State of rest of idle chips (default: awake).")
@JSON
def stream_command(
    run: Path,
    arrivals: str,
    rate_hz: float | None,
    draw: int | None,
    seed: int | None,
    chips: int,
    battery_wh: float | None,
    grid_g_per_kwh: float | None,
    rest: Path | None,
    as_json: bool,
) -> None:
    """Let the utterances of a RUN arrive over time: waiting, use and energy of its chip."""
    from cosim.report.stream_table import print_stream  # noqa: PLC0415
    from cosim.stream import Stream, stream_run  # noqa: PLC0415

    asked = Stream(arrivals, rate_hz, draw, seed, chips, battery_wh, grid_g_per_kwh, rest)
    rows, total = stream_run(run, asked)
    if as_json:
        echo_table(rows, total)
    else:
        print_stream(total)


@click.command("compare", cls=Command)
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--energy", "tables", multiple=True, metavar="TABLE|all", help="One run under these.")
@JSON
def compare_command(runs: tuple[Path, ...], tables: tuple[str, ...], as_json: bool) -> None:
    """Compare runs with the first: paired WER difference, ratios of cycles, joules and bytes.

    With --energy: one run under several energy tables, or `all` shipped ones.
    """
    if tables:
        _compare_tables(runs, tables, as_json=as_json)
        return
    from cosim.compare import compare  # noqa: PLC0415
    from cosim.report.compare_table import print_comparison  # noqa: PLC0415

    rows = compare(runs)
    if as_json:
        echo_table(rows, {})
    else:
        print_comparison(rows)


def _compare_tables(runs: tuple[Path, ...], tables: tuple[str, ...], *, as_json: bool) -> None:
    """Show one run under several energy tables."""
    from cosim.compare_tables import compare_tables  # noqa: PLC0415
    from cosim.report.energy_table import print_tables  # noqa: PLC0415

    if len(runs) > 1:
        raise CosimError(f"--energy: found {len(runs)} runs, expected one")
    rows = compare_tables(runs[0], tables)
    if as_json:
        echo_table(rows, {})
    else:
        print_tables(rows)
