"""wav2vec2-type models from Hugging Face folders, the hub or a distribution, and back to a folder.

A folder holds config.json, model.safetensors (or its shards) and preprocessor_config.json; with
vocab.json its CTC tokens can be written as text.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cosim.config import parse
from cosim.errors import CosimError
from cosim.models import CtcRules, FrontEnd, LoadedModel, ModelConfig, RandomWeights, Tokens
from cosim.models.checkpoint import assign, checkpoint_folder, read_json, read_tensors
from cosim.models.drawn import draw
from cosim.models.ssl_config import read_head, read_sizes, write_config
from cosim.models.ssl_dimensions import UpstreamDimensions
from cosim.models.ssl_upstream import HeadedNetwork, Upstream
from cosim.models.ssl_weight_norm import folded, magnitudes, split

D = TypeVar("D", bound=UpstreamDimensions)

SAMPLE_RATE_HZ = 16000
_MASK_VECTOR = "masked_spec_embed"
_WORD_DELIMITER = "|"  # what `Tokens` of kind characters takes for a space
# What transformers needs beside vocab.json to build the tokenizer.
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load_upstream(
    config: ModelConfig, kind: type[D], *, network: Callable[[D], nn.Module]
) -> LoadedModel:
    """Return the model of `config`, whose network `network` builds from dimensions of `kind`.

    Raises CosimError for missing dimensions, and for anything missing, unreadable or inconsistent
    in the checkpoint.
    """
    drawn = config.weights.random
    if drawn is not None:
        at = f"model {config.name}"
        dimensions = parse(config.dimensions or {}, kind, source=at, at="dimensions")
        module = drawn_network(dimensions, drawn, network=network)
        source = f"random weights, {drawn.distribution}, seed {drawn.seed}"
        return _loaded(config, module, dimensions, source=source)
    folder, source = checkpoint_folder(config.weights)
    tensors = read_tensors(folder)
    dimensions = _dimensions(folder, kind, tensors)
    if config.dimensions is not None:
        _agree(config, dimensions, folder)
    prefix = upstream_prefix(dimensions)
    with torch.device("meta"):
        module = network(dimensions)
    assign(module, folded(tensors, prefix, source=str(folder)), source=str(folder))
    module.eval().requires_grad_(requires_grad=False)
    tokens = _tokens(folder, dimensions)
    return _loaded(config, module, dimensions, source=source, tokens=tokens)


def drawn_network(
    dimensions: D, weights: RandomWeights, *, network: Callable[[D], nn.Module]
) -> nn.Module:
    """Return the network in inference mode with weights drawn from a distribution."""
    with torch.device("meta"):
        module = network(dimensions)
    draw(module, weights)
    return module.eval().requires_grad_(requires_grad=False)


def upstream_prefix(dimensions: UpstreamDimensions) -> str:
    """Return what stands before the upstream's tensor names: its family where there is a head."""
    return f"{dimensions.layout.family}." if dimensions.layout.head(dimensions) else ""


def save_hugging_face(loaded: LoadedModel, folder: Path) -> None:
    """Write a model as a folder that `load` and transformers read; weights stay bit for bit.

    Raises CosimError for a network of another kind, and for a folder that holds a checkpoint.
    """
    module = loaded.module
    if not isinstance(module, Upstream | HeadedNetwork):
        raise CosimError(
            f"model {loaded.name}: family {loaded.family}: found {type(module).__name__}, expected "
            "a network of wav2vec2, hubert or wavlm alone"
        )
    if any(tensor.is_meta for tensor in module.parameters()):
        raise CosimError(f"model {loaded.name}: weights.random: found none, expected weights")
    folder.mkdir(parents=True, exist_ok=True)
    present = [name for name in ("config.json", "model.safetensors") if (folder / name).exists()]
    if present:
        raise CosimError(f"{folder}: found {', '.join(present)}, expected an empty folder")
    from safetensors.torch import save_file  # noqa: PLC0415, beside torch

    dimensions = module.dimensions
    tensors = split(module.state_dict(), upstream_prefix(dimensions))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", write_config(dimensions))
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE_HZ,
        "do_normalize": dimensions.is_normalized,
        "padding_value": 0.0,
        "return_attention_mask": dimensions.convolution_norm == "layer",
    }
    _write_json(folder / "preprocessor_config.json", extractor)
    if loaded.tokens is not None:
        shutil.copyfile(loaded.tokens.file, folder / "vocab.json")
        for name in _TOKENIZER_FILES:
            if (loaded.tokens.file.parent / name).exists():
                shutil.copyfile(loaded.tokens.file.parent / name, folder / name)


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _loaded(
    config: ModelConfig,
    module: nn.Module,
    dimensions: UpstreamDimensions,
    *,
    source: str,
    tokens: Tokens | None = None,
) -> LoadedModel:
    notes = []
    if not dimensions.has_mask_vector:
        notes.append(f"{_MASK_VECTOR} is not in the checkpoint; inference does not use it")
    if dimensions.vocabulary is None:
        notes.append("there is no CTC head: the encoder returns hidden vectors and writes no text")
    elif tokens is None and config.weights.random is None:
        notes.append("vocab.json is not in the checkpoint: tokens cannot be written as text")
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=module,
        source=source,
        front=FrontEnd("waveform", is_normalized=dimensions.is_normalized),
        decoding=CtcRules(blank=dimensions.blank),
        tokens=tokens,
        is_random=config.weights.random is not None,
        folded_parameters=magnitudes(dimensions, upstream_prefix(dimensions)),
        notes=tuple(notes),
    )


