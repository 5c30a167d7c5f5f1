"""Program -> work: every call of a graph as GEMMs, vector ops and transfers on named tensors.

The schedule knows no chip. Shapes, number types, stored bits and zero patterns are those of the
program that is executed; residency, tiling and addresses are decided by the hardware model.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.ir import DTYPE_BITS, Constant, Graph, Op, Program, TensorType, is_constant
from cosim.ops import OPS, row
from cosim.strides import Layout, contiguous, runs, transposed
from hwmodels.workload import NUMBER_BITS, Gemm, Nonzero, Number, TensorRef, WorkItem, Workload
from kernels.encodings import FLOAT_BITS, Encoding, nonzero_mask

# Work of a transcription that neither the array nor the vector unit does.
NOT_SIMULATED = ("log-mel features", "argmax and token suppression", "text detokenisation")

# Ops whose results lie in memory as their first operand does.
KEEP_ORDER = ("reshape", "dynamic_quantize", "quantize", "cast", "dynamic_binarize", "binarize")


def zero_patterns(encodings: Mapping[str, Encoding]) -> dict[str, Nonzero]:
    """Return the zero pattern of every constant that has zeros; keys as in the program."""
    found: dict[str, Nonzero] = {}
    for name, encoding in encodings.items():
        mask = nonzero_mask(encoding)
        if mask is not None:
            found[name] = Nonzero(mask, _mask_digest(mask))
    return found


def _mask_digest(mask: NDArray[np.uint8]) -> str:
    state = hashlib.sha256(str(mask.shape).encode())
    state.update(mask.tobytes())
    return state.hexdigest()


def schedule(
    program: Program,
    graph_name: str,
    *,
    bindings: Mapping[str, int],
    patterns: Mapping[str, Nonzero] | None = None,
    densities: Mapping[str, float] | None = None,
) -> Workload:
    """Return the work of one call of one graph with its lengths bound.

    `patterns` are the zeros of constants, `densities` the measured shares of activations that are
    not zero, by product (see `cosim.execute.zeros`).

    Example:
        schedule(program, "step", bindings={"past": 7, "memory": 1500})

    """
    graph = program.graph(graph_name)
    context = _Context(program, graph, graph.bind(**bindings), patterns or {})
    items: list[WorkItem] = []
    for op in graph.ops:
        items += _with_densities(row(op).work(context, op), graph, op, densities or {})
    lengths = ", ".join(f"{name}={value}" for name, value in sorted(bindings.items()))
    return Workload(f"{graph_name}({lengths})", tuple(items))


def _with_densities(
    items: Iterable[WorkItem], graph: Graph, op: Op, densities: Mapping[str, float]
) -> Iterator[WorkItem]:
    """Yield work with the density of its activations where it was measured."""
    product = f"{graph.name}/{op.outputs[0][1:]}"
    for item in items:
        if densities and isinstance(item, Gemm):
            role = item.name.rpartition(".")[2] if op.kind.endswith("attention") else ""
            density = densities.get(f"{product}.{role}" if role else product)
            yield replace(item, a_density=density)
        else:
            yield item


def _part(ref: TensorRef, elements: int) -> TensorRef:
    """Return `elements` elements of a tensor that is not encoded."""
    bits = ref.stored_bits // ref.elements
    room = max(ref.reserved_bits, ref.stored_bits)
    return replace(ref, shape=(elements,), stored_bits=bits * elements, reserved_bits=room)


@dataclass
class _Context:
    """Answers the work rules at bound lengths (see `cosim.ops.WorkContext`)."""

    program: Program
    graph: Graph
    bindings: Mapping[str, int]
    patterns: Mapping[str, Nonzero]
    roots: dict[str, str] = field(init=False)
    extents: dict[str, int] = field(default_factory=dict)
    public: dict[str, str] = field(init=False)
    grown: dict[str, str] = field(init=False)
    layouts: dict[str, Layout | None] = field(init=False)
    labels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roots = self._find_roots()
        self.layouts = self._find_layouts()
        self.public = {self._root(value): name for name, value in self.graph.outputs}
        self.grown = {
            op.inputs[0]: op.outputs[0] for op in self.graph.ops if op.kind == "cache_append"
        }

    def _find_roots(self) -> dict[str, str]:
        """Return the tensor each view shares; a partial read of a constant is a tensor.

        Besides, note how many of its elements a view can see.
        """
        roots: dict[str, str] = {}
        for op in self.graph.ops:
            source = op.inputs[0] if op.inputs else ""
            is_view = OPS[op.kind].is_view or op.kind == "cache_append"
            if op.kind == "slice" and is_constant(source):
                is_view = self.shape(source) == self.shape(op.outputs[0])
            for name in op.outputs:
                roots[name] = roots.get(source, source) if is_view else name
                if is_view and op.kind != "cache_append":
                    behind = self.extents.get(source, prod(self.shape(source)))
                    self.extents[name] = min(behind, prod(self.shape(name)))
        return roots

    def _find_layouts(self) -> dict[str, Layout | None]:
        """Return how values that are not in order lie in memory, None where that is unknown.

        Functions of elements and rows leave their results as their operands lie.
        """
        layouts: dict[str, Layout | None] = {}
        for op in self.graph.ops:
            source = op.inputs[0] if op.inputs else ""
            if source not in self.graph.types:
                continue
            shape = self.shape(source)
            layout = layouts.get(source, contiguous(shape))
            if op.kind == "transpose" and layout is not None:
                order = op.attribute("order")
                axes = [int(str(axis)) for axis in order] if isinstance(order, tuple) else []
                layout = transposed(layout, shape, axes)
            elif op.kind not in KEEP_ORDER:
                continue
            for name in op.outputs:
                if prod(self.shape(name)) == prod(shape):
                    layouts[name] = layout
        return layouts

    def _root(self, name: str) -> str:
        return self.roots.get(name, name)

    def _type(self, name: str) -> TensorType:
        if is_constant(name):
            return self._constant(name).type
        return self.graph.types[name]

    def _constant(self, name: str) -> Constant:
        return self.program.constants[name]

    def label(self, op: Op) -> str:
        """Return `graph/module`, with the kind where the module is not one product."""
        parts = [op.scope] if op.scope else []
        if not op.kind.endswith(("linear", "conv1d", "conv2d")) or not op.scope:
            parts.append(op.kind)
        label = f"{self.graph.name}/{'.'.join(parts)}"
        times = self.labels.get(label, 0) + 1
        self.labels[label] = times
        return label if times == 1 else f"{label}#{times}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the bound shape of a value or constant."""
        return self._type(name).bind(self.bindings)

    def number(self, name: str) -> Number:
        """Return how elements are stored."""
        if not is_constant(name):
            dtype = self._type(name).dtype
            return "i32" if dtype == "i64" else dtype
        constant = self._constant(name)
        if constant.encoding == "binary":
            return "i1"
        storage = json.loads(constant.storage)
        if constant.encoding == "half":
            return "bf16" if storage["number"] == "bf16" else "f16"
        bits = int(storage.get("bits", 32))
        if bits in FLOAT_BITS:
            return "f32" if bits == 32 else "f16"
        return "i8" if bits > 4 else "i4" if bits > 2 else "i2"

    def ref(self, name: str) -> TensorRef:
        """Return the tensor behind a value or constant; views share it, or a part of it."""
        whole = self._whole(name)
        seen = self.extents.get(name, whole.elements)
        if whole.kind in ("constant", "state") or seen >= whole.elements:
            return whole
        return _part(whole, seen)

    def operand(self, name: str) -> TensorRef:
        """Return the tensor behind a value, and how matrices of its last two axes lie in it."""
        ref, layout = self.ref(name), self.layouts.get(name)
        if layout is None or ref.kind != "activation" or ref.is_part:
            return ref
        return replace(ref, runs=runs(layout, self.shape(name)))

    def refs(self, names: Iterable[str]) -> tuple[TensorRef, ...]:
        """Return the tensors behind values, each once; of parts of one, as much as all see."""
        found: dict[str, TensorRef] = {}
        for name in dict.fromkeys(names):
            ref = self.ref(name)
            known = found.setdefault(ref.id, ref)
            if known is not ref and ref.is_part and known.is_part and ref.kind != "state":
                most = known.reserved_bits // (known.stored_bits // known.elements)
                found[ref.id] = _part(known, min(known.elements + ref.elements, most))
            elif known.is_part and not ref.is_part:
                found[ref.id] = ref
        return tuple(found.values())

    def _whole(self, name: str) -> TensorRef:
        root = self._root(name)
        if is_constant(root):
            constant = self._constant(root)
            return TensorRef(
                root[1:],
                "constant",
                self.shape(root),
                constant.size_bits - constant.index_bits,
                constant.index_bits,
                digest=constant.digest,
            )
        capacities = dict(self.graph.states)
        if root in capacities:
            return self._state(root, capacities[root])
        bits = DTYPE_BITS[self._type(root).dtype]
        if root in self.graph.inputs:
            return self._tensor(root[1:], "input", self.shape(root), bits)
        if root in self.public:
            return self._tensor(self.public[root], "output", self.shape(root), bits)
        return self._tensor(f"{self.graph.name}/{root[1:]}", "activation", self.shape(root), bits)

    def _state(self, name: str, capacity: int) -> TensorRef:
        """Return a cache as the call reads it: past and new rows, with room for `capacity`."""
        shape = self.shape(self.grown[name])
        before = self.shape(name)
        axis = next(i for i, (a, b) in enumerate(zip(before, shape, strict=True)) if a != b)
        bits = DTYPE_BITS[self._type(name).dtype]
        ref = self._tensor(name[1:], "state", shape, bits)
        reserved = ref.stored_bits // shape[axis] * capacity
        return TensorRef(ref.id, "state", shape, ref.stored_bits, reserved_bits=reserved)

    @staticmethod
    def _tensor(name: str, kind: str, shape: tuple[int, ...], bits: int) -> TensorRef:
        elements = 1
        for dim in shape:
            elements *= dim
        return TensorRef(name, kind, shape, elements * bits)  # type: ignore[arg-type]

    def nonzero(self, name: str) -> Nonzero | None:
        """Return the true zero pattern of a constant, None when dense."""
        return self.patterns.get(name)

    def scale_group(self, name: str) -> int:
        """Return the run along k under one scale, 0 for the whole of k."""
        if not is_constant(name):
            return 0
        shape = self.shape(name)
        k = 1
        for dim in shape[1:]:
            k *= dim
        group = int(json.loads(self._constant(name).storage).get("group", k))
        return 0 if group >= k else group

    def temporary(self, op: Op, suffix: str, shape: tuple[int, ...], number: Number) -> TensorRef:
        """Return a tensor that lives inside one op."""
        name = f"{self.graph.name}/{op.outputs[0][1:]}.{suffix}"
        return self._tensor(name, "activation", shape, NUMBER_BITS[number])

    @staticmethod
    def table(name: str, shape: tuple[int, ...], number: Number) -> TensorRef:
        """Return a tensor that memory holds beside the constants."""
        return _Context._tensor(name, "constant", shape, NUMBER_BITS[number])

    def row_bytes(self, name: str) -> int:
        """Return the stored bytes of one row of a constant."""
        bits = self._constant(name).size_bits
        return -(-bits // (8 * self.shape(name)[0]))
