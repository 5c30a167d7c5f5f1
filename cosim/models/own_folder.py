"""Folders as cosim writes them, for families that have no format of their own.

`config.yaml` holds the family, its dimensions and the aliases; `model.safetensors` holds every
tensor once, under the first of its names. A `tokens.txt`, a token a line, may stand beside them.
"""

import hashlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, cast

import torch
import yaml
from torch import Tensor, nn

from cosim.config import parse, read
from cosim.errors import CosimError, suggestion
from cosim.models import LoadedModel, ModelConfig, Tokens, Weights
from cosim.models.checkpoint import assign, read_tensors
from cosim.models.drawn import draw


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


D = TypeVar("D", bound=Dataclass)
M = TypeVar("M", bound=nn.Module)
VERSION = 1
_CONFIG, _TENSORS, _PIECES = "config.yaml", "model.safetensors", "tokens.txt"


@dataclass(frozen=True)
class _Stated:
    """What config.yaml says; `aliases` maps each further name of a tensor to its first."""

    format: Literal["cosim"]
    version: int
    family: str
    dimensions: dict[str, object]
    aliases: dict[str, str]


@dataclass(frozen=True)
class Own(Generic[D, M]):
    """A network with its weights, in inference mode, and where they are from."""

    module: M
    dimensions: D
    source: str
    is_random: bool
    tokens: Tokens | None


def open_own(config: ModelConfig, kind: type[D], build: Callable[[D], M]) -> Own[D, M]:
    """Return the network that `build` makes of the dimensions, with the weights of `config`.

    Weights are a folder that `save_own` wrote, or drawn. `build` runs on the meta device. Raises
    CosimError for weights of another kind, dimensions that are missing or contradict the folder,
    and everything in which the folder does not fit the network.
    """
    weights, at = config.weights, f"model {config.name}"
    stated = None
    folder = Path(weights.folder or "").expanduser()
    if weights.folder is not None:
        stated = _read_config(folder, config.family)
    elif weights.random is None:
        raise CosimError(f"{at}: weights: found {_place(weights)}, expected folder or random")
    dimensions = _dimensions(config, kind, stated, folder)
    with torch.device("meta"):
        module = build(dimensions)
    tokens = None
    if stated is not None:
        tensors = read_tensors(folder)
        _check_aliases(stated.aliases, aliases(module), folder)
        assign_shared(module, tensors, source=str(folder))
        source = f"folder {folder}"
        if (folder / _PIECES).exists():
            tokens = Tokens("pieces", folder / _PIECES)
    elif (drawn := weights.random) is not None:
        draw(module, drawn)
        source = f"random weights, {drawn.distribution}, seed {drawn.seed}"
    module = module.eval().requires_grad_(requires_grad=False)
    return Own(module, dimensions, source, weights.folder is None, tokens)


def save_own(loaded: LoadedModel, folder: Path) -> None:
    """Write the folder that `open_own` reads back to equal weights and aliases.

    The module's `dimensions` are a dataclass. Raises CosimError for a folder that holds something
    else, and for a module without values.
    """
    from safetensors.torch import save_file  # noqa: PLC0415, beside torch

    if folder.exists() and any(folder.iterdir()) and not (folder / _CONFIG).exists():
        raise CosimError(f"{folder}: exists and is not a model folder; choose another place")
    tensors = _tensors(loaded.module)
    if any(tensor.is_meta for tensor in tensors.values()):
        raise CosimError(f"model {loaded.name}: weights.random: found none, expected weights")
    folder.mkdir(parents=True, exist_ok=True)
    stated = _Stated(
        format="cosim",
        version=VERSION,
        family=loaded.family,
        dimensions=asdict(cast("_Sized", loaded.module).dimensions),
        aliases=aliases(loaded.module),
    )
    kept = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(kept, folder / _TENSORS, metadata={"format": "pt"})
    text = yaml.safe_dump(asdict(stated), sort_keys=False, allow_unicode=True)
    (folder / _CONFIG).write_text(text, encoding="utf-8")
    if loaded.tokens is not None and loaded.tokens.kind == "pieces":
        pieces = loaded.tokens.file.read_text(encoding="utf-8")
        (folder / _PIECES).write_text(pieces, encoding="utf-8")


