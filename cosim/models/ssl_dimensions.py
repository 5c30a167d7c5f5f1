"""Sizes of wav2vec2-type networks, and how Hugging Face's config.json states them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from cosim.errors import CosimError

Size = Annotated[int, Ge(1)]
Sizes = Annotated[tuple[Size, ...], MinLen(1)]


@dataclass(frozen=True)
class Layout:
    """What one family's checkpoints look like.

    `family` is the model_type of config.json and the prefix of the upstream's tensors where there
    is a head. `classes` gives, for each class that `architectures` may name, the dimension that is
    its head (None: no head). `keys` names the key of config.json for each dimension of the family's
    own, `head_keys` the keys of the fields of each head. `settings` are keys that must have this
    value where they are stated, because the network has nothing else.
    """

    family: str
    classes: Mapping[str, str | None]
    keys: Mapping[str, str] = field(default_factory=dict)
    head_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    def head(self, dimensions: "UpstreamDimensions") -> str | None:
        """Return the dimension that gives a network its head, None where it has none."""
        names = [name for name in self.classes.values() if name is not None]
        return next((name for name in names if getattr(dimensions, name) is not None), None)


@dataclass(frozen=True)
class UpstreamDimensions:
    """Sizes of a convolutional feature encoder and the Transformer over it.

    `channels`, `taps` and `strides` have one number for each convolution over the samples. With
    `convolution_norm` group only the first of them is normalised, per channel over time; with layer
    all are, over channels. `is_norm_first` normalises before attention and feed-forward, else after
    them. `has_mask_vector`: the checkpoint holds the vector that stands for masked frames in
    training; it counts as a parameter and is in no graph. `is_normalized`: samples are brought to
    mean 0 and variance 1. `vocabulary` is that of a CTC head and `blank` its blank; None: no head.
    """

    layout: ClassVar[Layout]

    width: Size
    heads: Size
    layers: Size
    hidden: Size
    channels: Sizes
    taps: Sizes
    strides: Sizes
    convolution_bias: bool = False
    convolution_norm: Literal["group", "layer"] = "group"
    is_norm_first: bool = False
    position_taps: Size = 128
    position_groups: Size = 16
    epsilon: Annotated[float, Gt(0)] = 1e-5
    has_mask_vector: bool = True
    is_normalized: bool = True
    vocabulary: Size | None = None
    blank: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name}: found {value}, expected a divisor of width {self.width}"
            for name, value in (("heads", self.heads), ("position_groups", self.position_groups))
            if self.width % value
        ]
        if not len(self.channels) == len(self.taps) == len(self.strides):
            found = f"{len(self.channels)}, {len(self.taps)} and {len(self.strides)}"
            problems.append(f"channels, taps, strides: found {found} numbers, expected as many")
        if self.vocabulary is not None and self.blank >= self.vocabulary:
            problems.append(f"blank: found {self.blank}, expected an id below {self.vocabulary}")
        if problems:
            raise CosimError(problems)

    def positions(self, samples: int) -> int:
        """Return the number of encoder positions of that many samples; 0 when they are too few."""
        for taps, stride in zip(self.taps, self.strides, strict=True):
            samples = max(0, (samples - taps) // stride + 1)
        return samples

    def samples(self, positions: int) -> int:
        """Return the fewest samples that give so many encoder positions."""
        for taps, stride in zip(reversed(self.taps), reversed(self.strides), strict=True):
            positions = (positions - 1) * stride + taps
        return positions


KEYS: Mapping[str, str] = {
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "layers": "num_hidden_layers",
    "hidden": "intermediate_size",
    "channels": "conv_dim",
    "taps": "conv_kernel",
    "strides": "conv_stride",
    "convolution_bias": "conv_bias",
    "convolution_norm": "feat_extract_norm",
    "is_norm_first": "do_stable_layer_norm",
    "position_taps": "num_conv_pos_embeddings",
    "position_groups": "num_conv_pos_embedding_groups",
    "epsilon": "layer_norm_eps",
}
"""Dimension -> key of config.json, for what all families share."""

SETTINGS: Mapping[str, object] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
}
"""What config.json may also say, and the only value these networks have."""
