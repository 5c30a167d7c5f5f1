"""Each layer's bits follow from the fuzzy classes of its weights (Oujabour et al. 2025, 000).

Three classes (section IV-D1): a layer of class low loses its weights of class low and is stored in
8 bits, one of class medium in 4 and one of class high in 8. Two classes (section IV-D2): class low
in 2 bits, high in 4. The paper has these two the other way round, against its Table VI and its own
purpose; with its shares of layers (33.83 % of class low) only this order gives the E-Branchformer
the printed 74 MB. Codes are those of quanto, as in the paper.

Two readings are assumed. The pruned weights are those of class low: they are 36 to 39 % of a layer
for (alpha, beta) = (1/2, 1/2) std, and the paper prints 36 %. Two classes are low and high, without
medium: with it, class low would have the layers of Table V, and Table VI has others.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt

from cosim.compress import quanto
from cosim.compress.fuzzy_classes import Class, Decision, decide
from cosim.compress.network import Kind, Layer, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.errors import CosimError

BITS: Mapping[int, Mapping[Class, quanto.Bits]] = {
    3: {"L": 8, "M": 4, "H": 8},
    2: {"L": 2, "H": 4},
}
"""By the number of classes, bits of a layer of each class."""
PRUNED: Mapping[int, Class | None] = {3: "L", 2: None}
"""The class whose layers lose their weights of class L."""


@dataclass(frozen=True)
class FuzzyConfig:
    """How many classes, and where they begin: `alpha` and `beta` times the deviation of |w|.

    `beta` is half the width of the class medium, which two classes have no use for.
    """

    method: Literal["fuzzy"]
    classes: Literal[2, 3]
    alpha: Annotated[float, Ge(0)] = 0.5
    beta: Annotated[float, Gt(0)] | None = None
    layers: Selector = "*"
    sets_format: ClassVar[bool] = True
    makes_zeros: ClassVar[bool] = True
    holds_zeros: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.classes == 3 and self.beta is None:
            raise CosimError("beta: missing, expected a number > 0 with 3 classes")
        if self.classes == 2 and self.beta is not None:
            raise CosimError(f"beta: found {self.beta:g}, expected none with 2 classes")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Linear layers and convolutions."""
        return ("linear", "conv")

    def takes(self, layer: Layer) -> bool:
        """Return whether quanto quantises the layer: not a convolution along one dimension."""
        return layer.dimensions != 1


@compressor(FuzzyConfig)
def fuzzy(state: State, config: FuzzyConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with each weight pruned and in as many bits as its layer's class says.

    The report has a row for each layer: shares of weights by class in [0, 1], sums of memberships,
    the decision, bits, and the share pruned. A weight of several layers is decided once.
    """
    changed: dict[str, Weight] = {}
    rows: list[Mapping[str, object]] = []
    for layer in selected:
        if layer.weight in changed:
            continue
        weight = state.weights[layer.weight]
        found = decide(weight.values, alpha=config.alpha, beta=config.beta)
        bits = BITS[config.classes][found.decided]
        is_pruned = PRUNED[config.classes] == found.decided
        if is_pruned:
            weight = weight.zeroed(found.is_low)
        changed[layer.weight] = quanto.quantized(weight.values, bits)
        rows.append(_row(layer, found, bits, is_pruned=is_pruned))
    return state.with_weights(changed).with_notes(_summary(rows, config)).reporting(rows)


def _row(
    layer: Layer, found: Decision, bits: quanto.Bits, *, is_pruned: bool
) -> Mapping[str, object]:
    return {
        "method": "fuzzy",
        "layer": layer.name,
        "weights": found.is_low.size,
        **{f"share_{letter}": share for letter, share in found.shares.items()},
        **{f"membership_{letter}": total for letter, total in found.memberships.items()},
        "unclassified": found.unclassified,
        "decided": found.decided,
        "bits": bits,
        "pruned": found.shares["L"] if is_pruned else 0.0,
    }


def _summary(rows: list[Mapping[str, object]], config: FuzzyConfig) -> str:
    """Return the shares of layers by class and what is pruned of class L, as Table V has them."""
    counts = Counter(row["decided"] for row in rows)
    told = ", ".join(
        f"{counts[letter] / len(rows):.2%} {letter} ({bits} bits)"
        for letter, bits in BITS[config.classes].items()
    )
    pruned = [share for row in rows if isinstance(share := row["pruned"], float) and share]
    rate = f"; {sum(pruned) / len(pruned):.2%} of the weights of class L pruned" if pruned else ""
    return f"fuzzy: of {len(rows)} layers {told}{rate}"
