"""Other programs that compute a linear layer. Each is optional: absent ones are skipped by name.

A peer takes float32 weights (n, k) and activations (rows, k), quantises the weights as it does by
itself, and returns a call that includes whatever it does to the activations.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.bench.cases import AbsentError, Floats, Run, Side

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Call:
    """One layer of a peer: run it, and turn what a run returns into (rows, n) floats.

    ``keep`` holds memory that the peer knows by address only.
    """

    run: Run
    result: Callable[[Any], Floats]
    keep: tuple[object, ...] = ()


Build = Callable[[F32, F32, int], Call]


@dataclass(frozen=True)
class Peer:
    """A way to compute a linear layer: weights, activations and threads to a call.

    ``distribution`` is what to install; ``stored_bits`` are about those of one weight.
    """

    name: str
    distribution: str
    stored_bits: float
    build: Build


_TABLE: dict[str, Peer] = {}
PEERS: Mapping[str, Peer] = MappingProxyType(_TABLE)


def peer(name: str, distribution: str, stored_bits: float) -> Callable[[Build], Build]:
    """Register a peer under its name."""

    def register(build: Build) -> Build:
        if name in _TABLE:
            raise ValueError(f"peer {name!r} is registered twice")
        _TABLE[name] = Peer(name, distribution, stored_bits, build)
        return build

    return register


def load(module: str, distribution: str) -> Any:
    """Import a module of a peer; AbsentError names the distribution to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise AbsentError(f"{distribution} is not installed ({error})") from None


def versions() -> dict[str, str]:
    """Return the version of every peer's distribution, "not installed" where it is absent."""
    found = {}
    for name in sorted({row.distribution for row in PEERS.values()} | {"ctranslate2"}):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def side(name: str, weight: F32, x: F32, *, threads: int, copies: int) -> Side:
    """Build a peer's side with so many equal layers; AbsentError says what is missing.

    Anything else that a peer raises while it is built, or at its first call, is told the same way:
    a broken peer must not end a benchmark of ours.
    """
    row = PEERS[name]
    try:
        calls = [row.build(weight.copy() if i else weight, x, threads) for i in range(copies)]
        calls[0].run()
    except AbsentError:
        raise
    except Exception as error:  # noqa: BLE001 (foreign code)
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise AbsentError(f"{row.distribution} failed: {first}") from None
    return Side([call.run for call in calls], lambda: calls[0].result(calls[0].run()))


def _as_is(result: Any) -> Floats:
    return np.asarray(result)


def _turned(result: Any) -> Floats:
    return np.asarray(result).T


@peer("numpy", "numpy", 32)
def _numpy(weight: F32, x: F32, _threads: int) -> Call:
    out = np.empty((x.shape[0], weight.shape[0]), np.float32)
    turned = weight.T
    return Call(lambda: np.matmul(x, turned, out=out), _as_is)


@peer("torch", "torch", 32)
def _torch(weight: F32, x: F32, threads: int) -> Call:
    torch = load("torch", "torch")
    torch.set_num_threads(threads)
    a, w = torch.from_numpy(x), torch.from_numpy(weight)
    linear = torch.nn.functional.linear
    return Call(lambda: linear(a, w), _as_is)


def _torch_dynamic(engine: str) -> Build:
    """Make torch's dynamic int8 linear layer, scales per output, 7 bits of activation range."""

    def build(weight: F32, x: F32, threads: int) -> Call:
        torch = load("torch", "torch")
        torch.set_num_threads(threads)
        if engine not in torch.backends.quantized.supported_engines:
            raise AbsentError(f"this torch has no {engine} engine")
        a, w = torch.from_numpy(x), torch.from_numpy(weight)
        zeros = torch.zeros(weight.shape[0], dtype=torch.long)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            step = w.abs().amax(1) / 127
            codes = torch.quantize_per_channel(w, step, zeros, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(codes, None)
        finally:
            torch.backends.quantized.engine = before
        linear = torch.ops.quantized.linear_dynamic
        return Call(lambda: linear(a, packed, True), _as_is)

    return build


peer("torch_int8_fbgemm", "torch", 8)(_torch_dynamic("fbgemm"))
peer("torch_int8_onednn", "torch", 8)(_torch_dynamic("onednn"))


@peer("torch_csr", "torch", 96)
def _torch_csr(weight: F32, x: F32, threads: int) -> Call:
    torch = load("torch", "torch")
    torch.set_num_threads(threads)
    w = torch.from_numpy(weight).to_sparse_csr()
    turned = torch.from_numpy(np.ascontiguousarray(x.T))
    return Call(lambda: w @ turned, _turned)


@peer("scipy_csr", "scipy", 64)
def _scipy_csr(weight: F32, x: F32, _threads: int) -> Call:
    sparse = load("scipy.sparse", "scipy")
    w = sparse.csr_array(weight)
    turned = np.ascontiguousarray(x.T)
    return Call(lambda: w @ turned, _turned)


def _quanto(kind: str) -> Build:
    """Make quanto's linear layer: integer weights, float products."""

    def build(weight: F32, x: F32, threads: int) -> Call:
        torch = load("torch", "torch")
        quanto = load("optimum.quanto", "optimum-quanto")
        torch.set_num_threads(threads)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = torch.from_numpy(weight)
        module = quanto.QLinear.from_module(linear, weights=getattr(quanto, kind))
        module.freeze()
        a = torch.from_numpy(x)

        def run() -> object:
            with torch.no_grad():
                return module(a)

        return Call(run, _as_is)

    return build


peer("quanto_int8", "optimum-quanto", 8)(_quanto("qint8"))
peer("quanto_int4", "optimum-quanto", 4)(_quanto("qint4"))
peer("quanto_int2", "optimum-quanto", 2)(_quanto("qint2"))
