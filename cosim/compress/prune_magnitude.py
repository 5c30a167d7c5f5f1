"""Weights of small magnitude become zero: one by one, in blocks, rows, columns, heads and units.

Han et al. 2015 zero what is below a threshold, a quality parameter times the standard deviation of
a layer's weights; See, Luong and Manning 2016 compare ranking within a layer (`local`), over all
(`global`), and over all in standard deviations of each layer (`class`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from cosim.compress.network import F32, BlockForm, Kind, Layer, NofMForm, Selector, State, Weight
from cosim.compress.prune_units import (
    selected_heads,
    selected_units,
    unit_deviation,
    unit_scores,
    without_units,
)
from cosim.compress.ranking import Mask, Scores, lowest, share_of
from cosim.compress.recipe import compressor
from cosim.compress.surgery import by_weight, names_of, network
from cosim.compress.units import Units
from cosim.compress.zero_blocks import Block, Norm, beyond_n_of_m, block_scores, spread
from cosim.errors import CosimError

Size = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class NofM:
    """Keep the `n` largest of every `m` consecutive weights of a row (Mishra et al. 2021)."""

    n: Size
    m: Annotated[int, Ge(2), Le(256)]

    def __post_init__(self) -> None:
        if self.n >= self.m:
            raise CosimError(f"n: found {self.n}, expected less than m {self.m}")


@dataclass(frozen=True)
class Blocks:
    """Blocks of so many output channels by so many weights of a row: [16, 1] is 16 x 1."""

    block: tuple[Size, Size]


@dataclass(frozen=True)
class PruneMagnitudeConfig:
    """Zero the weights, or the blocks, rows, columns, heads or units, of least norm per element.

    Exactly one of: `rate`, the share of them, rounded down, in each layer or with `global` and
    `class` in all together; `threshold`, below which all are zeroed; and with `class`, `quality`,
    the threshold in standard deviations of the layer's weights. An N:M pattern needs none: it
    decides the share itself, in each run of a row; a shorter run at its end keeps its n largest.

    `heads` selects attentions, and `units` the two linear layers of each feed-forward; both zero
    what computes a unit, its biases, and what reads it. `rows` zero their biases. `norm` is the
    mean magnitude (`l1`) or the root mean square; of single weights both are the magnitude.
    """

    method: Literal["prune_magnitude"]
    layers: Selector = "*"
    scope: Literal["local", "global", "class"] = "local"
    pattern: Literal["unstructured", "rows", "columns", "heads", "units"] | NofM | Blocks = (
        "unstructured"
    )
    rate: Annotated[float, Ge(0), Lt(1)] | None = None
    threshold: Annotated[float, Gt(0)] | None = None
    quality: Annotated[float, Gt(0)] | None = None
    norm: Norm = "l1"
    makes_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ways = ("rate", "threshold", "quality")
        given = [name for name in ways if getattr(self, name) is not None]
        found = f"found {' and '.join(given) or 'none'}"
        problems = []
        if isinstance(self.pattern, NofM):
            if given:
                problems.append(f"{found}, expected no amount beside pattern n, m")
            if self.scope != "local":
                problems.append(f"scope: found {self.scope}, expected local for pattern n, m")
        elif len(given) != 1:
            problems.append(f"{found}, expected exactly one of {', '.join(ways)}")
        elif self.quality is not None and self.scope != "class":
            problems.append(f"scope: found {self.scope}, expected class for quality")
        elif self.threshold is not None and self.scope == "class":
            problems.append("scope: found class, expected local or global for threshold")
        if problems:
            raise CosimError(problems)

    @property
    def what(self) -> str:
        """What is zeroed together, in words."""
        if isinstance(self.pattern, NofM):
            return f"weights {self.pattern.n}:{self.pattern.m}"
        if isinstance(self.pattern, Blocks):
            return "blocks {}x{}".format(*self.pattern.block)
        return "weights" if self.pattern == "unstructured" else self.pattern

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Attentions for heads, linear layers for units, else every kind that has weights."""
        if self.pattern == "heads":
            return ("attention",)
        return ("linear",) if self.pattern == "units" else ("linear", "conv", "embedding")


@dataclass(frozen=True)
class _Ranked:
    """What is ranked in one layer, attention or feed-forward; `without` zeroes those chosen.

    Its scores are those of `rows` rows.
    """

    layer: str
    rows: int
    scores: Scores
    deviation: Callable[[], float]
    without: Callable[[Mask], dict[str, Weight]]


@compressor(PruneMagnitudeConfig)
def prune_magnitude(
    state: State, config: PruneMagnitudeConfig, selected: tuple[Layer, ...]
) -> State:
    """Return the state with zeros where weights, or what the pattern takes together, are least.

    Of equals the first go first: by layer, then by place. A weight of several layers counts once.
    Scores are those of the values that are stored: codes stay codes. Raises CosimError for weights
    that have no code for zero, and for heads or units of which only some weights are selected.
    """
    if config.pattern in ("heads", "units"):
        select = selected_heads if config.pattern == "heads" else selected_units
        groups = select(state, selected)
        _refuse_without_zero(state, (part.parameter for each in groups for part in each.parts))
        ranked = [_ranked_units(state, config, each) for each in groups]
    else:
        names = tuple(dict.fromkeys(layer.weight for layer in selected))
        _refuse_without_zero(state, names)
        ranked = [_ranked_blocks(state, config, name) for name in names]
    changed: dict[str, Weight] = {}
    rows: list[_Row] = []
    for each, chosen in zip(ranked, _chosen(ranked, config), strict=True):
        zeroed = int(np.count_nonzero(chosen))
        rows.append(_Row(each.layer, zeroed, chosen.size))
        if zeroed:
            changed |= each.without(chosen)
    told = ({"method": config.method, "pattern": config.what, **asdict(row)} for row in rows)
    return state.with_weights(changed).with_notes(*_notes(config, rows)).reporting(told)


