"""The artefact: one program with its encoded weights, and what is needed to use it.

This is what the executor and the hardware model both take. On disk it is a folder: `program.txt`,
`weights.safetensors`, `ledger.jsonl`, `decisions.jsonl`, `artefact.json` and, where the model has
one, the file that turns tokens into text. `weights.safetensors` is as long as the ledger's tensors
together and the header that `artefact.json` states.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from numpy.typing import NDArray

from cosim import tensor_file
from cosim.artefact_check import rebuilt, strange, unlike
from cosim.cache import cache_folder
from cosim.compress.compressed import CompressedModel, Report, compress, zipped_tensors
from cosim.compress.network import scan
from cosim.compress.recipe import Recipe, load_recipe
from cosim.config import load as load_config
from cosim.config import resolve
from cosim.errors import CosimError, collect
from cosim.ir import Graph, Program, from_text, to_text
from cosim.models import Decoding, FrontEnd, LoadedModel, ModelConfig, Network, Tokens
from cosim.models import load as load_model
from cosim.results import (
    SCHEMA,
    config_hash,
    read_rows,
    versions,
    write_json,
    write_rows,
    write_text,
)
from cosim.verify import problems
from kernels.encodings import (
    Encoding,
    attributes,
    digest,
    encode_dense,
    kind,
    size_bits,
    tensors,
)

RATE_HZ = 16000
WEIGHTS = "weights.safetensors"
DECISIONS = "decisions.jsonl"
T = TypeVar("T")
_TOKENS = {  # kind -> file in the folder
    "tokenizer_json": "tokenizer.json",
    "pieces": "tokens.txt",
    "characters": "vocab.json",
}


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


def _quiet(_text: str) -> None:
    """Tell nobody."""


def stored_zipped_bytes(encodings: Mapping[str, Encoding]) -> int:
    """Return the zipped size of encodings together (see `zipped_by_tensor`)."""
    return sum(zipped_by_tensor(encodings).values())


def zipped_by_tensor(
    encodings: Mapping[str, Encoding], *, report: Report = _quiet
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
    report: Report = _quiet,
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


Batches = Callable[[LoadedModel], Sequence[Any]]


def build_from(
    model: Path,
    recipe: Path | None,
    *,
    is_zipped: bool = True,
    batches: Batches = lambda _loaded: (),
    report: Report = _quiet,
) -> Artefact:
    """Return the artefact of a model file under a recipe file (None: fp32).

    Without `is_zipped`, zipped sizes are not measured; that of the model in fp32, which takes
    longer than all the rest, never is. `batches` gives the inputs of a model with which methods
    calibrate. `report` is told of each stage.
    """
    problems: list[str] = []
    config = collect(problems, lambda: load_config(resolve(str(model)), ModelConfig))
    chosen: Recipe | None = Recipe("fp32")
    if recipe is not None:
        chosen = collect(problems, lambda: load_recipe(resolve(str(recipe))))
    if config is None or chosen is None:
        raise CosimError(problems)
    report(f"loading {config.name}")
    loaded = load_model(config)
    compressed = compress(
        loaded.module, chosen, source=str(recipe or ""), batches=batches(loaded), report=report
    )
    facts = facts_of(loaded, is_zipped=False)
    report("capturing")
    graphs = () if compressed.is_restructured else captured(loaded)
    return build(loaded, compressed, facts, graphs, is_zipped=is_zipped, report=report)


def compress_to(
    model: Path,
    recipe: Path,
    out: Path,
    *,
    batches: Batches = lambda _loaded: (),
    report: Report = _quiet,
) -> Artefact:
    """Write the artefact of a model file under a recipe file and return it."""
    _refuse_other(out)
    artefact = build_from(model, recipe, batches=batches, report=report)
    save(artefact, out, report=report)
    return artefact


def header_bytes(artefact: Artefact) -> int:
    """Return the bytes of `weights.safetensors` before the first tensor."""
    return len(tensor_file.header_of(_arrays(artefact)))


def _arrays(artefact: Artefact) -> dict[str, NDArray[Any]]:
    """Return every stored array as `CONSTANT|PART`."""
    return {
        f"{name}|{part}": values
        for name, encoding in artefact.encodings.items()
        for part, values in tensors(encoding).items()
    }


def _refuse_other(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / "artefact.json").exists():
        raise CosimError(f"{folder}: exists and is not an artefact; choose another --out")


def save(artefact: Artefact, folder: Path, *, report: Report = _quiet) -> None:
    """Write an artefact folder; CosimError when the folder holds something else."""
    _refuse_other(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artefact.json").unlink(missing_ok=True)
    header = tensor_file.write(folder / WEIGHTS, _arrays(artefact), report=report)
    write_text(folder / "program.txt", to_text(artefact.program))
    write_rows(folder / "ledger.jsonl", artefact.ledger)
    write_rows(folder / DECISIONS, artefact.decisions)
    tokens = artefact.tokens
    if tokens is not None:
        shutil.copyfile(tokens.file, folder / _TOKENS[tokens.kind])
    write_json(
        folder / "artefact.json",
        {
            "schema": SCHEMA,
            "versions": versions(),
            "program_hash": artefact.program.hash,
            "model": asdict(artefact.model),
            "decoding": type(artefact.model.decoding).__name__,
            "tokens": tokens.kind if tokens is not None else None,
            "compression": asdict(artefact.compression),
            "header_bytes": header,
            "encodings": {
                name: {
                    "kind": kind(encoding),
                    "attributes": attributes(encoding),
                    "digest": digest(encoding),
                }
                for name, encoding in artefact.encodings.items()
            },
        },
    )


def load(folder: Path) -> Artefact:
    """Return the artefact in a folder, checked: every digest, the verifier, the program hash.

    Raises CosimError naming each file and tensor that is missing, damaged or does not fit.
    """
    names = ("artefact.json", "program.txt", WEIGHTS, "ledger.jsonl")
    missing = [f"{folder / name}: no such file" for name in names if not (folder / name).is_file()]
    if missing:
        raise CosimError([*missing, f"{folder}: not an artefact made by `cosim compress`"])
    weights, ledger_file = folder / WEIGHTS, folder / "ledger.jsonl"
    stored = tensor_file.read(weights)
    program = _read(folder / "program.txt", from_text)
    ledger = _read(ledger_file, lambda text: tuple(map(json.loads, text.splitlines())))
    facts, model, compression = _read(folder / "artefact.json", _facts)
    facts_file = folder / "artefact.json"
    tokens = _sound(facts_file, lambda: _tokens(folder, facts["tokens"]))
    encodings, wrong = _sound(facts_file, lambda: rebuilt(facts["encodings"], stored))
    wrong = [f"{weights}: {text}" for text in wrong]
    told = _sound(ledger_file, lambda: list(unlike(ledger, encodings)))
    wrong += [f"{ledger_file}: {text}" for text in told]
    file = folder / "program.txt"
    wrong += [f"{file}: {text}" for text in (*problems(program), *strange(program, encodings))]
    if program.hash != facts["program_hash"]:
        wrong.append(f"{file}: hash differs from the one in artefact.json")
    if wrong:
        raise CosimError(wrong)
    decisions = tuple(_sound(folder / DECISIONS, lambda: list(read_rows(folder / DECISIONS))))
    return Artefact(program, encodings, model, compression, ledger, tokens, decisions)


def _read(path: Path, read: Callable[[str], T]) -> T:
    """Return what `read` makes of the text of a file."""
    return _sound(path, lambda: read(path.read_text(encoding="utf-8")))


def _sound(path: Path, work: Callable[[], T]) -> T:
    """Return what `work` returns; CosimError with the file where its contents do not allow it."""
    try:
        return work()
    except CosimError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise CosimError(f"{path}: the artefact is damaged: {kind}: {error}") from None


def _facts(text: str) -> tuple[dict[str, Any], ModelFacts, CompressionFacts]:
    """Return the contents of artefact.json, and what they say of the model and the recipe."""
    facts = json.loads(text)
    stated = dict(facts["compression"])
    compression = CompressionFacts(notes=tuple(stated.pop("notes")), **stated)
    missing = [key for key in ("program_hash", "tokens", "encodings") if key not in facts]
    if missing:
        raise KeyError(", ".join(missing))
    return facts, _model_facts(facts), compression


def _model_facts(facts: Mapping[str, Any]) -> ModelFacts:
    """Return what `save` wrote of the model; tuples come back from JSON as lists."""
    stated = dict(facts["model"])
    kinds = {kind.__name__: kind for kind in get_args(Decoding)}
    decoding = kinds[facts["decoding"]](**_tuples(stated.pop("decoding")))
    front = FrontEnd(**_tuples(stated.pop("front")))
    return ModelFacts(decoding=decoding, front=front, **stated)


def _tuples(values: Mapping[str, object]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}


def _tokens(folder: Path, kind: str | None) -> Tokens | None:
    if kind is None:
        return None
    file = folder / _TOKENS[kind]
    if not file.is_file():
        raise CosimError(f"{file}: no such file, expected the tokens of the model")
    return Tokens(kind, file)  # type: ignore[arg-type]  # a key of _TOKENS
