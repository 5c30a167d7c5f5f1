"""wav2vec 2.0 (Baevski et al. 2020) with a CTC head, its pretraining heads or none."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from cosim.errors import CosimError
from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.channels import Channels, inputs
from cosim.models.ssl_checkpoint import load_upstream
from cosim.models.ssl_dimensions import Layout, Size, UpstreamDimensions
from cosim.models.ssl_upstream import CtcNetwork, HeadedNetwork, Upstream

_CODEBOOK_KEYS: Mapping[str, str] = {
    "groups": "num_codevector_groups",
    "entries": "num_codevectors_per_group",
    "width": "codevector_dim",
    "projected": "proj_codevector_dim",
}


@dataclass(frozen=True)
class Codebooks:
    """The quantiser of pretraining: `groups` codebooks of `entries` vectors, together `width` wide.

    `projected` is the width in which its vectors are compared with the network's.
    """

    groups: Size
    entries: Size
    width: Size
    projected: Size

    def __post_init__(self) -> None:
        if self.width % self.groups:
            raise CosimError(f"groups: found {self.groups}, expected a divisor of {self.width}")


@dataclass(frozen=True)
class Wav2Vec2Dimensions(UpstreamDimensions):
    """Sizes of one wav2vec2 network, with a CTC head, `codebooks` of pretraining, or neither."""

    layout: ClassVar[Layout] = Layout(
        family="wav2vec2",
        classes={
            "Wav2Vec2ForCTC": "vocabulary",
            "Wav2Vec2ForPreTraining": "codebooks",
            "Wav2Vec2Model": None,
        },
        head_keys={"codebooks": _CODEBOOK_KEYS},
    )

    codebooks: Codebooks | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary is not None and self.codebooks is not None:
            raise CosimError("found vocabulary and codebooks, expected at most one head")


class Quantizer(nn.Module):
    """The codebooks and the layer that picks from them."""

    def __init__(self, channels: int, codebooks: Codebooks) -> None:
        super().__init__()
        entries = codebooks.groups * codebooks.entries
        self.codevectors = nn.Parameter(
            torch.zeros(1, entries, codebooks.width // codebooks.groups)
        )
        self.weight_proj = nn.Linear(channels, entries)


class PretrainingNetwork(HeadedNetwork):
    """wav2vec2 with the heads of pretraining."""

    def __init__(self, upstream: Upstream, codebooks: Codebooks) -> None:
        super().__init__(upstream)
        self.quantizer = Quantizer(self.dimensions.channels[-1], codebooks)
        self.project_hid = nn.Linear(self.dimensions.width, codebooks.projected)
        self.project_q = nn.Linear(codebooks.width, codebooks.projected)

    def channels(self) -> tuple[Channels, ...]:
        """Return those of the last convolution, which the quantiser reads beside the upstream."""
        (found,) = self.upstream.channels()
        last = found.under(self.dimensions.layout.family)
        return (replace(last, places=(*last.places, inputs("quantizer.weight_proj"))),)


def network(dimensions: Wav2Vec2Dimensions) -> Upstream | HeadedNetwork:
    """Return the network of these sizes."""
    upstream = Upstream(dimensions)
    if dimensions.codebooks is not None:
        return PretrainingNetwork(upstream, dimensions.codebooks)
    if dimensions.vocabulary is not None:
        return CtcNetwork(upstream, dimensions.vocabulary)
    return upstream


@model("wav2vec2")
def load_wav2vec2(config: ModelConfig) -> LoadedModel:
    """Return a wav2vec2 model from a Hugging Face folder, the hub, or with random weights.

    Raises CosimError for anything missing, unreadable or inconsistent in the checkpoint.
    """
    return load_upstream(config, Wav2Vec2Dimensions, network=network)
