"""Address maps: which bits of an address choose channel, bank, row and column.

A map is a list of fields, most significant first, over the address in bursts: with
`row bank column bank_group channel` neighbouring bursts lie in neighbouring channels, and a row is
left last. Widths follow from the organisation. A field may be split by giving widths to all its
parts but the first, as in `row column bank column:2 channel`. A hash folds other fields into one:
`bank^row` replaces the bank by its XOR with all bits of the row, `channel^bank^row` folds two.

Channels need not be a power of two: the channel is then what is left when the address from its
place on is divided by their number, the fields above it are bits of the quotient, and its hash adds
where others take the XOR. Such a channel is not split.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hwmodels.dram.problems import nearest

FIELDS = (
    "channel",
    "pseudo_channel",
    "rank",
    "stack_id",
    "bank_group",
    "bank",
    "row",
    "column",
)
HASHABLE = FIELDS[:6]


@dataclass(frozen=True)
class Part:
    """`width` bits from `low` of an address in bursts, which are bits of a field from `at`."""

    field: str
    low: int
    width: int
    at: int


def is_divided(channels: int) -> bool:
    """Whether a channel is what is left of a division, not bits of the address."""
    return channels & (channels - 1) != 0


def widths(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return how many bits each field takes."""
    return {name: max(0, size - 1).bit_length() for name, size in sizes.items()}


def hashes(text: str) -> dict[str, tuple[str, ...]]:
    """Return the fields that a map folds into others, by the field that they are folded into.

    Example:
        >>> hashes("row bank^row column channel^bank^row")
        {'bank': ('row',), 'channel': ('bank', 'row')}

    """
    found: dict[str, tuple[str, ...]] = {}
    for word in reversed(text.split()):
        target, *sources = word.split("^")
        name = target.partition(":")[0]
        if sources:
            found[name] = found.get(name, ()) + tuple(sources)
    return dict(reversed(found.items()))


def map_parts(sizes: Mapping[str, int], text: str) -> Iterator[Part]:
    """Yield the parts of a map without mistakes, least significant first; none without bits.

    A channel of a division is a part of no width: the parts above it lie in the quotient.
    """
    left = widths(sizes)
    divided = is_divided(sizes["channel"])
    taken = dict.fromkeys(left, 0)
    low = 0
    for word in reversed(text.split()):
        name, _, stated = word.partition("^")[0].partition(":")
        if name == "channel" and divided:
            yield Part(name, low, 0, 0)
            continue
        width = int(stated) if stated else left[name]
        if width:
            yield Part(name, low, width, taken[name])
        taken[name] += width
        left[name] -= width
        low += width


def map_problems(sizes: Mapping[str, int], text: str) -> Iterator[str]:
    """Yield every mistake of an address map, for an organisation."""
    stated: dict[str, list[int | None]] = {}
    for word in text.split():
        name, colon, digits = word.partition("^")[0].partition(":")
        if name not in sizes:
            yield f'address_map: unknown field "{name}"{nearest(name, sizes)}'
        elif colon and not digits.isdecimal():
            yield f'address_map: found "{word}", expected a number of bits after the colon'
        else:
            stated.setdefault(name, []).append(int(digits) if digits else None)
    yield from _width_problems(sizes, stated)
    yield from _hash_problems(sizes, hashes(text))


def _width_problems(
    sizes: Mapping[str, int], stated: Mapping[str, list[int | None]]
) -> Iterator[str]:
    needed = widths(sizes)
    if is_divided(sizes["channel"]) and len(stated.get("channel", ())) > 1:
        yield f"address_map: channel is split, expected one part for {sizes['channel']} channels"
    for name, bits in stated.items():
        given = sum(width or 0 for width in bits)
        if None in bits[1:]:
            yield (
                f"address_map: {name} is split, expected a width such as {name}:1 "
                "at every part but the first"
            )
        elif bits[0] is None and len(bits) > 1 and given >= needed[name]:
            yield f"address_map: {name}: found {given} bits in its parts, expected < {needed[name]}"
        elif bits[0] is not None and given != needed[name]:
            yield (
                f"address_map: {name}: found {given} bits, expected {needed[name]} "
                f"for {sizes[name]} values"
            )
    for name, width in needed.items():
        if width and name not in stated:
            yield f"address_map: {name} is missing, its {sizes[name]} values take {width} bits"


def _hash_problems(
    sizes: Mapping[str, int], hashing: Mapping[str, tuple[str, ...]]
) -> Iterator[str]:
    for target, sources in hashing.items():
        if target in sizes and target not in HASHABLE:
            yield f"address_map: {target} cannot be hashed{nearest(target, HASHABLE)}"
        for source in sources:
            if source not in sizes:
                close = nearest(source, sizes)
                yield f'address_map: {target}^{source}: unknown field "{source}"{close}'
            elif source in hashing:
                yield (
                    f"address_map: {target}^{source}: {source} is hashed itself; "
                    "two addresses could meet"
                )
