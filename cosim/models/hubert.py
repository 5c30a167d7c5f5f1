"""HuBERT (Hsu et al. 2021): wav2vec2's network with a CTC head, its pretraining head or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from cosim.errors import CosimError
from cosim.models import LoadedModel, ModelConfig, model
from cosim.models.ssl_checkpoint import load_upstream
from cosim.models.ssl_dimensions import Layout, Size, UpstreamDimensions
from cosim.models.ssl_upstream import CtcNetwork, HeadedNetwork, Upstream

_CLUSTER_KEYS: Mapping[str, str] = {
    "labels": "num_cluster_labels",
    "projected": "cluster_proj_size",
}


@dataclass(frozen=True)
class Clusters:
    """The head of pretraining: a projection to `projected` and an embedding for each label."""

    labels: Size
    projected: Size


@dataclass(frozen=True)
class HubertDimensions(UpstreamDimensions):
    """Sizes of one HuBERT network, with a CTC head, `clusters` of pretraining, or neither.

    Hugging Face has no class for the pretraining head; HubertForPreTraining and its two keys in
    config.json are ours, the names of its tensors are fairseq's.
    """

    layout: ClassVar[Layout] = Layout(
        family="hubert",
        classes={
            "HubertForCTC": "vocabulary",
            "HubertForPreTraining": "clusters",
            "HubertModel": None,
        },
        head_keys={"clusters": _CLUSTER_KEYS},
        settings={"feat_proj_layer_norm": True, "conv_pos_batch_norm": False},
    )

    clusters: Clusters | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary is not None and self.clusters is not None:
            raise CosimError("found vocabulary and clusters, expected at most one head")


class ClusterNetwork(HeadedNetwork):
    """HuBERT with the head of pretraining."""

    def __init__(self, upstream: Upstream, clusters: Clusters) -> None:
        super().__init__(upstream)
        self.final_proj = nn.Linear(self.dimensions.width, clusters.projected)
        self.label_embs_concat = nn.Parameter(torch.zeros(clusters.labels, clusters.projected))


def network(dimensions: HubertDimensions) -> Upstream | HeadedNetwork:
    """Return the network of these sizes."""
    upstream = Upstream(dimensions)
    if dimensions.clusters is not None:
        return ClusterNetwork(upstream, dimensions.clusters)
    if dimensions.vocabulary is not None:
        return CtcNetwork(upstream, dimensions.vocabulary)
    return upstream


@model("hubert")
def load_hubert(config: ModelConfig) -> LoadedModel:
    """Return a HuBERT model from a Hugging Face folder, the hub, or with random weights.

    Raises CosimError for anything missing, unreadable or inconsistent in the checkpoint.
    """
    return load_upstream(config, HubertDimensions, network=network)
