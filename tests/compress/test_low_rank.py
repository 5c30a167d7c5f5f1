"""Claims about low rank: the best approximation, exact ranks, a network that computes with it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import deviation, executed, in_torch, lowered, made, network, plain

from cosim import config as files
from cosim.compress.compressed import compress
from cosim.compress.low_rank import LowRankConfig, factorised
from cosim.compress.recipe import load_recipe
from cosim.errors import CosimError
from cosim.models import ModelConfig, load
from cosim.schedule import schedule
from hwmodels.workload import Gemm

HALF = {"method": "low_rank", "parameters": 0.5, "layers": {"kinds": ["linear"], "blocks": [0, 99]}}


def drawn(rows, columns, seed=0):
    return np.random.default_rng([rows, columns, seed]).standard_normal((rows, columns), np.float32)


def config(**ways):
    return LowRankConfig("low_rank", **ways)


@given(st.integers(6, 40), st.integers(6, 40), st.integers(1, 2))
def test_error_is_that_of_the_singular_values_left_out(rows, columns, rank):
    values = drawn(rows, columns)
    factors = factorised(values, config(rank=rank))
    singular = np.linalg.svd(values.astype(np.float64), compute_uv=False)
    error = np.linalg.norm(values - factors.up @ factors.down)
    np.testing.assert_allclose(error, np.linalg.norm(singular[rank:]), rtol=1e-4)
    np.testing.assert_allclose(
        factors.lost, (singular[rank:] ** 2).sum() / (singular**2).sum(), rtol=1e-4
    )
    assert factors.up.shape == (rows, rank)
    assert factors.down.shape == (rank, columns)


@pytest.mark.parametrize(("rows", "columns"), [(30, 12), (12, 30)])
def test_both_factors_carry_the_root_of_the_singular_values(rows, columns):
    values = drawn(rows, columns)
    factors = factorised(values, config(rank=5))
    roots = np.sqrt(np.linalg.svd(values.astype(np.float64), compute_uv=False)[:5])
    np.testing.assert_allclose(np.linalg.norm(factors.up, axis=0), roots, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(factors.down, axis=1), roots, rtol=1e-4)


@pytest.mark.parametrize(
    ("rows", "columns", "share", "rank"),
    [(384, 384, 0.5, 96), (1536, 384, 0.5, 153), (10, 10, 0.29, 1), (100, 50, 0.3, 10)],
)
def test_rank_is_the_largest_with_that_share_of_the_parameters(rows, columns, share, rank):
    factors = factorised(drawn(rows, columns), config(parameters=share))
    assert factors.rank == rank
    assert rank * (rows + columns) <= round(share * 1000) * rows * columns / 1000
    assert (rank + 1) * (rows + columns) > share * rows * columns


def test_energy_keeps_the_fewest_singular_values_that_have_it():
    left, _ = np.linalg.qr(drawn(20, 20).astype(np.float64))
    right, _ = np.linalg.qr(drawn(20, 20, 1).astype(np.float64))
    singular = np.zeros(20)
    singular[:4] = 4, 2, 2, 1  # squares 16 4 4 1 of 25
    values = ((left * singular) @ right).astype(np.float32)
    ranks = [factorised(values, config(energy=share)).rank for share in (0.6, 0.7, 0.9, 0.97)]
    assert ranks == [1, 2, 3, 4]


def test_weights_of_zero_and_of_lower_rank_have_finite_factors():
    for values in (np.zeros((8, 9), np.float32), np.ones((8, 9), np.float32)):
        factors = factorised(values, config(rank=3))
        assert np.isfinite(factors.up).all()
        assert np.isfinite(factors.down).all()
        np.testing.assert_allclose(factors.up @ factors.down, values, atol=1e-5)


def test_no_layer_has_more_parameters_than_before():
    assert factorised(drawn(8, 8), config(rank=4)) is None
    assert factorised(drawn(8, 8), config(rank=3)).rank == 3
    assert factorised(drawn(8, 8), config(energy=1.0)) is None
    assert factorised(drawn(8, 8), config(parameters=0.1)) is None


def test_a_pair_stands_where_the_layer_was(small):
    entry = {"method": "low_rank", "rank": 2, "layers": ["fc1", "attn.*"]}
    model = made(small, entry)
    pair = model.module.fc1
    x = torch.randn(3, 8)
    with torch.no_grad():
        wanted = x @ pair.down.weight.T @ pair.up.weight.T + small.fc1.bias
        torch.testing.assert_close(pair(x), wanted)
    assert {"fc1.down.weight", "fc1.up.weight", "fc1.up.bias"} <= model.encodings.keys()
    assert not {"fc1.weight", "fc1.bias", "fc1.down.bias"} & model.encodings.keys()
    assert isinstance(small.fc1, torch.nn.Linear)
    told = {row["layer"]: (row["rank"], row["weights"]) for row in model.report}
    assert told["fc1"] == (2, 28)
    assert len(told) == 5
    saved = (6 * 8 - 2 * 14) + 4 * (64 - 2 * 16)
    assert model.elements == sum(row.elements for row in made(small).ledger) - saved


def test_a_layer_with_the_embedding_as_its_weight_stays_and_is_named(small):
    model = made(small, {"method": "low_rank", "rank": 2})
    assert "low_rank: head stays: embed has the same weight" in model.notes
    assert isinstance(model.module.head, torch.nn.Linear)
    with pytest.raises(CosimError, match="head stays: embed has the same weight"):
        made(small, {"method": "low_rank", "rank": 2, "layers": "head"})


def test_a_rank_that_saves_nothing_is_told_for_every_layer(small):
    with pytest.raises(CosimError) as caught:
        made(small, {"method": "low_rank", "rank": 5, "layers": ["fc1", "attn.*"]})
    assert len(caught.value.problems) == 5
    assert "fc1 stays: two layers would save nothing of its 6 x 8 weights" in str(caught.value)


@pytest.mark.parametrize("ways", [{}, {"rank": 3, "energy": 0.9}])
def test_exactly_one_way_to_the_rank_is_asked_for(small, ways):
    with pytest.raises(CosimError, match="exactly one of rank, energy, parameters"):
        made(small, {"method": "low_rank", **ways})


@pytest.mark.parametrize("name", ["whisper", "tiny_conformer"])
def test_captured_graphs_compute_with_two_layers(name):
    model = made(network(name), HALF)
    wanted = in_torch(model.module, name)
    assert deviation(executed(model, name), wanted) < 1e-5
    assert deviation(wanted, in_torch(network(name), name)) > 1e-3
    whole = sum(row.elements for row in plain(name).ledger)
    assert model.elements < 0.85 * whole


def test_layers_that_share_a_weight_share_both_factors():
    model = made(network("tiny_conformer"), HALF)
    blocks = model.module.encoder.encoders
    first, second, third = (block.feed_forward.w_1 for block in blocks)
    assert first.down.weight is second.down.weight
    assert first.up.weight is second.up.weight
    assert first.down.weight is not third.down.weight
    assert sum("feed_forward.w_1.down.weight" in name for name in model.encodings) == 2


def test_base_model_of_paper_004_at_rank_6_has_the_tensors_of_its_low_rank_model():
    def read(name):
        return load(
            files.load(files.configs_root() / "models" / f"{name}.yaml", ModelConfig)
        ).module

    recipe = load_recipe(files.configs_root() / "recipes" / "low_rank_ffn_6.yaml")
    found = compress(read("tiny_conformer_b0"), recipe).encodings
    wanted = dict(read("tiny_conformer_lr3").named_parameters())
    factors = {"0.weight": "down.weight", "1.weight": "up.weight"}
    renamed = {}
    for name, tensor in wanted.items():
        place, part = name[: -len("0.weight")], name[-len("0.weight") :]
        is_factor = place.endswith((".w_1.", ".w_2."))
        renamed[place + factors[part] if is_factor else name] = tuple(tensor.shape)
    shapes = {name: tuple(each.shape) for name, each in found.items() if "running" not in name}
    assert shapes == renamed


def test_low_rank_then_eight_bits_stores_both_factors_in_eight_bits():
    entry = {"method": "quantize", "weight_bits": 8, "layers": "*.fc1.*"}
    model = made(network("whisper"), HALF, entry)
    rows = {row.name: row for row in model.ledger}
    assert rows["encoder.layers.0.fc1.down.weight"].encoding == "bitpacked"
    halved = in_torch(made(network("whisper"), HALF).module, "whisper")
    assert 0 < deviation(in_torch(model.module, "whisper"), halved) < 0.05


def test_macs_are_those_of_the_two_layers():
    def macs(model):
        items = schedule(lowered(model), "encoder", bindings={"samples": 6400}).items
        found = {}
        for item in items:
            if isinstance(item, Gemm):
                found[item.name.partition("/")[2]] = item.macs
        return found

    entry = {"method": "low_rank", "rank": 3, "layers": "*.intermediate_dense"}
    whole = macs(plain("wav2vec2"))
    split = macs(made(network("wav2vec2"), entry))
    layer = "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense"
    positions = whole[layer] // (16 * 24)
    assert split[f"{layer}.down"] == positions * 16 * 3
    assert split[f"{layer}.up"] == positions * 3 * 24
    assert sum(split.values()) == sum(whole.values()) - 2 * positions * (16 * 24 - 3 * 40)
