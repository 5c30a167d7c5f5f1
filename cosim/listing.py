"""What exists, read from file names: nothing heavy is imported."""

from collections.abc import Mapping
from pathlib import Path

from cosim.config import configs_root
from cosim.errors import CosimError, suggestion

_PACKAGE = Path(__file__).resolve().parent
_CONFIGS = ("models", "recipes", "hardware", "memory", "energy", "experiments")
# Files of a package that hold what its other files share.
_SHARED = {
    "models": ("attention", "checkpoint", "ctranslate2", "packages", "torch_engine"),
    "compress": ("compressed", "network", "recipe"),
}
_CORPORA = ("prompts",)


def listing(kind: str | None = None) -> Mapping[str, tuple[str, ...]]:
    """Return the names of every kind, or of one; CosimError for an unknown kind."""
    found: dict[str, tuple[str, ...]] = {
        name: _stems(configs_root() / name, ".yaml") for name in _CONFIGS
    }
    found["families"] = _modules("models")
    found["methods"] = _modules("compress")
    found["corpora"] = _CORPORA
    if kind is None:
        return found
    if kind not in found:
        raise CosimError(f"list: found {kind!r}, expected a kind{suggestion(kind, list(found))}")
    return {kind: found[kind]}


def _modules(package: str) -> tuple[str, ...]:
    names = _stems(_PACKAGE / package, ".py")
    return tuple(n for n in names if n != "__init__" and n not in _SHARED[package])


def _stems(folder: Path, suffix: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob(f"*{suffix}")))
