"""Levels and moves from calibration inputs, against sums worked out in numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from cosim.compress.compressed import compress
from cosim.compress.network import OperandPolicy
from cosim.compress.recipe import parse_recipe
from cosim.errors import CosimError
from cosim.models.attention import Attention
from kernels import encodings as store

STATIC = {"bits": 1, "scale": "static"}


class Block(nn.Module):
    """Attention, then two linear layers with ReLU between them; one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(12, 3)
        self.fc1 = nn.Linear(12, 20)
        self.fc2 = nn.Linear(20, 12)
        self.idle = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attn(x, *self.attn.keys_values(x))
        return self.fc2(torch.relu(self.fc1(y)))


@pytest.fixture(scope="module")
def block():
    torch.manual_seed(4)
    return Block().eval()


@pytest.fixture(scope="module")
def heard():
    return [torch.randn(1, rows, 12) * 2 + 0.5 for rows in (5, 9)]


def made(block, heard, *, layers="*", **values):
    entry = {"method": "binarize", "layers": layers, "activations": {**STATIC, **values}}
    recipe = parse_recipe({"methods": [entry]}, name="r", source="r.yaml")
    return compress(block, recipe, batches=[lambda module, x=x: module(x) for x in heard])


def tensor(result, name):
    return store.decode(result.encodings[name])


def operands(block, heard):
    """Return q, k, v, p and the inputs of fc1 and fc2 for all that was heard, by plain torch."""
    found = []
    with torch.inference_mode():
        for x in heard:
            attn = block.attn
            q = attn.split(attn.q_proj(x))
            k, v = attn.keys_values(x)
            p = torch.softmax(q @ k.transpose(2, 3) / 2, dim=-1)
            y = attn.out_proj((p @ v).transpose(1, 2).reshape(x.shape))
            hidden = torch.relu(block.fc1(y))
            found.append([part.double().numpy() for part in (q, k, v, p, y, hidden)])
    return list(zip(*found, strict=True))


def test_levels_are_mean_magnitudes_and_weighted_means(block, heard):
    result = made(block, heard)
    *heads, p, inputs, hidden = operands(block, heard)
    for name, parts in (*zip("qkv", heads, strict=True), ("input", inputs)):
        key = f"attn.{name}_scale" if name != "input" else "fc1.input_scale"
        wanted = np.abs(np.concatenate([part.ravel() for part in parts])).mean()
        assert tensor(result, key).shape == (1,)
        np.testing.assert_allclose(tensor(result, key)[0], wanted, rtol=1e-5)
    for key, parts in (("attn.p_scale", p), ("fc2.input_scale", hidden)):
        values = np.concatenate([part.ravel() for part in parts])
        wanted = (values**2).sum() / values.sum()
        np.testing.assert_allclose(tensor(result, key)[0], wanted, rtol=1e-5)
    assert not any(name.endswith("_move") for name in result.encodings)


def test_moves_are_minus_the_means_of_channels(block, heard):
    result = made(block, heard, move="mean")
    q, _, _, _, inputs, _ = operands(block, heard)
    rows = np.concatenate([part[0] for part in q], axis=1)  # heads, rows, channels
    means = rows.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(tensor(result, "attn.q_move"), -means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        tensor(result, "attn.q_scale")[0], np.abs(rows - means).mean(), rtol=1e-5
    )
    rows = np.concatenate([part[0] for part in inputs])
    np.testing.assert_allclose(
        tensor(result, "fc1.input_move"), -rows.mean(axis=0), rtol=1e-4, atol=1e-6
    )
    assert {name for name in result.encodings if name.endswith("_move")} == {
        *(f"attn.{name}_move" for name in "qkv"),
        *(f"attn.{name}_proj.input_move" for name in ("q", "k", "v", "out")),
        "fc1.input_move",
    }


def test_operands_that_were_never_negative_are_unsigned(block, heard):
    found = {(p.target, p.operand): p for p in made(block, heard).policies}
    assert found["fc2", "input"] == OperandPolicy("fc2", "input", 1, False, "tensor", "static")
    assert found["fc1", "input"] == OperandPolicy("fc1", "input", 1, True, "tensor", "static")
    assert [key for key, p in found.items() if not p.signed] == [("attn", "p"), ("fc2", "input")]


def test_levels_and_moves_are_counted_in_the_ledger(block, heard):
    plain, zero, mean = (
        made(block, heard, layers="fc1", **values)
        for values in ({"scale": "dynamic"}, {"move": "zero"}, {"move": "mean"})
    )
    assert zero.size_bytes == plain.size_bytes + 4
    assert mean.size_bytes == zero.size_bytes + 4 * 12


def test_layers_that_no_input_reaches_are_told(block, heard):
    (note,) = made(block, heard).notes
    assert note.startswith("calibration: no input reached 1 layers (idle)")


def test_levels_outlast_changes_of_other_layers(block, heard):
    """What is removed elsewhere leaves tensors alone that are no parameters of the module."""
    entries = [
        {"method": "binarize", "layers": "fc1", "activations": {**STATIC, "move": "mean"}},
        {"method": "low_rank", "layers": "fc2", "rank": 2},
    ]
    recipe = parse_recipe({"methods": entries}, name="r", source="r.yaml")
    result = compress(block, recipe, batches=[lambda module: module(heard[0])])
    assert {"fc1.input_scale", "fc1.input_move"} <= set(result.encodings)
    assert "fc2.weight" not in result.encodings


def test_an_operand_of_zeros_has_a_level_that_kernels_take(block):
    result = made(block, [torch.zeros(1, 3, 12)], layers="attn.q_proj")
    assert tensor(result, "attn.q_proj.input_scale")[0] == np.float32(2.0**-100)


def test_wrong_configurations_are_refused(block, heard):
    with pytest.raises(CosimError, match="static needs calibration inputs and found none"):
        made(block, [])
    with pytest.raises(CosimError, match="move: found one with a dynamic scale"):
        made(block, heard, scale="dynamic", move="mean")
    with pytest.raises(CosimError, match=r"fc1: input: found values that are not finite"):
        made(block, [torch.full((1, 2, 12), np.nan)], layers="fc1")
