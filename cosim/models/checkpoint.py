"""Checkpoints as Hugging Face writes them: reading a folder or hub id, checking every tensor."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cosim.errors import CosimError, suggestion
from cosim.models import Weights

_PICKLES = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth", "model.ckpt")
_CONVERT = (
    "a pickle can run code when it is opened, so it is never read; convert it to model.safetensors "
    "(safetensors.torch.save_file) where you trust it"
)


def hub_folder(name: str, revision: str | None) -> Path:
    """Return the local folder of a hub id, downloading what is not cached.

    Raises CosimError without huggingface_hub, offline, or for an id that does not exist.
    """
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415, optional and slow
    except ImportError:
        raise CosimError(
            f"hub {name}: huggingface_hub is not installed; run: pip install huggingface_hub, or "
            "give weights.folder instead"
        ) from None
    wanted = ["*.json", "*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # noqa: BLE001, whatever the network does, the user learns of it
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise CosimError(
            f"hub {name}: could not be fetched ({type(error).__name__}: {reason}); check the id "
            "and the network, or download the folder elsewhere and give weights.folder"
        ) from None


def checkpoint_folder(weights: Weights) -> tuple[Path, str]:
    """Return the local folder of `weights.hub` or `weights.folder`, and how a run names it.

    Raises CosimError for weights of another kind, and for a hub id that cannot be fetched.
    """
    if weights.hub is not None:
        suffix = f" at {weights.revision}" if weights.revision else ""
        return hub_folder(weights.hub, weights.revision), f"hub {weights.hub}{suffix}"
    if weights.folder is None:
        raise CosimError("weights: found a package, expected folder, hub or random")
    folder = Path(weights.folder).expanduser()
    return folder, f"folder {folder}"


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file; CosimError if it is missing or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CosimError(f"{path}: missing from the checkpoint") from None
    except (OSError, ValueError) as error:
        raise CosimError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise CosimError(f"{path}: found {type(data).__name__}, expected a JSON object")
    return data


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint folder by name, as stored.

    Reads model.safetensors, or the shards that model.safetensors.index.json lists. Raises
    CosimError if there are none, if a file is truncated, or if it is a pickle.
    """
    if not folder.is_dir():
        raise CosimError(f"{folder}: no such folder, expected a checkpoint with model.safetensors")
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.exists() or not index.exists():
        return _read_file(single)
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CosimError(f"{index}: weight_map: missing, expected tensor names and their files")
    names = sorted(set(map(str, shards.values())))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CosimError(f"{index}: weight_map: found {', '.join(outside)}, expected plain names")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(_read_file(folder / name))
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415, beside torch
    from safetensors.torch import load_file  # noqa: PLC0415

    if not path.exists():
        pickles = sorted(entry.name for entry in path.parent.iterdir() if _is_pickle(entry))
        if pickles:
            raise CosimError(
                f"{path.parent}: found {', '.join(pickles)}, expected {path.name}: {_CONVERT}"
            )
        found = sorted(entry.name for entry in path.parent.iterdir())
        raise CosimError(f"{path}: missing from the checkpoint{suggestion(path.name, found)}")
    if _is_pickle(path):
        raise CosimError(f"{path}: found a pickle under the name of safetensors: {_CONVERT}")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CosimError(f"{path}: not a whole safetensors file: {error}") from None


def _is_pickle(path: Path) -> bool:
    """Whether a file has a pickle's name, or starts as a pickle or a torch archive does."""
    if not path.is_file():
        return False
    if path.name in _PICKLES or path.name.startswith("pytorch_model"):
        return path.suffix != ".json"
    with path.open("rb") as file:
        start = file.read(4)
    # Zip archives are torch's format since 1.6; 0x80 and the protocol number open a bare pickle.
    return start == b"PK\x03\x04" or (
        len(start) > 1 and start[0] == 0x80 and start[1] in range(2, 6)
    )


def assign(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Put `tensors` into `module` as fp32, in place; every float parameter and buffer gets a value.

    `module` may live on the meta device. A tied parameter is named once, as named_parameters does.
    Raises CosimError listing all missing, extra, misshaped and non-float tensors at once.
    """
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    places = {name: tensor for name, tensor in stored.items() if tensor.is_floating_point()}
    problems: list[str] = []
    for name, place in places.items():
        found = tensors.get(name)
        if found is None:
            problems.append(f"{source}: {name}: missing, expected shape {list(place.shape)}")
        elif found.shape != place.shape:
            problems.append(
                f"{source}: {name}: found shape {list(found.shape)}, expected {list(place.shape)}"
            )
        elif not found.dtype.is_floating_point:
            problems.append(f"{source}: {name}: found {found.dtype}, expected floating point")
        elif not bool(torch.isfinite(found).all()):
            problems.append(f"{source}: {name}: found values that are not finite")
    absent = [name for name in places if name not in tensors]
    for name in tensors:
        if name not in places:
            near = suggestion(name, absent) if absent else ""
            hint = near if "did you mean" in near else ""
            problems.append(f"{source}: {name}: not a tensor of this network{hint}")
    if problems:
        raise CosimError(problems)
    state = {name: tensors[name].to(torch.float32).contiguous() for name in places}
    module.load_state_dict(state, strict=False, assign=True)
