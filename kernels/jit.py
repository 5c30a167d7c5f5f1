"""Compilation: numba functions with a cache that notices changed generators.

numba keys its cache by the file of the jitted function alone. A kernel built from an intrinsic of
another file would come back stale when that file changes, so the key here also holds a fingerprint
of the source files that the kernel depends on, the CPU and the versions of numba and llvmlite. The
fingerprint is taken when the file is imported, not when it is compiled: files may change between.
"""

import functools
import hashlib
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
from numba import types
from numba.core.caching import FunctionCache

from kernels import COMPILE_LISTENERS

_PACKAGE = Path(__file__).parent
_IMPORT = re.compile(r"^[ \t]*from kernels(?:\.(\w+)[\w.]*)? import (\([^)]*\)|.*)", re.MULTILINE)
GENERIC_VARIABLE = "COSIM_GENERIC_KERNELS"
"""Set to 1 to use the plain kernels on any CPU."""


def in1(dtype: types.Type) -> types.Array:
    """Type of a readable 1-D array of any stride."""
    return types.Array(dtype, 1, "A", readonly=True)


def in2(dtype: types.Type) -> types.Array:
    """Type of a readable 2-D array of any strides."""
    return types.Array(dtype, 2, "A", readonly=True)


def in3(dtype: types.Type) -> types.Array:
    """Type of a readable 3-D array of any strides."""
    return types.Array(dtype, 3, "A", readonly=True)


def out1(dtype: types.Type) -> types.Array:
    """Type of a writable 1-D array of any stride."""
    return types.Array(dtype, 1, "A")


def out2(dtype: types.Type) -> types.Array:
    """Type of a writable 2-D array of any strides."""
    return types.Array(dtype, 2, "A")


@functools.cache
def host_features() -> frozenset[str]:
    """Instruction sets of this CPU as LLVM names them; none when plain kernels are asked for."""
    if os.environ.get(GENERIC_VARIABLE) == "1":
        return frozenset()
    found = llvmlite.binding.get_host_cpu_features()
    return frozenset(name for name, present in found.items() if present)


@functools.cache
def _sources(path: Path) -> frozenset[Path]:
    """Return a file of this package and all files of it that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            for module, names in _IMPORT.findall(current.read_text()):
                for name in [module] if module else re.findall(r"\w+", names):
                    waiting += [_PACKAGE / f"{name}.py", *(_PACKAGE / name).glob("*.py")]
            waiting = [file for file in waiting if file.is_file()]
    return frozenset(found)


@functools.cache
def fingerprint(path: Path) -> str:
    """Hash of everything that the machine code of a kernel defined in ``path`` depends on."""
    state = hashlib.sha256()
    for source in sorted(_sources(path)):
        state.update(source.name.encode() + source.read_bytes())
    state.update(f"{llvmlite.binding.get_host_cpu_name()} {llvmlite.__version__}".encode())
    state.update(f"{numba.__version__} {sorted(host_features())}".encode())
    return state.hexdigest()


class _GuardedCache(FunctionCache):
    """numba's cache on disk, by a key that holds all that machine code depends on.

    numba writes an index and numbered data files; two processes that save at once may swap the
    data of two keys. So the key is saved with the data and compared when it is loaded.
    """

    def __init__(self, function: Callable[..., Any], *, parallel: bool) -> None:
        super().__init__(function)
        self._mark = (fingerprint(Path(inspect.getfile(function))), parallel)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), *self._mark)

    def _save_overload(self, sig: Any, data: Any) -> None:
        if self._enabled and self._impl.check_cachable(data):
            self._impl.locator.ensure_cache_path()
            key = self._index_key(sig, data.codegen)
            self._cache_file.save(key, (key, self._impl.reduce(data)))

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        key = self._index_key(sig, target_context.codegen())
        found = self._cache_file.load(key) if self._enabled else None
        if found is None or found[0] != key:
            return None
        return self._impl.rebuild(target_context, found[1])

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the cached machine code, or None after telling the listeners.

        An index that names a class which has moved since cannot be read: it is begun anew.
        """
        try:
            found = super().load_overload(sig, target_context)
        except (AttributeError, ImportError):
            self.flush()
            found = None
        if found is None:
            for listener in COMPILE_LISTENERS:
                listener(self._py_func.__name__)
        return found


def compiled(
    function: Callable[..., Any] | None = None,
    *,
    contract: bool = False,
    sums: bool = False,
    parallel: bool = False,
) -> Any:
    """Compile lazily, without the GIL, with the guarded cache; for helpers that kernels call.

    ``contract`` lets a product and a sum become one fused operation, ``sums`` also lets a loop's
    sum be split over lanes. Both stay deterministic: one machine code, one order. ``parallel``
    runs ``prange`` loops on several threads; without it they are plain loops.
    """
    if function is None:
        return functools.partial(compiled, contract=contract, sums=sums, parallel=parallel)
    flags = {"contract", "reassoc", "nsz"} if sums else {"contract"} if contract else False
    dispatcher = numba.njit(nogil=True, fastmath=flags, parallel=parallel)(function)
    guarded = _GuardedCache(function, parallel=parallel)
    dispatcher._cache = guarded  # noqa: SLF001 (numba has no public hook)
    return dispatcher


class Entry:
    """A numba function of one signature, compiled at its first call.

    One signature with any-stride arrays keeps one machine code for contiguous and strided callers.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        signature: tuple[types.Type, ...],
        *,
        contract: bool = False,
        sums: bool = False,
    ) -> None:
        self.py_func = function
        self.contract = contract
        self.sums = sums
        self.signature = signature
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        fingerprint(Path(inspect.getfile(function)))  # now, as the code is what was just read
        self._ready: Any = None
        self._parallel: Any = None

    def ready(self) -> Any:
        """Return the numba dispatcher, compiled for its one signature."""
        if self._ready is None:
            self._ready = self._compile(parallel=False)
        return self._ready

    def ready_parallel(self) -> Any:
        """Return the same function with its ``prange`` loops on several threads."""
        if self._parallel is None:
            self._parallel = self._compile(parallel=True)
        return self._parallel

    def _compile(self, *, parallel: bool) -> Any:
        dispatcher = compiled(
            self.py_func, contract=self.contract, sums=self.sums, parallel=parallel
        )
        dispatcher.compile(self.signature)
        dispatcher.disable_compile()
        return dispatcher

    def __call__(self, *arguments: Any) -> Any:
        """Run the function; TypeError if the arguments do not fit the signature."""
        return (self._ready or self.ready())(*arguments)


ENTRIES: list[Entry] = []
"""Every entry point, for compiling ahead of time."""


def entry(
    *signature: types.Type, contract: bool = False, sums: bool = False
) -> Callable[[Callable[..., Any]], Entry]:
    """Make an entry point of a function that takes arrays and numbers; flags as ``compiled``."""

    def wrap(function: Callable[..., Any]) -> Entry:
        made = Entry(function, signature, contract=contract, sums=sums)
        ENTRIES.append(made)
        return made

    return wrap
