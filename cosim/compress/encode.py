"""The form in which weights are stored: the smallest, or one that the recipe names.

What a form costs and which it can hold: `cosim.compress.stored`. Forms that skip zeros are those of
Han et al. 2016 (EIE, section III: compressed sparse columns), of a mask beside the nonzeros, of
n in every m weights (Mishra et al. 2021, section 3.1) and of dense blocks (Gray et al. 2017).
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le

from cosim.compress.network import BlockForm, Kind, Layer, NofMForm, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.errors import CosimError

StoredAs = Literal[
    "auto",
    "dense",
    "bitpacked",
    "binary",
    "csr",
    "csc",
    "coo",
    "bitmap",
    "n_of_m",
    "block_sparse",
]
_Size = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class EncodeConfig:
    """How the weights of the selected layers are stored, as they are when the recipe is done.

    `auto` is the smallest form by exact bits. `n_of_m` needs `n` and `m`, `block_sparse` needs
    `block` (output channels, weights of a row), unless a method has given the zeros that pattern.
    """

    method: Literal["encode"]
    encoding: StoredAs = "auto"
    layers: Selector = "*"
    n: Annotated[int, Ge(1), Le(255)] | None = None
    m: Annotated[int, Ge(2), Le(256)] | None = None
    block: tuple[_Size, _Size] | None = None

    def __post_init__(self) -> None:
        problems = []
        if (self.n is None) != (self.m is None):
            given = "n without m" if self.m is None else "m without n"
            problems.append(f"n, m: found {given}, expected both or neither")
        elif self.n is not None and self.m is not None and self.n >= self.m:
            problems.append(f"n: found {self.n}, expected less than m, which is {self.m}")
        if self.n is not None and self.encoding not in ("auto", "n_of_m"):
            problems.append(f"n, m: found with {self.encoding}, expected n_of_m or auto")
        if self.block is not None and self.encoding not in ("auto", "block_sparse"):
            problems.append(f"block: found with {self.encoding}, expected block_sparse or auto")
        if self.block is not None and self.n is not None:
            problems.append("block: found with n and m, expected one pattern")
        if problems:
            raise CosimError(problems)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Every kind that has weights."""
        return ("linear", "conv", "embedding")

    @property
    def form(self) -> NofMForm | BlockForm | None:
        """The pattern that the entry names."""
        if self.n is not None and self.m is not None:
            return NofMForm(self.n, self.m)
        return None if self.block is None else BlockForm(*self.block)


@compressor(EncodeConfig)
def encode_weights(state: State, config: EncodeConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with the form of each selected weight settled; values stay as they are.

    Whether it can hold the weight shows when the recipe is done: a later entry may prune or
    quantise. CosimError for a pattern that is asked for and stated nowhere.
    """
    names = dict.fromkeys(layer.weight for layer in selected)
    weights = {name: _asked(state.weights[name], config) for name in names}
    wanted = {"n_of_m": NofMForm, "block_sparse": BlockForm}.get(config.encoding)
    if wanted is not None:
        keys = "n and m" if wanted is NofMForm else "block"
        lacking = [name for name, weight in weights.items() if not isinstance(weight.form, wanted)]
        if lacking:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise CosimError(
                f"{lacking[0]}{more}: no entry before this one gave the zeros such a pattern, "
                f"expected {keys}"
            )
    return state.with_weights(weights)


def _asked(weight: Weight, config: EncodeConfig) -> Weight:
    form = weight.form if config.form is None else config.form
    return replace(weight, encoding=config.encoding, form=form)
