"""Figures of papers beside ours."""

import click

from cosim.cli.command import JSON, Command, echo_table


@click.command("reproduce", cls=Command)
@click.argument("paper")
@click.option("--table", help="Only this table of the paper (its own name, or `text`).")
@click.option("--zipped", is_flag=True, help="Zip whole drawn weights, not samples.")
@JSON
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
        echo_table(rows, counts(found))
    else:
        print_reproduction(paper, rows, counts(found))
