"""Count what a model holds and does, per group of modules: parameters, bytes, MACs and BOPs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from cosim.artefact import RATE_HZ, stored_zipped_bytes
from cosim.compress.network import scan
from cosim.config import load as load_config
from cosim.config import resolve
from cosim.errors import CosimError
from cosim.ir import Program
from cosim.models import FrontEnd, LoadedModel, ModelConfig, Network
from cosim.models import load as load_model
from cosim.schedule import schedule
from hwmodels.workload import NUMBER_BITS, Gemm, Number, Transfer, WorkItem
from kernels.encodings import Encoding, encode_dense, size_bits

DEFAULT_SECONDS = 10.0
"""Audio of a profile where the model has no window and nothing is asked for: the length that
wav2vec2's costs are usually given for (Peng et al. 2023, footnote 2)."""
_GI = 1 << 30
_INDEX = re.compile(r"\.\d+(?=\.|$)")
_TIMES = re.compile(r"#\d+")


@dataclass
class Group:
    """Sums over the modules of one group.

    `parameters` are trained values, `buffers` other stored values (running statistics). `macs`
    counts one encoder call and the decoding steps. `activation_bytes` is what the group's ops
    write, once each, attention scores included, views and the input left out.

    Conventions: a MAC is two FLOPs. `bops_bayesian_bits` is MACs times the bits of both operands
    (van Baalen et al. 2020, Bayesian Bits). `bops_003_gi`, in units of 2^30, is that of Jeon et al.
    2024, Table 1: see `bops_003`; None where it has no rule.

    `mark` is `folded` (parameters of the checkpoint that are part of others here), `assumed` (of
    the published size, not executed) or empty. `zipped_bytes` is None where not measured.
    """

    module: str
    mark: str = ""
    parameters: int = 0
    buffers: int = 0
    size_bytes: int = 0
    zipped_bytes: int | None = None
    macs: int = 0
    bops_bayesian_bits: int = 0
    bops_003_gi: float | None = 0.0
    activation_bytes: int = 0

    def add(self, other: "Group") -> None:
        """Add the sums of another group."""
        self.parameters += other.parameters
        self.buffers += other.buffers
        self.size_bytes += other.size_bytes
        if other.zipped_bytes is not None:
            self.zipped_bytes = (self.zipped_bytes or 0) + other.zipped_bytes
        self.macs += other.macs
        self.bops_bayesian_bits += other.bops_bayesian_bits
        self.bops_003_gi = _sum(self.bops_003_gi, other.bops_003_gi)
        self.activation_bytes += other.activation_bytes

    def row(self, total: "Group") -> dict[str, object]:
        """Return the group as a result row with its shares of `total` in percent."""
        return {
            "module": self.module,
            "mark": self.mark,
            "parameters": self.parameters,
            "buffers": self.buffers,
            "size_bytes": self.size_bytes,
            "zipped_bytes": self.zipped_bytes,
            "macs": self.macs,
            "flops": 2 * self.macs,
            "bops_bayesian_bits": self.bops_bayesian_bits,
            "bops_003_gi": self.bops_003_gi,
            "activation_bytes": self.activation_bytes,
            "parameters_percent": _percent(self.parameters, total.parameters),
            "size_percent": _percent(self.size_bytes, total.size_bytes),
            "macs_percent": _percent(self.macs, total.macs),
            "activation_percent": _percent(self.activation_bytes, total.activation_bytes),
        }


@dataclass(frozen=True)
class Profile:
    """Groups of a model and their sum.

    `lengths` are the bound lengths per graph (of `step`: those of the last one), `seconds` the
    audio they stand for (None where frames were given).
    """

    name: str
    groups: tuple[Group, ...]
    total: Group
    lengths: Mapping[str, Mapping[str, int]] = field(hash=False)
    steps: int
    seconds: float | None

    def rows(self) -> list[dict[str, object]]:
        """Return a result row per group."""
        return [group.row(self.total) for group in self.groups]

    def total_row(self) -> dict[str, object]:
        """Return the sum with the lengths it holds for."""
        return {
            **self.total.row(self.total),
            "lengths": {graph: dict(bound) for graph, bound in self.lengths.items()},
            "steps": self.steps,
            "seconds": self.seconds,
        }


