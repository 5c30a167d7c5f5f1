"""What every command shares: its options, its mistakes as text, its rows as JSON."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from cosim.errors import CosimError

PATH = click.Path(path_type=Path)
KEEP_GOING = click.option(
    "--keep-going", is_flag=True, help="Skip unusable recordings and count them."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print rows as JSON on stdout.")


class Command(click.Command):
    """A command whose mistakes are told without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a mistake of the user becomes its text and exit code 2."""
        try:
            return super().invoke(ctx)
        except CosimError as error:
            for problem in error.problems:
                click.echo(f"error: {problem}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped; finished parts are kept", err=True)
            sys.exit(130)


def echo_table(rows: Iterable[Mapping[str, object]], total: Mapping[str, object]) -> None:
    """Print rows and their total as JSON."""
    from cosim.results import table  # noqa: PLC0415

    click.echo(table(rows, total))
