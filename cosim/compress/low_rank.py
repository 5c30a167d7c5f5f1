"""A linear layer becomes two of low rank: M of (m, n) is replaced by U V^T with fewer parameters.

Hernandez et al. 2023, section 3.4, by the truncated singular value decomposition, which is the best
approximation of its rank (Eckart and Young 1936).
"""

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from cosim.compress.network import F32, Kind, Layer, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.compress.surgery import by_weight, names_of, network, parameter, put
from cosim.errors import CosimError

if TYPE_CHECKING:
    from torch import nn

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class LowRankConfig:
    """Replace each selected linear layer by two.

    Exactly one of: `rank`; `energy`, the share of the squared singular values that stays; and
    `parameters`, the share of the weight's elements that the two weights may have.
    """

    method: Literal["low_rank"]
    layers: Selector = "*"
    rank: Annotated[int, Ge(1)] | None = None
    energy: Annotated[float, Gt(0), Le(1)] | None = None
    parameters: Annotated[float, Gt(0), Lt(1)] | None = None
    changes_structure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        ways = ("rank", "energy", "parameters")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise CosimError(f"found {found}, expected exactly one of {', '.join(ways)}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Linear layers."""
        return ("linear",)


@dataclass(frozen=True)
class Factors:
    """`up` (outputs, rank) times `down` (rank, inputs), and the share of the energy they miss."""

    up: F32
    down: F32
    lost: float

    @property
    def rank(self) -> int:
        """The rank of the product."""
        return len(self.down)


@compressor(LowRankConfig)
def low_rank(state: State, config: LowRankConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with selected linear layers as pairs `down` and `up`, which has the bias.

    A weight of several layers is decomposed once. A layer stays, with a note, where two would have
    as many parameters, and where a layer that was not selected uses the weight too. Raises
    CosimError when every layer stays.
    """
    module = network(state)
    users = by_weight(state.layers)
    before = names_of(module)
    carried: dict[int, Weight] = {}
    stay: list[str] = []
    done: list[tuple[Factors, str]] = []
    for weight, layers in by_weight(selected).items():
        others = [layer.name for layer in users[weight] if layer not in layers]
        if others:
            stay.append(f"{layers[0].name} stays: {others[0]} has the same weight")
            continue
        values = state.weights[weight].values
        factors = factorised(values, config)
        if factors is None:
            rows, columns = values.shape
            stay.append(
                f"{layers[0].name} stays: two layers would save nothing of its "
                f"{rows} x {columns} weights"
            )
            continue
        done.append((factors, layers[0].name))
        carried |= _replace(state, module, layers, factors, before)
    if not done:
        raise CosimError(stay)
    ranks = [factors.rank for factors, _ in done]
    lost, where = max((factors.lost, name) for factors, name in done)
    spread = f"{min(ranks)}" if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
    total = (
        f"{len(done)} linear layers became two of rank {spread}; at most {lost:.1%} of the squared "
        f"singular values are lost ({where})"
    )
    after = names_of(module)
    changed = {after[tensor]: weight for tensor, weight in carried.items()}
    notes = (f"low_rank: {text}" for text in (total, *stay))
    rows = (
        {
            "method": config.method,
            "layer": name,
            "rank": each.rank,
            "weights": each.up.size + each.down.size,
            "weights_before": len(each.up) * each.down.shape[1],
            "energy_lost": each.lost,
        }
        for each, name in done
    )
    return state.restructured(changed).with_notes(*notes).reporting(rows)


def factorised(values: F32, config: LowRankConfig) -> Factors | None:
    """Return two weights whose product approximates `values`, or None if they are no fewer.

    The decomposition is of the smaller of M M^T and M^T M, in float64: several times faster than
    that of M, and exact to some 1e-8 of the largest singular value. Each factor takes the root of
    the singular values, so that both have rows of like magnitude.
    """
    rows, columns = values.shape
    if config.parameters is not None and _affordable(config.parameters, rows, columns) < 1:
        return None
    matrix = values.astype(np.float64)
    is_wide = rows < columns
    gram = matrix @ matrix.T if is_wide else matrix.T @ matrix
    squares, vectors = np.linalg.eigh(gram)
    squares, vectors = np.maximum(squares[::-1], 0.0), vectors[:, ::-1]
    rank = _rank(config, squares, rows, columns)
    if rank * (rows + columns) >= rows * columns:
        return None
    kept, basis = squares[:rank], vectors[:, :rank]
    root = kept**0.25
    inverse = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    if is_wide:
        up, down = basis * root, inverse[:, None] * (basis.T @ matrix)
    else:
        up, down = (matrix @ basis) * inverse, root[:, None] * basis.T
    total = float(squares.sum())
    lost = float(squares[rank:].sum()) / total if total else 0.0
    return Factors(up.astype(np.float32), down.astype(np.float32), lost)


def _rank(config: LowRankConfig, squares: F64, rows: int, columns: int) -> int:
    """Return the rank that the config asks for, given the squared singular values, falling."""
    if config.rank is not None:
        return min(config.rank, len(squares))
    if config.parameters is not None:
        return _affordable(config.parameters, rows, columns)
    wanted = cast("float", config.energy) * squares.sum()
    reached = np.cumsum(squares) >= wanted * (1 - 1e-12)  # sums in two orders differ by rounding
    return 1 + int(np.argmax(reached)) if reached.any() else len(squares)


def _affordable(share: float, rows: int, columns: int) -> int:
    """Return the largest rank at which two weights have at most a share of the one's elements."""
    return floor(Fraction(str(share)) * rows * columns / (rows + columns))


def _replace(
    state: State,
    module: "nn.Module",
    layers: list[Layer],
    factors: Factors,
    names: dict[int, str],
) -> dict[int, Weight]:
    """Put pairs that share their weights in the place of layers that shared theirs.

    Return what the new places hold by the identity of their parameters.
    """
    from cosim.models.factors import LowRank  # noqa: PLC0415, imports torch

    down, up = parameter(factors.down), parameter(factors.up)
    carried = {id(down): Weight(factors.down), id(up): Weight(factors.up)}
    for layer in layers:
        bias = cast("nn.Linear", module.get_submodule(layer.name)).bias
        if bias is not None:
            carried[id(bias)] = state.weights[names[id(bias)]]
        put(module, layer.name, LowRank(down, up, cast("nn.Parameter | None", bias)))
    return carried
