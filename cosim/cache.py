"""The user's cache: converted weights, decoded corpora, and results that are slow to make again."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return `cosim/NAME` under XDG_CACHE_HOME or ~/.cache; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "cosim" / name
