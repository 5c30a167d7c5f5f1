"""Which channel, bank, row and column an address means, by compiled code.

Decoding puts the bits of an address in a fixed order: bank, bank group, stack id, rank and pseudo
channel from the lowest up, which together count the banks of a channel, then channel, column, row.
"""

import numpy as np

from hwmodels.dram.fields import hashes, map_parts, widths
from hwmodels.dram.jit import Integers, Record, entry, helper
from hwmodels.dram.spec import DramSpec

ORDER = ("bank", "bank_group", "stack_id", "rank", "pseudo_channel", "channel", "column", "row")
"""Fields of a decoded address, lowest bits first."""

MAP = np.dtype(
    [
        ("parts", np.int64),
        ("low", np.int64, (64,)),
        ("mask", np.int64, (64,)),
        ("at", np.int64, (64,)),
        ("hashes", np.int64),
        ("source_at", np.int64, (64,)),
        ("source_mask", np.int64, (64,)),
        ("target_at", np.int64, (64,)),
        ("target_bits", np.int64, (64,)),
        ("burst_shift", np.int64),
        ("lines", np.int64),  # bursts of the memory
        ("divisor", np.int64),  # channels that are no power of two, or 0
        ("divided_low", np.int64),  # bits of the address below such a channel
        ("channel_at", np.int64),
        ("column_at", np.int64),
        ("row_at", np.int64),
    ],
    align=True,
)
"""A map as the compiled code reads it."""


def compile_map(spec: DramSpec) -> Record:
    """Return the map of a specification as a record of `MAP`."""
    table: Record = np.zeros(1, MAP)[0]
    sizes = spec.organisation.sizes
    bits = widths(sizes)
    at: dict[str, int] = {}
    for name in ORDER:
        at[name] = sum(bits[lower] for lower in at)
    parts = [part for part in map_parts(sizes, spec.address_map) if part.width]
    table["parts"] = len(parts)
    for index, part in enumerate(parts):
        table["low"][index] = part.low
        table["mask"][index] = (1 << part.width) - 1
        table["at"][index] = at[part.field] + part.at
    for part in map_parts(sizes, spec.address_map):
        if part.field == "channel" and not part.width:
            table["divisor"], table["divided_low"] = sizes["channel"], part.low
    folded = hashes(spec.address_map)
    pairs = [(target, source) for target, names in folded.items() for source in names]
    table["hashes"] = len(pairs)
    for index, (target, source) in enumerate(pairs):
        table["source_at"][index] = at[source]
        table["source_mask"][index] = (1 << bits[source]) - 1
        table["target_at"][index] = at[target]
        table["target_bits"][index] = bits[target]
    table["burst_shift"] = spec.organisation.burst_bytes.bit_length() - 1
    table["lines"] = spec.organisation.capacity_bytes // spec.organisation.burst_bytes
    for name in ("channel", "column", "row"):
        table[f"{name}_at"] = at[name]
    return table


@helper
def line_of(table: Record, address: int) -> int:
    """Return which burst of the memory a byte address lies in."""
    line: int = address >> table.burst_shift
    return line if line < table.lines else line % table.lines


@helper
def decode(table: Record, line: int) -> tuple[int, int, int, int]:
    """Return channel, bank of the channel, row and column of a burst."""
    word = 0
    if table.divisor:
        above, below = line >> table.divided_low, line & ((1 << table.divided_low) - 1)
        word = above % table.divisor << table.channel_at
        line = (above // table.divisor << table.divided_low) | below
    for j in range(table.parts):
        word |= ((line >> table.low[j]) & table.mask[j]) << table.at[j]
    raw = word
    turns = 0
    for j in range(table.hashes):
        bits = table.target_bits[j]
        left = (raw >> table.source_at[j]) & table.source_mask[j]
        if table.divisor and table.target_at[j] == table.channel_at:
            turns += left
            continue
        while left and bits:
            word ^= (left & ((1 << bits) - 1)) << table.target_at[j]
            left >>= bits
    bank = word & ((1 << table.channel_at) - 1)
    channel = (word >> table.channel_at) & ((1 << (table.column_at - table.channel_at)) - 1)
    if table.divisor:
        channel = (channel + turns) % table.divisor
    column = (word >> table.column_at) & ((1 << (table.row_at - table.column_at)) - 1)
    return channel, bank, word >> table.row_at, column


@entry
def decode_all(table: Record, addresses: Integers, found: Integers) -> None:
    """Fill `found`, (requests, 4), with what `decode` says of byte addresses."""
    for i in range(addresses.size):
        channel, bank, row, column = decode(table, line_of(table, addresses[i]))
        found[i, 0] = channel
        found[i, 1] = bank
        found[i, 2] = row
        found[i, 3] = column


def locate(spec: DramSpec, addresses: Integers) -> Integers:
    """Return channel, bank of the channel, row and column of byte addresses: (requests, 4).

    Addresses beyond the capacity start again at zero.
    """
    wanted = np.ascontiguousarray(addresses, dtype=np.int64)
    found = np.empty((wanted.size, 4), dtype=np.int64)
    decode_all(compile_map(spec), wanted, found)
    return found
