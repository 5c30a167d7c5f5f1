"""An artefact on disk.

It is a folder: `program.txt`, `weights.safetensors`, `ledger.jsonl`, `decisions.jsonl`,
`artefact.json` and, where the model has one, the file that turns tokens into text.
`weights.safetensors` is as long as the ledger's tensors together and the header that
`artefact.json` states.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

from numpy.typing import NDArray

from cosim import tensor_file
from cosim.artefact import Artefact, Batches, CompressionFacts, ModelFacts, build_from, quiet
from cosim.artefact_check import rebuilt, strange, unlike
from cosim.compress.compressed import Report
from cosim.errors import CosimError
from cosim.ir import from_text, to_text
from cosim.models import Decoding, FrontEnd, Tokens
from cosim.results import SCHEMA, read_rows, versions, write_json, write_rows, write_text
from cosim.verify import problems
from kernels.encodings import attributes, digest, kind, tensors

WEIGHTS = "weights.safetensors"
DECISIONS = "decisions.jsonl"
T = TypeVar("T")
_TOKENS = {  # kind -> file in the folder
    "tokenizer_json": "tokenizer.json",
    "pieces": "tokens.txt",
    "characters": "vocab.json",
}


def compress_to(
    model: Path,
    recipe: Path,
    out: Path,
    *,
    batches: Batches = lambda _loaded: (),
    report: Report = quiet,
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


def save(artefact: Artefact, folder: Path, *, report: Report = quiet) -> None:
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
