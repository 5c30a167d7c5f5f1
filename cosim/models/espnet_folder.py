"""The folder of an ESPnet2 experiment: its state dict, statistics and tokens, all of them checked.

A `.pth` is a pickle. torch opens it with a reader that makes tensors and plain containers and
nothing else, so no code runs; a file that asks for more is refused.
"""

import hashlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cosim.cache import cache_folder
from cosim.errors import CosimError
from cosim.models import Tokens
from cosim.models.espnet_config import Stated, read_config
from cosim.models.espnet_settings import Settings

PREFERRED = "valid.acc.ave.pth"
_TRAINING_STATE = "checkpoint.pth"  # model, optimiser and reporter of an unfinished training
# Buffers that say nothing about inference: counts of batches, and sinusoid tables of early ESPnet.
_DROPPED = re.compile(r".*\.num_batches_tracked|encoder\.embed\.out\.1\.pe|decoder\.embed\.1\.pe")
_MEL = "frontend.logmel.melmat"
_MEAN, _STD = "normalize.mean", "normalize.std"
_FLOOR = 1e-20  # of the variance, espnet2/layers/global_mvn.py
_AGREEMENT = 1e-3  # between statistics in fp32 and those of the file, as a share of the deviation
_SPECIAL = re.compile(r"<.*>|\[.*\]")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Checkpoint:
    """A folder as read: `tensors` are those of encoder, decoder and CTC head by ESPnet's names.

    (x - mean) * scale normalises each band; both are empty where nothing is normalised. `filters`
    is the shape of the front end's mel matrix, which is not kept: it follows from config.yaml.
    """

    stated: Stated
    tensors: dict[str, Tensor]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    filters: tuple[int, ...] | None


def read_checkpoint(folder: Path, *, encoder: str, settings: Settings) -> Checkpoint:
    """Return the checkpoint in `folder`.

    Raises CosimError for a folder, file, statistic or token list that is missing or unreadable, a
    pickle of more than tensors, and whatever config.yaml says that this network has not.
    """
    if not folder.is_dir():
        raise CosimError(f"{folder}: no such folder, expected an ESPnet experiment")
    stated = read_config(folder, encoder, settings)
    path = _weights_file(folder)
    stored = read_state(path)
    kept = {
        name: tensor
        for name, tensor in stored.items()
        if name not in (_MEL, _MEAN, _STD) and not _DROPPED.fullmatch(name)
    }
    mean, scale = _statistics(stated, stored, path)
    filters = tuple(stored[_MEL].shape) if _MEL in stored else None
    return Checkpoint(stated, kept, mean, scale, filters)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.pth` file by name, without running code from it.

    Raises CosimError for anything else than a state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CosimError(
            f"{path}: found objects other than tensors, or no torch file at all; opening such a "
            "pickle can run code, so it is not read; save the state dict alone where you trust it: "
            "torch.save(model.state_dict(), path)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise CosimError(f"{path}: not a whole torch file: {reason}") from None
    if not isinstance(state, dict) or not state:
        raise CosimError(f"{path}: found {type(state).__name__}, expected tensors by name")
    others = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise CosimError(
            f"{path}: found {', '.join(others[:5])}, which are no tensors, expected a state dict; "
            f"{_TRAINING_STATE} is the state of a training, {PREFERRED} its result"
        )
    return {str(name): tensor for name, tensor in state.items()}


def pieces_file(tokens: tuple[str, ...]) -> Tokens | None:
    """Return the token list as a text file in the user's cache, one for each list.

    None where no token is text. Raises CosimError where the file cannot be written.
    """
    if all(_SPECIAL.fullmatch(token) for token in tokens):
        return None
    text = "".join(f"{token}\n" for token in tokens)
    path = cache_folder("tokens") / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.txt"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CosimError(f"{path}: cannot be written: {error.strerror}") from None
    return Tokens("pieces", path)


def _weights_file(folder: Path) -> Path:
    names = sorted(path.name for path in folder.glob("*.pth") if path.name != _TRAINING_STATE)
    if PREFERRED in names:
        return folder / PREFERRED
    if len(names) == 1:
        return folder / names[0]
    if names:
        raise CosimError(f"{folder}: found {', '.join(names)}, expected {PREFERRED} or one file")
    present = sorted(path.name for path in folder.iterdir())
    raise CosimError(
        f"{folder / PREFERRED}: missing from the checkpoint; found {', '.join(present)}"
    )


def _statistics(
    stated: Stated, stored: Mapping[str, Tensor], path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and scale per band, from the state dict or the file that config.yaml names.

    ESPnet's own are those of the state dict; where both are there they must agree.
    """
    normalization = stated.normalization
    if normalization is None:
        return (), ()
    own = None
    if _MEAN in stored and _STD in stored:
        own = tuple(stored[name].to(torch.float64).numpy() for name in (_MEAN, _STD))
    file = _beside(stated.path, normalization.stats_file)
    read = None if file is None else _read_statistics(file)
    if own is None and read is None:
        raise CosimError(
            f"{stated.path}: normalize_conf.stats_file: {normalization.stats_file}: no such file "
            f"beside or above {stated.path.parent}, and no {_MEAN}, {_STD} in {path}"
        )
    mean, std = own or read or ()
    problems = [
        f"{path if own else file}: normalize.{name}: found shape {list(value.shape)}, expected "
        "one value per band"
        for name, value in (("mean", mean), ("std", std))
        if value.ndim != 1 or not np.isfinite(value).all()
    ]
    if own is not None and read is not None and not problems and not _agree(own, read):
        problems.append(
            f"{file}: found other statistics than {_MEAN}, {_STD} in {path}; remove the wrong one"
        )
    if problems:
        raise CosimError(problems)
    means = mean if normalization.norm_means else np.zeros_like(mean)
    scales = 1.0 / std if normalization.norm_vars else np.ones_like(std)
    return tuple(means.tolist()), tuple(scales.tolist())


def _agree(own: tuple[Floats, ...], read: tuple[Floats, ...]) -> bool:
    allowed = _AGREEMENT * np.abs(read[1])
    return own[0].shape == read[0].shape and all(
        bool((np.abs(a - b) <= allowed).all()) for a, b in zip(own, read, strict=True)
    )


def _beside(config: Path, name: str | None) -> Path | None:
    """Return the file that config.yaml names, which ESPnet writes relative to its recipe.

    Looked for in the folder of config.yaml, under its plain name too, and in each folder above.
    """
    if name is None:
        return None
    folders = [config.resolve().parent, *config.resolve().parent.parents]
    places = [config.parent / Path(name).name, *(folder / name for folder in folders)]
    return next((place for place in places if place.is_file()), None)


def _read_statistics(path: Path) -> tuple[Floats, Floats]:
    """Return mean and deviation per band (espnet2/layers/global_mvn.py).

    An npz holds count, sum and sum_square; an array has Kaldi's form, sums and sums of squares in
    its rows and the count at the end of the first.
    """
    try:
        data = np.load(path, allow_pickle=False)
        if isinstance(data, np.ndarray):
            table = data.astype(np.float64)
            count, total, squares = table[0, -1], table[0, :-1], table[1, :-1]
        else:
            count, total, squares = (
                np.asarray(data[key], dtype=np.float64) for key in ("count", "sum", "sum_square")
            )
    except (OSError, ValueError, KeyError, IndexError, EOFError) as error:
        raise CosimError(f"{path}: cannot be read as feature statistics: {error}") from None
    if not (count > 0).all():
        raise CosimError(f"{path}: count: found {count}, expected a positive number")
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean * mean, _FLOOR))
