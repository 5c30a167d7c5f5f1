"""Claims about magnitude pruning: exact counts, ties, and what earlier and later methods see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cosim.compress.compressed import compress
from cosim.compress.prune_magnitude import smallest
from cosim.compress.recipe import parse_recipe
from kernels import encodings as store

PRUNE = {"method": "prune_magnitude", "rate": 0.5, "layers": "fc1"}
QUANTIZE = {"method": "quantize", "weight_bits": 4, "layers": "fc1"}


def made(network, *entries):
    return compress(network, parse_recipe({"methods": list(entries)}, name="r", source="r.yaml"))


def zeros(values):
    return int(values.size - np.count_nonzero(values))


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.integers(-3, 3).map(np.float32)),
    st.integers(0, 99),
)
def test_chosen_are_the_first_by_magnitude_and_index(values, percent):
    chosen = smallest(values, rate=percent / 100)
    order = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
    assert np.flatnonzero(chosen).tolist() == sorted(order[: percent * len(values) // 100])


@pytest.mark.parametrize(
    ("rate", "elements", "count"), [(0.29, 100, 29), (0.57, 100, 57), (0.5, 7, 3), (0.0, 9, 0)]
)
def test_count_is_exact_for_the_decimal_written(rate, elements, count):
    values = np.arange(1, elements + 1, dtype=np.float32)
    assert int(smallest(values, rate=rate).sum()) == count


def test_each_selected_tensor_is_pruned_on_its_own(small):
    small.fc1.weight.data *= 1000
    model = made(small, {"method": "prune_magnitude", "rate": 0.3})
    original = dict(small.named_parameters())
    for row in model.ledger:
        values = store.decode(model.encodings[row.name])
        before = original[row.name].detach().numpy() if row.name in original else values
        is_weight = (
            row.name in ("conv.weight", "embed.weight", "fc1.weight") or "_proj.weight" in row.name
        )
        assert zeros(values) == (values.size * 3 // 10 if is_weight else 0)
        assert row.nonzero == values.size - zeros(values)
        np.testing.assert_array_equal(values[values != 0], before[values != 0])


def test_zeros_survive_quantisation(small):
    pruned = store.decode(made(small, PRUNE).encodings["fc1.weight"])
    both = store.decode(made(small, PRUNE, QUANTIZE).encodings["fc1.weight"])
    assert zeros(pruned) == 24
    assert np.all(both[pruned == 0] == 0)


def test_pruning_after_quantisation_ranks_what_is_stored(small):
    weight = small.fc1.weight.data
    weight[:] = 0
    weight[0, :4] = weight.new_tensor([7.0, 1.4, -1.3, 1.2])  # codes 7 1 -1 1, values 7 1 -1 1
    weight[1, :4] = weight.new_tensor([70.0, 10.0, 20.0, 30.0])  # codes 7 1 2 3
    entry = {**PRUNE, "rate": 43 / 48}
    values = store.decode(made(small, QUANTIZE, entry).encodings["fc1.weight"])
    wanted = np.zeros((6, 8), np.float32)
    wanted[0, 0], wanted[1, :4] = 7, [70, 10, 20, 30]
    np.testing.assert_allclose(values, wanted, rtol=1e-6)


def test_order_of_methods_is_the_order_of_the_recipe(small):
    one = made(small, PRUNE, QUANTIZE).encodings["fc1.weight"]
    other = made(small, QUANTIZE, PRUNE).encodings["fc1.weight"]
    assert store.value_bits(one) == store.value_bits(other) == 4
    assert zeros(store.decode(other)) == 24  # quantising makes no zeros after pruning here
    assert store.digest(one) != store.digest(other)
    assert zeros(store.decode(one)) >= 24
