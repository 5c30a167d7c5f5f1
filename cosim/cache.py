"""The user's cache: converted weights, decoded corpora, and results that are slow to make again."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return the folder for what can be made again: XDG_CACHE_HOME/cosim or ~/.cache/cosim."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "cosim"


def cache_folder(name: str) -> Path:
    """Return the folder `name` of the cache; it may not exist yet."""
    return cache_root() / name
