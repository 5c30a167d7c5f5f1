"""The command line. Heavy modules are imported inside the command that needs them."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from cosim.errors import CosimError

if TYPE_CHECKING:
    from cosim.bench import Bench

P = ParamSpec("P")
T = TypeVar("T")

_PATH = click.Path(path_type=Path)
_KEEP_GOING = click.option(
    "--keep-going", is_flag=True, help="Skip unusable recordings and count them."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print rows as JSON on stdout.")


def _told(command: Callable[P, T]) -> Callable[P, T]:
    """Turn a user's mistake into its text and exit code 2."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except CosimError as error:
            for problem in error.problems:
                click.echo(f"error: {problem}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped; finished parts are kept", err=True)
            sys.exit(130)

    return wrapped


class _Command(click.Command):
    """A command whose mistakes are told without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        return _told(super().invoke)(ctx)


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cosim-speech", prog_name="cosim")
def main() -> None:
    """Compress a speech model, measure its WER, and simulate the same program on a chip."""


@main.command("run")
@click.argument("experiment", type=_PATH)
@click.option("--out", type=_PATH, help="Run folder (default: runs/NAME-HASH).")
@click.option("--set", "assignments", multiple=True, metavar="a.b=VALUE", help="Override a key.")
@click.option("--markdown", type=_PATH, help="Of a study: the page whose section to write.")
@_KEEP_GOING
@_JSON
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
    from cosim.report.terminal import TerminalProgress, print_run  # noqa: PLC0415
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


@main.command("profile")
@click.argument("model", type=_PATH)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Audio length.")
@click.option("--frames", type=click.IntRange(min=1), help="Feature frames instead of seconds.")
@click.option("--steps", type=click.IntRange(min=1), default=1, help="Decoding steps.")
@click.option("--no-zip", is_flag=True, help="Leave out zipped bytes (a minute for 400 M).")
@_JSON
def profile_command(
    model: Path,
    seconds: float | None,
    frames: int | None,
    steps: int,
    no_zip: bool,
    as_json: bool,
) -> None:
    """Count parameters, bytes, MACs and BOPs per module group."""
    from cosim.profile import profile_model  # noqa: PLC0415
    from cosim.report.accounts import print_profile  # noqa: PLC0415

    if seconds is not None and frames is not None:
        raise CosimError("--seconds and --frames: found both, expected one")
    counted = profile_model(
        model, seconds=seconds, frames=frames, steps=steps, is_zipped=not no_zip
    )
    if as_json:
        _echo_table(counted.rows(), counted.total_row())
    else:
        print_profile(counted)


@main.command("reproduce")
@click.argument("paper")
@click.option("--table", help="Only this table of the paper (its own name, or `text`).")
@click.option("--zipped", is_flag=True, help="Zip whole drawn weights, not samples.")
@_JSON
def reproduce_command(paper: str, table: str | None, zipped: bool, as_json: bool) -> None:
    """Print figures of PAPER (000, 001, 002, 003 or 004) beside ours, with a verdict for each."""
    from cosim.report.accounts import print_reproduction  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
    from cosim.reproduce import Request, counts, reproduce  # noqa: PLC0415

    with TerminalProgress() as progress:
        request = Request("whole" if zipped else "sampled", progress.note)
        found = reproduce(paper, table=table, request=request)
    rows = [row.row() for row in found]
    if as_json:
        _echo_table(rows, counts(found))
    else:
        print_reproduction(paper, rows, counts(found))


@main.command("compress")
@click.argument("model", type=_PATH)
@click.option("--recipe", type=_PATH, required=True, help="Recipe file.")
@click.option("--out", type=_PATH, required=True, help="Artefact folder to write.")
@click.option("--calibration", type=_PATH, help="Speech for static ranges: manifest or folder.")
@click.option("--calibration-limit", type=click.IntRange(min=1), help="Only its first so many.")
def compress_command(
    model: Path,
    recipe: Path,
    out: Path,
    calibration: Path | None,
    calibration_limit: int | None,
) -> None:
    """Write a compressed artefact: program text, encoded weights, size ledger."""
    from cosim.artefact import compress_to  # noqa: PLC0415
    from cosim.evaluate import speech_at  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress, print_artefact  # noqa: PLC0415
    from cosim.run import batches_of  # noqa: PLC0415

    speech = None
    if calibration is not None:
        speech = speech_at(calibration, limit=calibration_limit, option="--calibration")
    elif calibration_limit is not None:
        raise CosimError("--calibration-limit: found without --calibration, expected both")
    with TerminalProgress() as progress:
        made = compress_to(
            model,
            recipe,
            out,
            batches=lambda loaded: batches_of(loaded, speech, Path(), progress),
            report=progress.stage,
        )
    print_artefact(made, out)


@main.command("evaluate")
@click.argument("artefact", type=_PATH)
@click.option("--speech", type=_PATH, required=True, help="Manifest, LibriSpeech or Kaldi folder.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many utterances.")
@click.option("--normalizer", help="Text normaliser (default: that of the model family).")
@_KEEP_GOING
@_JSON
def evaluate_command(
    artefact: Path,
    speech: Path,
    limit: int | None,
    normalizer: str | None,
    keep_going: bool,
    as_json: bool,
) -> None:
    """Measure the WER of an artefact, executed by the kernels."""
    from cosim.evaluate import evaluate_artefact  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress, print_evaluation  # noqa: PLC0415

    with TerminalProgress() as progress:
        rows, total = evaluate_artefact(
            artefact,
            speech,
            limit=limit,
            normalizer_name=normalizer,
            keep_going=keep_going,
            progress=progress,
        )
    if as_json:
        _echo_table(rows, total)
    else:
        print_evaluation(rows, total)


@main.command("simulate")
@click.argument("what", type=_PATH)
@click.option("--hardware", type=_PATH, required=True, help="Chip file.")
@click.option("--energy", type=_PATH, help="Energy table (default: the shipped 28 nm table).")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Audio length.")
@click.option("--steps", type=click.IntRange(min=1), default=20, help="Decoding steps.")
@click.option("--recipe", type=_PATH, help="Recipe, where WHAT is a model file.")
@click.option("--no-reuse", is_flag=True, help="Simulate equal calls again.")
@click.option(
    "--set", "assignments", multiple=True, metavar="a.b=VALUE", help="Override a key of the chip."
)
@click.option(
    "--bandwidth", type=_PATH, metavar="FILE.csv", help="Write bandwidth by channel over time."
)
@click.option(
    "--utterances",
    type=click.IntRange(min=1),
    default=1,
    help="So many at once, on cores that take whole utterances.",
)
@_JSON
def simulate_command(
    what: Path,
    hardware: Path,
    energy: Path | None,
    seconds: float | None,
    steps: int,
    recipe: Path | None,
    no_reuse: bool,
    assignments: tuple[str, ...],
    bandwidth: Path | None,
    utterances: int,
    as_json: bool,
) -> None:
    """Simulate an artefact, a model file or a GEMM list (CSV, YAML) on a chip."""
    from cosim.report.terminal import print_simulation  # noqa: PLC0415
    from cosim.simulate import simulate_any  # noqa: PLC0415

    rows, total = simulate_any(
        what,
        hardware,
        energy=energy,
        seconds=seconds,
        steps=steps,
        recipe=recipe,
        reuse=not no_reuse,
        assignments=assignments,
        bandwidth=bandwidth,
        utterances=utterances,
    )
    if as_json:
        _echo_table(rows, total)
    else:
        print_simulation(rows, total)


@main.command("stream")
@click.argument("run", type=_PATH)
@click.option(
    "--arrivals",
    required=True,
    metavar="batch|poisson|FILE",
    help="All at once, at random, or JSON lines with `id` and `start` in seconds.",
)
@click.option("--rate-hz", type=float, help="Arrivals per second of `poisson`.")
@click.option("--draw", type=int, metavar="N", help="Draw so many (default: each once, in order).")
@click.option("--seed", type=int, help="Of random arrivals and draws (default: 0).")
@click.option("--chips", type=int, default=1, help="Equal chips behind one queue.")
@click.option("--battery-wh", type=float, help="Say how long a battery of so many Wh lasts.")
@click.option("--grid-g-per-kwh", type=float, help="Say grams of CO2 where a kWh takes so many.")
@click.option("--rest", type=_PATH, help="State of rest of idle chips (default: awake).")
@_JSON
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
        _echo_table(rows, total)
    else:
        print_stream(total)


@main.command("compare")
@click.argument("runs", type=_PATH, nargs=-1, required=True)
@click.option("--energy", "tables", multiple=True, metavar="TABLE|all", help="One run under these.")
@_JSON
def compare_command(runs: tuple[Path, ...], tables: tuple[str, ...], as_json: bool) -> None:
    """Compare runs with the first: paired WER difference, ratios of cycles, joules and bytes.

    With --energy: one run under several energy tables, or `all` shipped ones.
    """
    if tables:
        _compare_tables(runs, tables, as_json=as_json)
        return
    from cosim.compare import compare  # noqa: PLC0415
    from cosim.report.terminal import print_comparison  # noqa: PLC0415

    rows = compare(runs)
    if as_json:
        _echo_table(rows, {})
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
        _echo_table(rows, {})
    else:
        print_tables(rows)


@main.command("bench")
@click.option(
    "--filter",
    "text",
    default="",
    help="Only cases whose id contains TEXT; memory: memories beside published simulators.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=15, help="Alternating rounds.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="Threads of every side.")
@click.option("--out", type=_PATH, help="Save rows and machine as JSON.")
@click.option("--load", "saved", type=_PATH, help="Take the rows of a saved file, time nothing.")
@click.option("--markdown", type=_PATH, help="Write the tables of docs/kernels.md.")
@click.option("--roofline", type=_PATH, help="Write a picture: rates under limits (HTML).")
@click.option("--calibrate", is_flag=True, help="Measure and keep which kernel wins where.")
@click.option("--models", is_flag=True, help="Take every shipped model through the whole path.")
@click.option("--patterns", is_flag=True, help="Zeros in patterns against policies of chips.")
@click.option("--precision", is_flag=True, help="Widths of operands against cells of chips.")
@click.option("--tiles", is_flag=True, help="Blocks of zeros as large as the array, beside SASP.")
@click.option("--energy", is_flag=True, help="Joules of compressed versions, by cause, on chips.")
@click.option(
    "--wer", "runs", type=_PATH, multiple=True, help="Of --energy: a run or study with WER."
)
@_JSON
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
    _show_bench(found, subject, markdown=markdown, roofline=roofline, as_json=as_json)


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
    from cosim.report.energy_markdown import energy_markdown, write_page  # noqa: PLC0415
    from cosim.report.memory_markdown import memory_markdown  # noqa: PLC0415
    from cosim.report.models_markdown import models_markdown  # noqa: PLC0415
    from cosim.report.patterns_markdown import patterns_markdown  # noqa: PLC0415
    from cosim.report.precision_markdown import precision_markdown  # noqa: PLC0415
    from cosim.report.roofline import roofline_of  # noqa: PLC0415
    from cosim.report.simulators_table import print_simulators  # noqa: PLC0415
    from cosim.report.terminal import print_bench  # noqa: PLC0415
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
        _echo_table(found.rows, found.total)
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
    from cosim.report.terminal import TerminalProgress, print_dispatch  # noqa: PLC0415

    with TerminalProgress() as progress:
        found = calibrate(progress)
    print_dispatch(found, dispatch.save(found))


@main.command("data")
@click.argument("name")
def data_command(name: str) -> None:
    """Fetch a corpus into the user cache (`cosim list corpora` names them)."""
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
    from cosim.speech.corpora import fetch  # noqa: PLC0415

    with TerminalProgress() as progress:
        corpus = fetch(name, progress=progress.note)
    click.echo(f"{corpus.name}: {corpus.manifest}")
    click.echo(corpus.attribution)


@main.command("list")
@click.argument("kind", required=False)
def list_command(kind: str | None) -> None:
    """List what exists: models, recipes, hardware, corpora, ... (all kinds without KIND)."""
    from cosim.listing import listing, summaries  # noqa: PLC0415

    for title, names in listing(kind).items():
        if kind is None:
            click.echo(f"{title}: {', '.join(names)}")
        else:
            told, width = summaries(kind), max(map(len, names), default=0)
            for name in names:
                click.echo(f"{name:{width}}  {told.get(name, '')}".rstrip())


def _echo_table(rows: Iterable[Mapping[str, object]], total: Mapping[str, object]) -> None:
    from cosim.results import table  # noqa: PLC0415

    click.echo(table(rows, total))


if __name__ == "__main__":
    main()
