"""The artefact: one program with its encoded weights, and what is needed to use it.

This is what the executor and the hardware model both take. On disk it is a folder: `program.txt`,
`weights.safetensors`, `ledger.jsonl`, `artefact.json` and, where the model has one, the file that
turns tokens into text.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from cosim.cache import cache_folder
from cosim.compress.compressed import CompressedModel, compress, encode, zipped_bytes
from cosim.compress.network import scan
from cosim.compress.recipe import Recipe, load_recipe
from cosim.config import load as load_config
from cosim.config import resolve
from cosim.errors import CosimError, collect
from cosim.ir import Graph, Program, from_text, to_text
from cosim.models import Decoding, FrontEnd, LoadedModel, ModelConfig, Network, Tokens
from cosim.models import load as load_model
from cosim.results import SCHEMA, config_hash, versions, write_json, write_rows, write_text
from cosim.verify import problems
from kernels.encodings import Encoding, attributes, digest, kind, rebuild, size_bits, tensors

RATE_HZ = 16000
_TOKENS = {  # kind -> file in the folder
    "tokenizer_json": "tokenizer.json",
    "pieces": "tokens.txt",
    "characters": "vocab.json",
}


@dataclass(frozen=True)
class ModelFacts:
    """The model before compression: sizes are those of the fp32 checkpoint, in bytes.

    `zipped_bytes` is None where it was not measured, because zipping takes longer than the rest.
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

    Without `tokens` there is no text, so WER is not measured.
    """

    program: Program
    encodings: Mapping[str, Encoding] = field(hash=False)
    model: ModelFacts
    compression: CompressionFacts
    ledger: tuple[Mapping[str, object], ...] = field(hash=False)
    tokens: Tokens | None


def stored_zipped_bytes(encodings: Mapping[str, Encoding]) -> int:
    """Return the zipped size of encodings, kept in the user cache by content: zipping is slow."""
    key = config_hash({name: digest(encoding) for name, encoding in encodings.items()})
    path = cache_folder("zipped") / f"{key}.json"
    if path.exists():
        return int(json.loads(path.read_text(encoding="utf-8"))["zipped_bytes"])
    size = zipped_bytes(encodings)
    write_json(path, {"zipped_bytes": size})
    return size


def facts_of(loaded: LoadedModel, *, is_zipped: bool = True) -> ModelFacts:
    """Return the sizes of a model as it was loaded, stored as fp32."""
    plain = {name: encode(weight) for name, weight in scan(loaded.module).weights.items()}
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

    plain = {name: encode(weight) for name, weight in scan(loaded.module).weights.items()}
    return capture_all(cast("Network", loaded.module).graphs(), encodings=plain)


def build(
    loaded: LoadedModel,
    compressed: CompressedModel,
    facts: ModelFacts,
    graphs: tuple[Graph, ...],
) -> Artefact:
    """Return the artefact of a compressed model: its `captured` graphs lowered and verified.

    `graphs` are those of the model before compression, captured anew where the recipe changes them.

    Raises CosimError for policies that match nothing.
    """
    from cosim.lower import assemble, capture_all  # noqa: PLC0415, torch, of no need when saved

    if compressed.is_restructured:
        network = cast("Network", compressed.module)
        graphs = capture_all(network.graphs(), encodings=compressed.encodings)
    program = assemble(
        loaded.name, graphs, encodings=compressed.encodings, policies=compressed.policies
    )
    compression = CompressionFacts(
        compressed.recipe.name,
        compressed.size_bytes,
        stored_zipped_bytes(compressed.encodings) if facts.zipped_bytes is not None else None,
        compressed.sparsity,
        compressed.mean_bits,
        compressed.notes,
    )
    return Artefact(
        program,
        {f"@{name}": encoding for name, encoding in compressed.encodings.items()},
        facts,
        compression,
        tuple(asdict(row) for row in compressed.ledger),
        loaded.tokens,
    )


def build_from(model: Path, recipe: Path | None, *, is_zipped: bool = True) -> Artefact:
    """Return the artefact of a model file under a recipe file (None: fp32).

    Without `is_zipped`, zipped sizes are not measured.
    """
    problems: list[str] = []
    config = collect(problems, lambda: load_config(resolve(str(model)), ModelConfig))
    chosen: Recipe | None = Recipe("fp32")
    if recipe is not None:
        chosen = collect(problems, lambda: load_recipe(resolve(str(recipe))))
    if config is None or chosen is None:
        raise CosimError(problems)
    loaded = load_model(config)
    compressed = compress(loaded.module, chosen, source=str(recipe or ""))
    return build(loaded, compressed, facts_of(loaded, is_zipped=is_zipped), captured(loaded))


def compress_to(model: Path, recipe: Path, out: Path) -> Artefact:
    """Write the artefact of a model file under a recipe file and return it."""
    artefact = build_from(model, recipe)
    save(artefact, out)
    return artefact


def save(artefact: Artefact, folder: Path) -> None:
    """Write an artefact folder; CosimError when the folder holds something else."""
    from safetensors.numpy import save_file  # noqa: PLC0415, not needed to simulate

    if folder.exists() and any(folder.iterdir()) and not (folder / "artefact.json").exists():
        raise CosimError(f"{folder}: exists and is not an artefact; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artefact.json").unlink(missing_ok=True)
    stored = {
        f"{name}|{part}": values
        for name, encoding in artefact.encodings.items()
        for part, values in tensors(encoding).items()
    }
    save_file(stored, str(folder / "weights.safetensors"))
    write_text(folder / "program.txt", to_text(artefact.program))
    write_rows(folder / "ledger.jsonl", artefact.ledger)
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
            "encodings": {
                name: {"kind": kind(encoding), "attributes": attributes(encoding)}
                for name, encoding in artefact.encodings.items()
            },
        },
    )


def load(folder: Path) -> Artefact:
    """Return the artefact in a folder, checked: every digest, the verifier, the program hash.

    Raises CosimError naming each file and tensor that is missing, damaged or does not fit.
    """
    from safetensors import SafetensorError  # noqa: PLC0415, not needed to simulate
    from safetensors.numpy import load_file  # noqa: PLC0415

    names = ("artefact.json", "program.txt", "weights.safetensors", "ledger.jsonl")
    missing = [f"{folder / name}: no such file" for name in names if not (folder / name).is_file()]
    if missing:
        raise CosimError([*missing, f"{folder}: not an artefact made by `cosim compress`"])
    try:
        facts = json.loads((folder / "artefact.json").read_text(encoding="utf-8"))
        program = from_text((folder / "program.txt").read_text(encoding="utf-8"))
        stored = load_file(str(folder / "weights.safetensors"))
        rows = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
        ledger = tuple(json.loads(row) for row in rows)
        encodings = {
            name: rebuild(
                entry["kind"],
                entry["attributes"],
                {
                    key.partition("|")[2]: values
                    for key, values in stored.items()
                    if key.partition("|")[0] == name
                },
            )
            for name, entry in facts["encodings"].items()
        }
        model = _model_facts(facts)
        tokens = _tokens(folder, facts["tokens"])
        notes = tuple(facts["compression"].pop("notes"))
        compression = CompressionFacts(notes=notes, **facts["compression"])
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CosimError(f"{folder}: the artefact is damaged: {error}") from None
    wrong = [f"{folder}/program.txt: {text}" for text in problems(program)]
    wrong += [
        f"{folder}/weights.safetensors: {name}: weights are not those of the program"
        for name, constant in program.constants.items()
        if name not in encodings or digest(encodings[name]) != constant.digest
    ]
    if program.hash != facts["program_hash"]:
        wrong.append(f"{folder}/program.txt: hash differs from the one in artefact.json")
    if wrong:
        raise CosimError(wrong)
    return Artefact(program, encodings, model, compression, ledger, tokens)


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
