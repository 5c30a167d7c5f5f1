"""What the search for a mapping reads of a product on a chip, and what it writes down."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEVER = 1e300
"""Cycles of what does not end, or not in time."""

M, N, K = range(3)
INPUT, WEIGHT, OUTPUT = range(3)

PRODUCT = np.dtype(
    [
        ("size", np.int64, (3,)),  # m, n, k
        ("grain", np.int64, (3,)),  # of each that one fold takes
        ("time", np.int64),  # the dimension that passes through in time
        ("held", np.int64),  # the operand that stays in the cells, or -1
        ("products", np.int64),  # in a row
        ("is_kept", np.int64, (2,)),  # the operand is on chip, or stays there once loaded
        ("is_by_row", np.int64, (2,)),  # a chunk of it is a run of bytes per row or column
        ("bytes", np.float64, (3,)),  # per element of each operand, and of results for memory
        ("sum_bytes", np.float64),
        # cycles of a fold: max(beats x length + rest, least); of the first and the last one more
        ("beats", np.int64),
        ("rest", np.int64),
        ("least", np.int64),
        ("before", np.int64),  # of the rest, those before the first chunk where results stay
        ("first", np.int64),
        ("last", np.int64),  # in place of rest
        ("is_serial", np.int64),
        ("shift", np.int64),  # in which what stays shifts in behind the step before
        ("room", np.float64, (3,)),  # bytes of one unit of each operand, and of half the sums
        ("port", np.float64, (3,)),  # bytes per cycle, 0: no limit
        ("memory", np.float64),  # bytes per cycle, 0: no limit
        ("latency", np.float64),
        ("channels", np.int64),
        ("burst_bytes", np.int64),
        ("interleave_bytes", np.int64),
        ("turn_bytes", np.int64),
        ("is_holding", np.int64),
        ("is_whole", np.int64),
        ("row", np.int64),
        ("may_leave", np.int64),
        ("least_tile", np.int64, (3,)),  # no smaller one is tried
    ]
)
CUT = np.dtype(
    [
        ("tile", np.int64, (3,)),  # m, n, k
        ("is_weights_outer", np.int64),
        ("held_tiles", np.int64),
        ("is_chunk", np.int64, (2,)),  # what is loaded of each operand at a time is a chunk
        ("is_leaving", np.int64),
        ("moved", np.float64),  # bytes of one product's operands
        ("bound", np.float64),  # cycles that it takes at least
        ("cycles", np.float64),  # that it takes, NEVER if more than asked, 0: not known yet
        ("rank", np.float64),  # by which cuts are looked at
    ]
)
RUNS = [("base", np.int64), ("bytes", np.int64), ("stride", np.int64), ("rows", np.int64)]
STEP = np.dtype(
    [
        ("cycles", np.int64),
        ("load", np.float64, (2,)),  # bytes of each operand that come for it
        ("release", np.float64, (2,)),  # and that may go behind it
        ("done", np.float64, (2,)),  # when they have come
        ("opens", np.float64),
        ("closes", np.float64),
        ("store", np.float64),
        ("operand", RUNS, (2,)),  # where they lie
        ("result", RUNS),
    ]
)
RUN = np.dtype(
    [
        ("now", np.float64),
        ("next", np.int64, (2,)),  # step for which each operand's next load is
        ("free", np.float64, (3,)),  # bytes of each buffer
        ("port_free", np.float64, (3,)),  # when
        ("early", np.int64),  # of loads of later steps, the oldest on its way and the next one
        ("early_stop", np.int64),
        ("early_bytes", np.float64),
        ("wake", np.float64),  # when the oldest of them is done, if somebody waits for that
        ("tile", np.int64),  # of tiles in the output buffer, the oldest and the next one
        ("tile_stop", np.int64),
        ("last_store", np.float64),
        ("cycles_left", np.float64),  # of the array
        ("bytes_left", np.float64),  # to move
        ("stores_left", np.float64),  # bytes
    ]
)
MOVE = np.dtype([("done", np.float64), ("bytes", np.float64)])
CHANNEL = np.dtype([("free", np.float64), ("bytes", np.int64)])
"""When it is, and what it moves of one transfer."""

Structured = NDArray[np.void]


class Track(NamedTuple):
    """What one run writes down: steps, loads of later steps, tiles on their way, channels."""

    run: Structured
    steps: Structured
    early: Structured
    tiles: Structured
    channels: Structured


def track_of(steps: int, channels: int) -> Track:
    """Return room for a run of so many steps."""
    return Track(
        np.empty(1, RUN),
        np.empty(steps, STEP),
        np.empty(2 * steps, MOVE),
        np.empty(steps, MOVE),
        np.empty(channels, CHANNEL),
    )