def group_of(name: str) -> str:
    """Return the group of a module: its path without layer numbers, one part behind the first.

    Without a layer number, its parent, but at least two parts.

    Example:
        >>> group_of("encoder.layers.3.self_attn.q_proj")
        'encoder.layers.self_attn'
        >>> group_of("wav2vec2.feature_projection.projection"), group_of("decoder.embed_tokens")
        ('wav2vec2.feature_projection', 'decoder.embed_tokens')

    """
    plain = _TIMES.sub("", name)
    number = _INDEX.search(plain)
    if number is None:
        parts = plain.split(".")
        return ".".join(parts[: max(2, len(parts) - 1)])
    before, after = plain[: number.start()], _INDEX.sub("", plain[number.end() :])
    return ".".join(part for part in (before, after[1:].partition(".")[0]) if part)


def bops_003(macs: int, kind: str, numbers: tuple[Number, Number]) -> float | None:
    """Return bit operations as Jeon et al. 2024 count them, in units of 2^30.

    Their Table 1 has 16 per FLOP where both operands are fp32, and 1.5 per MAC of a layer and 1 per
    MAC of attention where both have one bit. None for other operands, for which it has no rule.

    Example:
        >>> bops_003(1 << 30, "linear", ("f32", "f32")), bops_003(1 << 30, "linear", ("i1", "i1"))
        (32.0, 1.5)

    """
    if numbers == ("f32", "f32"):
        return 32 * macs / _GI
    if set(numbers) <= {"i1", "u1"}:
        return (1.0 if kind == "attention" else 1.5) * macs / _GI
    return None


def profile_model(
    model: Path,
    *,
    seconds: float | None = None,
    frames: int | None = None,
    steps: int = 1,
    is_zipped: bool = True,
) -> Profile:
    """Return the profile of a model file in fp32.

    A model with a window hears the whole window, whatever `seconds` up to it; others hear `seconds`
    of audio (default 10). `frames` takes the encoder at that many feature frames instead. `steps`
    decoding steps begin at an empty cache. Zipping large models takes a minute: `is_zipped` False
    leaves it out; sizes once measured are kept. Raises CosimError for more than a window, for
    frames of a model that hears samples, and for audio that is too short.

    Example:
        profile_model(Path("configs/models/wav2vec2_base.yaml"), seconds=10).total.macs

    """
    loaded = load_model(load_config(resolve(str(model)), ModelConfig))
    _length(loaded, seconds, frames)  # refused before the network is captured
    program = lowered(loaded)
    return profile(
        loaded, program, seconds=seconds, frames=frames, steps=steps, is_zipped=is_zipped
    )


def lowered(loaded: LoadedModel) -> Program:
    """Return the program of a model in fp32, for `profile` at any length."""
    from cosim.lower import lower  # noqa: PLC0415, imports torch, which binding lengths needs not

    graphs = cast("Network", loaded.module).graphs()
    return lower(loaded.name, graphs, encodings=_encodings(loaded))


def profile(
    loaded: LoadedModel,
    program: Program,
    *,
    seconds: float | None = None,
    frames: int | None = None,
    steps: int = 1,
    is_zipped: bool = True,
) -> Profile:
    """Return the profile of a loaded model and its program (see `profile_model`)."""
    length = _length(loaded, seconds, frames)
    encodings = _encodings(loaded)
    groups: dict[str, Group] = {}
    trained = {name for name, _ in loaded.module.named_parameters()}
    _count_stored(groups, encodings, trained, is_zipped=is_zipped)
    lengths: dict[str, dict[str, int]] = {}
    for past in range(steps):
        bound = graph_lengths(program, length, past)
        _check_lengths(program, bound, loaded.front)
        for graph, bindings in bound.items():
            if past == 0 or "past" in bindings:
                lengths[graph] = bindings
                _count_work(groups, schedule(program, graph, bindings=bindings).items)
    if is_zipped:
        for group in groups.values():
            group.zipped_bytes = group.zipped_bytes or 0
    marked = _marked(loaded.folded_parameters, "folded")
    marked += _marked(loaded.assumed_parameters, "assumed")
    total = Group("total")
    for group in (*groups.values(), *marked):
        total.add(group)
    found = (*groups.values(), *marked)
    has_steps = any("past" in bindings for bindings in lengths.values())
    heard = None if frames is not None else seconds or loaded.front.window_s or DEFAULT_SECONDS
    return Profile(loaded.name, found, total, lengths, steps if has_steps else 0, heard)


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


