"""What there is to take: corpora to fetch, and lists of all that exists."""

import click

from cosim.cli.command import Command


@click.command("data", cls=Command)
@click.argument("name")
def data_command(name: str) -> None:
    """Fetch a corpus into the user cache (`cosim list corpora` names them)."""
    from cosim.report.terminal import TerminalProgress  # noqa: PLC0415
    from cosim.speech.corpora import fetch  # noqa: PLC0415

    with TerminalProgress() as progress:
        corpus = fetch(name, progress=progress.note)
    click.echo(f"{corpus.name}: {corpus.manifest}")
    click.echo(corpus.attribution)


@click.command("list", cls=Command)
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
