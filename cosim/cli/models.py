"""One step at a time: count a model, compress it, measure the errors of what came out."""

from pathlib import Path

import click

from cosim.cli.command import JSON, KEEP_GOING, PATH, Command, echo_table
from cosim.errors import CosimError


@click.command("profile", cls=Command)
@click.argument("model", type=PATH)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Audio length.")
@click.option("--frames", type=click.IntRange(min=1), help="Feature frames instead of seconds.")
@click.option("--steps", type=click.IntRange(min=1), default=1, help="Decoding steps.")
@click.option("--no-zip", is_flag=True, help="Leave out zipped bytes (a minute for 400 M).")
@JSON
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
        echo_table(counted.rows(), counted.total_row())
    else:
        print_profile(counted)


@click.command("compress", cls=Command)
@click.argument("model", type=PATH)
@click.option("--recipe", type=PATH, required=True, help="Recipe file.")
@click.option("--out", type=PATH, required=True, help="Artefact folder to write.")
@click.option("--calibration", type=PATH, help="Speech for static ranges: manifest or folder.")
@click.option("--calibration-limit", type=click.IntRange(min=1), help="Only its first so many.")
def compress_command(
    model: Path,
    recipe: Path,
    out: Path,
    calibration: Path | None,
    calibration_limit: int | None,
) -> None:
    """Write a compressed artefact: program text, encoded weights, size ledger."""
    from cosim.artefact_folder import compress_to  # noqa: PLC0415
    from cosim.evaluate import speech_at  # noqa: PLC0415
    from cosim.report.model_table import print_artefact  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
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


@click.command("evaluate", cls=Command)
@click.argument("artefact", type=PATH)
@click.option("--speech", type=PATH, required=True, help="Manifest, LibriSpeech or Kaldi folder.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many utterances.")
@click.option("--normalizer", help="Text normaliser (default: that of the model family).")
@KEEP_GOING
@JSON
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
    from cosim.report.model_table import print_evaluation  # noqa: PLC0415
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415

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
        echo_table(rows, total)
    else:
        print_evaluation(rows, total)
