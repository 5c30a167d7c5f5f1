"""Claims about HuBERT with other encoders: sizes that a paper prints, and what the blocks compute.

Printed sizes are those of Jeon et al. 2024, table 1, in MB of 10^6 bytes.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from own_models import (
    BLOCKS,
    VARIANT,
    compute,
    config,
    counted_macs,
    drawn,
    executed,
    interpret,
    lowered,
    macs,
    noise,
    shipped,
    variant,
)

from cosim.errors import CosimError
from cosim.models import load
from cosim.models.hubert_variant import binarizable
from cosim.models.squeezeformer import Reduction, SqueezeformerLayer
from cosim.patterns import from_text

# name: printed MB, bytes a weight, printed MB with one-bit weights, and how many those are
PRINTED = {
    "hubert_vanilla": (184.42, 2, 25.23, 12 * 12 * 768**2),
    "hubert_conformer_s_profiled": (131.87, 4, None, 16 * 1919088),
    "hubert_squeeze_xs_profiled": (132.04, 4, None, 16 * 1919088),
    "hubert_sparse_dn_s": (60.81, 4, 12.10, 16 * 12 * 256**2),
    "hubert_sparse_sw_s": (117.18, 4, 19.71, 8 * 12 * 512**2),
}


@pytest.mark.parametrize("name", PRINTED)
def test_storage_is_printed_to_the_last_digit(name):
    printed, bytes_each, _, _ = PRINTED[name]
    assert round(shipped(name).parameters * bytes_each / 1e6, 2) == printed


@pytest.mark.parametrize("name", PRINTED)
def test_weights_that_become_binary_are_those_of_the_formula(name):
    assert sum(binarizable(shipped(name).module).values()) == PRINTED[name][3]


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("hubert_sparse_dn_s", 48.76),
        ("hubert_sparse_sw_s", 97.52),
        ("hubert_conformer_s_profiled", 118.98),
        ("hubert_vanilla", 159.25),
    ],
)
def test_saved_storage_is_within_a_thousandth_of_the_printed_difference(name, saved):
    bytes_each = PRINTED[name][1]
    found = sum(binarizable(shipped(name).module).values()) * (bytes_each - 1 / 8) / 1e6
    assert round(found, 2) == saved
    if (binary := PRINTED[name][2]) is not None:
        assert found == pytest.approx(PRINTED[name][0] - binary, rel=1.1e-3)


@pytest.mark.parametrize("name", [name for name, row in PRINTED.items() if row[2] is not None])
def test_with_three_moves_a_channel_binary_storage_is_printed_to_the_last_digit(name):
    """Liu et al. 2022 learn a shift of q, k and v per channel (move_q, move_k, move_v)."""
    _, bytes_each, printed, _ = PRINTED[name]
    loaded = shipped(name)
    d = loaded.module.dimensions
    binary = sum(binarizable(loaded.module).values())
    rest = loaded.parameters - binary + 3 * d.width * d.layers
    assert round((rest * bytes_each + binary / 8) / 1e6, 2) == printed


def test_front_end_has_the_weights_and_products_of_wu_2022():
    front = shipped("hubert_vanilla").module.feature_extractor
    layers = [each.conv for each in front.conv_layers]
    length, products = 160_000, 0
    for layer in layers:
        length = (length - layer.kernel_size[0]) // layer.stride[0] + 1
        products += length * layer.weight.numel()
    assert length == 499
    assert sum(layer.weight.numel() for layer in layers) == 1_843_840
    assert 3.25e9 < products < 3.35e9


def test_features_of_the_stack_s_width_are_not_projected():
    names = {"feature_projection.projection.weight", "feature_projection.projection.bias"}
    found = dict(shipped("hubert_sparse_sw_s").module.named_parameters())
    assert not names & set(found)
    assert names <= set(dict(shipped("hubert_sparse_dn_s").module.named_parameters()))


@pytest.mark.parametrize("blocks", ["sparse", "conformer", "squeezeformer"])
def test_one_capture_means_what_torch_computes_at_every_length(blocks):
    loaded = variant(blocks)
    program, constants = lowered(loaded)
    for count in (20 * 320, 33 * 320, 54 * 320 + 7):
        samples = noise(1, count)
        wanted = compute(loaded, samples)
        found = interpret(program, constants, "samples", samples)
        assert found.shape == (1, count // 320, 16)
        assert np.allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("blocks", ["sparse", "conformer", "squeezeformer"])
def test_kernels_compute_what_torch_computes(blocks):
    loaded = variant(blocks)
    for count in (33 * 320, 54 * 320 + 7):
        samples = noise(1, count)
        found = executed(loaded, samples)
        assert np.abs(found - compute(loaded, samples)).max() < 1e-4 * np.abs(found).max()


@pytest.mark.parametrize("blocks", ["conformer", "squeezeformer"])
def test_products_of_the_program_are_those_that_torch_counts(blocks):
    samples = noise(1, 33 * 320)
    found = macs(variant(blocks), samples=33 * 320)
    assert found == counted_macs(variant(blocks), samples) > 0


def test_a_pattern_saves_the_products_outside_its_blocks():
    seen = from_text(BLOCKS["sparse"]["patterns"][0]).seen(70, 70)
    edges = [(start, min(start + 16, 70)) for start in range(0, 70, 16)]
    blocks = [(rows, keys) for rows in edges for keys in edges]
    pairs = sum(
        (b - a) * (d - c) for (a, b), (c, d) in blocks if seen[slice(a, b), slice(c, d)].any()
    )
    dense = counted_macs(variant("dense"), noise(1, 70 * 320))
    layers, width = VARIANT["layers"], VARIANT["width"]
    assert pairs < 70 * 70
    assert macs(variant("sparse"), samples=70 * 320) == dense - 2 * layers * width * (
        70 * 70 - pairs
    )


def test_a_pattern_that_keeps_all_is_dense_attention():
    dense = variant("dense")
    all_seen = {"kind": "transformer", "patterns": ["local window=1000 block=16"]}
    other = load(config("hubert_variant", {**VARIANT, "blocks": all_seen}))
    other.module.load_state_dict(dense.module.state_dict())
    samples = noise(1, 40 * 320)
    assert np.allclose(compute(other, samples), compute(dense, samples), atol=1e-5)
    assert np.abs(compute(variant("sparse"), samples) - compute(dense, samples)).max() > 1e-3


def test_sparse_attention_is_dense_attention_with_minus_infinity_outside():
    attention = variant("sparse").module.stack.layers[1].attention
    x = torch.from_numpy(noise(1, 70, 16))
    seen = torch.from_numpy(from_text(attention.pattern).seen(70, 70))
    parts = []
    for head in range(4):
        cut = slice(4 * head, 4 * head + 4)
        q, k, v = (
            F.linear(x[0], layer.weight[cut], layer.bias[cut])
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        scores = (q @ k.T / 2).masked_fill(~seen, -math.inf)
        parts.append(scores.softmax(-1) @ v)
    wanted = attention.out_proj(torch.cat(parts, -1))
    assert not seen.all()
    assert torch.allclose(attention(x, *attention.keys_values(x))[0], wanted, atol=1e-5)


def test_every_layer_may_have_a_pattern_of_its_own():
    patterns = [f"local window={size} block=16" for size in (1, 8)]
    blocks = {"kind": "transformer", "patterns": patterns}
    loaded = load(config("hubert_variant", {**VARIANT, "blocks": blocks}))
    assert [layer.attention.pattern for layer in loaded.module.stack.layers] == patterns


def norm(module, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt()
    return scaled * module.weight + module.bias


def relative_attention(module, x):
    """Scores of every query and key from the sinusoid of their distance, pair by pair."""
    length, width = x.shape
    head = width // module.heads
    q, k, v = (layer(x) for layer in (module.linear_q, module.linear_k, module.linear_v))
    pairs = torch.arange(0, width, 2, dtype=torch.float64)
    out = torch.zeros(length, width)
    for h in range(module.heads):
        cut = slice(h * head, (h + 1) * head)
        scores = torch.zeros(length, length)
        for i in range(length):
            for j in range(length):
                angles = (i - j) / 10000 ** (pairs / width)
                sinusoid = torch.stack((angles.sin(), angles.cos()), -1).reshape(-1).float()
                place = F.linear(sinusoid, module.linear_pos.weight)[cut]
                content = (q[i, cut] + module.pos_bias_u[h]) @ k[j, cut]
                scores[i, j] = content + (q[i, cut] + module.pos_bias_v[h]) @ place
        out[:, cut] = (scores / head**0.5).softmax(-1) @ v[:, cut]
    return module.linear_out(out)


def convolve(module, x):
    y = F.linear(x, module.pointwise_conv1.weight[:, :, 0], module.pointwise_conv1.bias)
    y = y * torch.sigmoid(y)
    filters = module.depthwise_conv.weight[:, 0]
    before = filters.shape[1] // 2
    padded = torch.cat((torch.zeros(before, y.shape[1]), y, torch.zeros(before, y.shape[1])))
    y = torch.stack([(padded[t : t + filters.shape[1]].T * filters).sum(1) for t in range(len(x))])
    y = y + module.depthwise_conv.bias
    n = module.norm
    y = (y - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
    y = y * torch.sigmoid(y)
    return F.linear(y, module.pointwise_conv2.weight[:, :, 0], module.pointwise_conv2.bias)


def feed(module, x):
    y = module.w_1(x)
    return module.w_2(y * torch.sigmoid(y))


def test_squeezeformer_block_is_attention_feed_forward_convolution_feed_forward_each_normed_after():
    torch.manual_seed(1)
    block = SqueezeformerLayer(
        8, 2, 12, taps=5, expansion=2, is_scaled=True, has_convolution_bias=True
    ).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        block.convolution.norm.running_mean.normal_()
        x = torch.randn(6, 8)
        wanted = x
        for name, work in (
            ("attention", relative_attention),
            ("feed_forward1", feed),
            ("convolution", convolve),
            ("feed_forward2", feed),
        ):
            scale = getattr(block, f"scale_{name}")
            scaled = wanted * scale.weight + scale.bias
            inner = work(getattr(block, name), scaled)
            wanted = norm(getattr(block, f"norm_{name}"), wanted + inner)
        from cosim.models.espnet_attention import distances_of  # noqa: PLC0415

        found = block(x[None], distances_of(x[None]))[0]
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("length", "half"), [(4, 2), (5, 3), (498, 249), (499, 250)])
def test_reduction_halves_rounding_up_and_looks_five_positions_ahead(length, half):
    torch.manual_seed(2)
    reduction = Reduction(6)
    x = torch.randn(1, length, 6)
    with torch.no_grad():
        found = reduction(x)
        t = half // 2
        window = torch.cat((x[0], torch.zeros(5, 6)))[2 * t : 2 * t + 5]
        depthwise = (window.T * reduction.depthwise_conv.weight[:, 0]).sum(1)
        depthwise = depthwise + reduction.depthwise_conv.bias
        pointwise = reduction.pointwise_conv
        wanted = F.linear(depthwise, pointwise.weight[:, :, 0], pointwise.bias)
    assert found.shape == (1, half, 6)
    assert torch.allclose(found[0, t], wanted, atol=1e-5)


def test_recovery_repeats_each_position_and_adds_what_was_there_before():
    """With blocks that change nothing, only the reduction and the recovery are left."""
    stack = load(
        config("hubert_variant", {**VARIANT, "blocks": BLOCKS["squeezeformer"]})
    ).module.stack
    for index in range(len(stack.layers)):
        stack.layers[index] = Same()
    x = torch.from_numpy(noise(1, 7, 16))
    coarse = stack.reduction(x)
    wanted = torch.stack([x[0, t] + stack.recovery(coarse[0, t // 2]) for t in range(7)])
    assert torch.allclose(stack(x)[0], wanted, atol=1e-5)


class Same(torch.nn.Module):
    def forward(self, x, _distances):
        return x


def test_all_that_is_wrong_with_dimensions_is_said_at_once():
    wrong = {
        **VARIANT,
        "width": 15,
        "blocks": {
            "kind": "transformer",
            "patterns": ["lokal window=1", "local", "local window=1"],
        },
    }
    with pytest.raises(CosimError) as caught:
        load(config("hubert_variant", wrong))
    text = str(caught.value)
    assert "heads: found 4, expected a divisor of width 15" in text
    assert "found 3, expected none, one, or one for each of 2 layers" in text
    assert 'did you mean "local"?' in text
    assert "window: missing" in text


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"kind": "squeezeformer", "reduced": 1, "recovered": 1}, "the first below the second"),
        ({"kind": "squeezeformer", "reduced": 1, "recovered": 3}, "at most 2 layers"),
        ({"kind": "conformer", "taps": 4}, "taps: found 4, expected an odd number"),
        ({"kind": "conformr"}, 'did you mean "conformer"?'),
    ],
)
def test_blocks_that_cannot_be_built_are_refused(blocks, words):
    with pytest.raises(CosimError, match="blocks") as caught:
        load(config("hubert_variant", {**VARIANT, "blocks": blocks}))
    assert words in str(caught.value)


def test_a_vocabulary_turns_hidden_vectors_into_logits():
    loaded = load(config("hubert_variant", {**VARIANT, "blocks": BLOCKS["dense"], "vocabulary": 7}))
    (graph,) = loaded.module.graphs()
    assert graph.outputs == ("logits",)
    assert compute(loaded, noise(1, 20 * 320)).shape == (1, 20, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert_sparse_dn_s", "hubert_squeeze_xs"])
def test_ten_seconds_at_true_size_are_executed_as_torch_does(name):
    loaded, samples = drawn(name), noise(1, 160_000)
    wanted = compute(loaded, samples)
    assert np.abs(executed(loaded, samples) - wanted).max() < 1e-3 * np.abs(wanted).max()
    if "sparse" not in name:
        assert macs(loaded, samples=160_000) == counted_macs(loaded, samples)
