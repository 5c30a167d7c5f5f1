"""Write a network as the folder of an ESPnet2 experiment."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from cosim.errors import CosimError
from cosim.models import AttentionRules, CtcRules, Decoding, FrontEnd, LoadedModel
from cosim.models.espnet_config import NAME
from cosim.models.espnet_family import FamilyNetwork
from cosim.models.espnet_folder import PREFERRED
from cosim.models.espnet_settings import DECODER, FRONT_END

STATISTICS = "feats_stats.npz"
_CTC_ALONE = {"ctc_weight": 1.0}  # ESPnet makes no decoder then


def save_espnet(loaded: LoadedModel, folder: Path) -> None:
    """Write config.yaml, the state dict and the statistics of the features; weights bit for bit.

    `load` reads the folder back. So does ESPnet, which computes its `frontend.logmel.melmat` by
    itself: it takes the state dict with strict=False. Features that ESPnet2 does not make are
    written as `input_size` alone, so that the model file has to state them again. Tokens without
    text are named after their ids, in angle brackets. Raises CosimError for a network that is not
    of an ESPnet family, one without values, and a folder that holds a checkpoint.
    """
    module = loaded.module
    if not isinstance(module, FamilyNetwork):
        raise CosimError(
            f"model {loaded.name}: family {loaded.family}: found {type(module).__name__}, expected "
            "a network of transformer, conformer, branchformer or e_branchformer"
        )
    if any(tensor.is_meta for tensor in module.parameters()):
        raise CosimError(f"model {loaded.name}: weights.random: found none, expected weights")
    present = [name for name in (NAME, PREFERRED, STATISTICS) if (folder / name).exists()]
    if present:
        raise CosimError(f"{folder}: found {', '.join(present)}, expected an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_state(module, loaded.front), folder / PREFERRED)
    if loaded.front.mean:
        mean, std = _statistics(loaded.front)
        np.savez(folder / STATISTICS, count=1, sum=mean, sum_square=std**2 + mean**2)
    text = yaml.safe_dump(_config(loaded, module), sort_keys=False, allow_unicode=True)
    (folder / NAME).write_text(text, encoding="utf-8")


def _config(loaded: LoadedModel, module: FamilyNetwork) -> dict[str, object]:
    sizes = asdict(module.dimensions)
    tokens = _tokens(loaded, module.dimensions.vocabulary)
    is_espnet = module.dimensions.features.kind == "espnet_log_mel"
    has_decoder = module.decoder is not None
    front: Mapping[str, object] = FRONT_END.write(sizes["features"]) if is_espnet else {}
    return {
        "input_size": None if is_espnet else module.dimensions.features.width,
        "frontend": "default" if is_espnet else None,
        "frontend_conf": front,
        "normalize": "global_mvn" if loaded.front.mean else None,
        "normalize_conf": {"stats_file": STATISTICS} if loaded.front.mean else {},
        "preencoder": None,
        "encoder": module.family.encoder,
        "encoder_conf": module.family.settings.write(sizes["encoder"]),
        "postencoder": None,
        "decoder": "transformer" if has_decoder else None,
        "decoder_conf": DECODER.write(sizes["decoder"]) if has_decoder else {},
        "model_conf": {**_symbols(loaded.decoding, tokens), **({} if has_decoder else _CTC_ALONE)},
        "token_type": "char" if "<space>" in tokens else "bpe",
        "token_list": tokens,
    }


def _symbols(rules: Decoding, tokens: list[str]) -> dict[str, object]:
    """Return the names of the tokens that ESPnet finds blank, start and end by."""
    if isinstance(rules, CtcRules):
        return {"sym_blank": tokens[rules.blank]}
    if isinstance(rules, AttentionRules):
        ids = {"sym_blank": rules.blank, "sym_sos": rules.start, "sym_eos": rules.end}
        return {name: tokens[index] for name, index in ids.items()}
    raise TypeError(f"found {type(rules).__name__}, expected rules of CTC or attention")


def _tokens(loaded: LoadedModel, vocabulary: int) -> list[str]:
    if loaded.tokens is not None:
        return loaded.tokens.file.read_text(encoding="utf-8").split("\n")[:vocabulary]
    inner = [f"<{index}>" for index in range(1, vocabulary - 1)]
    return ["<blank>", *inner, "<sos/eos>"]


def _state(module: FamilyNetwork, front: FrontEnd) -> dict[str, Tensor]:
    """Return the tensors by name, with the counters and statistics that ESPnet keeps among them."""
    state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm1d):
            state[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    if front.mean:
        mean, std = _statistics(front)
        state["normalize.mean"] = torch.from_numpy(mean).float()
        state["normalize.std"] = torch.from_numpy(std).float()
    return state


def _statistics(front: FrontEnd) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = (np.asarray(values, dtype=np.float64) for values in (front.mean, front.scale))
    return mean, 1.0 / scale
