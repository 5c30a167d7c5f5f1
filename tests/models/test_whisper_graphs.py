"""Claims about the Whisper graphs: what torch.export captures is right at every length."""

import pytest
import torch
from torch.nn import functional

PLAIN = {
    "aten.linear.default",
    "aten.layer_norm.default",
    "aten.gelu.default",
    "aten.conv1d.default",
    "aten.embedding.default",
    "aten.view.default",
    "aten.reshape.default",
    "aten.transpose.int",
    "aten.cat.default",
    "aten.slice.Tensor",
    "aten.add.Tensor",
    "aten.scaled_dot_product_attention.default",
    "aten.sym_size.int",
}


@pytest.fixture(scope="module")
def exported(network):
    return {
        spec.name: (
            spec,
            torch.export.export(
                spec.module, spec.examples, dynamic_shapes=spec.dynamic_shapes, strict=False
            ),
        )
        for spec in network.graphs()
    }


def attend(q, k, v, heads):
    """Attention from its definition, head by head, without any fused function."""
    size = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        cut = slice(head * size, (head + 1) * size)
        weights = torch.softmax(q[:, cut] @ k[:, cut].T / size**0.5, dim=-1)
        parts.append(weights @ v[:, cut])
    return torch.cat(parts, dim=-1)


class Oracle:
    """Whisper from the paper's figure over whole sequences, on a plain dict of weights."""

    def __init__(self, network):
        self.w = dict(network.named_parameters())
        self.d = network.dimensions

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name, x, source, *, is_causal=False):
        q, k, v = (
            self.linear(f"{name}.{p}_proj", s) for p, s in (("q", x), ("k", source), ("v", source))
        )
        if not is_causal:
            return self.linear(f"{name}.out_proj", attend(q, k, v, self.d.heads))
        rows = [attend(q[i : i + 1], k[: i + 1], v[: i + 1], self.d.heads) for i in range(len(q))]
        return self.linear(f"{name}.out_proj", torch.cat(rows))

    def feed_forward(self, name, x):
        hidden = self.linear(f"{name}.fc1", self.norm(f"{name}.final_layer_norm", x))
        erf = torch.special.erf(hidden / 2**0.5)
        return x + self.linear(f"{name}.fc2", hidden * (1 + erf) / 2)

    def encode(self, features):
        x = features
        for name, stride in (("encoder.conv1", 1), ("encoder.conv2", 2)):
            x = functional.conv1d(
                x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride=stride, padding=1
            )
            x = x * (1 + torch.special.erf(x / 2**0.5)) / 2
        x = x[0].T
        x = x + self.w["encoder.embed_positions.weight"][: len(x)]
        for i in range(self.d.encoder_layers):
            name = f"encoder.layers.{i}"
            h = self.norm(f"{name}.self_attn_layer_norm", x)
            x = x + self.attention(f"{name}.self_attn", h, h)
            x = self.feed_forward(name, x)
        return self.norm("encoder.layer_norm", x)

    def logits(self, tokens, memory):
        """Logits of all positions at once, with causal attention."""
        x = self.w["decoder.embed_tokens.weight"][tokens]
        x = x + self.w["decoder.embed_positions.weight"][: len(tokens)]
        for i in range(self.d.decoder_layers):
            name = f"decoder.layers.{i}"
            h = self.norm(f"{name}.self_attn_layer_norm", x)
            x = x + self.attention(f"{name}.self_attn", h, h, is_causal=True)
            h = self.norm(f"{name}.encoder_attn_layer_norm", x)
            x = x + self.attention(f"{name}.encoder_attn", h, memory)
            x = self.feed_forward(name, x)
        x = self.norm("decoder.layer_norm", x)
        return x @ self.w["decoder.embed_tokens.weight"].T


@pytest.mark.parametrize("frames", [3, 4, 13, 40, 59, 60])
def test_exported_encoder_gives_cross_keys_and_values_at_any_length(network, exported, frames):
    spec, program = exported["encoder"]
    features = torch.randn(1, 4, frames, generator=torch.Generator().manual_seed(frames))
    cross = program.module()(features)
    oracle = Oracle(network)
    memory = oracle.encode(features)
    assert spec.outputs == ("cross_k_0", "cross_v_0", "cross_k_1", "cross_v_1")
    for name, found in zip(spec.outputs, cross, strict=True):
        _, letter, layer = name.split("_")
        wanted = oracle.linear(f"decoder.layers.{layer}.encoder_attn.{letter}_proj", memory)
        flat = found[0].transpose(0, 1).reshape(wanted.shape)
        assert found.shape == (1, 2, (frames - 1) // 2 + 1, 8)
        assert torch.allclose(flat, wanted, atol=1e-4)


def test_exported_step_equals_whole_sequence_at_past_0_1_2_and_50(network, exported):
    encoder, step = exported["encoder"][1].module(), exported["step"][1].module()
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(1, 4, 41, generator=generator)
    tokens = torch.randint(0, 32, (52,), generator=generator)
    oracle = Oracle(network)
    wanted = oracle.logits(tokens, oracle.encode(features))
    cross = encoder(features)
    caches = [torch.zeros(1, 2, 0, 8)] * 4
    for past, token in enumerate(tokens):
        logits, *caches = step(token.reshape(1, 1), *caches, *cross)
        assert caches[0].shape == (1, 2, past + 1, 8)
        if past in (0, 1, 2, 50):
            assert logits.shape == (1, 32)
            assert torch.allclose(logits[0], wanted[past], atol=1e-3)


def test_lengths_stay_symbolic_and_names_match_the_graph(exported):
    for spec, program in exported.values():
        users = [
            node
            for node in program.graph.nodes
            if node.op == "placeholder"
            and node.name not in program.graph_signature.inputs_to_parameters
        ]
        assert len(users) == len(spec.inputs) == len(spec.shapes)
        for node, shape in zip(users, spec.shapes, strict=True):
            for size, wanted in zip(node.meta["val"].shape, shape, strict=True):
                assert isinstance(size, torch.SymInt) == isinstance(wanted, str)
                assert isinstance(wanted, str) or size == wanted
        assert len(program.graph_signature.user_outputs) == len(spec.outputs)


def test_graphs_hold_only_plain_operators(exported):
    for _, program in exported.values():
        calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert {call for call in calls if call.startswith("aten.")} <= PLAIN


def test_every_product_knows_the_module_it_stands_in(exported):
    _, program = exported["step"]
    scopes = [
        list(node.meta["nn_module_stack"].values())[-1][0]
        for node in program.graph.nodes
        if str(node.target) == "aten.scaled_dot_product_attention.default"
    ]
    assert scopes == [
        f"decoder.layers.{layer}.{kind}"
        for layer in (0, 1)
        for kind in ("self_attn", "encoder_attn")
    ]


def test_projection_is_the_token_embedding(network):
    assert network.proj_out.weight is network.decoder.embed_tokens.weight
    assert "proj_out.weight" not in dict(network.named_parameters())
