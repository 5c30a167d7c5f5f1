"""Models: what a family provides, the registry of families, and `load`.

A family is one module in this package with a function under `@model("name")`. torch and the family
modules are imported when a model is loaded, not when this package is.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from annotated_types import Ge, Gt, MinLen

from cosim.errors import CosimError, suggestion

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PackageWeights:
    """Weights inside an installed Python distribution, as a CTranslate2 folder.

    `folder` is relative to the place of installation; `sha256` is that of its `model.bin`;
    `install` is the command that an error tells the user to run.
    """

    distribution: str
    version: str
    folder: str
    sha256: str
    licence: str
    install: str


@dataclass(frozen=True)
class RandomWeights:
    """Weights drawn from a distribution, where there is no checkpoint.

    Matrices have variance 1 / fan_in, and the kurtosis of a generalised normal distribution of
    exponent `exponent` (2 normal, 1 Laplace, 8 nearly uniform). `half` rounds values to fp16 and
    keeps them in fp32, as checkpoints trained in fp16 are. `growth` multiplies the deviation by
    1 + growth * depth, depth in [0, 1] over the layers of a stack. Seeds give equal weights.
    `none` draws nothing: parameters stay on torch's meta device, where only their shapes count.
    """

    distribution: Literal["normal", "laplace", "generalized_normal", "none"] = "normal"
    exponent: Annotated[float, Gt(0)] | None = None
    half: bool = False
    growth: Annotated[float, Ge(0)] = 0.0
    seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if (self.exponent is not None) != (self.distribution == "generalized_normal"):
            raise CosimError(
                f"exponent: found {self.exponent} with distribution {self.distribution}, expected "
                "one with generalized_normal and with no other"
            )


@dataclass(frozen=True)
class Weights:
    """Where weights come from: exactly one of `package`, `folder`, `hub` or `random`.

    `folder` holds a checkpoint as Hugging Face, ESPnet or cosim writes it; `hub` is an id such as
    `openai/whisper-tiny.en`, `revision` a branch, tag or commit of it.
    """

    package: PackageWeights | None = None
    folder: str | None = None
    hub: str | None = None
    revision: str | None = None
    random: RandomWeights | None = None

    def __post_init__(self) -> None:
        kinds = ("package", "folder", "hub", "random")
        given = [key for key in kinds if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise CosimError(f"found {found}, expected exactly one of {', '.join(kinds)}")
        if self.revision is not None and self.hub is None:
            raise CosimError("revision: found without hub, expected a hub id that it belongs to")


@dataclass(frozen=True)
class ModelConfig:
    """A model file: `dimensions` may be left out where the checkpoint states them.

    The family says which dimensions it has and checks them.
    """

    name: Annotated[str, MinLen(1)]
    family: Annotated[str, MinLen(1)]
    weights: Weights
    dimensions: dict[str, Any] | None = None


@dataclass(frozen=True)
class StateSpec:
    """A cache that a graph grows by one row: `output` is `input` and one row more on `axis`."""

    input: str
    output: str
    axis: int
    capacity: int


@dataclass(frozen=True)
class GraphSpec:
    """One graph for torch.export (strict=False, not decomposed).

    `inputs` and `outputs` name the user inputs and results in order. `shapes` gives the dimensions
    of each input, numbers or names of length symbols; `examples` and `dynamic_shapes` go to
    torch.export as they are. An output with the name of another graph's input feeds it.
    """

    name: str
    module: "nn.Module"
    examples: tuple["Tensor", ...]
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    outputs: tuple[str, ...]
    dynamic_shapes: Mapping[str, object]
    states: tuple[StateSpec, ...]


class Network(Protocol):
    """What every family's module offers besides being an `nn.Module`."""

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return the graphs that make up the program."""
        ...


@dataclass(frozen=True)
class DecodingValues:
    """The published greedy rules of a Whisper checkpoint, as token ids.

    `prompt` runs through `step` first; `first_suppressed` are forbidden at the first free step,
    `suppressed` and every id above `end` always.
    """

    prompt: tuple[int, ...]
    end: int
    first_suppressed: tuple[int, ...]
    suppressed: tuple[int, ...]
    max_steps: int


@dataclass(frozen=True)
class CtcRules:
    """CTC decoding of the encoder's `logits`: greedy for a beam of 1, else prefix beam search."""

    blank: int
    beam: int = 1


