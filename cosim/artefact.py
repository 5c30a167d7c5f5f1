"""The artefact: one program with its encoded weights, and what is needed to use it.

This is what the executor and the hardware model both take; `cosim.artefact_folder` keeps it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from cosim.cache import cache_folder
from cosim.compress.compressed import CompressedModel, Report, compress, zipped_tensors
from cosim.compress.network import scan
from cosim.compress.recipe import Recipe, load_recipe
from cosim.config import load as load_config
from cosim.config import resolve
from cosim.errors import CosimError, collect
from cosim.ir import Graph, Program
from cosim.models import Decoding, FrontEnd, LoadedModel, ModelConfig, Network, Tokens
from cosim.models import load as load_model
from cosim.results import config_hash, write_json
from kernels.encodings import Encoding, digest, encode_dense, size_bits

RATE_HZ = 16000


@dataclass(frozen=True)
class ModelFacts:
    """The model before compression: sizes are those of the fp32 checkpoint, in bytes.

    `zipped_bytes` is None where it was not measured: zipping takes longer than all the rest.
    `front` says what the encoder hears, `decoding` how tokens are chosen. `is_random` marks drawn
    weights, whose WER is not measured. `folded_parameters` and `assumed_parameters` are those of
    `LoadedModel`.
    """

    name: str
    family: str
    source: str
    parameters: int
    size_bytes: int
    zipped_bytes: int | None
    front: FrontEnd
    decoding: Decoding
    is_random: bool = False
    folded_parameters: Mapping[str, int] = field(default_factory=dict, hash=False)
    assumed_parameters: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def max_seconds(self) -> float | None:
        """The longest audio of one encoder call, None where any length works."""
        return self.front.window_s

    def length(self, seconds: float) -> int:
        """Return the length of the encoder's input for that much audio."""
        return self.front.length(round(seconds * RATE_HZ))


@dataclass(frozen=True)
class CompressionFacts:
    """What the recipe did; `sparsity` and `mean_bits` are over all stored weights."""

    recipe: str
    size_bytes: int
    zipped_bytes: int | None
    sparsity: float
    mean_bits: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Artefact:
    """A compressed model, lowered; `encodings` are keyed by constant name.

    Without `tokens` there is no text, so WER is not measured. `decisions` are what methods report
    of layers.
    """

    program: Program
    encodings: Mapping[str, Encoding] = field(hash=False)
    model: ModelFacts
    compression: CompressionFacts
    ledger: tuple[Mapping[str, object], ...] = field(hash=False)
    tokens: Tokens | None
    decisions: tuple[Mapping[str, object], ...] = field(default=(), hash=False)


def quiet(_text: str) -> None:
    """Tell nobody."""


def stored_zipped_bytes(encodings: Mapping[str, Encoding]) -> int:
    """Return the zipped size of encodings together (see `zipped_by_tensor`)."""
    return sum(zipped_by_tensor(encodings).values())


def zipped_by_tensor(
    encodings: Mapping[str, Encoding], *, report: Report = quiet
) -> dict[str, int]:
    """Return the zipped size of each encoding, kept in the user cache by content: zipping is slow.

    `report` is told how far it is, where it is not in the cache.
    """
    digests = {name: digest(encoding) for name, encoding in encodings.items()}
    path = cache_folder("zipped") / f"{config_hash(digests)}-tensors.json"
    if path.exists():
        kept: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    sizes = zipped_tensors(encodings, report=report)
    write_json(path, sizes)
    return sizes


