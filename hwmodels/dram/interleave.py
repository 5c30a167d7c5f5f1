"""What each channel moves of rows of bytes, in whole bursts; compiled code has it in common."""

from math import gcd

from hwmodels.dram.jit import Record, helper, nth


@helper
def spread(chip: Record, channels: Record, rows: Record, origin: int) -> int:
    """Set the `bytes` of each of `channels`; returns their sum.

    `rows` are so many runs of `bytes`, a `stride` apart, the first at `origin` + `base`. They come
    round to the same place on the same channel after some: those are counted at once.
    """
    for number in range(chip.channels):
        nth(channels, number).bytes = 0
    base = (rows.base + origin) % chip.turn_bytes
    count, size = rows.rows, rows.bytes
    if rows.stride == size:
        count, size = 1, count * size
    again = count
    if count > 1:
        again = min(count, _rows_until_again(chip, rows.stride))
    moved = 0
    for row in range(again):
        times = (count - row + again - 1) // again
        start = base + row * rows.stride
        first = start // chip.burst_bytes * chip.burst_bytes
        stop = -(-(start + size) // chip.burst_bytes) * chip.burst_bytes
        moved += times * (stop - first)
        _spread_run(chip, channels, first, stop, times)
    return moved


@helper
def _rows_until_again(chip: Record, stride: int) -> int:
    """Return after how many rows one begins at the same place of a burst and of the channels."""
    period = chip.turn_bytes // gcd(chip.turn_bytes, chip.burst_bytes) * chip.burst_bytes
    return int(period // gcd(period, stride))


@helper
def _spread_run(chip: Record, channels: Record, first: int, stop: int, times: int) -> None:
    """Add the bytes of [first, stop) to each channel, so many times."""
    size = chip.interleave_bytes
    turns, left = divmod(stop - first, chip.turn_bytes)
    if turns:
        for number in range(chip.channels):
            nth(channels, number).bytes += times * turns * size
    number, offset = divmod(first % chip.turn_bytes, size)
    while left:
        part = min(left, size - offset)
        nth(channels, number).bytes += times * part
        left -= part
        number, offset = (number + 1) % chip.channels, 0
