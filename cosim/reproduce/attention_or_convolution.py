"""Jeon et al. 2024, attention or convolution (003): Table 1 and what the text derives from it.

The paper does not say how it counts. The rules below were found from its own cells: what one-bit
weights take away (differences of the FP32 and the W1A1 row) does not depend on the parts of the
network that the paper leaves open. Lengths are those of 10 s of audio.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, cast

from cosim.config import configs_root, load
from cosim.models import LoadedModel
from cosim.reproduce.rows import (
    Judge,
    Remark,
    Request,
    Row,
    Source,
    TableRows,
    by_cell,
    missing,
)
from cosim.reproduce.shapes import shapes_of, wav2vec2_positions

if TYPE_CHECKING:
    from cosim.models.hubert_variant import HubertVariant, VariantDimensions

_DATA = configs_root() / "published" / "003_attention_or_convolution.yaml"
_GI = 1 << 30
SAMPLES = 160_000
WITHIN = 0.004
"""Relative difference that the learned scales and biases of binary layers explain: the rules below
leave them out."""
WITHIN_FRONT = 0.016
"""The same where the front end counts: norms, activations and biases are left out."""
A100_FP16 = 312e12
A100_BINARY = 4992e12
"""Peak operations per second of the A100's tensor cores (NVIDIA A100 data sheet, 2020)."""
MIXED_UNITS = 1.024
"""The paper's times divide counts in units of 2^30 by rates in units of 10^9, but scale the rate by
1024 / 1000 once."""


@dataclass(frozen=True)
class Cells:
    """One line of Table 1, as printed."""

    precision: str
    storage: str
    flop: str
    bop: str
    bop_binary: str
    time: str
    wer: str
    der: str


@dataclass(frozen=True)
class System:
    """An encoder: its model file, its printed shape (layers / width / heads) and its two lines."""

    model: str
    shape: str
    float: Cells
    binary: Cells


@dataclass(frozen=True)
class Published:
    """The data file."""

    source: Source
    systems: dict[str, System]
    text: dict[str, str]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Encoder:
    """What the rules need of a model: sizes, layers, width and one-bit weights per layer.

    `parameters` are those of the whole model, `front_macs` those of the front end, projection and
    positional convolution, which stay in floating point. `profiled` is another number of weights
    per layer that the printed operations follow.
    """

    parameters: int
    layers: int
    width: int
    weights: int
    front_macs: int
    bytes_per_weight: int = 4
    profiled: int | None = None

    def storage_mb(self) -> float:
        """Return megabytes of the floating-point model."""
        return self.parameters * self.bytes_per_weight / 1e6

    def storage_saved_mb(self) -> float:
        """Return megabytes that one-bit weights save: 4 (or 2) bytes become an eighth."""
        return self.layers * self.weights * (self.bytes_per_weight - 1 / 8) / 1e6

    def shifts_mb(self) -> float:
        """Return megabytes of what binary attention adds: a shift of q, k and v per channel.

        Liu et al. 2022 (BiT) learn them as move_q, move_k and move_v.
        """
        return 3 * self.width * self.layers * self.bytes_per_weight / 1e6

    def flop_saved_g(self, frames: int) -> float:
        """Return GFLOP of the products that become binary.

        Layers are 2 T L w; attention is 6 T^2 L D, half as much again as its two products have.
        """
        weights = self.profiled or self.weights
        layers = 2 * frames * self.layers * weights
        return (layers + 6 * frames**2 * self.layers * self.width) / 1e9

    def front_flop_g(self) -> float:
        """Return GFLOP of the products that stay in floating point."""
        return 2 * self.front_macs / 1e9

    def binary_gi(self, frames: int) -> float:
        """Return bit operations of the binary products, in units of 2^30 (see `bops_003`)."""
        layers = 1.5 * frames * self.layers * self.weights
        return (layers + 2 * frames**2 * self.layers * self.width) / _GI