def aliases(module: nn.Module) -> dict[str, str]:
    """Return each further name of a shared parameter or buffer, with its first name.

    Example:
        >>> pair = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> pair[1].weight = pair[0].weight
        >>> aliases(pair)
        {'1.weight': '0.weight'}

    """
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for stored in (module.named_parameters, module.named_buffers):
        for name, tensor in stored(remove_duplicate=False):
            known = first.setdefault(id(tensor), name)
            if known != name:
                found[name] = known
    return found


def assign_shared(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Put `tensors` into `module` in place as `assign` does; what is shared stays shared."""
    shared = aliases(module)
    assign(module, tensors, source=source)
    for name, first in shared.items():
        path, _, key = name.rpartition(".")
        setattr(module.get_submodule(path), key, operator.attrgetter(first)(module))


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of names, shapes and values of all tensors, and of what is shared."""
    found = hashlib.sha256()
    for name, tensor in sorted(_tensors(module).items()):
        found.update(f"{name} {list(tensor.shape)}\n".encode())
        found.update(tensor.detach().to(torch.float32).contiguous().numpy().tobytes())
    for name, first in sorted(aliases(module).items()):
        found.update(f"{name} = {first}\n".encode())
    return found.hexdigest()


class _Sized(nn.Module):
    """A module that knows its dimensions."""

    dimensions: Dataclass


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return float parameters and buffers, each once."""
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor for name, tensor in stored.items() if tensor.is_floating_point()}


def _place(weights: Weights) -> str:
    return "hub" if weights.hub is not None else "package"


def _read_config(folder: Path, family: str) -> _Stated:
    if not folder.is_dir():
        raise CosimError(f"{folder}: no such folder, expected {_CONFIG} and {_TENSORS} in it")
    path = folder / _CONFIG
    stated = parse(read(path), _Stated, source=str(path))
    problems = []
    if stated.version != VERSION:
        problems.append(f"{path}: version: found {stated.version}, expected {VERSION}")
    if stated.family != family:
        near = suggestion(stated.family, [family])
        problems.append(f"{path}: family: found {stated.family}, expected {family}{near}")
    if problems:
        raise CosimError(problems)
    return stated


def _dimensions(config: ModelConfig, kind: type[D], stated: _Stated | None, folder: Path) -> D:
    """Return the dimensions of the model file or of the folder, which must agree."""
    at = f"model {config.name}"
    if stated is None:
        if config.dimensions is None:
            raise CosimError(f"{at}: dimensions: missing, expected because weights are drawn")
        return parse(config.dimensions, kind, source=at, at="dimensions")
    path = str(folder / _CONFIG)
    found = parse(stated.dimensions, kind, source=path, at="dimensions")
    if config.dimensions is None:
        return found
    wanted = parse(config.dimensions, kind, source=at, at="dimensions")
    theirs = asdict(found)
    differing = [
        f"{at}: dimensions.{name}: found {value}, but {path} has {theirs[name]}"
        for name, value in asdict(wanted).items()
        if value != theirs[name]
    ]
    if differing:
        raise CosimError(differing)
    return found


def _check_aliases(stated: Mapping[str, str], wanted: Mapping[str, str], folder: Path) -> None:
    """Raise CosimError for each alias that the dimensions and config.yaml do not both have."""
    problems = [
        f"{folder / _CONFIG}: aliases.{name}: found {stated.get(name, 'none')}, but the dimensions "
        f"make it {wanted.get(name, 'a tensor of its own')}"
        for name in sorted({*stated, *wanted})
        if stated.get(name) != wanted.get(name)
    ]
    if problems:
        raise CosimError(problems)
