"""Whisper from a checkpoint: dimensions, tensors and the published decoding rules."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from cosim.config import parse
from cosim.errors import CosimError
from cosim.models import DecodingValues, LoadedModel, ModelConfig, model
from cosim.models.checkpoint import assign, hub_folder, read_json, read_tensors
from cosim.models.packages import converted, describe
from cosim.models.whisper import Whisper, WhisperDimensions

HOP_S = 0.01  # Radford et al. 2022, section 2.2: log-mel every 10 ms
ENGLISH_VOCABULARY = 51864  # openai/whisper model.py: a larger vocabulary is multilingual
# Dimension -> the keys of config.json that must agree on it.
_CONFIG_KEYS: Mapping[str, tuple[str, ...]] = {
    "width": ("d_model",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "hidden": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "mels": ("num_mel_bins",),
    "vocabulary": ("vocab_size",),
    "source_positions": ("max_source_positions",),
    "target_positions": ("max_target_positions",),
}
# What else config.json may say, and the only value this network has.
_SETTINGS: Mapping[str, object] = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
}


@model("whisper")
def load_whisper(config: ModelConfig) -> LoadedModel:
    """Return a Whisper model in inference mode from a package, a checkpoint folder or the hub.

    Raises CosimError for anything missing, unreadable or inconsistent in the checkpoint.
    """
    weights = config.weights
    if weights.package is not None:
        folder, source = converted(weights.package), describe(weights.package)
    elif weights.hub is not None:
        folder = hub_folder(weights.hub, weights.revision)
        source = f"hub {weights.hub}" + (f" at {weights.revision}" if weights.revision else "")
    else:
        folder = Path(weights.folder or "").expanduser()
        source = f"folder {folder}"
    tensors = read_tensors(folder)
    dimensions = _dimensions(config, folder / "config.json")
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=build(dimensions, tensors, source=str(folder)),
        source=source,
        tokenizer=folder / "tokenizer.json",
        decoding=_decoding(folder, dimensions),
        window_s=2 * HOP_S * dimensions.source_positions,
        mels=dimensions.mels,
    )


def build(dimensions: WhisperDimensions, tensors: Mapping[str, Tensor], *, source: str) -> Whisper:
    """Return the network with `tensors` (Hugging Face names, any float dtype) as its fp32 weights.

    The leading `model.` may be there or not, `proj_out.weight` too; it must equal the token
    embedding. Raises CosimError listing every tensor that does not fit.
    """
    named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    projection = named.pop("proj_out.weight", None)
    embedding = named.get("decoder.embed_tokens.weight")
    if projection is not None and embedding is not None and not torch.equal(projection, embedding):
        raise CosimError(
            f"{source}: proj_out.weight: found values other than decoder.embed_tokens.weight, "
            "expected the tied weight of Whisper"
        )
    with torch.device("meta"):
        module = Whisper(dimensions)
    assign(module, named, source=source)
    module.tie()
    return module.eval().requires_grad_(requires_grad=False)


def _dimensions(config: ModelConfig, path: Path) -> WhisperDimensions:
    """Return the dimensions of config.json, which must agree with those of the model file."""
    stated = read_json(path)
    problems = [
        f"{path}: {key}: found {stated[key]!r}, expected {wanted!r}"
        for key, wanted in _SETTINGS.items()
        if key in stated and stated[key] != wanted
    ]
    sizes: dict[str, object] = {}
    for name, keys in _CONFIG_KEYS.items():
        problems += [f"{path}: {key}: missing" for key in keys if key not in stated]
        values = {str(stated[key]): stated[key] for key in keys if key in stated}
        if len(values) > 1:
            problems.append(f"{path}: {', '.join(keys)}: found {', '.join(values)}, expected one")
        sizes[name] = next(iter(values.values()), None)
    if problems:
        raise CosimError(problems)
    found = parse(sizes, WhisperDimensions, source=str(path))
    if config.dimensions is None:
        return found
    at = f"model {config.name}"
    wanted = parse(config.dimensions, WhisperDimensions, source=at, at="dimensions")
    differing = [
        f"{at}: dimensions.{name}: found {value}, but the checkpoint {path.parent} has {theirs}"
        for (name, value), theirs in zip(
            asdict(wanted).items(), asdict(found).values(), strict=True
        )
        if value != theirs
    ]
    if differing:
        raise CosimError(differing)
    return found


@dataclass(frozen=True)
class _Vocabulary:
    """Token ids by text, and the file they stand in."""

    path: Path
    ids: Mapping[str, int]

    def of(self, text: str) -> int:
        if text not in self.ids:
            raise CosimError(f"{self.path}: token {text}: missing, expected by Whisper's prompt")
        return self.ids[text]


def _vocabulary(path: Path) -> _Vocabulary:
    data = read_json(path)
    inner = data.get("model")
    table = inner.get("vocab") if isinstance(inner, dict) else None
    added = data.get("added_tokens")
    if not isinstance(table, dict) or not isinstance(added, list):
        raise CosimError(f"{path}: expected the keys model.vocab and added_tokens of a tokenizer")
    special = {str(token["content"]): int(token["id"]) for token in added}
    return _Vocabulary(path, {**table, **special})


def _decoding(folder: Path, dimensions: WhisperDimensions) -> DecodingValues:
    """Return prompt and suppression rules as openai/whisper publishes them (decoding.py).

    English-only models start with <|startoftranscript|><|notimestamps|>, multilingual ones name
    language and task between them. At the first step a blank and the end are suppressed. At most
    half of the text positions are decoded.
    """
    vocabulary = _vocabulary(folder / "tokenizer.json")
    end = vocabulary.of("<|endoftext|>")
    multilingual = dimensions.vocabulary > ENGLISH_VOCABULARY
    task = ("<|en|>", "<|transcribe|>") if multilingual else ()
    prompt = ("<|startoftranscript|>", *task, "<|notimestamps|>")
    path = folder / "generation_config.json"
    rules = read_json(path) if path.exists() else {}
    first = rules.get("begin_suppress_tokens") or [vocabulary.of("Ġ"), end]
    always = rules.get("suppress_tokens") or []
    return DecodingValues(
        prompt=tuple(vocabulary.of(text) for text in prompt),
        end=end,
        first_suppressed=_ids(first, path),
        suppressed=_ids(always, path),
        max_steps=dimensions.target_positions // 2,
    )


def _ids(values: object, path: Path) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise CosimError(f"{path}: found {values!r}, expected a list of token ids")
    return tuple(values)
