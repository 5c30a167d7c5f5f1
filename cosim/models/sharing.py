"""Weight sharing among the layers of a stack: several virtual layers, fewer physical ones.

A sharing says for each virtual layer which physical copy of a part it uses (Hernandez et al. 2023,
section 3.3: the sharing indices). A part is named as its parameters are, by any leading pieces of
the dotted name (`self_attn`, `self_attn.linear_q.weight`); `block` is all that no other entry
names.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from cosim.errors import CosimError, suggestion

BLOCK = "block"
Sharing = Mapping[str, Sequence[int]]


def sharing_problems(sharing: Sharing) -> list[str]:
    """Return what is wrong with the index lists alone, one line each.

    Each list has one index per virtual layer, from 1 to the number of virtual layers.
    """
    if BLOCK not in sharing:
        return [f"sharing.{BLOCK}: missing, expected the physical copy of each virtual layer"]
    layers = len(sharing[BLOCK])
    problems = []
    for part, indices in sharing.items():
        if len(indices) != layers:
            problems.append(
                f"sharing.{part}: found {len(indices)} indices, expected {layers}, one for each "
                f"virtual layer as in {BLOCK}"
            )
        problems += [
            f"sharing.{part}: found {index}, expected an index from 1 to {len(indices)}"
            for index in sorted(set(indices))
            if not 1 <= index <= len(indices)
        ]
    return problems


def share(blocks: Sequence[nn.Module], sharing: Sharing) -> None:
    """Make layers of equal structure use one parameter or buffer where their indices are equal.

    `blocks` are the virtual layers, changed in place; the first that uses a copy brings it.
    Raises CosimError listing the entries of `sharing` that name nothing in a layer.
    """
    names = list(_tensors(blocks[0]))
    unused = [part for part in sharing if part != BLOCK and not named_by(part, names)]
    if unused:
        raise CosimError(
            f"sharing.{part}: names no part of a layer{suggestion(part, parts_of(names))}"
            for part in unused
        )
    for name in names:
        indices = sharing[_entry(name, sharing)]
        first: dict[int, Tensor] = {}
        for block, index in zip(blocks, indices, strict=True):
            path, _, key = name.rpartition(".")
            owner = block.get_submodule(path)
            setattr(owner, key, first.setdefault(index, getattr(owner, key)))


def _tensors(block: nn.Module) -> dict[str, Tensor]:
    return {**dict(block.named_parameters()), **dict(block.named_buffers())}


def named_by(part: str, names: Sequence[str]) -> bool:
    """Return whether a part names one of these tensors, or a module that holds one."""
    return any(name == part or name.startswith(f"{part}.") for name in names)


def _entry(name: str, sharing: Sharing) -> str:
    """Return the entry with the longest part that names a tensor."""
    fitting = [part for part in sharing if named_by(part, [name])]
    return max(fitting, key=len, default=BLOCK)


def parts_of(names: Sequence[str]) -> list[str]:
    """Return everything that an entry may name: tensors and the modules that hold them."""
    found = {
        ".".join(pieces[:count])
        for pieces in (name.split(".") for name in names)
        for count in range(1, len(pieces) + 1)
    }
    return sorted(found)
