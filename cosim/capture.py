"""Capture a torch module as a graph: `torch.export` without decomposition, one importer per op.

Lengths stay symbolic. What has no importer is collected and reported in one error that names
every place.
"""

import operator
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

import torch
from torch._dynamo.exc import UserError

from cosim import expr
from cosim.errors import CosimError
from cosim.expr import Dim
from cosim.ir import Dtype, Graph, Op, TensorType, attributes
from cosim.models import GraphSpec
from cosim.ops import ATEN, CUTS, AtenCall, UnsupportedCallError

_DTYPES: Mapping[torch.dtype, Dtype] = {
    torch.float32: "f32",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
}
# Calls that change nothing in inference: their result is their first argument.
_IDENTITIES = frozenset(
    {"dropout.default", "contiguous.default", "clone.default", "alias.default", "detach.default"}
)
# Calls that belong elsewhere, with what to do.
_REFUSED: Mapping[str, str] = {
    "_weight_norm.default": "fold the norm into the weight when the checkpoint is loaded",
    "_weight_norm_interface.default": "fold the norm into the weight when the checkpoint is loaded",
}
# Calls whose result nobody needs: guards on sizes that the symbols already express.
_GUARDS = frozenset(
    {
        "_assert_scalar.default",
        "_assert_tensor_metadata.default",
        "sym_constrain_range_for_size.default",
        "sym_constrain_range.default",
    }
)


@dataclass
class _Importer:
    """The state of one import: names and types so far, and what could not be imported."""

    source: GraphSpec
    parameters: Mapping[str, str]
    symbols: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    scopes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Note the first path of every module: one that is used under several is one layer."""
        first: dict[int, str] = {}
        paths = self.source.module.named_modules(remove_duplicate=False)
        self.scopes = {path: first.setdefault(id(module), path) for path, module in paths}

    def scope(self, node: torch.fx.Node) -> str:
        """Return the first path of the module whose forward made the call."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = [path for path, _ in stack.values()]
        return self.scopes.get(str(paths[-1]), str(paths[-1])) if paths else ""

    def dim(self, value: object) -> Dim:
        """Return a size of the export as a number or expression in our symbols."""
        if isinstance(value, int):
            return value
        text = str(value.node.expr if isinstance(value, torch.SymInt) else value)
        return expr.simplify(expr.parse(text).rename(self.symbols))

    def type_of(self, value: torch.Tensor) -> TensorType:
        if value.dtype not in _DTYPES:
            known = ", ".join(map(str, _DTYPES))
            raise UnsupportedCallError(f"a tensor of {value.dtype}: expected one of {known}")
        return TensorType(tuple(self.dim(size) for size in value.shape), _DTYPES[value.dtype])

    def argument(self, value: object) -> object:
        """Return an ATen argument with tensors as names and sizes as `Dim`."""
        if isinstance(value, torch.fx.Node):
            meta = value.meta["val"]
            if isinstance(meta, torch.SymInt | int) and not isinstance(meta, bool):
                return self.dim(meta)
            return self.names.get(value.name, f"%{value.name}")
        if isinstance(value, list | tuple):
            return [self.argument(item) for item in value]
        return value

    def bind_input(self, node: torch.fx.Node, name: str) -> list[str]:
        """Name an input and learn which symbol of the export each length symbol is.

        Return where the export fixed a length, or made one of two.
        """
        wrong: list[str] = []
        shape = self.source.shapes[self.source.inputs.index(name)]
        for axis, (size, wanted) in enumerate(zip(node.meta["val"].shape, shape, strict=True)):
            where = f"graph {self.source.name}: {name}: axis {axis}"
            found = str(size.node.expr if isinstance(size, torch.SymInt) else size)
            if isinstance(wanted, int):
                if found != str(wanted):
                    wrong.append(f"{where}: found {found}, expected the fixed length {wanted}")
            elif not found.isidentifier():
                kind = "fixed length" if found.isdecimal() else "length"
                wrong.append(f"{where}: found the {kind} {found}, expected {wanted}")
            elif (known := self.symbols.setdefault(found, wanted)) != wanted:
                wrong.append(f"{where}: found the length {known}, expected {wanted} of its own")
        self.names[node.name] = f"%{name}"
        return wrong

    def outside(self, node: torch.fx.Node, parameter: str) -> None:
        """Note the type of an input, or the name and type of a parameter."""
        if parameter:
            self.names[node.name] = f"@{self.parameters.get(parameter, parameter)}"
        try:
            self.types[self.names[node.name]] = self.type_of(node.meta["val"])
        except UnsupportedCallError as error:
            where = parameter or node.name
            self.unsupported.append(f"graph {self.source.name}: {where}: {error}")

    def call(self, node: torch.fx.Node) -> None:
        target = str(node.target).removeprefix("aten.")
        meta = node.meta.get("val")
        if node.target is operator.getitem:
            self.take_part(node)
            return
        if target in _GUARDS or not _holds_tensor(meta):
            return
        if target in _IDENTITIES:
            self.names[node.name] = str(self.argument(node.args[0]))
            return
        try:
            if target in CUTS:
                self.cut(node, target)
            elif target in ATEN and isinstance(meta, torch.Tensor):
                self.keep(node, target)
            else:
                _refuse(node, target)
        except UnsupportedCallError as error:
            where = self.scope(node) or "top"
            self.unsupported.append(f"graph {self.source.name}: {where}: {error}")
            self.note(node)

    def note(self, node: torch.fx.Node) -> None:
        """Note the type of a result that nothing makes, so that what reads it is imported too."""
        meta = node.meta.get("val")
        if isinstance(meta, torch.Tensor) and meta.dtype in _DTYPES:
            self.types[f"%{node.name}"] = self.type_of(meta)

    def keep(self, node: torch.fx.Node, target: str) -> None:
        """Add the one op that a call becomes."""
        row, read = ATEN[target]
        result = self.type_of(node.meta["val"])
        inputs, values, kind = read(self.aten_call(node, target, result))
        self.add(
            Op(kind or row.kind, inputs, (f"%{node.name}",), attributes(**values)), result, node
        )

    def cut(self, node: torch.fx.Node, target: str) -> None:
        """Add a slice for each part that a call cuts off, without the axis where it goes."""
        meta = node.meta["val"]
        results = [self.type_of(value) for value in (meta if _is_list(meta) else [meta])]
        source, axis, start, keeps_axis = CUTS[target](self.aten_call(node, target, results[0]))
        whole = self.types[source]
        made = []
        for number, result in enumerate(results):
            name = f"%{node.name}.{number}" if _is_list(meta) else f"%{node.name}"
            stop = expr.simplify(expr.as_expr(start) + (result.shape[axis] if keeps_axis else 1))
            run = attributes(axis=axis, start=start, stop=stop)
            if keeps_axis:
                self.add(Op("slice", (source,), (name,), run), result, node)
            else:
                rows = (*whole.shape[:axis], 1, *whole.shape[axis + 1 :])
                row = f"{name}.row"
                self.add(Op("slice", (source,), (row,), run), TensorType(rows, whole.dtype), node)
                shape = attributes(shape=result.shape)
                self.add(Op("reshape", (row,), (name,), shape), result, node)
            made.append(name)
            start = stop
        self.parts[node.name] = made

    def take_part(self, node: torch.fx.Node) -> None:
        """Name the part of a cut that is taken; parts of calls without importer have no name."""
        source, index = node.args
        if isinstance(source, torch.fx.Node) and source.name in self.parts:
            self.names[node.name] = self.parts[source.name][int(str(index))]
        else:
            self.note(node)

    def add(self, op: Op, result: TensorType, node: torch.fx.Node) -> None:
        (name,) = op.outputs
        self.types[name] = result
        self.ops.append(replace(op, scope=self.scope(node)))

    def aten_call(self, node: torch.fx.Node, target: str, result: TensorType) -> AtenCall:
        """Return the call with its arguments in the order of the schema."""
        arguments = [self.argument(value) for value in node.args]
        schema = getattr(node.target, "_schema", None)
        for position, parameter in enumerate(schema.arguments if schema else ()):
            if parameter.name in node.kwargs:
                arguments += [None] * (position + 1 - len(arguments))
                arguments[position] = self.argument(node.kwargs[parameter.name])
        return AtenCall(target, tuple(arguments), self.types, result)


