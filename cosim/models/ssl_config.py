"""config.json of wav2vec2-type checkpoints: what it states as our dimensions, and back."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path

from cosim.errors import suggestion
from cosim.models.ssl_dimensions import KEYS, SETTINGS, Layout, UpstreamDimensions

_MASK_PROBABILITY = 0.05
"""Above zero, transformers gives the network its mask vector; the value serves training alone."""


def read_head(
    stated: Mapping[str, object], layout: Layout, path: Path, problems: list[str]
) -> str | None:
    """Return the dimension that holds the head which config.json states, None without one.

    Adds to `problems` another model_type, and an architecture that the family has not.
    """
    if stated.get("model_type") != layout.family:
        problems.append(
            f"{path}: model_type: found {stated.get('model_type')!r}, expected {layout.family!r}, "
            "the family of the model file"
        )
        return None
    names = stated.get("architectures")
    known = list(layout.classes)
    if not isinstance(names, list) or len(names) != 1 or names[0] not in layout.classes:
        single = names[0] if isinstance(names, list) and len(names) == 1 else ""
        problems.append(
            f"{path}: architectures: found {names!r}, expected one of {', '.join(known)}"
            f"{suggestion(str(single), known) if single else ''}"
        )
        return None
    return layout.classes[names[0]]


def read_sizes(
    stated: Mapping[str, object],
    kind: type[UpstreamDimensions],
    path: Path,
    head: str | None,
    problems: list[str],
) -> dict[str, object]:
    """Return dimensions by name as config.json states them, unchecked but for being there.

    Adds to `problems` keys that are missing, and settings that no network of ours has. A key with a
    default may be missing: transformers has the same defaults.
    """
    layout = kind.layout
    for key, wanted in {**SETTINGS, **layout.settings}.items():
        if key in stated and stated[key] != wanted:
            problems.append(f"{path}: {key}: found {stated[key]!r}, expected {wanted!r}")
    required = {place.name for place in fields(kind) if place.default is MISSING}
    keys = {**KEYS, **layout.keys}
    missing = [keys[name] for name in keys if name in required and keys[name] not in stated]
    sizes: dict[str, object] = {name: stated[key] for name, key in keys.items() if key in stated}
    if head == "vocabulary":
        keys = {"vocabulary": "vocab_size", "blank": "pad_token_id"}
        missing += [key for key in keys.values() if key not in stated]
        sizes |= {name: stated.get(key) for name, key in keys.items()}
    elif head is not None:
        inner = layout.head_keys[head]
        missing += [key for key in inner.values() if key not in stated]
        sizes[head] = {name: stated.get(key) for name, key in inner.items()}
    problems += [f"{path}: {key}: missing" for key in missing]
    return sizes


def write_config(dimensions: UpstreamDimensions) -> dict[str, object]:
    """Return config.json of a network of these dimensions, as transformers reads it too."""
    layout = dimensions.layout
    head = layout.head(dimensions)
    architecture = next(name for name, inner in layout.classes.items() if inner == head)
    values = asdict(dimensions)
    keys = {**KEYS, **layout.keys}
    config: dict[str, object] = {
        "model_type": layout.family,
        "architectures": [architecture],
        **SETTINGS,
        **layout.settings,
        **{key: values[name] for name, key in keys.items()},
        "mask_time_prob": _MASK_PROBABILITY if dimensions.has_mask_vector else 0.0,
        "mask_feature_prob": 0.0,
    }
    if head == "vocabulary":
        config |= {"vocab_size": dimensions.vocabulary, "pad_token_id": dimensions.blank}
    elif head is not None:
        config |= {key: values[head][name] for name, key in layout.head_keys[head].items()}
    return config
