"""What the config.yaml of an ESPnet2 experiment says about the network, checked key by key."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from cosim.errors import CosimError
from cosim.models.espnet_settings import DECODER, FRONT_END, GLOBAL_MVN, Section, Settings

NAME = "config.yaml"
_ENCODERS = ("transformer", "conformer", "branchformer", "e_branchformer")
# Keys of the whole file with the values that this network has; a key may be left out.
_WHOLE: Mapping[str, tuple[object, ...]] = {
    "frontend": ("default", None),
    "preencoder": (None,),
    "postencoder": (None,),
    "normalize": ("global_mvn", None),
    "token_type": ("bpe", "char"),
    "model": ("espnet", None),
}


@dataclass(frozen=True)
class Normalization:
    """Where the statistics of the features are, and which of them are used."""

    stats_file: str | None
    norm_means: bool
    norm_vars: bool


@dataclass(frozen=True)
class Stated:
    """The part of config.yaml that inference needs.

    `sizes` are our dimensions as far as the file states them. `input_size` is the width of features
    that were made outside of ESPnet, which then says nothing about them. `start`, `end` and `blank`
    are token ids.
    """

    path: Path
    sizes: dict[str, object]
    tokens: tuple[str, ...]
    blank: int
    start: int
    end: int
    normalization: Normalization | None
    input_size: int | None


def read_config(folder: Path, encoder: str, settings: Settings) -> Stated:
    """Return what config.yaml states, for an encoder of that name with those settings.

    Raises CosimError listing everything that this network has not, and what is missing.
    """
    path = folder / NAME
    data = _read_yaml(path)
    problems = [
        f"{path}: {key}: found {data[key]!r}, expected {' or '.join(map(repr, accepted))}"
        for key, accepted in _WHOLE.items()
        if key in data and data[key] not in accepted
    ]
    if "normalize" not in data:  # ESPnet's default, utterance_mvn, is not among ours
        problems.append(f"{path}: normalize: missing, expected 'global_mvn' or null")
    sections = {
        name: _section(data, f"{name}_conf", path, problems)
        for name in ("encoder", "decoder", "frontend", "normalize", "model")
    }
    found = data.get("encoder")
    if found != encoder:
        hint = f"; set family: {found}" if found in _ENCODERS else ""
        problems.append(f"{path}: encoder: found {found!r}, expected {encoder!r}{hint}")
    else:
        encoder_sizes, wrong = settings.read(sections["encoder"], f"{path}: encoder_conf")
        problems += wrong
    decoder_sizes = _decoder(data, sections, path, problems)
    front: dict[str, object] | None = None
    if data.get("frontend", "default") is not None:
        front, wrong = FRONT_END.read(sections["frontend"], f"{path}: frontend_conf")
        problems += wrong
    input_size = data.get("input_size")
    if (front is None) != isinstance(input_size, int):
        expected = "an integer" if front is None else "null"
        problems.append(f"{path}: input_size: found {input_size!r}, expected {expected}")
    normalization = None
    if data.get("normalize") is not None:
        normalization = _normalization(sections["normalize"], path, problems)
    tokens = _tokens(data.get("token_list"), path, problems)
    if problems:
        raise CosimError(problems)
    features = (
        {} if front is None else {"features": {"kind": "espnet_log_mel", "zeros": 0, **front}}
    )
    special = sections["model"]
    return Stated(
        path=path,
        sizes={
            "vocabulary": len(tokens),
            "encoder": encoder_sizes,
            "decoder": decoder_sizes,
            **features,
        },
        tokens=tokens,
        # espnet2/asr/espnet_model.py: where the list has not the symbol, the first or last token
        blank=_index(tokens, special.get("sym_blank", "<blank>"), 0),
        start=_index(tokens, special.get("sym_sos", "<sos/eos>"), len(tokens) - 1),
        end=_index(tokens, special.get("sym_eos", "<sos/eos>"), len(tokens) - 1),
        normalization=normalization,
        input_size=input_size if isinstance(input_size, int) else None,
    )


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        below = sorted(str(p.parent) for p in path.parent.glob(f"*/**/{NAME}"))
        hint = f"; there is one in {', '.join(below[:3])}" if below else ""
        raise CosimError(f"{path}: missing from the checkpoint{hint}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise CosimError(f"{path}: cannot be read as YAML: {reason}") from None
    if not isinstance(data, dict):
        raise CosimError(f"{path}: found {type(data).__name__}, expected a mapping")
    return data


def _section(data: Section, name: str, path: Path, problems: list[str]) -> dict[str, object]:
    found = data.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        problems.append(f"{path}: {name}: found {type(found).__name__}, expected a mapping")
        return {}
    return found


def _decoder(
    data: Section, sections: Mapping[str, Section], path: Path, problems: list[str]
) -> dict[str, object] | None:
    """Return the decoder's sizes, or None for a model trained with CTC alone.

    ESPnet makes no decoder where ctc_weight is 1 (espnet2/asr/espnet_model.py).
    """
    if sections["model"].get("ctc_weight") == 1.0:
        return None
    if data.get("decoder") != "transformer":
        problems.append(
            f"{path}: decoder: found {data.get('decoder')!r}, expected 'transformer', or "
            "model_conf.ctc_weight 1.0 for none"
        )
        return None
    sizes, wrong = DECODER.read(sections["decoder"], f"{path}: decoder_conf")
    problems += wrong
    return sizes


def _normalization(section: Section, path: Path, problems: list[str]) -> Normalization:
    values, wrong = GLOBAL_MVN.read(section, f"{path}: normalize_conf")
    problems += wrong
    means, variances, file = (values[key] for key in ("norm_means", "norm_vars", "stats_file"))
    for name, value in (("norm_means", means), ("norm_vars", variances)):
        if not isinstance(value, bool):
            problems.append(f"{path}: normalize_conf.{name}: found {value!r}, expected true, false")
    if not isinstance(file, str | None):
        problems.append(f"{path}: normalize_conf.stats_file: found {file!r}, expected a path")
    return Normalization(None if file is None else str(file), bool(means), bool(variances))


def _tokens(found: object, path: Path, problems: list[str]) -> tuple[str, ...]:
    """Return the token list of the file, in the order of ids."""
    if not isinstance(found, list) or not found:
        text = "nothing" if found is None else repr(found)
        problems.append(f"{path}: token_list: found {text}, expected the list of all tokens")
        return ()
    odd = [f"{index}: {token!r}" for index, token in enumerate(found) if not isinstance(token, str)]
    if odd:
        problems.append(f"{path}: token_list: found {', '.join(odd[:3])}, expected text")
    repeated = [str(token) for token, times in Counter(map(str, found)).items() if times > 1]
    if repeated:
        problems.append(f"{path}: token_list: found {', '.join(repeated[:3])} more than once")
    return tuple(map(str, found))


def _index(tokens: tuple[str, ...], symbol: object, otherwise: int) -> int:
    return tokens.index(str(symbol)) if symbol in tokens else otherwise