def _refuse(node: torch.fx.Node, target: str) -> NoReturn:
    why = f": {_REFUSED[target]}" if target in _REFUSED else ""
    raise UnsupportedCallError(f"{node.target}{why}")


def _is_list(meta: object) -> bool:
    return isinstance(meta, list | tuple)


def _holds_tensor(meta: object) -> bool:
    """Return whether a call makes a tensor; a call that makes several is one place."""
    if isinstance(meta, list | tuple):
        return any(map(_holds_tensor, meta))
    return isinstance(meta, torch.Tensor)


def parameter_names(module: torch.nn.Module, known: Container[str]) -> dict[str, str]:
    """Return, for every parameter and buffer path in `module`, its one name in `known`.

    A tied weight has several paths and one name. Buffers of integers count something that inference
    does not read; they are left out. CosimError lists paths that have none.
    """
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    tensors = [(path, tensor) for path, tensor in tensors if tensor.is_floating_point()]
    names: dict[int, str] = {id(tensor): path for path, tensor in tensors if path in known}
    tensors = [(path, tensor) for path, tensor in tensors if tensor.is_floating_point()]
    missing = [path for path, tensor in tensors if id(tensor) not in names]
    if missing:
        raise CosimError(f"{path}: parameter has no encoding" for path in missing)
    return {path: names[id(tensor)] for path, tensor in tensors}


def capture(source: GraphSpec, parameters: Mapping[str, str] | None = None) -> Graph:
    """Return the graph of a module; constants are named `@` + parameter name.

    `parameters` renames parameters (a tied weight has one name). Raises CosimError listing every
    length that the export fixed, or every call that has no importer with the module it stands in.
    """
    try:
        exported = torch.export.export(
            source.module,
            source.examples,
            dynamic_shapes=dict(source.dynamic_shapes),
            strict=False,
        )
    except (UserError, NotImplementedError) as error:  # a length that torch cannot leave open
        raise CosimError(f"graph {source.name}: {error}") from error
    importer = _Importer(source, parameters or {})
    signature = exported.graph_signature
    stored = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    users = [node for node in exported.graph.nodes if node.op == "placeholder"]
    inputs = [node for node in users if node.name not in stored]
    wrong: list[str] = []
    for node, name in zip(inputs, source.inputs, strict=True):
        wrong += importer.bind_input(node, name)
    if wrong:
        raise CosimError(wrong)
    for node in users:
        importer.outside(node, stored.get(node.name, ""))
    returned: list[str] = []
    for node in exported.graph.nodes:
        if node.op == "call_function":
            importer.call(node)
        elif node.op == "output":
            returned = [str(importer.argument(value)) for value in node.args[0]]
    if importer.unsupported:
        known = ", ".join(sorted(ATEN))
        raise CosimError([*importer.unsupported, f"ops that can be captured: {known}"])
    types = {name: kind for name, kind in importer.types.items() if name.startswith("%")}
    return Graph(
        source.name,
        tuple(dict.fromkeys(importer.symbols.values())),
        tuple(f"%{name}" for name in source.inputs),
        (),
        tuple(zip(source.outputs, returned, strict=True)),
        tuple(importer.ops),
        types,
    )