@dataclass(frozen=True)
class AttentionRules:
    """Decoding by `step`, jointly with the encoder's `ctc_logits`.

    A hypothesis scores (1 - ctc_weight) log p_attention + ctc_weight log p_ctc + penalty per token
    (Watanabe et al. 2017, equation 12). A beam of 1 with ctc_weight 0 is greedy. At most
    max_ratio * encoder positions tokens are decoded, and no more than `max_tokens`.
    """

    start: int
    end: int
    blank: int
    beam: int = 1
    ctc_weight: float = 0.0
    penalty: float = 0.0
    max_ratio: float = 1.0
    max_tokens: int = 5000


Decoding = DecodingValues | CtcRules | AttentionRules


@dataclass(frozen=True)
class FrontEnd:
    """How audio becomes the encoder's one input.

    `whisper_log_mel`: `features` (1, mels, frames). `espnet_log_mel` (ESPnet2's default front end)
    and `kaldi_fbank`: `features` (1, frames, mels + zeros), where `zeros` dimensions stand for
    pitch and are zero (`assumed`). `waveform`: `samples` (1, samples). Audio is 16 kHz, `hop` is in
    samples, `fft` too; `window_samples` (None: `fft`) is the length of the Hann window of ESPnet.
    `mean` and `scale` normalise each band as (x - mean) * scale (ESPnet's global_mvn);
    `is_normalized` gives the waveform mean 0 and variance 1. `window_s` is a length to which all
    audio is padded with silence, None where the true length is taken.
    """

    kind: Literal["whisper_log_mel", "espnet_log_mel", "kaldi_fbank", "waveform"]
    mels: int = 0
    zeros: int = 0
    hop: int = 160
    fft: int = 512
    window_samples: int | None = None
    window_s: float | None = None
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    is_normalized: bool = False

    @property
    def symbol(self) -> str:
        """The length symbol of the encoder's input."""
        return "samples" if self.kind == "waveform" else "frames"

    def length(self, samples: int) -> int:
        """Return the length of the encoder's input for that many samples of audio."""
        if self.window_s is not None:
            samples = round(self.window_s * 16000)
        if self.kind == "waveform":
            return samples
        if self.kind == "whisper_log_mel":
            return samples // self.hop
        if self.kind == "espnet_log_mel":  # centred frames
            return samples // self.hop + 1
        return max(0, (samples - 400) // self.hop + 1)  # Kaldi: whole windows of 25 ms


@dataclass(frozen=True)
class Tokens:
    """How token ids become text.

    `tokenizer_json`: Hugging Face's file. `pieces`: a text file with a token a line in the order
    of ids; U+2581 begins a word, `<space>` is a space. `characters`: Hugging Face's vocab.json of
    a CTC model; `|` is a space. Tokens in angle or square brackets are left out.
    """

    kind: Literal["tokenizer_json", "pieces", "characters"]
    file: Path


@dataclass(frozen=True)
class LoadedModel:
    """A module in inference mode with what is needed to use it.

    `source` is printed by every run. Without `tokens` no text can be made, so WER is not measured.
    `folded_parameters` are those of the checkpoint that were folded into others at loading, and
    `assumed_parameters` those that belong to the paper's size and are not executed, by name.
    """

    name: str
    family: str
    module: "nn.Module"
    source: str
    front: FrontEnd
    decoding: Decoding
    tokens: Tokens | None = None
    is_random: bool = False
    folded_parameters: Mapping[str, int] = field(default_factory=dict)
    assumed_parameters: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self) -> int:
        """Number of parameters of the checkpoint, a tied one counted once."""
        own = sum(parameter.numel() for parameter in self.module.parameters())
        return own + sum(self.folded_parameters.values())


Loader = Callable[[ModelConfig], LoadedModel]
FAMILIES: dict[str, Loader] = {}


def model(name: str) -> Callable[[Loader], Loader]:
    """Register the loader of a family."""

    def register(loader: Loader) -> Loader:
        FAMILIES[name] = loader
        return loader

    return register


def families() -> tuple[str, ...]:
    """Return the names of all families (imports them, and so torch)."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(FAMILIES))


def load(config: ModelConfig) -> LoadedModel:
    """Return the model of `config` with its weights in fp32.

    Raises CosimError for an unknown family, unusable weights, and tensors that do not match.

    Example:
        load(cosim.config.load(Path("configs/models/whisper_tiny_en.yaml"), ModelConfig))

    """
    known = families()
    if config.family not in FAMILIES:
        raise CosimError(
            f"model {config.name}: family: found {config.family!r}, expected one of the families"
            f"{suggestion(config.family, known)}"
        )
    return FAMILIES[config.family](config)
