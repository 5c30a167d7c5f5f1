"""Ben Letaifa and Rouas 2023, variable scale pruning (002): model sizes and Tables A1 to A6.

A table's sparsity is the mean of the pruning rates of the feed-forward layers of the encoder, those
of the decoder and the attention layers, weighted by their weights. Rates of feed-forward layers
fall by 1 % a block (equations 5 and 6): U_n = U_0 - n alpha, V_n = V_0 - n beta. `pruned` is no
table of the paper: there the models themselves are pruned at the rates of all cells.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from cosim.config import configs_root, load
from cosim.reproduce.pruned_models import PrunedModel, largest_distance
from cosim.reproduce.rows import (
    Judge,
    Remark,
    Request,
    Row,
    Source,
    TableRows,
    Verdict,
    by_cell,
    missing,
)
from cosim.reproduce.shapes import elements, shapes_of

_DATA = configs_root() / "published" / "002_variable_scale.yaml"
_MIB = 1 << 20
_AGREEING = 0.75
"""Share of a table's cells that must follow a formula before the others are called misprints."""
_UNIT = Fraction(12, 1000)
"""A cell follows the formula within one unit of its last digit and what cutting takes away."""
_NEAR = Fraction(1, 100)
"""Points by which zeros in a pruned model may differ from the formula: layers cut fractions."""
_FIRST = ".feed_forward.w_1.weight"
_TRAINED = "needs the trained weights and the speech corpus"


@dataclass(frozen=True)
class System:
    """Architecture (Table 1) and size of one model."""

    model: str
    encoder_blocks: str
    decoder_blocks: str
    feed_forward: str
    attention: str
    heads: str
    parameters_m: str
    memory_mb: str


@dataclass(frozen=True)
class Best:
    """A line of Table 2 or 3: pairs of error rate and sparsity picked from an appendix table."""

    appendix: str
    errors: str
    sparsity: str


@dataclass(frozen=True)
class Appendix:
    """One of Tables A1 to A6: a line per V0, a cell per U0, rates in percent."""

    system: str
    attention_rate: int
    u0: tuple[int, ...]
    v0: tuple[int, ...]
    errors: tuple[str, ...]
    sparsity: tuple[str, ...]

    def cells(self) -> Iterator[tuple[int, int, str, str]]:
        """Yield (U0, V0, error rate, sparsity) of every cell as printed."""
        for v0, errors, rates in zip(self.v0, self.errors, self.sparsity, strict=True):
            for u0, error, rate in zip(self.u0, errors.split(), rates.split(), strict=True):
                yield u0, v0, error, rate


@dataclass(frozen=True)
class LastRate:
    """The rate of the last encoder layer as the text has it, and what it follows from."""

    index: str
    rate: str
    first: str
    fall: str


@dataclass(frozen=True)
class Published:
    """The data file."""

    source: Source
    systems: dict[str, System]
    last_rate: LastRate
    remarks: tuple[Remark, ...]
    best: dict[str, tuple[Best, ...]]
    appendix: dict[str, Appendix]


@dataclass(frozen=True)
class Shares:
    """Weights of the pruned layers, and the sum of weight times fall of the rate in percent.

    The unit of all four cancels; in a model it is one feed-forward matrix.
    """

    encoder: Fraction
    decoder: Fraction
    attention: Fraction
    fall: Fraction

    def sparsity(self, u0: int, v0: int, attention_rate: int) -> Fraction:
        """Return the share of pruned weights in percent, exactly."""
        zeros = self.encoder * u0 + self.decoder * v0 + self.attention * attention_rate
        return Fraction(zeros - self.fall) / (self.encoder + self.decoder + self.attention)


@dataclass(frozen=True)
class Assumption:
    """What the cells of a table need where the model's own shares do not give them."""

    shares: Shares
    attention_rate: int
    why: str


_FORTY = Shares(Fraction(40), Fraction(8), Fraction(15), Fraction(378))
_AS_IF = (
    "assumed shares 40:8:15 (the model has 36:12:15), as if four linear layers of the decoder "
    "followed the encoder's sequence, and falls that sum to 378 (the model: 336)"
)
ASSUMED: Mapping[str, Assumption] = {
    "A4": Assumption(_FORTY, 35, _AS_IF),
    "A5": Assumption(_FORTY, 40, _AS_IF),
    "A6": Assumption(
        Shares(Fraction(36), Fraction(12), Fraction(15), Fraction(335)),
        55,
        "assumed an attention rate of 55 % and falls that sum to 335; with the caption's 45 % they "
        "would have to sum to 185, and the model's sum to 336",
    ),
}


