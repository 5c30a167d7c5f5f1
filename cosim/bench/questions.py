"""What `cosim bench --patterns`, `--precision` and `--energy` ask: versions, variants of chips."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Version:
    """How a model is compressed: entries of a recipe, and what linear layers of blocks take.

    A version without entries (None) is the shipped recipe of its name.
    """

    name: str
    methods: tuple[Mapping[str, object], ...] | None = field(default=None, hash=False)
    activation: str = "i8"


@dataclass(frozen=True)
class Variant:
    """A shipped chip with some keys of its array changed, and what the change is called."""

    name: str
    chip: str
    changes: Mapping[str, object] = field(hash=False)


@dataclass(frozen=True)
class Block:
    """The linear layers of one block: constants that fit `pattern`, at so many activation rows."""

    name: str
    pattern: str
    rows: int


@dataclass(frozen=True)
class Subject:
    """A model file, the audio of one utterance, its decoding steps, and blocks to execute."""

    model: str
    seconds: float
    steps: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Question:
    """Which versions pay on which variants; the first of both is what others are compared with.

    A variant is compared with the first of its chip.
    """

    name: str
    subjects: tuple[Subject, ...]
    versions: tuple[Version, ...]
    variants: tuple[Variant, ...]


SUBJECTS = (
    Subject(
        "wav2vec2_base",
        10.0,
        0,
        (Block("encoder block, 499 rows", r"@wav2vec2\.encoder\.layers\.5\..*\.weight", 499),),
    ),
    Subject(
        "whisper_tiny_en",
        30.0,
        20,
        (
            Block("encoder block, 1500 rows", r"@encoder\.layers\.1\..*\.weight", 1500),
            Block("decoder block, 1 row", r"@decoder\.layers\.1\..*\.weight", 1),
        ),
    ),
)

_W8A8: Mapping[str, object] = {
    "method": "quantize",
    "layers": "*",
    "weight_bits": 8,
    "granularity": "channel",
    "activations": {"bits": 8, "scale": "dynamic", "per": "row"},
}
_LINEARS: Mapping[str, object] = {"kinds": ["linear"], "blocks": [0, 999]}
_OUTSIDE = ["*", "!*.layers.*"]


def _pruned(name: str, **what: object) -> Version:
    """Return zeros in linear layers of the blocks, each layer by itself, then 8 bits throughout."""
    return Version(name, ({"method": "prune_magnitude", "layers": _LINEARS, **what}, _W8A8))


def _policies(chip: str, cells: int) -> tuple[Variant, ...]:
    """Return a chip of `cells` x `cells` with every policy for zeros.

    Decoders keep up with weights that shift in, a row per cycle: one index per row or column left
    out or kept, one per weight where each has its own. Four banks a lane, as `gather_edge_32` has.
    """
    one = {"decoded_per_cycle": 1}
    each = {"decoded_per_cycle": cells}
    changes: Mapping[str, Mapping[str, object]] = {
        "dense": {},
        "dense, results stay": {"dataflow": "output_stationary"},
        "skip_zero_fold": {"sparsity": "skip_zero_fold"},
        "row_skip": {"sparsity": "row_skip", "sparse_unit": one},
        "column_compact": {"sparsity": "column_compact", "sparse_unit": one},
        "nm": {"sparsity": "nm", "sparse_unit": {**each, "kept": 2, "run": 4}},
        "csr_gather": {
            "dataflow": "output_stationary",
            "sparsity": "csr_gather",
            "sparse_unit": {**each, "banks": 4 * cells},
        },
    }
    return tuple(Variant(name, chip, change) for name, change in changes.items())


PATTERNS = Question(
    "patterns",
    SUBJECTS,
    (
        Version("dense", (_W8A8,)),
        _pruned("unstructured 50 %", rate=0.5),
        _pruned("unstructured 60 %", rate=0.6),
        _pruned("unstructured 80 %", rate=0.8),
        _pruned("16x1 50 %", pattern={"block": [16, 1]}, rate=0.5),
        _pruned("32x32 50 %", pattern={"block": [32, 32]}, rate=0.5),
        _pruned("2:4", pattern={"n": 2, "m": 4}),
    ),
    (*_policies("stacked_edge_32", 32), *_policies("stacked_server_128", 128)),
)

_NARROW = ["i8xi8", "u8xi8", "i8xi4", "u8xi4", "i4xi4", "i8xi2", "u8xi2", "i4xi2", "i2xi2"]


def _cells(chip: str, cells: int) -> tuple[Variant, ...]:
    """Return a chip of `cells` x `cells` as shipped, with composable and with bit-serial cells.

    Composable cells have edges of 16 bits and an xnor unit beside them, as `composable_edge_32`.
    """
    composable: Mapping[str, object] = {
        "supports": [*_NARROW, "i1xi1", "u1xi1"],
        "cell": {"kind": "composable"},
        "edge": {"row_bits": 16, "column_bits": 16},
        "xnor": {"rows": cells, "columns": cells, "word_bits": 32, "cell_area_ratio": 0.25},
        "rescale": "accumulators",
    }
    serial = {"cell": {"kind": "bit_serial", "serial": "weights", "products": 8}}
    return (
        Variant("fixed", chip, {}),
        Variant("composable and xnor", chip, composable),
        Variant("bit-serial weights", chip, serial),
    )


def _quantized(bits: int) -> Version:
    span = {} if bits > 2 else {"range": "mse"}
    return Version(f"w{bits}a8", ({**_W8A8, "weight_bits": bits, **span},))


PRECISION = Question(
    "precision",
    SUBJECTS,
    (
        _quantized(8),
        _quantized(4),
        _quantized(2),
        Version(
            "w1a1",
            (
                {"method": "binarize", "layers": {"blocks": [0, 999]}, "activations": {"bits": 1}},
                {**_W8A8, "layers": _OUTSIDE},
            ),
            "b1",
        ),
    ),
    (*_cells("stacked_edge_32", 32), *_cells("stacked_server_128", 128)),
)

ENERGY = Question(
    "energy",
    tuple(replace(subject, blocks=()) for subject in SUBJECTS),
    tuple(Version(name) for name in ("fp32", "w8a8", "w4a8", "prune80_w8a8", "w1a1", "w1a1_w8a8")),
    tuple(
        Variant("as shipped", chip, {})
        for chip in ("stacked_edge_32", "composable_edge_32", "stacked_server_128")
    ),
)

QUESTIONS: Mapping[str, Question] = {one.name: one for one in (PATTERNS, PRECISION, ENERGY)}