def _chosen(ranked: Sequence[_Ranked], config: PruneMagnitudeConfig) -> Iterator[Mask]:
    """Yield which of the scores of each are zeroed."""
    if isinstance(config.pattern, NofM):
        for each in ranked:
            rows = each.scores().reshape(each.rows, -1)
            yield beyond_n_of_m(rows, config.pattern.n, config.pattern.m).ravel()
        return
    if config.rate is None:
        for each in ranked:
            limit = config.threshold
            if config.quality is not None:
                limit = config.quality * each.deviation()
            yield each.scores() < np.float32(cast("float", limit))
        return
    if config.scope == "local":
        for each in ranked:
            scores = each.scores()
            yield from lowest([partial(np.asarray, scores)], share_of(config.rate, scores.size))
        return
    every = [each.scores for each in ranked]
    if config.scope == "class":
        every = [partial(_in_deviations, each.scores, each.deviation()) for each in ranked]
    total = sum(each.scores().size for each in ranked)
    yield from lowest(every, share_of(config.rate, total))


def _in_deviations(scores: Scores, deviation: float) -> F32:
    """Return scores over a standard deviation; where that is 0, all but 0 is infinite."""
    found = scores()
    if deviation > 0:
        return found / np.float32(deviation)
    return np.where(found > 0, np.float32(np.inf), np.float32(0))


def _ranked_units(state: State, config: PruneMagnitudeConfig, units: Units) -> _Ranked:
    return _Ranked(
        units.modules[0],
        1,
        partial(unit_scores, state.weights, units, config.norm),
        partial(unit_deviation, state.weights, units),
        partial(without_units, state.weights, units),
    )


def _ranked_blocks(state: State, config: PruneMagnitudeConfig, name: str) -> _Ranked:
    """Return what is ranked of one weight: every pattern but heads and units is one of blocks."""
    weight, layers = state.weights[name], by_weight(state.layers)[name]
    n, k = len(weight.table), weight.table[0].size
    pattern = config.pattern
    block: Block = (1, 1)
    form = weight.form
    if isinstance(pattern, NofM):
        form = NofMForm(pattern.n, pattern.m)
    elif pattern != "unstructured":
        block = pattern.block if isinstance(pattern, Blocks) else (n, 1)
        block = (1, k) if pattern == "rows" else block
        form = BlockForm(*block)

    def without(chosen: Mask) -> dict[str, Weight]:
        zeroed = weight.zeroed(spread(chosen, weight.table.shape, block))
        biases = _biases(state, layers) if pattern == "rows" else []
        return {
            name: replace(zeroed, form=form),
            **{bias: state.weights[bias].zeroed(chosen) for bias in biases},
        }

    return _Ranked(
        layers[0].name,
        -(-n // block[0]),
        lambda: block_scores(weight.values, block, config.norm),
        lambda: float(np.std(weight.values, dtype=np.float64)),
        without,
    )


def _biases(state: State, layers: Iterable[Layer]) -> list[str]:
    """Return the names of the biases of layers."""
    module = network(state)
    names = names_of(module)
    found = (getattr(module.get_submodule(layer.name), "bias", None) for layer in layers)
    return [names[id(bias)] for bias in found if bias is not None]


def _refuse_without_zero(state: State, names: Iterable[str]) -> None:
    """Raise CosimError listing the weights whose codes cannot all be exactly zero."""
    problems = []
    for name in dict.fromkeys(names):
        weight = state.weights[name]
        if weight.bits == 1:
            problems.append(f"{name}: found signs, which have no zero; leave it out")
        elif weight.zero_point is not None:
            zero, limit = weight.zero_point, 2 ** (weight.bits - 1)
            if np.any(zero != np.rint(zero)) or zero.min() < -limit or zero.max() >= limit:
                problems.append(
                    f"{name}: found zero points that are no codes of {weight.bits} bits, so that "
                    "no weight can be zero; prune before the entry that quantises"
                )
    if problems:
        raise CosimError(problems)


@dataclass(frozen=True)
class _Row:
    """How many weights, blocks, heads and so on of one layer were zeroed."""

    layer: str
    zeroed: int
    of: int


def _notes(config: PruneMagnitudeConfig, rows: Sequence[_Row]) -> list[str]:
    """Return what a reader of the recipe would not expect."""
    notes = []
    untouched = [row for row in rows if not row.zeroed]
    is_ranked_together = config.rate is not None and config.scope != "local"
    if untouched and not is_ranked_together and config.rate != 0:
        notes.append(
            f"nothing zeroed in {len(untouched)} of {len(rows)} layers "
            f"({untouched[0].layer} has {untouched[0].of} {config.what})"
        )
    empty = [row for row in rows if row.zeroed == row.of]
    if empty:
        notes.append(
            f"all {config.what} zeroed in {len(empty)} of {len(rows)} layers "
            f"(first {empty[0].layer})"
        )
    return [f"{config.method}: {note}" for note in notes]


def smallest(values: F32, *, rate: float) -> Mask:
    """Return where the floor(rate * elements) smallest magnitudes are; of equals, the first ones.

    The rate counts as the decimal that was written: 0.29 of 100 elements are 29.

    Example:
        >>> smallest(np.array([3.0, -1.0, 1.0, 2.0], np.float32), rate=0.25).tolist()
        [False, True, False, False]

    """
    magnitudes = np.abs(values).ravel()
    (chosen,) = lowest([lambda: magnitudes], share_of(rate, magnitudes.size))
    return chosen.reshape(values.shape)
