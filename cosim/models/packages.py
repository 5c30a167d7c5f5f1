"""Weights inside a Python package: found, converted once, kept as a checkpoint folder.

The folder in the user's cache looks like any Hugging Face checkpoint, so that one loader reads
everything. It is written beside its place and renamed, so that it is whole or absent.
"""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cosim.cache import cache_folder
from cosim.errors import CosimError
from cosim.models import PackageWeights
from cosim.models.checkpoint import read_json
from cosim.models.ctranslate2 import WhisperTensors, read, whisper_tensors

_TOKENIZER = "tokenizer.json"
_SIDES = ("encoder", "decoder")
_DECODING_KEYS: Mapping[str, str] = {
    "suppress_ids": "suppress_tokens",
    "suppress_ids_begin": "begin_suppress_tokens",
}


def describe(weights: PackageWeights) -> str:
    """Return the line that says where the weights came from."""
    return (
        f"{weights.distribution} {weights.version} ({weights.licence}), CTranslate2 fp16, converted"
    )


def converted(weights: PackageWeights) -> Path:
    """Return the checkpoint folder of a package's weights, converting them the first time.

    Raises CosimError if the package is not installed (naming the command that installs it), has
    another version, or holds a file other than the one pinned by hash.
    """
    name = f"{weights.distribution}-{weights.version}-{weights.sha256[:12]}"
    target = cache_folder("models") / name
    if target.is_dir():
        return target
    source = _installed(weights)
    found = hashlib.sha256((source / "model.bin").read_bytes()).hexdigest()
    if found != weights.sha256:
        raise CosimError(
            f"{source / 'model.bin'}: found sha256 {found}, expected {weights.sha256}; the package "
            f"is not the pinned one, install it again: {weights.install}"
        )
    path = source / "model.bin"
    whisper = whisper_tensors(read(path), path=path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        _write(scratch, source, whisper)
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError as error:
        if not target.is_dir():  # another process may have finished first: its folder is as good
            raise CosimError(f"{target}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _installed(weights: PackageWeights) -> Path:
    """Return the folder of an installed package that holds the CTranslate2 files."""
    remedy = f"run: {weights.install}"
    try:
        distribution = importlib.metadata.distribution(weights.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise CosimError(
            f"weights.package: {weights.distribution} {weights.version} is not installed; {remedy}"
        ) from None
    if distribution.version != weights.version:
        raise CosimError(
            f"weights.package: found {weights.distribution} {distribution.version}, "
            f"expected {weights.version}; {remedy}"
        )
    folder = Path(str(distribution.locate_file(weights.folder)))
    missing = [
        name for name in ("model.bin", "config.json", _TOKENIZER) if not (folder / name).is_file()
    ]
    if missing:
        raise CosimError(
            [f"{folder / name}: missing from the package; {remedy}" for name in missing]
        )
    return folder


def _write(folder: Path, source: Path, whisper: WhisperTensors) -> None:
    """Write model.safetensors, config.json, generation_config.json and tokenizer.json."""
    from safetensors.numpy import save_file  # noqa: PLC0415, beside torch

    tensors = {name: np.ascontiguousarray(value) for name, value in whisper.tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    embedding = tensors["decoder.embed_tokens.weight"]
    hidden = {side: tensors[f"{side}.layers.0.fc1.weight"].shape[0] for side in _SIDES}
    layers = {
        side: len({name.split(".")[2] for name in tensors if name.startswith(f"{side}.layers.")})
        for side in _SIDES
    }
    config = {
        "model_type": "whisper",
        "d_model": embedding.shape[1],
        "vocab_size": embedding.shape[0],
        "num_mel_bins": tensors["encoder.conv1.weight"].shape[1],
        "max_source_positions": tensors["encoder.embed_positions.weight"].shape[0],
        "max_target_positions": tensors["decoder.embed_positions.weight"].shape[0],
        **{f"{side}_layers": layers[side] for side in _SIDES},
        **{f"{side}_attention_heads": whisper.heads for side in _SIDES},
        **{f"{side}_ffn_dim": hidden[side] for side in _SIDES},
    }
    theirs = read_json(source / "config.json")
    generation = {ours: theirs[key] for key, ours in _DECODING_KEYS.items() if key in theirs}
    for name, data in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(source / _TOKENIZER, folder / _TOKENIZER)
    (folder / "model.safetensors").chmod(0o644)
