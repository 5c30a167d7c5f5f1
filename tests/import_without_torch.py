"""Import every module of kernels and hwmodels where torch and cosim cannot be imported.

Run as a program in a fresh interpreter; leaves with an error at the first module that needs them.
"""

import importlib
import pkgutil
import sys

PACKAGES = ("kernels", "hwmodels")
BLOCKED = ("torch", "cosim")


def main() -> None:
    for name in BLOCKED:
        sys.modules[name] = None
    names = list(PACKAGES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
    for name in names:
        importlib.import_module(name)
    print(f"{len(names)} modules import without {' and '.join(BLOCKED)}")  # noqa: T201


if __name__ == "__main__":
    main()
