"""A self-supervised upstream under ESPnet's Conformer and Transformer decoder.

The systems W2V, Hub and Wlm of paper 000: egs2/librispeech/asr1 of ESPnet, recipes
train_asr_conformer7_{wav2vec2_960hr,hubert_ll60k,wavlm}_large with s3prl's weighted sum of layers
(Yang et al. 2021, SUPERB, section 2.2). Names of parameters are ESPnet's but for the upstream,
whose are Hugging Face's.

Symbols: `samples`, then as in `cosim.models.espnet`.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge
from torch import Tensor, nn

from cosim.errors import CosimError
from cosim.models import (
    AttentionRules,
    FrontEnd,
    GraphSpec,
    LoadedModel,
    ModelConfig,
    hubert,
    model,
    wav2vec2,
    wavlm,
)
from cosim.models.channels import Channels, inputs
from cosim.models.conformer import (
    ConformerDimensions,
    ConformerEncoderDimensions,
    build_encoder,
)
from cosim.models.espnet import CtcHead, encoder_outputs, heads
from cosim.models.espnet_decoder import Decoder, DecoderDimensions, step_graph
from cosim.models.espnet_dimensions import Features, Search
from cosim.models.espnet_encoder import Encoder
from cosim.models.own_folder import open_own
from cosim.models.ssl_checkpoint import upstream_prefix
from cosim.models.ssl_dimensions import Size
from cosim.models.ssl_upstream import EXAMPLE_POSITIONS, HeadedNetwork, Upstream, encoder_graph
from cosim.models.ssl_weight_norm import magnitudes


@dataclass(frozen=True)
class Wav2Vec2Upstream:
    """A wav2vec2 network with or without the heads of pretraining."""

    family: Literal["wav2vec2"]
    network: wav2vec2.Wav2Vec2Dimensions

    def build(self) -> Upstream | HeadedNetwork:
        """Return the network."""
        return wav2vec2.network(self.network)


@dataclass(frozen=True)
class HubertUpstream:
    """A HuBERT network with or without the head of pretraining."""

    family: Literal["hubert"]
    network: hubert.HubertDimensions

    def build(self) -> Upstream | HeadedNetwork:
        """Return the network."""
        return hubert.network(self.network)


@dataclass(frozen=True)
class WavlmUpstream:
    """A WavLM network."""

    family: Literal["wavlm"]
    network: wavlm.WavlmDimensions

    def build(self) -> Upstream | HeadedNetwork:
        """Return the network."""
        return wavlm.network(self.network)


@dataclass(frozen=True, kw_only=True)
class SslConformerDimensions:
    """Sizes of one system; the upstream's hidden vectors are brought to `projected` dimensions."""

    upstream: Wav2Vec2Upstream | HubertUpstream | WavlmUpstream
    vocabulary: Annotated[int, Ge(3)]
    encoder: ConformerEncoderDimensions
    decoder: DecoderDimensions
    projected: Size = 80
    decoding: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        if self.upstream.network.vocabulary is not None:
            raise CosimError("upstream.network.vocabulary: found a CTC head, expected none")

    @property
    def conformer(self) -> ConformerDimensions:
        """The part behind the projection."""
        return ConformerDimensions(
            vocabulary=self.vocabulary,
            encoder=self.encoder,
            decoder=self.decoder,
            features=Features(mels=self.projected),
        )


class Featurizer(nn.Module):
    """The sum of the upstream's layers, weighted by the softmax of a learnt number for each.

    The weights depend on no input, so a graph holds them as numbers: `settle` takes them from the
    parameter, which is in no graph.
    """

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(states))
        self.shares = (1.0 / states,) * states

    def settle(self) -> None:
        """Take the weights from the parameter, again whenever that has changed."""
        if not self.weights.is_meta:
            self.shares = tuple(self.weights.detach().softmax(0).tolist())

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """Return [1, positions, width] of as many states of that shape as there are weights."""
        total = states[0] * self.shares[0]
        for state, share in zip(states[1:], self.shares[1:], strict=True):
            total = total + state * share
        return total


