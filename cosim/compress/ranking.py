"""The lowest of many scores in many arrays, exactly, holding one array at a time.

A non-negative float32 orders as its bits do, so the score at a rank is found by counting the upper
and then the lower 16 bits of all scores (a radix selection). Arrays are made anew for each count:
beside the caller's weights, memory holds the scores of one array and 4 MB.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from cosim.compress.network import F32

Scores = Callable[[], F32]
Mask = NDArray[np.bool_]
_CHUNK = 1 << 18  # scores counted at a time: bincount turns them into int64
_HALF = 1 << 16


def share_of(rate: float, total: int) -> int:
    """Return floor(rate * total) for the decimal that was written: 0.29 of 100 is 29."""
    return floor(Fraction(str(rate)) * total)


def lowest(scores: Sequence[Scores], count: int) -> Iterator[Mask]:
    """Yield for each array where the `count` lowest scores of all are; of equals, the first ones.

    Scores are one-dimensional, float32 and not negative. First is what stands in an earlier array,
    or further ahead in the same one. ValueError when there are fewer scores.

    Example:
        >>> arrays = [np.array([3, 1], np.float32), np.array([1, 0], np.float32)]
        >>> [mask.tolist() for mask in lowest([lambda a=a: a for a in arrays], 2)]
        [[False, True], [False, True]]

    """
    if count == 0:
        for each in scores:
            yield np.zeros(each().shape, np.bool_)
        return
    upper, below = _bin(scores, count, None)
    lower, below_in_bin = _bin(scores, count - below, upper)
    cut = np.uint32(upper * _HALF + lower)
    left = count - below - below_in_bin  # to be taken from those at the cut
    for each in scores:
        bits = each().view(np.uint32)
        chosen = bits < cut
        if left:
            ties = np.flatnonzero(bits == cut)[:left]
            chosen[ties] = True
            left -= len(ties)
        yield chosen


def _bin(scores: Sequence[Scores], rank: int, upper: int | None) -> tuple[int, int]:
    """Return the half of the bits that the score of a rank has, and how many scores are below it.

    Ranks count from 1. `upper` None asks for the upper half among all scores; else for the lower
    half among those with that upper half.
    """
    counts = np.zeros(_HALF, np.int64)
    for each in scores:
        bits = each().view(np.uint32)
        for start in range(0, bits.size, _CHUNK):
            part = bits[start : start + _CHUNK]
            halves = part >> np.uint32(16)
            if upper is not None:
                halves = part[halves == upper] & np.uint32(_HALF - 1)
            counts += np.bincount(halves, minlength=_HALF)
    sums = np.cumsum(counts)
    if sums[-1] < rank:
        raise ValueError(f"lowest: found {sums[-1]} scores, expected at least {rank}")
    found = int(np.searchsorted(sums, rank))
    return found, int(sums[found] - counts[found])
