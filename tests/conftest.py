"""What every test needs: property tests without deadlines, the same examples in every run."""

from pathlib import Path

import pytest
from hypothesis import settings

# The first example of a kernel pays for its compilation. A run that fails must fail again: new
# examples are looked for on request, with `pytest --hypothesis-profile explore`.
settings.register_profile("cosim", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("cosim")

# Kernels first: of two processes that test other things only one would compile each kernel. Then
# what takes longest, so that no process is left alone with it.
EARLY = ("kernels", "end_to_end")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)  # stable: the order within a folder stays


def _turn(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0]
    return EARLY.index(folder) if folder in EARLY else len(EARLY)