def published() -> Published:
    """Return the printed figures."""
    return load(_DATA, Published)


def shares_of(system: System) -> Shares:
    """Return the shares of a model, counted in its weights, for rates that fall by 1 % a block."""
    model = shapes_of(system.model)
    one = next(p for name, p in model.module.named_parameters() if name.endswith(_FIRST))
    sizes = (
        elements(model, "encoder.", ".feed_forward.w_", ".weight"),
        elements(model, "decoder.", ".feed_forward.w_", ".weight"),
        elements(model, "attn.linear_", ".weight"),
    )
    encoder, decoder, attention = (Fraction(size, one.numel()) for size in sizes)
    means = [
        Fraction(int(blocks) - 1, 2) for blocks in (system.encoder_blocks, system.decoder_blocks)
    ]
    return Shares(encoder, decoder, attention, encoder * means[0] + decoder * means[1])


def _cut(value: Fraction) -> float:
    """Return a percentage cut to two decimals, as the paper prints it."""
    return math.floor(value * 100) / 100


@dataclass(frozen=True)
class _Cell:
    """A cell of an appendix table beside its exact value."""

    u0: int
    v0: int
    error: str
    printed: str
    exact: Fraction

    @property
    def follows(self) -> bool:
        return self.printed != "-" and abs(Fraction(self.printed) - self.exact) <= _UNIT

    @property
    def place(self) -> str:
        return f"U0 = {self.u0} %, V0 = {self.v0} %"


def _cells(data: Published, name: str) -> list[_Cell]:
    table, assumed = data.appendix[name], ASSUMED.get(name)
    shares = assumed.shares if assumed else shares_of(data.systems[table.system])
    rate = assumed.attention_rate if assumed else table.attention_rate
    return [
        _Cell(u0, v0, error, printed, shares.sparsity(u0, v0, rate))
        for u0, v0, error, printed in table.cells()
    ]


def _appendix(name: str, _request: Request) -> Iterator[Row]:
    data = published()
    table, assumed = data.appendix[name], ASSUMED.get(name)
    cells = _cells(data, name)
    is_known = sum(cell.follows for cell in cells) >= _AGREEING * len(cells)
    why = (assumed.why,) if assumed else ()
    for cell in cells:
        ours = _cut(cell.exact)
        verdict: Verdict
        if cell.follows:
            verdict, notes = ("ambiguous" if assumed else "reproduced"), why
        elif is_known:
            blank = ("the cell is blank",) if cell.printed == "-" else ()
            verdict, notes = "misprint", (f"{ours:.2f}", *blank, *why)
        else:
            verdict, notes = "not reproducible", ("no formula was found that most cells follow",)
        printed = cell.printed.replace("-", "")
        yield Row(name, f"sparsity at {cell.place}", "%", printed, ours, verdict, "; ".join(notes))
    if assumed:
        own = shares_of(data.systems[table.system])
        differences = [
            Fraction(printed) - own.sparsity(u0, v0, table.attention_rate)
            for u0, v0, _, printed in table.cells()
            if printed != "-"
        ]
        mean = float(sum(differences) / len(differences))
        yield missing(
            name,
            f"sparsity by the model's own shares {own.encoder}:{own.decoder}:{own.attention}",
            f"the printed cells differ from it by {mean:+.2f} percentage points on average",
        )
    yield missing(name, f"{len(cells)} error rates", _TRAINED)


