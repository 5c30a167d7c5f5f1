"""Jeon et al. 2024, attention or convolution (003): Table 1 and what the text derives from it.

The paper does not say how it counts. The rules below were found from its own cells: what one-bit
weights take away (differences of the FP32 and the W1A1 row) does not depend on the parts of the
network that the paper leaves open. Lengths are those of 10 s of audio.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from cosim.config import configs_root, load
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
from cosim.reproduce.shapes import wav2vec2_positions

_DATA = configs_root() / "published" / "003_attention_or_convolution.yaml"
_GI = 1 << 30
SAMPLES = 160_000
WITHIN = 0.004
"""Relative difference that the learned scales and biases of binary layers explain: the rules below
leave them out."""
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
    """What the rules need of an encoder: layers, width and one-bit weights per layer.

    `profiled` is another number of weights per layer that the printed operations follow.
    """

    layers: int
    width: int
    weights: int
    bytes_per_weight: int = 4
    profiled: int | None = None

    def storage_saved_mb(self) -> float:
        """Return megabytes that one-bit weights save: 4 (or 2) bytes become an eighth."""
        return self.layers * self.weights * (self.bytes_per_weight - 1 / 8) / 1e6

    def flop_saved_g(self, frames: int) -> float:
        """Return GFLOP of the products that become binary.

        Layers are 2 T L w; attention is 6 T^2 L D, half as much again as its two products have.
        """
        weights = self.profiled or self.weights
        layers = 2 * frames * self.layers * weights
        return (layers + 6 * frames**2 * self.layers * self.width) / 1e9

    def binary_gi(self, frames: int) -> float:
        """Return bit operations of the binary products, in units of 2^30 (see `bops_003`)."""
        layers = 1.5 * frames * self.layers * self.weights
        return (layers + 2 * frames**2 * self.layers * self.width) / _GI


def conformer_weights(width: int, hidden: int, taps: int) -> int:
    """Return the one-bit weights of a Conformer layer.

    Attention 4 d^2, two feed-forward modules of 2 d h, pointwise convolutions 2 d^2 + d^2, and a
    depthwise filter (Gulati et al. 2020, section 2).
    """
    return 4 * width**2 + 2 * 2 * width * hidden + 3 * width**2 + taps * width


_SMALL = conformer_weights(144, 3072, 31)
ENCODERS: Mapping[str, Encoder] = {
    "vanilla": Encoder(12, 768, 12 * 768**2, bytes_per_weight=2),
    "conformer_s": Encoder(16, 144, _SMALL),
    "squeeze_xs": Encoder(16, 144, _SMALL, profiled=conformer_weights(144, 576, 31)),
    "sparse_dn_s": Encoder(16, 256, 12 * 256**2),
    "sparse_sw_s": Encoder(8, 512, 12 * 512**2),
}


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
        encoder, fp, bq = ENCODERS[name], system.float, system.binary
        for what, printed, ours in zip(
            ("layers", "width"),
            system.shape.split(" / "),
            (encoder.layers, encoder.width),
            strict=False,
        ):
            yield judge(f"{name} {what}", printed, ours)
        saved = encoder.storage_saved_mb()
        yield judge(
            f"{name} storage saved", _less(fp.storage, bq.storage), saved, unit="MB", within=WITHIN
        )
        yield judge(
            f"{name} FLOP saved",
            _less(fp.flop, bq.flop),
            encoder.flop_saved_g(frames),
            unit="G",
            within=WITHIN,
        )
        # The printed FLOPs are rounded, so the product is known to half a unit of their last digit.
        rounding = bop_of_flop(0.005) / float(fp.bop)
        yield judge(f"{name} BOP", fp.bop, bop_of_flop(float(fp.flop)), unit="Gi", within=rounding)
        rounding = bop_of_flop(0.005) / float(bq.bop)
        yield judge(
            f"{name} BOP unquantised",
            bq.bop,
            bop_of_flop(float(bq.flop)),
            unit="Gi",
            within=rounding,
        )
        yield judge(
            f"{name} BOP binary", bq.bop_binary, encoder.binary_gi(frames), unit="Gi", within=WITHIN
        )
        yield judge(f"{name} time", fp.time, a100_time(float(fp.bop)), unit="1e-4 s")
        both = a100_time(float(bq.bop), float(bq.bop_binary))
        yield judge(f"{name} time binary", bq.time, both, unit="1e-4 s")
    yield missing("1", "WER and DER", "needs the trained weights and the SUPERB corpora")


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
