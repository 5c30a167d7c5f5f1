"""Sizes of ESPnet's networks, as model files state them and checkpoints confirm them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from cosim.errors import CosimError
from cosim.models import FrontEnd
from cosim.models.espnet_decoder import DecoderDimensions
from cosim.models.espnet_layers import SUBSAMPLINGS, SubsamplingKind

Size = Annotated[int, Ge(1)]


def odd(name: str, taps: int) -> None:
    """Raise CosimError when a convolution of so many taps cannot keep the length."""
    if taps % 2 == 0:
        raise CosimError(f"{name}: found {taps}, expected an odd number")


@dataclass(frozen=True, kw_only=True)
class EncoderDimensions:
    """Sizes that every encoder has; `width` is even and splits evenly into `heads`."""

    width: Annotated[int, Ge(2)]
    heads: Size
    layers: Size
    subsampling: SubsamplingKind = "conv2d"

    def __post_init__(self) -> None:
        if self.width % 2:  # half of the sinusoids are sines
            raise CosimError(f"width: found {self.width}, expected an even number")
        if self.width % self.heads:
            raise CosimError(f"heads: found {self.heads}, expected a divisor of width {self.width}")


@dataclass(frozen=True)
class Features:
    """The encoder's input: `mels` bands and `zeros` dimensions in the place of pitch, every `hop`.

    `hop`, `fft` and `window_samples` count samples at 16 kHz; the defaults are those of ESPnet2.
    """

    kind: Literal["espnet_log_mel", "kaldi_fbank"] = "espnet_log_mel"
    mels: Size = 80
    zeros: Annotated[int, Ge(0)] = 0
    hop: Size = 128
    fft: Size = 512
    window_samples: Size | None = None

    def __post_init__(self) -> None:
        if (self.window_samples or 0) > self.fft:
            raise CosimError(
                f"window_samples: found {self.window_samples}, expected at most fft {self.fft}"
            )

    @property
    def width(self) -> int:
        """Dimensions of one frame."""
        return self.mels + self.zeros

    def front_end(self, mean: tuple[float, ...] = (), scale: tuple[float, ...] = ()) -> FrontEnd:
        """Return the front end with the normalisation of a checkpoint."""
        return FrontEnd(
            self.kind,
            mels=self.mels,
            zeros=self.zeros,
            hop=self.hop,
            fft=self.fft,
            window_samples=self.window_samples,
            mean=mean,
            scale=scale,
        )


@dataclass(frozen=True)
class Search:
    """How a decoder is searched.

    The weight is that of egs2/librispeech/asr1/conf/decode_asr.yaml and librispeech_100's in
    ESPnet. Their beams are 60 and 20, with a language model; 10 without one is assumed.
    """

    beam: Size = 10
    ctc_weight: Annotated[float, Ge(0), Le(1)] = 0.3
    penalty: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes of one network. Without `decoder` it is a CTC model, decoded with the beam alone."""

    vocabulary: Annotated[int, Ge(3)]
    encoder: EncoderDimensions
    decoder: DecoderDimensions | None = None
    features: Features = Features()
    decoding: Search = Search()

    def __post_init__(self) -> None:
        problems = []
        width = self.encoder.width
        if self.decoder is not None and width % self.decoder.heads:
            problems.append(
                f"decoder.heads: found {self.decoder.heads}, expected a divisor of width {width}"
            )
        first, second = SUBSAMPLINGS[self.encoder.subsampling]
        least = first.length(second.length(1))
        if self.features.width < least:
            problems.append(
                f"features: found {self.features.width} dimensions, expected at least {least} for "
                f"{self.encoder.subsampling}"
            )
        if problems:
            raise CosimError(problems)
