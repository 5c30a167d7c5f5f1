"""Blocks of a stack use one copy of their weights: fewer are stored, as many are computed with.

Hernandez et al. 2023: whole blocks (section 3.1, equations 3 and 4), modules of them (section 3.2)
and sub-components (section 3.3).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, MinLen

from cosim.compress.network import F32, KINDS, Kind, Layer, Selector, State, Weight
from cosim.compress.recipe import compressor
from cosim.compress.surgery import like, names_of, network, put
from cosim.errors import CosimError, suggestion

if TYPE_CHECKING:
    from torch import Tensor, nn

Group = Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(2)]


@dataclass(frozen=True)
class ShareConfig:
    """Let the blocks of each group use one copy, in every stack that `layers` selects from.

    `groups` are lists of block numbers from 0, or how many selected neighbours make a group. What
    is shared are the tensors named by `parts`, any leading pieces of their names in a block
    (`self_attn`, `fc1.weight`); without them the whole block is. The copy is that of the group's
    first block, or the mean of all.
    """

    method: Literal["share"]
    groups: Annotated[int, Ge(2)] | Annotated[tuple[Group, ...], MinLen(1)]
    layers: Selector = "*"
    parts: Annotated[tuple[str, ...], MinLen(1)] | None = None
    values: Literal["first", "mean"] = "first"
    changes_structure: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.groups, int):
            return
        numbers = [number for group in self.groups for number in group]
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        if twice:
            raise CosimError(
                f"groups: found block {', '.join(map(str, twice))} more than once, expected each "
                "in one group"
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Layers of every kind say which blocks are meant."""
        return KINDS


@dataclass(frozen=True, eq=False)
class Shared:
    """One tensor for several places, with what it will hold."""

    paths: tuple[str, ...]
    tensor: "Tensor"
    weight: Weight
    saved: int


@compressor(ShareConfig)
def share(state: State, config: ShareConfig, selected: tuple[Layer, ...]) -> State:
    """Return the state with one parameter in the places that share; the blocks all stay.

    Raises CosimError listing groups that do not fit the stacks, parts that name nothing, and
    tensors of different shapes.
    """
    module = network(state)
    names = names_of(module)
    problems: list[str] = []
    plan: list[Shared] = []
    notes: list[str] = []
    rows: list[dict[str, object]] = []
    for stack, numbers in stacks(module, selected).items():
        groups = _groups(config, stack, numbers, problems)
        saved = 0
        for group in groups:
            found = _shared(state, module, [f"{stack}.{n}" for n in group], config, problems)
            fewer = sum(shared.saved for shared in found)
            rows.append(
                {
                    "method": config.method,
                    "layer": stack,
                    "blocks": group,
                    "tensors": len(found),
                    "parameters_saved": fewer,
                }
            )
            plan += found
            saved += fewer
        notes.append(
            f"share: {sum(map(len, groups))} blocks of {stack} use {len(groups)} copies of "
            f"{'all they have' if config.parts is None else ', '.join(config.parts)}; {saved} "
            "parameters fewer"
        )
    if not plan and not problems:
        problems.append("layers: no block of a stack is selected with another, nothing is shared")
    if problems:
        raise CosimError(problems)
    held: dict[int, Weight] = {}
    for shared in plan:
        held[id(shared.tensor)] = shared.weight
        for path in shared.paths:
            put(module, path, shared.tensor)
    after = names_of(module)
    changed = {after[tensor]: weight for tensor, weight in held.items()}
    # A tensor that stays may have had its name from a block that now uses another.
    changed |= {
        after[tensor]: state.weights[name]
        for tensor, name in names.items()
        if tensor in after and tensor not in held
    }
    return state.restructured(changed).with_notes(*notes).reporting(rows)


def stacks(module: "nn.Module", layers: Iterable[Layer]) -> dict[str, list[int]]:
    """Return the lists of blocks that layers are in, by name, and which blocks, in order."""
    from torch import nn  # noqa: PLC0415, slow to import

    found: dict[str, set[int]] = {}
    for layer in layers:
        parts = layer.name.split(".")
        for index, part in enumerate(parts):
            name = ".".join(parts[:index])
            if part == str(layer.block) and isinstance(module.get_submodule(name), nn.ModuleList):
                found.setdefault(name, set()).add(int(part))
                break
    return {name: sorted(numbers) for name, numbers in found.items()}


def _groups(
    config: ShareConfig, stack: str, numbers: Sequence[int], problems: list[str]
) -> list[list[int]]:
    """Return the groups of one stack, each in order; neighbours left over are no group."""
    if isinstance(config.groups, int):
        size = config.groups
        groups = [list(numbers[at : at + size]) for at in range(0, len(numbers), size)]
        return [group for group in groups if len(group) > 1]
    problems += [
        f"groups: found block {number}, expected one of those selected of {stack}: "
        f"{', '.join(map(str, numbers))}"
        for group in config.groups
        for number in group
        if number not in numbers
    ]
    return [sorted(group) for group in config.groups if set(group) <= set(numbers)]


def _shared(
    state: State,
    module: "nn.Module",
    blocks: Sequence[str],
    config: ShareConfig,
    problems: list[str],
) -> list[Shared]:
    """Return what the blocks of one group will share.

    A tensor that only one of the blocks has stays there, unless a part names it.
    """
    from cosim.models.sharing import named_by, parts_of  # noqa: PLC0415, imports torch

    names = names_of(module)
    held = {block: _tensors(module.get_submodule(block)) for block in blocks}
    known = list(dict.fromkeys(name for tensors in held.values() for name in tensors))
    for part in config.parts or ():
        if not named_by(part, known):
            near = suggestion(part, parts_of(known))
            problems.append(f"parts: found {part}, which names nothing in {blocks[0]}{near}")
    found = []
    for name in known:
        if config.parts is not None and not any(named_by(part, [name]) for part in config.parts):
            continue
        owners = [block for block in blocks if name in held[block]]
        if len(owners) < len(blocks) and config.parts is not None:
            lacking = next(block for block in blocks if block not in owners)
            problems.append(f"{owners[0]} has {name}, {lacking} has not")
        if len(owners) == 1:
            continue
        tensors = {id(held[block][name]): held[block][name] for block in owners}
        first = held[owners[0]][name]
        unlike = [block for block in owners if held[block][name].shape != first.shape]
        if unlike:
            problems += [
                f"{name}: found shapes {list(first.shape)} in {owners[0]} and "
                f"{list(held[block][name].shape)} in {block}, expected equal ones"
                for block in unlike
            ]
            continue
        weights = [state.weights[names[key]] for key in tensors]
        tensor, weight = first, weights[0]
        if config.values == "mean" and len(weights) > 1:
            weight = Weight(_mean([each.values for each in weights]))
            tensor = like(first, weight.values)
        paths = tuple(f"{block}.{name}" for block in owners)
        found.append(Shared(paths, tensor, weight, (len(tensors) - 1) * first.numel()))
    return found


def _tensors(block: "nn.Module") -> Mapping[str, "Tensor"]:
    named = (
        *block.named_parameters(remove_duplicate=False),
        *block.named_buffers(remove_duplicate=False),
    )
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _mean(values: Sequence[F32]) -> F32:
    total = np.sum(np.stack(values), axis=0, dtype=np.float64)
    mean: F32 = np.asarray(total / len(values), np.float32)
    return mean
