"""From a model file to a network: what an ESPnet family provides, and loading for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cosim.config import parse
from cosim.errors import CosimError
from cosim.models import (
    AttentionRules,
    CtcRules,
    Decoding,
    LoadedModel,
    ModelConfig,
    RandomWeights,
)
from cosim.models.checkpoint import assign
from cosim.models.drawn import draw
from cosim.models.espnet import CtcHead, Espnet
from cosim.models.espnet_decoder import Decoder
from cosim.models.espnet_dimensions import Dimensions
from cosim.models.espnet_encoder import Encoder
from cosim.models.espnet_folder import Checkpoint, pieces_file, read_checkpoint
from cosim.models.espnet_settings import Settings


@dataclass(frozen=True)
class Family:
    """An encoder: its dimensions, how it is made, its name and settings in ESPnet's config.yaml.

    `build` takes dimensions of the type `dimensions`.
    """

    dimensions: type[Dimensions]
    build: Callable[[Any], Encoder]
    encoder: str
    settings: Settings


class FamilyNetwork(Espnet):
    """A network made from its dimensions, which it keeps together with its family."""

    def __init__(self, family: Family, dimensions: Dimensions) -> None:
        d = dimensions
        width = d.encoder.width
        decoder = Decoder(width, d.vocabulary, d.decoder) if d.decoder is not None else None
        super().__init__(family.build(dimensions), CtcHead(width, d.vocabulary), decoder)
        self.family = family
        self.dimensions = dimensions


def load_espnet(config: ModelConfig, family: Family) -> LoadedModel:
    """Return a model in inference mode from an ESPnet folder, or with weights drawn.

    What the folder states may be left out of the model file; both must agree. Raises CosimError
    for anything missing, unreadable or inconsistent.
    """
    at = f"model {config.name}"
    if config.weights.random is not None:
        return _drawn(config, family, config.weights.random, at=at)
    if config.weights.folder is None:
        found = "hub" if config.weights.hub is not None else "package"
        raise CosimError(
            f"{at}: weights: found {found}, expected folder (of an ESPnet experiment, downloaded "
            "whole) or random"
        )
    folder = Path(config.weights.folder).expanduser()
    checkpoint = read_checkpoint(folder, encoder=family.encoder, settings=family.settings)
    dimensions = _dimensions(config, family, checkpoint, at=at)
    _check_features(dimensions, checkpoint, folder)
    module = _empty(family, dimensions)
    assign(module, checkpoint.tensors, source=str(folder))
    tokens = pieces_file(checkpoint.stated.tokens)
    unwritten = ("no token is text: nothing can be transcribed",) if tokens is None else ()
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=_ready(module),
        source=f"folder {folder}",
        front=dimensions.features.front_end(checkpoint.mean, checkpoint.scale),
        decoding=_decoding(dimensions, checkpoint),
        tokens=tokens,
        notes=(*_notes(dimensions), *unwritten),
    )


def _check_features(dimensions: Dimensions, checkpoint: Checkpoint, folder: Path) -> None:
    """Raise CosimError where statistics or mel filters belong to other features."""
    features = dimensions.features
    problems = []
    if len(checkpoint.mean) not in (0, features.width):
        problems.append(
            f"{folder}: found statistics of {len(checkpoint.mean)} bands, expected {features.width}"
        )
    wanted = (features.fft // 2 + 1, features.mels)
    if checkpoint.filters not in (None, wanted):
        problems.append(
            f"{folder}: frontend.logmel.melmat: found shape {list(checkpoint.filters or ())}, "
            f"expected {list(wanted)}"
        )
    if problems:
        raise CosimError(problems)


def _drawn(config: ModelConfig, family: Family, drawn: RandomWeights, *, at: str) -> LoadedModel:
    if config.dimensions is None:
        raise CosimError(f"{at}: dimensions: missing, expected because weights are drawn")
    dimensions = parse(config.dimensions, family.dimensions, source=at, at="dimensions")
    module = _empty(family, dimensions)
    draw(module, drawn)
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=_ready(module),
        source=f"random weights, {drawn.distribution}, seed {drawn.seed}",
        front=dimensions.features.front_end(),
        decoding=_decoding(dimensions, None),
        is_random=True,
        notes=_notes(dimensions),
    )


def _empty(family: Family, dimensions: Dimensions) -> FamilyNetwork:
    with torch.device("meta"):
        return FamilyNetwork(family, dimensions)


def _ready(module: FamilyNetwork) -> FamilyNetwork:
    module.eval()
    return module.requires_grad_(requires_grad=False)


def _notes(dimensions: Dimensions) -> tuple[str, ...]:
    zeros = dimensions.features.zeros
    return (f"{zeros} feature dimensions of pitch are zero (assumed)",) if zeros else ()


def _decoding(dimensions: Dimensions, checkpoint: Checkpoint | None) -> Decoding:
    """Return the rules of decoding; without a token list, ESPnet's places of blank and end."""
    search = dimensions.decoding
    last = dimensions.vocabulary - 1
    stated = checkpoint.stated if checkpoint is not None else None
    blank = stated.blank if stated is not None else 0
    if dimensions.decoder is None:
        return CtcRules(blank=blank, beam=search.beam)
    return AttentionRules(
        start=stated.start if stated is not None else last,
        end=stated.end if stated is not None else last,
        blank=blank,
        beam=search.beam,
        ctc_weight=search.ctc_weight,
        penalty=search.penalty,
        max_tokens=dimensions.decoder.positions - 1,  # the start token takes the first
    )


def _dimensions(
    config: ModelConfig, family: Family, checkpoint: Checkpoint, *, at: str
) -> Dimensions:
    """Return the dimensions of the checkpoint, completed by those of the model file."""
    stated, given = checkpoint.stated, config.dimensions or {}
    path = stated.path
    needed = {} if stated.input_size is None else {"features": {"mels": stated.input_size}}
    parse({**stated.sizes, **needed}, family.dimensions, source=str(path))
    problems = _differing(given, stated.sizes, at, path)
    if stated.input_size is not None and "features" not in given:
        problems.append(
            f"{at}: dimensions.features: missing, expected because {path} takes features made "
            f"elsewhere, input_size {stated.input_size}"
        )
    if problems:
        raise CosimError(problems)
    whole = parse(_merged(given, stated.sizes), family.dimensions, source=at, at="dimensions")
    if stated.input_size not in (None, whole.features.width):
        raise CosimError(
            f"{at}: dimensions.features: found {whole.features.width} dimensions, but {path} has "
            f"input_size {stated.input_size}"
        )
    return whole


def _differing(
    given: Mapping[str, object], stated: Mapping[str, object], at: str, path: Path, *, key: str = ""
) -> list[str]:
    """Return one line for every value of the model file that config.yaml contradicts."""
    problems: list[str] = []
    for name, value in given.items():
        theirs = stated.get(name, value)
        place = f"{key}.{name}" if key else name
        if isinstance(value, dict) and isinstance(theirs, dict):
            problems += _differing(value, theirs, at, path, key=place)
        elif value != theirs or isinstance(value, bool) != isinstance(theirs, bool):
            problems.append(f"{at}: dimensions.{place}: found {value}, but {path} has {theirs}")
    return problems


def _merged(given: Mapping[str, object], stated: Mapping[str, object]) -> dict[str, object]:
    result = {**given, **stated}
    for name, value in given.items():
        theirs = stated.get(name)
        if isinstance(value, dict) and isinstance(theirs, dict):
            result[name] = _merged(value, theirs)
    return result
