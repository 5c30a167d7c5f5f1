"""Lanes that walk compressed rows in lock step: cycles and bank reads, compiled by numba."""

import numba
import numpy as np
from numpy.typing import NDArray

from hwmodels.sparsity import Counts, Mask, Places


def gather_steps(
    mask: Mask, k: int, *, n_starts: Places, k_starts: Places, banks: int, decoded: int
) -> tuple[Counts, Counts]:
    """Return (cycles, bank reads) that lanes take for one activation row, by block.

    Each lane makes one result of a block and takes its weights that are not zero in order of k, all
    lanes in lock step: the first of each, the second of each, and so on until the longest lane is
    done. Activation k lies in bank k mod `banks`; a bank gives one word per cycle, to every lane
    that asks for this very word. The indices of all lanes come from one decoder, `decoded` per
    cycle (0: as many as asked for). So a step takes as many cycles as the most different words it
    asks one bank for, and at least ceil(lanes still at work / `decoded`).

    Source: assumed, the rule of banked memories without queues in front of the banks.

    Example:
        >>> from hwmodels.sparsity import starts
        >>> two = np.packbits([[1, 0, 1, 0], [0, 0, 1, 1]], axis=1, bitorder="little")
        >>> block = {"n_starts": starts(2, 2), "k_starts": starts(4, 4)}
        >>> [out.tolist() for out in gather_steps(two, 4, **block, banks=2, decoded=0)]
        [[[3]], [[4]]]

    """
    shape = len(n_starts), len(k_starts)
    cycles, reads = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    edges = np.append(n_starts, len(mask)), np.append(k_starts, k)
    _gather(np.ascontiguousarray(mask), *edges, banks, decoded, cycles, reads)
    return cycles, reads


@numba.njit(cache=True, nogil=True)
def _list_places(
    mask: Mask,
    start: int,
    stop: int,
    places: NDArray[np.int32],
    lengths: Counts,
) -> int:
    """Fill in where each row of `mask` is not zero from `start` to `stop`; return the most."""
    longest = 0
    for lane in range(mask.shape[0]):
        found = 0
        for place in range(start, stop):
            if mask[lane, place >> 3] >> (place & 7) & 1:
                places[lane, found] = place
                found += 1
        lengths[lane] = found
        longest = max(longest, found)
    return longest


@numba.njit(cache=True, nogil=True)
def _gather(
    mask: Mask,
    n_edges: Places,
    k_edges: Places,
    banks: int,
    decoded: int,
    cycles: Counts,
    reads: Counts,
) -> None:
    lanes, k = np.diff(n_edges).max(), k_edges[-1]
    places = np.empty((lanes, np.diff(k_edges).max()), np.int32)
    lengths = np.zeros(lanes, np.int64)
    asked = np.zeros(banks, np.int64)
    seen = np.full(k, -1, np.int64)  # the step that last asked for each word
    step = 0
    for block, chunk in np.ndindex(cycles.shape):
        rows = mask[n_edges[block] : n_edges[block + 1]]
        start, stop = int(k_edges[chunk]), int(k_edges[chunk + 1])
        longest = _list_places(rows, start, stop, places, lengths)
        for turn in range(longest):
            busiest = active = 0
            for lane in range(len(rows)):
                if turn < lengths[lane]:
                    active += 1
                    place = places[lane, turn]
                    if seen[place] != step:
                        seen[place] = step
                        asked[place % banks] += 1
                        busiest = max(busiest, asked[place % banks])
                        reads[block, chunk] += 1
            if decoded > 0:
                busiest = max(busiest, -(-active // decoded))
            cycles[block, chunk] += busiest
            asked[:] = 0
            step += 1
