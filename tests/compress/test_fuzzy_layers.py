"""Claims about the fuzzy method: bits and zeros of each layer, the report, what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from kernels import encodings as store

THREE = {"method": "fuzzy", "classes": 3, "alpha": 0.5, "beta": 0.5}
TWO = {"method": "fuzzy", "classes": 2}
SHAPE = (64, 96)


class Network(nn.Module):
    """A layer of each class, a 2-D and a 1-D convolution, a tied table and a norm."""

    def __init__(self):
        super().__init__()
        for name in ("low", "medium", "high"):
            setattr(self, name, nn.Linear(SHAPE[1], SHAPE[0]))
        self.plane = nn.Conv2d(2, 8, 3)
        self.line = nn.Conv1d(2, 8, 3)
        self.embed = nn.Embedding(40, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(8)


@pytest.fixture
def network():
    torch.manual_seed(3)
    made = Network()
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], SHAPE)
    # shares of weights near 0.1, 0.5 and 1; the median is near 0.5 in all layers
    shares = {"low": (0.45, 0.25, 0.3), "medium": (0.2, 0.6, 0.2), "high": (0.25, 0.3, 0.45)}
    for name, expected in shares.items():
        drawn = rng.choice((0.1, 0.5, 1.0), SHAPE, p=expected)
        spread = drawn + rng.uniform(0, 0.01, SHAPE)
        with torch.no_grad():
            getattr(made, name).weight.copy_(torch.from_numpy(signs * spread))
    return made.eval()


def made(module, *entries):
    recipe = parse_recipe({"methods": list(entries)}, name="r", source="r.yaml")
    return compress(module, recipe, source="r.yaml")


def bits_of(model, name):
    return store.value_bits(model.encodings[f"{name}.weight"])


def rows_of(model):
    return {row["layer"]: row for row in model.report}


def test_three_classes_store_low_layers_pruned_in_8_bits_medium_in_4_and_high_in_8(network):
    model = made(network, THREE)
    rows = rows_of(model)
    assert [rows[name]["decided"] for name in ("low", "medium", "high")] == ["L", "M", "H"]
    assert [bits_of(model, name) for name in ("low", "medium", "high")] == [8, 4, 8]
    before = np.abs(network.low.weight.detach().numpy())
    after = store.decode(model.encodings["low.weight"])
    np.testing.assert_array_equal(after == 0, before < 0.2)
    assert rows["low"]["pruned"] == rows["low"]["share_L"] == (before < 0.2).mean()
    for name in ("medium", "high"):
        assert rows[name]["pruned"] == 0


def test_what_stays_is_within_half_a_step_of_quantos_codes(network):
    model = made(network, THREE)
    for name, levels in (("low", 254), ("high", 254), ("medium", 15)):
        before = getattr(network, name).weight.detach().numpy()
        after = store.decode(model.encodings[f"{name}.weight"])
        span = before.max(axis=1) - before.min(axis=1)
        if levels == 254:
            span = 2 * np.abs(before).max(axis=1)
        kept = np.where(after == 0, 0, np.abs(after - before))
        assert (kept <= span[:, np.newaxis] / levels / 2 * 1.001).all()


def test_two_classes_store_low_layers_in_2_bits_and_the_others_in_4(network):
    with torch.no_grad():  # 70 % of the weights are below a tenth of the others
        weight = network.low.weight
        weight[weight.abs() < 0.6] *= 0.1
    model = made(network, TWO)
    rows = rows_of(model)
    assert {row["decided"] for row in rows.values()} == {"L", "H"}
    for name, row in rows.items():
        stored = "embed" if name == "head" else name
        assert bits_of(model, stored) == row["bits"] == {"L": 2, "H": 4}[row["decided"]]
        assert row["pruned"] == 0
        assert "share_M" not in row
    assert (rows["low"]["decided"], rows["high"]["decided"]) == ("L", "H")


def test_linear_layers_and_2_d_convolutions_are_compressed_and_nothing_else(network):
    model = made(network, THREE)
    assert set(rows_of(model)) == {"low", "medium", "high", "plane", "head"}
    coded = {row.name for row in model.ledger if row.scale_bits}
    assert coded == {f"{name}.weight" for name in ("low", "medium", "high", "plane", "embed")}
    assert model.module.head.weight is model.module.embed.weight


def test_a_row_tells_shares_memberships_and_the_decision(network):
    row = rows_of(made(network, THREE))["medium"]
    assert row["weights"] == SHAPE[0] * SHAPE[1]
    shares = [row[f"share_{letter}"] for letter in "LMH"]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) == row["share_M"] == pytest.approx(0.6, abs=0.02)
    assert all(0 <= row[f"membership_{letter}"] <= row["weights"] for letter in "LMH")


def test_notes_tell_the_shares_of_layers_and_the_pruning_rate(network):
    model = made(network, {**THREE, "layers": ["low", "medium", "high"]})
    rate = rows_of(model)["low"]["pruned"]
    (note,) = model.notes
    assert note.startswith("fuzzy: of 3 layers 33.33% L (8 bits), 33.33% M (4 bits), 33.33% H (8 b")
    assert note.endswith(f"; {rate:.2%} of the weights of class L pruned")


def test_degenerate_layers_are_kept_in_8_bits(network):
    with torch.no_grad():
        network.low.weight.fill_(0.25)
        network.medium.weight.zero_()
        network.high = nn.Linear(1, 1)
    model = made(network, THREE)
    for name in ("low", "medium", "high"):
        assert rows_of(model)[name]["decided"] == "H"
        expected = getattr(network, name).weight.detach().numpy()
        np.testing.assert_allclose(
            store.decode(model.encodings[f"{name}.weight"]), expected, rtol=1e-6
        )


def test_wrong_parameters_are_refused_together(network):
    with pytest.raises(CosimError) as caught:
        made(
            network,
            {"method": "fuzzy", "classes": 3},
            {"method": "fuzzy", "classes": 2, "beta": 0.5},
            {"method": "fuzzy", "classes": 4},
            {"method": "fuzzy", "classes": 2, "alpha": -1.0},
        )
    told = "\n".join(caught.value.problems)
    assert "methods.0: beta: missing, expected a number > 0 with 3 classes" in told
    assert "methods.1: beta: found 0.5, expected none with 2 classes" in told
    assert "methods.2.classes: found 4, expected one of 2, 3" in told
    assert "methods.3.alpha: found -1.0" in told


def test_zeros_cannot_be_put_where_no_code_means_zero(network):
    with pytest.raises(CosimError, match=r"methods\.1 \(prune_magnitude\): cannot put zeros"):
        made(network, TWO, {"method": "prune_magnitude", "rate": 0.5, "layers": "low"})


def test_a_layer_is_decided_on_what_earlier_entries_left(network):
    prune = {"method": "prune_magnitude", "rate": 0.48, "layers": "high"}
    row = rows_of(made(network, prune, {**THREE, "layers": "high"}))["high"]
    assert row["share_L"] == pytest.approx(0.48, abs=0.001)
    assert row["decided"] == "L"


def test_where_most_weights_are_zero_they_are_medium_as_zero_is_the_median(network):
    prune = {"method": "prune_magnitude", "rate": 0.9, "layers": "high"}
    row = rows_of(made(network, prune, {**THREE, "layers": "high"}))["high"]
    assert row["share_M"] == pytest.approx(0.9, abs=0.001)
    assert row["decided"] == "M"
