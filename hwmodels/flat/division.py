"""`hwmodels.timeline.divide` for all groups of a plan at once, compiled."""

import numpy as np

from hwmodels.dram.jit import Integers, Record, entry, helper
from hwmodels.flat.state import ARRAY

VECTOR, STALLS = 4, 5
"""Columns of cycles, as `hwmodels.stats.Cycles` has them; stalls are in the order of causes."""


@entry
def divide_all(
    groups: np.ndarray,
    logs: np.ndarray,
    waits: np.ndarray,
    spans: np.ndarray,
    period_fs: int,
    cycles: Integers,
) -> int:
    """Add to `cycles`, a row for each worker of each group, what the group's time went to.

    Returns the first group whose parts do not sum to its time, or -1.
    """
    for number in range(groups.size):
        group, log = groups[number], logs[number]
        own = cycles[group.worker : group.worker_stop]
        own[0, 0] = group.compute
        own[0, 1] = group.fill
        own[0, 2] = group.drain
        own[0, 3] = group.weight_load
        if group.unit == ARRAY:
            _share_waits(log, waits, spans, period_fs, own)
        else:
            for at in range(log.wait, log.wait_stop):
                own[0, STALLS + waits[at].what] += _cycles(waits[at], period_fs)
            for at in range(log.span, log.span_stop):
                own[spans[at].what, VECTOR] += _cycles(spans[at], period_fs)
        if own.sum() != _cycles(log, period_fs):
            return number
    return -1


@helper
def _share_waits(
    log: Record, waits: np.ndarray, spans: np.ndarray, period_fs: int, own: Integers
) -> None:
    """Divide waits between the vector unit, where it works meanwhile, and stalls."""
    first = log.span  # of those that have not ended before
    for at in range(log.wait, log.wait_stop):
        start, end = _edge(waits[at].start_fs, period_fs), _edge(waits[at].end_fs, period_fs)
        stalled = end - start
        while first < log.span_stop and _edge(spans[first].end_fs, period_fs) <= start:
            first += 1
        for number in range(first, log.span_stop):
            begun = _edge(spans[number].start_fs, period_fs)
            if begun >= end:
                break
            shared = min(end, _edge(spans[number].end_fs, period_fs)) - max(start, begun)
            own[spans[number].what, VECTOR] += shared
            stalled -= shared
        own[0, STALLS + waits[at].what] += stalled


@helper
def _cycles(span: Record, period_fs: int) -> int:
    return int(_edge(span.end_fs, period_fs) - _edge(span.start_fs, period_fs))


@helper
def _edge(time_fs: int, period_fs: int) -> int:
    """Return the cycle that begins at a time or next after it."""
    return -(-time_fs // period_fs)