def _pruned(request: Request) -> Iterator[Row]:
    """Prune the models themselves at the rates of every cell and count zeros."""
    data = published()
    for system_name, system in data.systems.items():
        model, own = PrunedModel(system.model), shares_of(system)
        split = f"{own.encoder}:{own.decoder}:{own.attention}"
        for name, table in data.appendix.items():
            if table.system != system_name:
                continue
            request.tell(f"pruning: the cells of {name}")
            cells, rate = _cells(data, name), table.attention_rate
            counted = [model.sparsity(cell.u0, cell.v0, rate) for cell in cells]
            asked = [own.sparsity(cell.u0, cell.v0, rate) for cell in cells]
            ours = largest_distance(zip(counted, asked, strict=True))
            yield Row(
                "pruned",
                f"{name}: pruned model from the formula, largest distance",
                "points",
                "",
                float(ours),
                "reproduced" if ours <= _NEAR else "not reproducible",
                f"zeros counted in {len(cells)} prunings, the formula with the model's shares "
                f"{split}",
            )
            follow = [
                (zeros, Fraction(cell.printed))
                for zeros, cell in zip(counted, cells, strict=True)
                if cell.follows
            ]
            assumed = ASSUMED.get(name)
            is_near = (ours := largest_distance(follow)) <= _UNIT
            yield Row(
                "pruned",
                f"{name}: pruned model from the printed cells, largest distance",
                "points",
                "",
                float(ours),
                "reproduced" if is_near else "ambiguous" if assumed else "not reproducible",
                f"{len(follow)} cells without misprints{f'; {assumed.why}' if assumed else ''}",
            )


def _sizes(_request: Request) -> Iterator[Row]:
    data = published()
    judge = Judge("text", by_cell(data.remarks, source=str(_DATA)))
    for name, system in data.systems.items():
        model = shapes_of(system.model)
        count = model.parameters
        yield judge(f"{name} parameters", system.parameters_m, count / 1e6, unit="M")
        mib = 4 * count / _MIB
        yield judge(f"{name} memory", system.memory_mb, mib, unit="MB", note="MB of 2^20 bytes")
        feed_forward = elements(model, ".feed_forward.")
        share = 100 * feed_forward / count
        yield judge(f"{name} share of feed-forward layers", ">60", share, unit="%")
    last = int(data.systems["libri_trans"].encoder_blocks) - 1
    stated = data.last_rate
    rate = float(stated.first) - last * float(stated.fall)
    yield judge("index of the last rate of 12 encoder layers", stated.index, last)
    yield judge("last rate of 12 encoder layers", stated.rate, rate)
    yield missing("text", "error rates of the systems before pruning", _TRAINED)


def _architecture(_request: Request) -> Iterator[Row]:
    data = published()
    judge = Judge("1", by_cell(data.remarks, source=str(_DATA)))
    for name, system in data.systems.items():
        parameters = dict(shapes_of(system.model).module.named_parameters())
        hidden, width = next(
            tuple(tensor.shape) for key, tensor in parameters.items() if key.endswith(_FIRST)
        )
        for stack, printed in (
            ("encoder", system.encoder_blocks),
            ("decoder", system.decoder_blocks),
        ):
            ours = sum(key.startswith(f"{stack}.") and key.endswith(_FIRST) for key in parameters)
            yield judge(f"{name} {stack} blocks", printed, ours)
        yield judge(f"{name} feed-forward dimension", system.feed_forward, hidden)
        yield judge(f"{name} attention dimension", system.attention, width)


def _best(name: str, _request: Request) -> Iterator[Row]:
    """Compare the best pairs with the appendix they were picked from."""
    data = published()
    for line in data.best[name]:
        cells = [cell for cell in _cells(data, line.appendix) if cell.printed != "-"]
        for error, printed in zip(line.errors.split(), line.sparsity.split(), strict=True):
            quantity = f"sparsity at an error rate of {error} % ({line.appendix})"
            found = next((c for c in cells if (c.error, c.printed) == (error, printed)), None)
            if found is not None and found.follows:
                note = f"as {line.appendix} at {found.place}"
                yield Row(name, quantity, "%", printed, float(found.printed), "reproduced", note)
            elif found is not None:
                ours = _cut(found.exact)
                note = f"{ours:.2f}; copied from {line.appendix} at {found.place}"
                yield Row(name, quantity, "%", printed, ours, "misprint", note)
            else:
                near = min(cells, key=partial(_distance, float(printed), float(error)))
                note = (
                    f"{near.printed}; {line.appendix} has it at an error rate of {near.error} % "
                    f"({near.place})"
                )
                yield Row(name, quantity, "%", printed, float(near.printed), "misprint", note)


def _distance(sparsity: float, error: float, cell: _Cell) -> tuple[float, float]:
    return abs(float(cell.printed) - sparsity), abs(float(cell.error) - error)


TABLES: Mapping[str, TableRows] = {
    "text": _sizes,
    "1": _architecture,
    "2": partial(_best, "2"),
    "3": partial(_best, "3"),
    **{name: partial(_appendix, name) for name in ("A1", "A2", "A3", "A4", "A5", "A6")},
    "pruned": _pruned,
}
