"""Simulate an artefact, a model or a list of GEMMs on a chip."""

from pathlib import Path

import click

from cosim.cli.command import JSON, PATH, Command, echo_table


@click.command("simulate", cls=Command)
@click.argument("what", type=PATH)
@click.option("--hardware", type=PATH, required=True, help="Chip file.")
@click.option("--energy", type=PATH, help="Energy table (default: the shipped 28 nm table).")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Audio length.")
@click.option("--steps", type=click.IntRange(min=1), default=20, help="Decoding steps.")
@click.option("--recipe", type=PATH, help="Recipe, where WHAT is a model file.")
@click.option("--no-reuse", is_flag=True, help="Simulate equal work again.")
@click.option(
    "--set", "assignments", multiple=True, metavar="a.b=VALUE", help="Override a key of the chip."
)
@click.option(
    "--bandwidth", type=PATH, metavar="FILE.csv", help="Write bandwidth by channel over time."
)
@click.option(
    "--utterances",
    type=click.IntRange(min=1),
    default=1,
    help="So many at once, on cores that take whole utterances.",
)
@JSON
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
    from cosim.report.run_table import print_simulation  # noqa: PLC0415
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
        echo_table(rows, total)
    else:
        print_simulation(rows, total)