class Frontend(nn.Module):
    """Samples to the weighted sum of the upstream's layers."""

    def __init__(self, dimensions: SslConformerDimensions) -> None:
        super().__init__()
        self.upstream = dimensions.upstream.build()
        self.featurizer = Featurizer(dimensions.upstream.network.layers + 1)

    def forward(self, samples: Tensor) -> Tensor:
        """Return [1, positions, width] of samples [1, samples]."""
        result: Tensor = self.featurizer(self.upstream.states(samples))
        return result


class Projection(nn.Module):
    """A linear layer of x less its mean over time (ESPnet's preencoder behind utterance_mvn).

    The mean is taken behind the layer, where there are fewer dimensions: W (x - mean x) + b is
    y - mean y + b for y = W x + b.
    """

    def __init__(self, width: int, projected: int) -> None:
        super().__init__()
        self.linear_out = nn.Linear(width, projected)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, projected] of x [1, positions, width]."""
        y = self.linear_out(x)
        rows = y.unsqueeze(1)
        # Attention of a query that scores all keys alike is their mean, at any length.
        mean = F.scaled_dot_product_attention(rows[:, :, :1] * 0.0, rows, rows)
        result: Tensor = y - mean.squeeze(1) + self.linear_out.bias
        return result


class EncoderGraph(nn.Module):
    """Samples in, CTC logits and the decoder's cross-attention keys and values out."""

    def __init__(self, network: "SslConformer") -> None:
        super().__init__()
        self.frontend = network.frontend
        self.preencoder = network.preencoder
        self.encoder = network.encoder
        self.ctc = network.ctc
        self.decoder = network.decoder

    def forward(self, samples: Tensor) -> tuple[Tensor, ...]:
        """Return what `encoder_outputs` names, of samples [1, samples]."""
        memory = self.encoder(self.preencoder(self.frontend(samples)))
        return heads(memory, self.ctc, self.decoder)


class SslConformer(nn.Module):
    """The whole system."""

    def __init__(self, dimensions: SslConformerDimensions) -> None:
        super().__init__()
        d = dimensions
        self.dimensions = d
        self.frontend = Frontend(d)
        self.preencoder = Projection(d.upstream.network.width, d.projected)
        self.encoder: Encoder = build_encoder(d.conformer)
        self.ctc = CtcHead(d.encoder.width, d.vocabulary)
        self.decoder = Decoder(d.encoder.width, d.vocabulary, d.decoder)

    def hidden(self) -> Channels:
        """Return the units of the upstream's width, which the projection reads."""
        found = self.frontend.upstream.hidden().under("frontend.upstream")
        return replace(found, places=(*found.places, inputs("preencoder.linear_out")))

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder` and `step`, ready for torch.export."""
        encoder = encoder_graph(
            EncoderGraph(self),
            self.dimensions.upstream.network,
            *encoder_outputs(self.decoder),
            least=self.encoder.least(2),
            example=self.encoder.least(EXAMPLE_POSITIONS),
        )
        return encoder, step_graph(self.decoder)


@model("ssl_conformer")
def load_ssl_conformer(config: ModelConfig) -> LoadedModel:
    """Return a system from a folder of our own or with random weights.

    Drawn weights of the upstream are rounded to fp16, as the published upstreams are fp16 values.
    Raises CosimError for weights of another kind and everything that does not fit.
    """
    own = open_own(config, SslConformerDimensions, SslConformer)
    d, network = own.dimensions, own.module
    if own.is_random:
        _round_to_half(network.frontend.upstream)
    network.frontend.featurizer.settle()
    last = d.vocabulary - 1
    prefix = f"frontend.upstream.{upstream_prefix(d.upstream.network)}"
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=network,
        source=own.source,
        front=FrontEnd("waveform", is_normalized=d.upstream.network.is_normalized),
        decoding=AttentionRules(
            start=last,
            end=last,
            blank=0,
            beam=d.decoding.beam,
            ctc_weight=d.decoding.ctc_weight,
            penalty=d.decoding.penalty,
            max_tokens=d.decoder.positions - 1,
        ),
        tokens=own.tokens,
        is_random=own.is_random,
        folded_parameters=magnitudes(d.upstream.network, prefix),
    )


def _round_to_half(module: nn.Module) -> None:
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.copy_(parameter.half().float())