def _encodings(loaded: LoadedModel) -> dict[str, Encoding]:
    weights = scan(loaded.module).weights
    return {name: encode_dense(weight.values) for name, weight in weights.items()}


def _length(loaded: LoadedModel, seconds: float | None, frames: int | None) -> int:
    """Return the length of the encoder's input; CosimError for what the model cannot hear."""
    front = loaded.front
    window = front.window_s
    if frames is not None:
        if front.symbol != "frames":
            raise CosimError(
                f"--frames: found {frames}, but {loaded.name} hears samples; use --seconds"
            )
        most = None if window is None else front.length(0)
        if most is not None and frames > most:
            raise CosimError(f"--frames: found {frames}, expected at most {most}")
        return frames
    if seconds is not None and window is not None and seconds > window:
        raise CosimError(f"--seconds: found {seconds:g}, expected at most {window:g}")
    return front.length(round((seconds or window or DEFAULT_SECONDS) * RATE_HZ))


def _check_lengths(
    program: Program, lengths: Mapping[str, Mapping[str, int]], front: FrontEnd
) -> None:
    for graph in program.graphs:
        bound = (graph.types[value].bind(lengths[graph.name]) for _, value in graph.outputs)
        if any(size < 1 for shape in bound for size in shape):
            found = lengths[graph.name].get(front.symbol)
            raise CosimError(
                f"{program.name}: found {found} {front.symbol}, expected enough for one position "
                "of the encoder"
            )


def _group(groups: dict[str, Group], name: str) -> Group:
    key = group_of(name)
    return groups.setdefault(key, Group(key))


def _count_stored(
    groups: dict[str, Group],
    encodings: Mapping[str, Encoding],
    trained: set[str],
    *,
    is_zipped: bool,
) -> None:
    held: dict[str, dict[str, Encoding]] = {}
    for name, encoding in encodings.items():
        group = _group(groups, name.rpartition(".")[0] or name)
        elements = int(np.prod(encoding.shape, dtype=np.int64))
        if name in trained:
            group.parameters += elements
        else:
            group.buffers += elements
        group.size_bytes += -(-size_bits(encoding) // 8)
        held.setdefault(group.module, {})[name] = encoding
    if is_zipped:
        for module, part in held.items():
            groups[module].zipped_bytes = stored_zipped_bytes(part)


def _count_work(groups: dict[str, Group], items: Iterable[WorkItem]) -> None:
    written: set[str] = set()
    for item in items:
        moved = 0
        for ref in item.writes:
            if isinstance(item, Transfer) and ref.kind == "state":
                moved += item.write_bytes
            elif ref.id not in written:
                moved += ref.size_bytes
            written.add(ref.id)
        if isinstance(item, Gemm):
            group = _group(groups, item.name.partition("/")[2])
            numbers = (item.a_number, item.w_number)
            bits = NUMBER_BITS[numbers[0]] * NUMBER_BITS[numbers[1]]
            group.macs += item.macs
            group.bops_bayesian_bits += item.macs * bits
            group.bops_003_gi = _sum(group.bops_003_gi, bops_003(item.macs, item.kind, numbers))
        if moved:  # an epilogue works on what its product has written
            _group(groups, item.name.partition("/")[2]).activation_bytes += moved


def _marked(parameters: Mapping[str, int], mark: str) -> list[Group]:
    return [
        Group(name, mark, parameters=count, size_bytes=4 * count)
        for name, count in parameters.items()
    ]


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0