SHIFTED_ROWS = ("vanilla", "sparse_dn_s", "sparse_sw_s")
"""Rows whose binary storage holds the shifts; the two others agree without them."""
FP16_ROWS = ("vanilla",)
"""Rows whose storage follows from 2 bytes a weight."""
PROFILED: Mapping[str, str] = {"squeeze_xs": "configs/models/hubert_conformer_s.yaml"}
"""Models that a row's operations follow instead of its own: 576 hidden units, at full length."""


def encoder_of(name: str, model: str) -> Encoder:
    """Return the encoder of a row, counted in its model."""
    loaded = shapes_of(model)
    layers, weights = _one_bit(loaded)
    profiled = PROFILED.get(name)
    return Encoder(
        loaded.parameters,
        layers,
        _dimensions(loaded).width,
        weights,
        _front_macs(loaded),
        bytes_per_weight=2 if name in FP16_ROWS else 4,
        profiled=_one_bit(shapes_of(profiled))[1] if profiled else None,
    )


def _dimensions(loaded: LoadedModel) -> "VariantDimensions":
    return cast("HubertVariant", loaded.module).dimensions


def _one_bit(loaded: LoadedModel) -> tuple[int, int]:
    """Return layers and one-bit weights per layer."""
    from cosim.models.hubert_variant import binarizable  # noqa: PLC0415, imports torch

    layers = _dimensions(loaded).layers
    weights = sum(binarizable(cast("HubertVariant", loaded.module)).values())
    return layers, weights // layers