def facts_of(loaded: LoadedModel, *, is_zipped: bool = True) -> ModelFacts:
    """Return the sizes of a model as it was loaded, stored as fp32."""
    plain = _plain(loaded)
    return ModelFacts(
        loaded.name,
        loaded.family,
        loaded.source,
        loaded.parameters,
        sum(-(-size_bits(encoding) // 8) for encoding in plain.values()),
        stored_zipped_bytes(plain) if is_zipped else None,
        loaded.front,
        loaded.decoding,
        loaded.is_random,
        dict(loaded.folded_parameters),
        dict(loaded.assumed_parameters),
    )


def captured(loaded: LoadedModel) -> tuple[Graph, ...]:
    """Return the graphs of a model as captured: those of every recipe that keeps its structure.

    Raises CosimError for what cannot be captured.
    """
    from cosim.lower import capture_all  # noqa: PLC0415, imports torch

    return capture_all(cast("Network", loaded.module).graphs(), encodings=_plain(loaded))


def _plain(loaded: LoadedModel) -> dict[str, Encoding]:
    """Return every tensor in fp32, in the memory of the module."""
    weights = scan(loaded.module).weights
    return {name: encode_dense(weight.values) for name, weight in weights.items()}


def build(
    loaded: LoadedModel,
    compressed: CompressedModel,
    facts: ModelFacts,
    graphs: tuple[Graph, ...],
    *,
    is_zipped: bool = True,
    report: Report = quiet,
) -> Artefact:
    """Return the artefact of a compressed model: its `captured` graphs lowered and verified.

    `graphs` are those of the model before compression, captured anew where the recipe changes them.
    Without `is_zipped`, zipped sizes are not measured.

    Raises CosimError for policies that match nothing.
    """
    from cosim.lower import assemble, capture_all  # noqa: PLC0415, torch, of no need when saved

    if compressed.is_restructured:
        report("capturing anew")
        network = cast("Network", compressed.structure)
        graphs = capture_all(network.graphs(), encodings=compressed.encodings)
    program = assemble(
        loaded.name, graphs, encodings=compressed.encodings, policies=compressed.policies
    )
    ledger = compressed.ledger
    if is_zipped:
        zipped = zipped_by_tensor(compressed.encodings, report=report)
        ledger = tuple(replace(row, zipped_bytes=zipped[row.name]) for row in ledger)
    compression = CompressionFacts(
        compressed.recipe.name,
        compressed.size_bytes,
        sum(row.zipped_bytes or 0 for row in ledger) if is_zipped else None,
        compressed.sparsity,
        compressed.mean_bits,
        compressed.notes,
    )
    return Artefact(
        program,
        {f"@{name}": encoding for name, encoding in compressed.encodings.items()},
        facts,
        compression,
        tuple(row.row() for row in ledger),
        loaded.tokens,
        compressed.report,
    )


def read_both(model: Path, recipe: Path | None) -> tuple[ModelConfig, Recipe]:
    """Return what a model file and a recipe file (None: fp32) say; CosimError with all mistakes."""
    problems: list[str] = []
    config = collect(problems, lambda: load_config(resolve(str(model)), ModelConfig))
    chosen: Recipe | None = Recipe("fp32")
    if recipe is not None:
        chosen = collect(problems, lambda: load_recipe(resolve(str(recipe))))
    if config is None or chosen is None:
        raise CosimError(problems)
    return config, chosen


Batches = Callable[[LoadedModel], Sequence[Any]]


def build_from(
    model: Path,
    recipe: Path | None,
    *,
    is_zipped: bool = True,
    batches: Batches = lambda _loaded: (),
    report: Report = quiet,
) -> Artefact:
    """Return the artefact of a model file under a recipe file (None: fp32).

    Without `is_zipped`, zipped sizes are not measured; that of the model in fp32, which takes
    longer than all the rest, never is. `batches` gives the inputs of a model with which methods
    calibrate. `report` is told of each stage.
    """
    config, chosen = read_both(model, recipe)
    report(f"loading {config.name}")
    loaded = load_model(config)
    compressed = compress(
        loaded.module, chosen, source=str(recipe or ""), batches=batches(loaded), report=report
    )
    facts = facts_of(loaded, is_zipped=False)
    report("capturing")
    graphs = () if compressed.is_restructured else captured(loaded)
    return build(loaded, compressed, facts, graphs, is_zipped=is_zipped, report=report)
