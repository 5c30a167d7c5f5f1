"""WavLM (Chen et al. 2022): HuBERT's network with a gated bias by distance in its attention."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from cosim.errors import CosimError
from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.ssl_checkpoint import load_upstream
from cosim.models.ssl_dimensions import Layout, Size, UpstreamDimensions
from cosim.models.ssl_layers import GatedAttention
from cosim.models.ssl_upstream import CtcNetwork, HeadedNetwork, Upstream


@dataclass(frozen=True)
class WavlmDimensions(UpstreamDimensions):
    """Sizes of one WavLM network, with a CTC head or none.

    Distances between positions fall into `buckets`, the last of them from `furthest` on.
    """

    layout: ClassVar[Layout] = Layout(
        family="wavlm",
        classes={"WavLMForCTC": "vocabulary", "WavLMModel": None},
        keys={"buckets": "num_buckets", "furthest": "max_bucket_distance"},
    )

    buckets: Annotated[int, Ge(4)] = 320
    furthest: Size = 800

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.furthest <= self.buckets // 4:
            raise CosimError(
                f"furthest: found {self.furthest}, expected more than a quarter of the "
                f"{self.buckets} buckets, which hold one distance each"
            )


def network(dimensions: WavlmDimensions) -> Upstream | HeadedNetwork:
    """Return the network of these sizes."""

    def attention(index: int) -> GatedAttention:
        made = GatedAttention(dimensions, buckets=dimensions.buckets, furthest=dimensions.furthest)
        if index == 0:
            made.add_table()
        return made

    upstream = Upstream(dimensions, attention)
    if dimensions.vocabulary is not None:
        return CtcNetwork(upstream, dimensions.vocabulary)
    return upstream


@model("wavlm")
def load_wavlm(config: ModelConfig) -> LoadedModel:
    """Return a WavLM model from a Hugging Face folder, the hub, or with random weights.

    Raises CosimError for anything missing, unreadable or inconsistent in the checkpoint.
    """
    return load_upstream(config, WavlmDimensions, network=network)
