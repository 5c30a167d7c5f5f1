"""A check that `import kernels` finds the package of this distribution.

The name is common: another distribution, or a folder beside the user's script, may come first on
the path. Importing this module is the check, so that one line stands above `from kernels import`:
`import cosim.guard  # noqa: F401 (the check is the import)`.
"""

import importlib.metadata
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

from cosim.errors import CosimError

_MARK = "__cosim_kernels__"
_OURS = "the package that comes with cosim-speech"


def require_own_kernels() -> None:
    """Return if `kernels` is ours; nothing of a foreign package is run to find out.

    Raises CosimError naming the file found, the distribution it belongs to and the remedy.

    Example:
        >>> require_own_kernels()

    """
    loaded = sys.modules.get("kernels")
    if loaded is not None:
        if not hasattr(loaded, _MARK):
            raise CosimError(_problem(loaded.__spec__))
        return
    spec = importlib.util.find_spec("kernels")
    if spec is None:
        raise CosimError(
            f"kernels: found no package of this name, expected {_OURS}; install it again: "
            '"pip install --force-reinstall --no-deps cosim-speech", or "make run" in a checkout'
        )
    if not (spec.origin and _has_mark(Path(spec.origin))):
        raise CosimError(_problem(spec))


def _has_mark(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.search(rf"^{_MARK} *=", text, re.MULTILINE) is not None


def _problem(spec: ModuleSpec | None) -> str:
    """Return what was found under the name `kernels` and what to do about it."""
    folders = list(spec.submodule_search_locations or ()) if spec else []
    place = (spec.origin if spec else None) or (folders[0] if folders else "kernels")
    owners = _owners(Path(place))
    if owners:
        found = f'the package "kernels" of another distribution, {", ".join(owners)}'
        remedy = f'"pip uninstall {" ".join(owners)}" and install cosim-speech again'
    else:
        found = 'another package "kernels", which no distribution installed'
        remedy = "rename it, or start Python elsewhere"
    return (
        f"{place}: found {found}, expected {_OURS}; {remedy}, or use a fresh environment, such as "
        'the one "make run" makes in .venv'
    )


def _owners(place: Path) -> list[str]:
    """Return the names of the distributions other than ours that installed the file `place`."""
    names = importlib.metadata.packages_distributions().get("kernels", [])
    return sorted(
        name
        for name in set(names) - {"cosim-speech"}
        if any(
            Path(str(file.locate())).resolve() == place.resolve()
            for file in importlib.metadata.files(name) or ()
        )
    )


require_own_kernels()
