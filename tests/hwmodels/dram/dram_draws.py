"""Traces that are hard on a controller, drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

from hwmodels.dram.controller import trace


@st.composite
def few_places(draw, spec, most=80):
    """Draw requests that come back to few bursts of few rows of few banks, at once or in bursts."""
    o = spec.organisation
    row = o.capacity_bytes // o.rows
    bank = o.burst_bytes * o.channels * o.pseudo_channels
    request = st.tuples(
        st.integers(0, 2),
        st.integers(0, 3),
        st.integers(0, 1),
        st.booleans(),
        st.sampled_from([0, 0, 0, 1, 7, 60]),
    )
    drawn = np.array(draw(st.lists(request, min_size=1, max_size=most)), dtype=np.int64)
    rows, banks, columns, writes, gaps = drawn.T
    return trace(rows * row + banks * bank + columns * o.burst_bytes, writes, np.cumsum(gaps))
