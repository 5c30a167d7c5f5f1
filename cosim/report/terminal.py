"""The terminal: results and their tables go to stdout, progress and warnings to stderr."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table

import cosim.guard  # noqa: F401 (the check is the import)
from kernels import COMPILE_LISTENERS


class TerminalProgress:
    """Progress of a run on stderr: a bar on a terminal, one line per stage elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.done, self.total, self.title = 0, 0, ""
        self.told_of_compiling = False

    def __enter__(self) -> Self:
        self.bars.start()
        COMPILE_LISTENERS.append(self._compiling)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        COMPILE_LISTENERS.remove(self._compiling)
        self.bars.stop()

    def _compiling(self, _function: str) -> None:
        if not self.told_of_compiling:
            self.told_of_compiling = True
            self.note("compiling kernels for this CPU: up to a minute, then kept for later runs")

    def stage(self, text: str, total: int = 0) -> None:
        """Begin a stage of `total` pieces (0: unknown)."""
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(text, total=total or None)
        self.done, self.total, self.title = 0, total, text
        if not self.console.is_terminal:
            self.console.print(text + (f" ({total})" if total else ""), soft_wrap=True)

    def advance(self) -> None:
        """Say that one piece is finished."""
        self.done += 1
        if self.task is not None:
            self.bars.advance(self.task)
        tenth = max(1, self.total // 5)
        if not self.console.is_terminal and self.done % tenth == 0:
            self.console.print(f"  {self.title}: {self.done}/{self.total}", soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self.console.print(text, soft_wrap=True)


def open_console() -> Console:
    """Return the console of results."""
    # tables keep their natural width; a narrower terminal wraps lines by itself
    return Console(highlight=False, width=400)


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print a table under its title: the first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold", soft_wrap=True)
    console.print(table)