def _dimensions(folder: Path, kind: type[D], tensors: Mapping[str, Tensor]) -> D:
    """Return the dimensions that a folder's configuration and the names of its tensors state."""
    path = folder / "config.json"
    stated = read_json(path)
    problems: list[str] = []
    head = read_head(stated, kind.layout, path, problems)
    sizes = read_sizes(stated, kind, path, head, problems)
    if problems:
        raise CosimError(problems)
    family = kind.layout.family
    is_prefixed = any(name.startswith(f"{family}.") for name in tensors)
    if is_prefixed != (head is not None):
        found = f"tensors {'with' if is_prefixed else 'without'} the prefix {family}."
        raise CosimError(
            f"{path}: architectures: found {stated['architectures']}, but {folder} has {found}"
        )
    sizes["has_mask_vector"] = any(name.endswith(_MASK_VECTOR) for name in tensors)
    sizes["is_normalized"] = _is_normalized(folder / "preprocessor_config.json")
    return parse(sizes, kind, source=str(path))


def _is_normalized(path: Path) -> bool:
    """Return whether samples are normalised, after checking that the front end is a waveform."""
    stated = read_json(path)
    wanted = {"sampling_rate": SAMPLE_RATE_HZ, "feature_size": 1}
    problems = [
        f"{path}: {key}: found {stated[key]!r}, expected {value!r}"
        for key, value in wanted.items()
        if key in stated and stated[key] != value
    ]
    found = stated.get("do_normalize")
    if not isinstance(found, bool):
        problems.append(f"{path}: do_normalize: found {found!r}, expected true or false")
    if problems:
        raise CosimError(problems)
    return found is True


def _agree(config: ModelConfig, found: UpstreamDimensions, folder: Path) -> None:
    """Check that the dimensions which the model file states are those of the checkpoint."""
    at = f"model {config.name}"
    stated = config.dimensions or {}
    wanted = asdict(parse({**_plain(found), **stated}, type(found), source=at, at="dimensions"))
    theirs = asdict(found)
    differing = [
        f"{at}: dimensions.{name}: found {wanted[name]}, but the checkpoint {folder} has "
        f"{theirs[name]}"
        for name in stated
        if wanted[name] != theirs[name]
    ]
    if differing:
        raise CosimError(differing)


def _plain(dimensions: UpstreamDimensions) -> dict[str, object]:
    """Return dimensions as a YAML file would hold them."""
    values = asdict(dimensions)
    return {
        place.name: list(value) if isinstance(value := values[place.name], tuple) else value
        for place in fields(dimensions)
    }


def _tokens(folder: Path, dimensions: UpstreamDimensions) -> Tokens | None:
    """Return the tokens of a CTC head, None where there is no vocab.json or no head."""
    path = folder / "vocab.json"
    if dimensions.vocabulary is None or not path.exists():
        return None
    table = read_json(path)
    problems = [
        f"{path}: {text}: found {index!r}, expected an id below {dimensions.vocabulary}"
        for text, index in table.items()
        if not isinstance(index, int) or not 0 <= index < dimensions.vocabulary
    ]
    rules = folder / "tokenizer_config.json"
    stated = read_json(rules) if rules.exists() else {}
    delimiter = stated.get("word_delimiter_token", _WORD_DELIMITER)
    if delimiter != _WORD_DELIMITER:
        problems.append(
            f"{rules}: word_delimiter_token: found {delimiter!r}, expected {_WORD_DELIMITER!r}"
        )
    padding = stated.get("pad_token")
    if isinstance(padding, str) and table.get(padding, dimensions.blank) != dimensions.blank:
        problems.append(
            f"{rules}: pad_token: found {padding!r} of id {table[padding]}, but pad_token_id of "
            f"{folder / 'config.json'} is {dimensions.blank}, and the blank of CTC is both"
        )
    if problems:
        raise CosimError(problems)
    return Tokens("characters", path)
