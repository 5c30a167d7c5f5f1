"""ESPnet's hybrid of CTC and attention (Watanabe et al. 2017): encoder, CTC head, decoder, graphs.

Parameter names are those of ESPnet's checkpoints. The encoder graph ends in the logits of the CTC
head and the cross-attention keys and values of every decoder layer. Without a decoder it is a CTC
model. Which encoder it is, the family says.

Symbols: `frames` feature frames, `memory` encoder positions, `past` tokens in the cache.
"""

import torch
from torch import Tensor, nn
from torch.export import Dim

from cosim.models import GraphSpec
from cosim.models.espnet_decoder import Decoder, cache_names, step_graph
from cosim.models.espnet_encoder import Encoder

_EXAMPLE_MEMORY = 20  # torch.export would specialise 0 and 1


class CtcHead(nn.Module):
    """A linear layer from encoder positions to logits of tokens and the blank."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(width, vocabulary)

    def forward(self, memory: Tensor) -> Tensor:
        """Return logits [1, positions, vocabulary] of memory [1, positions, width]."""
        result: Tensor = self.ctc_lo(memory)
        return result


def encoder_outputs(decoder: Decoder | None) -> tuple[str, ...]:
    """Return the names of what `heads` returns."""
    if decoder is None:
        return ("logits",)
    return ("ctc_logits", *(f"cross_{name}" for name in cache_names(decoder)))


def heads(memory: Tensor, ctc: CtcHead, decoder: Decoder | None) -> tuple[Tensor, ...]:
    """Return CTC logits [1, memory, vocabulary], then the decoder's cross_k_0, cross_v_0, ..."""
    return (ctc(memory), *(decoder.cross(memory) if decoder is not None else ()))


class EncoderGraph(nn.Module):
    """Features in, CTC logits and the decoder's cross-attention keys and values out."""

    def __init__(self, encoder: Encoder, ctc: CtcHead, decoder: Decoder | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = ctc
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what `encoder_outputs` names, of features [1, frames, features]."""
        return heads(self.encoder(features), self.ctc, self.decoder)


class Espnet(nn.Module):
    """The whole network."""

    def __init__(self, encoder: Encoder, ctc: CtcHead, decoder: Decoder | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc = ctc
        self.decoder = decoder

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder` and, with a decoder, `step`, ready for torch.export."""
        features = self.encoder.features
        # Two positions, because torch.export treats one as a length of its own.
        frames = Dim.DYNAMIC(min=self.encoder.least(2), max=self.encoder.least(self.encoder.most))
        encoder = GraphSpec(
            name="encoder",
            module=EncoderGraph(self.encoder, self.ctc, self.decoder),
            inputs=("features",),
            outputs=encoder_outputs(self.decoder),
            examples=(torch.zeros(1, self.encoder.least(_EXAMPLE_MEMORY), features),),
            shapes=((1, "frames", features),),
            dynamic_shapes={"features": {1: frames}},
            states=(),
        )
        return (encoder,) if self.decoder is None else (encoder, step_graph(self.decoder))