def _front_macs(loaded: LoadedModel) -> int:
    """Return MACs of front end, projection and positional convolution, from their shapes."""
    d = _dimensions(loaded)
    lengths = [SAMPLES]
    for taps, stride in zip(d.taps, d.strides, strict=True):
        lengths.append((lengths[-1] - taps) // stride + 1)
    positions = lengths[-1]
    macs = 0
    for name, parameter in loaded.module.named_parameters():
        size = parameter.numel() if parameter.ndim > 1 else 0
        if ".conv_layers." in name:
            macs += size * lengths[int(name.split(".")[2]) + 1]
        elif name.startswith("feature_projection."):
            macs += size * positions
        elif name.startswith("pos_conv_embed."):  # padded by half its even number of taps
            macs += size * (positions + 1 - d.position_taps % 2)
    return macs


def published() -> Published:
    """Return the printed figures."""
    return load(_DATA, Published)


def bop_of_flop(flop_g: float) -> float:
    """Return the paper's bit operations of fp32 work: 16 per FLOP, in units of 2^30."""
    return 16 * flop_g * 1e9 / _GI


def a100_time(bop: float, bop_binary: float = 0.0) -> float:
    """Return the paper's estimated time in units of 1e-4 s.

    It divides by the peak of the FP16 tensor cores, also for fp32, and of the binary ones.
    """
    seconds = bop * 1e9 / (A100_FP16 * MIXED_UNITS)
    return (seconds + bop_binary * 1e9 / (A100_BINARY * MIXED_UNITS)) * 1e4


def _less(first: str, second: str) -> str:
    return str(Decimal(first) - Decimal(second))


def _table(_request: Request) -> Iterator[Row]:
    data = published()
    judge = Judge("1", by_cell(data.remarks, source=str(_DATA)))
    frames = wav2vec2_positions(SAMPLES)
    for name, system in data.systems.items():
        encoder = encoder_of(name, system.model)
        for what, printed, ours in zip(
            ("layers", "width"),
            system.shape.split(" / ")[:2],
            (encoder.layers, encoder.width),
            strict=True,
        ):
            yield judge(f"{name} {what}", printed, ours)
        yield from _storage(judge, name, system, encoder)
        yield from _operations(judge, name, system, encoder, frames)
        fp, bq = system.float, system.binary
        yield judge(f"{name} time", fp.time, a100_time(float(fp.bop)), unit="1e-4 s")
        both = a100_time(float(bq.bop), float(bq.bop_binary))
        yield judge(f"{name} time W1A1", bq.time, both, unit="1e-4 s")
    yield missing("1", "WER and DER", "needs the trained weights and the SUPERB corpora")


def _storage(judge: Judge, name: str, system: System, encoder: Encoder) -> Iterator[Row]:
    fp, bq = system.float.storage, system.binary.storage
    held, saved = encoder.storage_mb(), encoder.storage_saved_mb()
    shifts = encoder.shifts_mb() if name in SHIFTED_ROWS else 0.0
    yield judge(f"{name} storage", fp, held, unit="MB")
    yield judge(f"{name} storage W1A1", bq, held - saved + shifts, unit="MB", within=WITHIN)
    yield judge(f"{name} storage saved", _less(fp, bq), saved, unit="MB", within=WITHIN)


def _operations(
    judge: Judge, name: str, system: System, encoder: Encoder, frames: int
) -> Iterator[Row]:
    fp, bq = system.float, system.binary
    front, saved = encoder.front_flop_g(), encoder.flop_saved_g(frames)
    yield judge(f"{name} FLOP", fp.flop, front + saved, unit="G", within=WITHIN_FRONT)
    yield judge(f"{name} FLOP saved", _less(fp.flop, bq.flop), saved, unit="G", within=WITHIN)
    # The printed FLOPs are rounded, so 16 times them is known to half a unit of their last digit.
    rounding = bop_of_flop(0.005) / float(fp.bop)
    bop = bop_of_flop(float(fp.flop))
    yield judge(f"{name} BOP of printed FLOP", fp.bop, bop, unit="Gi", within=rounding)
    bop = bop_of_flop(front)
    yield judge(f"{name} BOP NonQ W1A1", bq.bop, bop, unit="Gi", within=WITHIN_FRONT)
    binary = encoder.binary_gi(frames)
    yield judge(f"{name} BOP BQ W1A1", bq.bop_binary, binary, unit="Gi", within=WITHIN)


def _text(_request: Request) -> Iterator[Row]:
    data = published()
    judge = Judge("text", by_cell(data.remarks, source=str(_DATA)))
    systems = data.systems
    base, quantised = systems["vanilla"].float, systems["vanilla"].binary
    conformer, sparse = systems["conformer_s"], systems["sparse_dn_s"].binary

    def less(before: float, after: float) -> float:
        return 100 * (1 - after / before)

    sums = {
        name: float(cells.bop) + float(cells.bop_binary)
        for name, cells in (("vanilla", quantised), ("sparse", sparse))
    }
    found = {
        "baseline_to_sparse_storage": less(float(base.storage), float(sparse.storage)),
        "baseline_to_sparse_flop": less(float(base.flop), float(sparse.flop)),
        "baseline_to_sparse_bop": less(float(base.bop), sums["sparse"]),
        "baseline_to_sparse_time": less(float(base.time), float(sparse.time)),
        "binary_to_sparse_storage": less(float(quantised.storage), float(sparse.storage)),
        "binary_to_sparse_flop": less(float(quantised.flop), float(sparse.flop)),
        "binary_to_sparse_bop": less(sums["vanilla"], sums["sparse"]),
        "conformer_to_sparse_storage": less(float(conformer.binary.storage), float(sparse.storage)),
        "conformer_to_sparse_bop_binary": less(
            float(conformer.binary.bop_binary), float(sparse.bop_binary)
        ),
        "baseline_to_conformer_storage": less(float(base.storage), float(conformer.float.storage)),
        "baseline_to_conformer_flop": less(float(base.flop), float(conformer.float.flop)),
        "sum_bop_binary_vanilla": sums["vanilla"],
        "sum_bop_binary_sparse": sums["sparse"],
    }
    for name, printed in data.text.items():
        unit = "Gi" if name.startswith("sum") else "%"
        yield judge(
            name.replace("_", " "), printed, found[name], unit=unit, note="from cells of Table 1"
        )


TABLES: Mapping[str, TableRows] = {"1": _table, "text": _text}
