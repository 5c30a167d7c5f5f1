"""Lower a compressed model: capture its graphs, attach its encoded weights, run the passes."""

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

import cosim.guard  # noqa: F401 (the check is the import)
from cosim.capture import capture, parameter_names
from cosim.ir import Constant, Graph, Program, TensorType
from cosim.models import GraphSpec
from cosim.passes.binarize import binarize_operands
from cosim.passes.caches import append_caches
from cosim.passes.cast import round_operands
from cosim.passes.clean import merge_equal, remove_identities
from cosim.passes.quantize import (
    Policy,
    carry_out_policies,
    quantize_at_source,
    quantize_caches,
    write_policies,
)
from cosim.verify import verify
from kernels.encodings import Encoding, attributes, digest, index_bits, kind, size_bits


def capture_all(
    graphs: Iterable[GraphSpec], *, encodings: Mapping[str, Encoding]
) -> tuple[Graph, ...]:
    """Return the graphs of a network as captured, with caches as states; no values are read.

    Networks that differ in values and encodings alone have equal graphs, so that one capture
    serves all recipes that keep the structure. `encodings` give the names of parameters. Raises
    CosimError for calls that cannot be captured.
    """
    captured = []
    for spec in graphs:
        graph = capture(spec, parameter_names(spec.module, encodings))
        captured.append(append_caches(graph, spec.states))
    return tuple(captured)


def lower(
    name: str,
    graphs: Iterable[GraphSpec],
    *,
    encodings: Mapping[str, Encoding],
    policies: Iterable[Policy] = (),
) -> Program:
    """Return the verified program of a model: `assemble` what `capture_all` captures."""
    captured = capture_all(graphs, encodings=encodings)
    return assemble(name, captured, encodings=encodings, policies=policies)


def assemble(
    name: str,
    captured: tuple[Graph, ...],
    *,
    encodings: Mapping[str, Encoding],
    policies: Iterable[Policy] = (),
) -> Program:
    """Return the verified program of captured graphs with their encoded weights.

    `encodings` are keyed by parameter name; the constant of parameter `p` is `@p`. Raises
    CosimError for policies that match nothing.
    """
    used = _constants_of(captured)
    constants = {f"@{key}": _constant(value) for key, value in encodings.items()}
    program = Program(name, captured, constants)
    program = remove_identities(program)
    program = replace(program, graphs=tuple(merge_equal(graph) for graph in program.graphs))
    executed = [policy for policy in policies if not _is_idle(policy, encodings, used)]
    program = binarize_operands(write_policies(program, executed))
    program = round_operands(program)
    program = carry_out_policies(program)
    program = quantize_at_source(program)
    program = replace(program, graphs=tuple(quantize_caches(graph) for graph in program.graphs))
    used = _constants_of(program.graphs)
    kept = {key: value for key, value in program.constants.items() if key in used}
    return verify(replace(program, constants=kept))


def _constants_of(graphs: Iterable[Graph]) -> set[str]:
    """Return the names of the constants that graphs read."""
    return {name for graph in graphs for op in graph.ops for name in op.inputs if name[0] == "@"}


def _is_idle(policy: Policy, encodings: Mapping[str, Encoding], used: Container[str]) -> bool:
    """Return whether a policy is for a layer that no graph calls, such as a pretraining head."""
    weight = f"{policy.target}.weight"
    return weight in encodings and f"@{weight}" not in used


def _constant(encoding: Encoding) -> Constant:
    storage = attributes(encoding)
    return Constant(
        TensorType(tuple(encoding.shape), "f32"),
        kind(encoding),
        json.dumps(storage, sort_keys=True),
        size_bits(encoding),
        index_bits(encoding),
        digest(encoding),
    )
