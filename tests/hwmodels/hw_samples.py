"""Small workloads and figures for tests."""

from dataclasses import replace
from math import prod

import numpy as np

from hwmodels.energy_table import EnergyFigure
from hwmodels.workload import Gemm, TensorRef, Transfer, VectorOp, Workload


def with_roofline(architecture):
    """Return a chip whose memory serves by the roofline: for rules of the chip, not of the DRAM."""
    return replace(architecture, memory=replace(architecture.memory, fidelity="roofline"))


def figure(value, low=None, high=None):
    return EnergyFigure(value, "assumed for a test", low, high)


def burst_addresses(descriptor, origin, burst_bytes):
    """Return the address of every burst that a descriptor touches, byte by byte, row by row.

    Its base counts from `origin`; a burst that two rows share is moved for both, unless rows lie
    behind one another.
    """
    base, size = descriptor.base + origin, descriptor.bytes
    rows = [(base + i * descriptor.stride, size) for i in range(descriptor.rows)]
    if descriptor.stride == size:
        rows = [(base, descriptor.size_bytes)]
    lines = (np.arange(start, start + length) // burst_bytes for start, length in rows)
    return burst_bytes * np.concatenate([np.unique(line) for line in lines])


def tensor(name, kind, shape, bits=8, **more):
    return TensorRef(name, kind, shape, prod(shape) * bits, **more)


def gemm(name, m, n, k, *, count=1, a=None, w=None, result=None, a_number="i8", w_number="i8"):
    return Gemm(
        name,
        "linear",
        m,
        n,
        k,
        a or tensor(f"{name}.a", "input", (count, m, k)),
        w or tensor(f"{name}.w", "constant", (count, n, k)),
        result or tensor(f"{name}.y", "output", (count, m, n), 32),
        a_number,
        w_number,
        "i32",
        count,
    )


def vector(name, function, reads, writes, *, elements=None, row_length=None, is_fused=False):
    shape = reads[0].shape
    elements = elements or prod(shape)
    return VectorOp(
        name, function, function, elements, row_length or shape[-1], reads, writes, is_fused
    )


def feed_forward(m=5, d=12, h=20):
    """A quantised layer with everything in it: fused ops, a residual, a barrier, a cache."""
    x = tensor("x", "input", (m, d), 32)
    q, s = tensor("q", "activation", (m, d)), tensor("s", "activation", (m,), 32)
    y = tensor("y", "activation", (m, h), 32)
    g = tensor("g", "activation", (m, h), 32)
    gq, gs = tensor("gq", "activation", (m, h)), tensor("gs", "activation", (1,), 32)
    z = tensor("z", "activation", (m, d), 32)
    out = tensor("out", "output", (m, d), 32)
    cache = tensor("cache", "state", (m + 3, d), 32, reserved_bits=64 * d * 32)
    return Workload(
        "feed_forward",
        (
            vector("quant", "dynamic_quantize_row", (x,), (q, s)),
            gemm("up", m, h, d, a=q, w=tensor("up.w", "constant", (h, d)), result=y),
            vector("up.deq", "dequantize", (y, s), (y,), is_fused=True),
            vector("up.bias", "bias", (y, tensor("b", "constant", (h,), 32)), (y,), is_fused=True),
            vector("gelu", "gelu", (y,), (g,)),
            vector("quant2", "dynamic_quantize_tensor", (g,), (gq, gs)),
            gemm("down", m, d, h, a=gq, w=tensor("down.w", "constant", (d, h)), result=z),
            vector("down.deq", "dequantize", (z, gs), (z,), is_fused=True),
            Transfer("append", "cache", (z,), (cache,), z.size_bytes, z.size_bytes),
            vector("add", "add", (z, x), (out,)),
            vector("read", "softmax", (cache,), (tensor("p", "output", (m + 3, d), 32),)),
        ),
    )
