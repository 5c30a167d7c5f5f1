"""What the compiled machine reads of a chip, and what it changes while time passes."""

from typing import NamedTuple

import numpy as np

FOREVER = 1 << 62
CARRY = 1 << 62
"""Times of descriptors are added up in two parts, the higher one in units of this."""

RESUME, GO_ON, ROOM_ON_WAY, TILE_DONE, STORED, FLAG_SET = range(6)
"""Events: the array and the vector unit, or the loader, go on; a load is done that `prefetch` has
others wait for; the vector unit is done with a tile; a store is done; a flag is set."""
KINDS = 8
LOADER, UNITS = 1, 2
"""Who waits for a flag; in order of coming, two bits each."""
INPUT, WEIGHT, OUTPUT, DEPENDENCY = range(4)
"""Ports, engines and causes of waits."""
ARRAY, VECTOR = range(2)

CHIP = np.dtype(
    [
        ("period_fs", np.int64),
        ("vector_period_fs", np.int64),
        ("port_bytes", np.int64, (3,)),  # 0: no limit
        ("prefetch", np.int64),  # 0: no limit
        ("ahead_bytes", np.float64),
        ("channels", np.int64),
        ("burst_bytes", np.int64),
        ("interleave_bytes", np.int64),
        ("turn_bytes", np.int64),
        ("bytes_per_s", np.float64),  # of a channel; 0: no limit
        ("latency_fs", np.int64),
    ]
)
RUN = np.dtype(
    [
        ("now", np.int64),
        ("groups", np.int64),
        ("turn", np.int64),  # events so far
        ("queued", np.int64),
        ("left", np.int64),  # who is still to hear of the flag that was set
        ("output_bytes", np.int64),  # free of the output buffer
        ("asked_bytes", np.int64),  # that the array waits for, 0: it does not
        ("fused_fs", np.int64),  # when the vector unit is done with the last tile
        ("stores_left", np.int64),
        ("is_last_store_awaited", np.int64),
        ("is_tile_awaited", np.int64),
        ("fused", np.int64),  # tiles that the vector unit was given, and those it is done with
        ("fused_done", np.int64),
        ("tiles", np.int64),
        ("stores", np.int64),
        ("waits", np.int64),
        ("spans", np.int64),
        ("port_free_fs", np.int64, (3,)),
        # by port, of the stream through it
        ("group", np.int64, (2,)),  # of its next load
        ("load", np.int64, (2,)),  # its next load
        ("step", np.int64, (2,)),  # that needs it, FOREVER behind the last one
        ("source", np.int64, (2,)),
        ("producer", np.int64, (2,)),  # what it may still have to wait for
        ("producer_stop", np.int64, (2,)),
        ("free_bytes", np.int64, (2,)),
        ("started", np.int64, (2,)),
        ("taken", np.int64, (2,)),
        ("flag", np.int64, (2,)),  # that it waits for, or -1
        ("is_full", np.int64, (2,)),  # so many loads are on their way that it waits
        ("is_wanted", np.int64, (2,)),  # the array waits for the next start
        # loads of later steps
        ("early", np.int64),
        ("early_stop", np.int64),
        ("early_bytes", np.int64),
        ("early_awaited", np.int64),  # -1: none yet
    ]
)
FLAG = np.dtype([("is_set", np.int64), ("waiting", np.int64), ("open_stores", np.int64)])
EVENT = np.dtype([("time_fs", np.int64), ("turn", np.int64), ("what", np.int64)])
ARRIVAL = np.dtype([("submitted_fs", np.int64), ("done_fs", np.int64)])
EARLY = np.dtype([("done_fs", np.int64), ("bytes", np.int64)])
TILE = np.dtype([("group", np.int64), ("step", np.int64), ("stores", np.int64)])
STORE = np.dtype([("flag", np.int64), ("tile", np.int64)])  # -1: no tile
CHANNEL = np.dtype([("free_fs", np.int64), ("bytes", np.int64)])
REQUESTER = np.dtype(
    [(name, np.int64) for name in ("descriptors", "bytes", "total_fs", "carries", "first")]
)
SPAN = np.dtype([("start_fs", np.int64), ("end_fs", np.int64), ("what", np.int64)])
"""A wait with its cause, or the vector unit at work for an op of a group."""
LOG = np.dtype(
    [(name, np.int64) for name in ("start_fs", "end_fs", "wait", "wait_stop", "span", "span_stop")]
)
"""A group: when it ran, with which waits and spans of work."""


class State(NamedTuple):
    """What changes while time passes: one `RUN`, and records of the types above."""

    flags: np.ndarray
    events: np.ndarray  # a heap
    arrivals: np.ndarray  # of the n-th load by port, port by port
    early: np.ndarray
    tiles: np.ndarray
    stores: np.ndarray
    channels: np.ndarray
    requesters: np.ndarray
    logs: np.ndarray
    waits: np.ndarray
    spans: np.ndarray
