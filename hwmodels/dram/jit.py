"""Compilation: numba functions whose cache on disk notices changes in any file of this package.

numba keys its cache by the file of one function, but machine code holds the helpers it calls too.
So the key here also holds a hash of all files of the package, the CPU and the versions. Packages
beside this one may hold compiled code, too, that calls its own helpers and those of this one.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core.caching import FunctionCache
from numba.extending import intrinsic
from numpy.typing import NDArray

Record = Any
"""A record of a numpy structured array: its fields are attributes in compiled code."""

Integers = NDArray[np.int64]

_PACKAGE = Path(__file__).parent


@functools.cache
def fingerprint(package: Path = _PACKAGE) -> str:
    """Hash of everything that machine code of a package depends on."""
    state = hashlib.sha256()
    for path in sorted({*_PACKAGE.glob("*.py"), *package.glob("*.py")}):
        state.update(path.name.encode() + path.read_bytes())
    state.update(f"{numba.__version__} {llvmlite.__version__}".encode())
    state.update(llvmlite.binding.get_host_cpu_name().encode())
    return state.hexdigest()


class _PackageCache(FunctionCache):
    """numba's cache on disk with the fingerprint in its key.

    Two processes that save at once may swap the data of two keys, so the key is saved with the
    data and compared when it is loaded.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        folder = Path(function.__code__.co_filename).parent
        is_beside = folder.parent == _PACKAGE.parent
        self._mark = fingerprint(folder if is_beside else _PACKAGE)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        numba_key = super()._index_key(sig, codegen)  # type: ignore[no-untyped-call]
        return (*numba_key, self._mark)

    def _save_overload(self, sig: Any, data: Any) -> None:
        if self._enabled and self._impl.check_cachable(data):
            self._impl.locator.ensure_cache_path()
            key = self._index_key(sig, data.codegen)
            cache: Any = self._cache_file
            cache.save(key, (key, self._impl.reduce(data)))

    def _load_overload(self, sig: Any, target_context: Any) -> Any:
        key = self._index_key(sig, target_context.codegen())
        cache: Any = self._cache_file
        found = cache.load(key) if self._enabled else None
        if found is None or found[0] != key:
            return None
        return self._impl.rebuild(target_context, found[1])


def entry(function: Callable[..., Any]) -> Any:
    """Compile at the first call from Python, without the GIL, with the guarded cache."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = _PackageCache(function)  # noqa: SLF001 (numba has no public hook)
    return dispatcher


def helper(function: Callable[..., Any]) -> Any:
    """Compile once, for 64-bit integers, as a part of the entries that call it; not for Python.

    numba would compile it again for every constant, boolean and narrower integer it is called with.
    """
    compile_part: Any = numba.njit  # its type does not know the options that leave wrappers out
    part = compile_part(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )
    resolve = part.get_call_template

    def widened(kinds: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        return resolve(tuple(map(_widened, kinds)), keywords)

    part.get_call_template = widened
    return part


def piece(function: Callable[..., Any]) -> Any:
    """Compile in the middle of its only caller.

    numba optimises a helper again with all its callers and theirs, a piece with the entry alone.
    """
    return numba.njit(inline="always", error_model="numpy")(function)


def _borrow(typing: Any, array: Any) -> Any:  # noqa: ARG001 (numba calls it so)
    """Return the type and the code of `borrowed`."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        for field in ("meminfo", "parent"):
            setattr(view, field, getattr(view, field).type(None))
        return view._getvalue()  # noqa: SLF001 (numba has no public name)

    return array(array), generate


_compile_borrow: Any = intrinsic
borrowed: Any = _compile_borrow(_borrow)
"""The same array without its owner, for an entry whose caller keeps it.

numba counts who holds an array at every look at a record of it, by atomic additions: a tenth of
the time of the controller. One without an owner is not counted.
"""


def _first(typing: Any, array: Any) -> Any:  # noqa: ARG001 (numba calls it so)
    """Return the type and the code of `first`."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        view = context.make_array(array)(context, builder, arguments[0])
        return builder.bitcast(view.data, context.get_value_type(array.dtype))

    return array.dtype(array), generate


_compile_first: Any = intrinsic
first: Any = _compile_first(_first)
"""The first record of a contiguous array that the caller keeps: where it lies, and no owner.

What takes several arrays takes these instead, side by side in a named tuple: numba counts who holds
each array of a tuple, at every call.
"""


def _nth(typing: Any, record: Any, number: Any) -> Any:  # noqa: ARG001 (numba calls it so)
    """Return the type and the code of `nth`."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.gep(*arguments[:1], list(arguments[1:]))

    return record(record, types.int64), generate


_compile_nth: Any = intrinsic
nth: Any = _compile_nth(_nth)
"""The record that many places behind another one of its array; nobody looks where that ends."""


def _widened(kind: Any) -> Any:
    return types.int64 if isinstance(kind, types.Integer | types.Boolean) else kind
