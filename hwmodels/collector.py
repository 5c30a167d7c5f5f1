"""When Python searches for cycles of objects: hardly ever while calls are simulated.

A simulation makes many objects and little garbage, most of which goes without a search.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

MOST_NEW = 500_000
"""New objects, less those that are gone, that may pile up before they are searched."""


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the search for cycles; whoever works for long calls `tidy` now and then."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


def tidy() -> None:
    """Search the new objects for cycles, where there are so many that it pays."""
    if gc.get_count()[0] > MOST_NEW:
        gc.collect(0)
