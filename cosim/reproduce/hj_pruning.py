"""Peng et al. 2023, HJ-Pruning (001): where wav2vec2-base has its parameters and its MACs."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cosim.config import configs_root, load
from cosim.models import LoadedModel
from cosim.reproduce.rows import Judge, Remark, Request, Row, Source, TableRows, by_cell, missing
from cosim.reproduce.shapes import WAV2VEC2_CNN, elements, shapes_of, wav2vec2_positions

_DATA = configs_root() / "published" / "001_hj_pruning.yaml"
TEN_SECONDS = 160_000
LONGER = 160_640
"""The longest input of 501 positions: its MACs are the printed ones."""


@dataclass(frozen=True)
class Published:
    """The data file."""

    source: Source
    model: str
    cnn_parameters_percent: str
    cnn_macs_percent: str
    macs_g: str
    cnn_layers: str
    cnn_channels: str
    encoder_layers: str
    width: str
    heads: str
    hidden: str
    remarks: tuple[Remark, ...]


def macs_of(model: LoadedModel, samples: int) -> dict[str, int]:
    """Return MACs per part of a wav2vec2-type network with a CTC head, from its weights' shapes.

    Every weight of a linear layer or convolution is used once per output position; attention adds
    2 T^2 d a layer (equations 10 to 12). The paper's equations leave out the projection, the
    positional convolution and the head; they are counted here.
    """
    positions = wav2vec2_positions(samples)
    lengths = [wav2vec2_positions(samples, layers) for layers in range(1, len(WAV2VEC2_CNN) + 1)]
    counted = dict.fromkeys(
        ("cnn", "projection", "positional convolution", "attention", "feed-forward", "head"), 0
    )
    for name, parameter in model.module.named_parameters():
        size = parameter.numel()
        if parameter.ndim < 2 or not name.endswith(".weight"):
            continue
        if ".conv_layers." in name:
            layer = int(name.partition(".conv_layers.")[2].partition(".")[0])
            counted["cnn"] += size * lengths[layer]
        elif ".pos_conv_embed." in name:  # padded by half its taps, which are even: one more
            counted["positional convolution"] += size * (positions + 1 - parameter.shape[-1] % 2)
        elif ".attention." in name:
            counted["attention"] += size * positions
            if name.endswith(".out_proj.weight"):
                counted["attention"] += 2 * positions**2 * int(parameter.shape[-1])
        elif ".feed_forward." in name:
            counted["feed-forward"] += size * positions
        elif ".feature_projection." in name:
            counted["projection"] += size * positions
        elif name.startswith("lm_head."):
            counted["head"] += size * positions
    return counted


def _text(_request: Request) -> Iterator[Row]:
    data = load(_DATA, Published)
    judge = Judge("text", by_cell(data.remarks, source=str(_DATA)))
    model = shapes_of(data.model)
    parameters = dict(model.module.named_parameters())
    layers = [name for name in parameters if name.endswith(".intermediate_dense.weight")]
    convolutions = [name for name in parameters if name.endswith(".conv.weight")]
    cnn = [name for name in convolutions if ".conv_layers." in name]
    hidden, width = parameters[layers[0]].shape
    yield judge("CNN layers", data.cnn_layers, len(cnn))
    yield judge("CNN channels", data.cnn_channels, parameters[cnn[0]].shape[0])
    yield judge("encoder layers", data.encoder_layers, len(layers))
    yield judge("hidden size", data.width, width)
    yield judge("feed-forward size", data.hidden, hidden)
    share = 100 * elements(model, ".feature_extractor.") / model.parameters
    yield judge("CNN share of parameters", data.cnn_parameters_percent, share, unit="%")
    macs = macs_of(model, TEN_SECONDS)
    total = sum(macs.values())
    note = f"{macs['cnn'] / 1e9:.3f} of {total / 1e9:.3f} GMAC"
    yield judge(
        "CNN share of MACs", data.cnn_macs_percent, 100 * macs["cnn"] / total, unit="%", note=note
    )
    positions = f"{TEN_SECONDS} samples, {wav2vec2_positions(TEN_SECONDS)} positions"
    yield judge("MACs of 10 s", data.macs_g, total / 1e9, unit="G", note=positions)
    longer = sum(macs_of(model, LONGER).values()) / 1e9
    note = f"{LONGER} samples, {wav2vec2_positions(LONGER)} positions"
    yield judge("MACs of 10.04 s", data.macs_g, longer, unit="G", note=note)
    yield missing(
        "text", "WER and accuracy against MACs (Fig. 1 to 6)", "needs training on the corpora"
    )


TABLES: Mapping[str, TableRows] = {"text": _text}
