"""Models: what a family provides, the registry of families, and `load`.

A family is one module in this package with a function under `@model("name")`. torch and the family
modules are imported when a model is loaded, not when this package is.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from annotated_types import Ge, MinLen

from cosim.errors import CosimError, suggestion

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PackageWeights:
    """Weights inside an installed Python distribution, as a CTranslate2 folder.

    `folder` is relative to the place of installation; `sha256` is that of its `model.bin`;
    `install` is the command that an error tells the user to run.
    """

    distribution: str
    version: str
    folder: str
    sha256: str
    licence: str
    install: str


@dataclass(frozen=True)
class Weights:
    """Where weights come from: exactly one of `package`, `folder` or `hub`.

    `folder` holds config.json, model.safetensors and tokenizer.json as Hugging Face writes them;
    `hub` is an id such as `openai/whisper-tiny.en`, `revision` a branch, tag or commit of it.
    """

    package: PackageWeights | None = None
    folder: str | None = None
    hub: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        given = [key for key in ("package", "folder", "hub") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise CosimError(f"found {found}, expected exactly one of package, folder, hub")
        if self.revision is not None and self.hub is None:
            raise CosimError("revision: found without hub, expected a hub id that it belongs to")


@dataclass(frozen=True)
class ModelConfig:
    """A model file: `dimensions` may be left out where the checkpoint states them."""

    name: Annotated[str, MinLen(1)]
    family: Annotated[str, MinLen(1)]
    weights: Weights
    dimensions: dict[str, Annotated[int, Ge(1)]] | None = None


@dataclass(frozen=True)
class StateSpec:
    """A cache that a graph grows by one row: `output` is `input` and one row more on `axis`."""

    input: str
    output: str
    axis: int
    capacity: int


@dataclass(frozen=True)
class GraphSpec:
    """One graph for torch.export (strict=False, not decomposed).

    `inputs` and `outputs` name the user inputs and results in order. `shapes` gives the dimensions
    of each input, numbers or names of length symbols; `examples` and `dynamic_shapes` go to
    torch.export as they are. An output with the name of another graph's input feeds it.
    """

    name: str
    module: "nn.Module"
    examples: tuple["Tensor", ...]
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    outputs: tuple[str, ...]
    dynamic_shapes: Mapping[str, object]
    states: tuple[StateSpec, ...]


class Network(Protocol):
    """What every family's module offers besides being an `nn.Module`."""

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the graphs that make up the program."""
        ...


@dataclass(frozen=True)
class DecodingValues:
    """The published greedy rules of a checkpoint, as token ids.

    `prompt` runs through `step` first; `first_suppressed` are forbidden at the first free step,
    `suppressed` and every id above `end` always.
    """

    prompt: tuple[int, ...]
    end: int
    first_suppressed: tuple[int, ...]
    suppressed: tuple[int, ...]
    max_steps: int


@dataclass(frozen=True)
class LoadedModel:
    """A module in inference mode with what is needed to use it.

    `source` is printed by every run; `window_s` is the audio one encoder call covers, to which
    shorter audio is padded with silence.
    """

    name: str
    family: str
    module: "nn.Module"
    source: str
    tokenizer: Path
    decoding: DecodingValues
    window_s: float
    mels: int
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied one counted once."""
        return sum(parameter.numel() for parameter in self.module.parameters())


Loader = Callable[[ModelConfig], LoadedModel]
FAMILIES: dict[str, Loader] = {}


def model(name: str) -> Callable[[Loader], Loader]:
    """Register the loader of a family."""

    def register(loader: Loader) -> Loader:
        FAMILIES[name] = loader
        return loader

    return register


def families() -> tuple[str, ...]:
    """Return the names of all families (imports them, and so torch)."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(FAMILIES))


def load(config: ModelConfig) -> LoadedModel:
    """Return the model of `config` with its weights in fp32.

    Raises CosimError for an unknown family, unusable weights, and tensors that do not match.

    Example:
        load(cosim.config.load(Path("configs/models/whisper_tiny_en.yaml"), ModelConfig))

    """
    known = families()
    if config.family not in FAMILIES:
        raise CosimError(
            f"model {config.name}: family: found {config.family!r}, expected one of the families"
            f"{suggestion(config.family, known)}"
        )
    return FAMILIES[config.family](config)
