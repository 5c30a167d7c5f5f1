"""Count what a model holds and does, per group of modules: parameters, bytes, MACs and BOPs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cosim.artefact import Artefact, build_from
from cosim.compress.compressed import zipped_bytes
from cosim.errors import CosimError
from cosim.ir import Program
from cosim.schedule import schedule
from hwmodels.workload import NUMBER_BITS, Gemm
from kernels.encodings import size_bits

_INDEX = re.compile(r"\.\d+(?=\.|$)")


@dataclass
class Group:
    """Sums over the modules of one group.

    `macs` counts one window of the encoder and one decoding step. `bops_bayesian_bits` is MACs
    times the bits of both operands (van Baalen et al. 2020, Bayesian Bits).
    """

    module: str
    parameters: int = 0
    size_bits: int = 0
    zipped_bytes: int = 0
    macs: int = 0
    bops_bayesian_bits: int = 0

    def row(self) -> dict[str, object]:
        """Return the group as a result row."""
        return {
            "module": self.module,
            "parameters": self.parameters,
            "size_bytes": -(-self.size_bits // 8),
            "zipped_bytes": self.zipped_bytes,
            "macs": self.macs,
            "flops": 2 * self.macs,
            "bops_bayesian_bits": self.bops_bayesian_bits,
        }


@dataclass(frozen=True)
class Profile:
    """Rows per module group and their sum; `lengths` are the bound lengths per graph."""

    rows: tuple[Group, ...]
    total: Group
    lengths: Mapping[str, Mapping[str, int]] = field(hash=False)

    def total_row(self) -> dict[str, object]:
        """Return the sum with the lengths it holds for."""
        return {**self.total.row(), "lengths": self.lengths}


def group_of(name: str) -> str:
    """Return the group of a module or parameter: its path without layer numbers.

    Example:
        >>> group_of("encoder.layers.3.self_attn.q_proj")
        'encoder.layers.self_attn'

    """
    parts = _INDEX.sub("", name).split(".")
    return ".".join(parts[:3] if parts[1:2] == ["layers"] else parts[:2])


def profile_model(
    model: Path, *, seconds: float | None = None, frames: int | None = None
) -> Profile:
    """Return the profile of a model file in fp32.

    `seconds` of audio are padded to the model's window where it has one, as they are in use;
    `frames` takes the encoder at that length instead. Raises CosimError for more than a window.
    """
    artefact = build_from(model, None)
    facts = artefact.model
    if seconds is not None and seconds > facts.window_s:
        raise CosimError(f"--seconds: found {seconds:g}, expected at most {facts.window_s:g}")
    if frames is not None and frames > facts.frames:
        raise CosimError(f"--frames: found {frames}, expected at most {facts.frames}")
    return profile(artefact, frames=frames)


def profile(artefact: Artefact, *, frames: int | None = None, past: int = 0) -> Profile:
    """Return the profile of one encoder call over `frames` feature frames and one step.

    The default is the model's own window.
    """
    groups: dict[str, Group] = {}

    def group(name: str) -> Group:
        return groups.setdefault(group_of(name), Group(group_of(name)))

    for name, encoding in artefact.encodings.items():
        entry = group(name[1:].rsplit(".", 1)[0])
        entry.parameters += int(np.prod(encoding.shape, dtype=np.int64))
        entry.size_bits += size_bits(encoding)
        entry.zipped_bytes += zipped_bytes({name: encoding})
    lengths = graph_lengths(artefact.program, frames or artefact.model.frames, past)
    for graph, bindings in lengths.items():
        for item in schedule(artefact.program, graph, bindings=bindings).items:
            if isinstance(item, Gemm):
                entry = group(item.name.partition("/")[2])
                entry.macs += item.macs
                entry.bops_bayesian_bits += (
                    item.macs * NUMBER_BITS[item.a_number] * NUMBER_BITS[item.w_number]
                )
    total = Group("total")
    for entry in groups.values():
        total.parameters += entry.parameters
        total.size_bits += 8 * -(-entry.size_bits // 8)
        total.zipped_bytes += entry.zipped_bytes
        total.macs += entry.macs
        total.bops_bayesian_bits += entry.bops_bayesian_bits
    return Profile(tuple(groups.values()), total, lengths)


def graph_lengths(program: Program, length: int, past: int) -> dict[str, dict[str, int]]:
    """Return bindings of every graph for an encoder input of `length` frames or samples.

    A length that another graph's result settles (the encoder's positions) is derived from it.
    """
    known = {"frames": length, "samples": length, "past": past}
    lengths: dict[str, dict[str, int]] = {}
    for graph in program.graphs:
        lengths[graph.name] = {name: known[name] for name in graph.symbols}
        for public, value in graph.outputs:
            shape = graph.types[value].bind(lengths[graph.name])
            for other in program.graphs:
                wanted = other.types.get(f"%{public}")
                if f"%{public}" in other.inputs and wanted is not None:
                    known |= {
                        str(dim): size
                        for dim, size in zip(wanted.shape, shape, strict=True)
                        if str(dim) in other.symbols
                    }
    return lengths
