"""ESPnet's networks from the papers' equations, over whole sequences, in float64, and small ones.

Written on a plain dict of weights without the modules under test: attention goes query by query and
key by key, positions come from their formula.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from cosim.models import ModelConfig, RandomWeights, Weights, load

HEADS, WIDTH, VOCABULARY, BANDS = 2, 16, 11, 20
ENCODER = {"width": WIDTH, "heads": HEADS, "layers": 2, "subsampling": "conv2d"}
DECODER = {"layers": 2, "heads": HEADS, "hidden": 24, "positions": 12}
GATED = {"gate_hidden": 24, "taps": 5}
NETWORKS = {
    "transformer": ("transformer", {"hidden": 24}),
    "conformer": ("conformer", {"hidden": 24, "taps": 5}),
    "conformer, macaron": ("conformer", {"hidden": 24, "taps": 7, "is_macaron": True}),
    "conformer, legacy": ("conformer", {"hidden": 24, "taps": 5, "is_legacy": True}),
    "branchformer": ("branchformer", GATED),
    "e_branchformer": ("e_branchformer", {**GATED, "hidden": 24, "merge_taps": 3}),
    "e_branchformer, one": ("e_branchformer", {**GATED, "hidden": 20, "is_macaron": False}),
}
STRIDES = {"conv2d": (2, 2), "conv2d1": (1, 1), "conv2d2": (2, 1), "conv2d6": (2, 3)}


def dimensions(name, *, subsampling="conv2d", decoder=DECODER):
    _, extra = NETWORKS[name]
    return {
        "vocabulary": VOCABULARY,
        "encoder": {**ENCODER, "subsampling": subsampling, **extra},
        "decoder": decoder,
        "features": {"mels": BANDS},
    }


@lru_cache
def small(name, *, subsampling="conv2d", has_decoder=True):
    """Return a small model in which every vector counts, norms and running statistics too."""
    sizes = dimensions(name, subsampling=subsampling, decoder=DECODER if has_decoder else None)
    weights = Weights(random=RandomWeights(seed=3))
    loaded = load(ModelConfig(name, NETWORKS[name][0], weights, sizes))
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in loaded.module.state_dict().items():
            if tensor.ndim == 1:
                noise = torch.rand(tensor.shape, generator=rng)
                is_scale = key.endswith(("norm.weight", "running_var")) or ".norm" in key
                tensor.copy_(noise + 0.5 if is_scale and "bias" not in key else noise - 0.5)
    return loaded


def features(frames, bands=BANDS):
    return torch.from_numpy(
        np.random.default_rng(frames).standard_normal((1, frames, bands), np.float32)
    )


def sinusoid(position, width=WIDTH):
    """Return the row of one position (Vaswani et al. 2017, section 3.5)."""
    row = torch.zeros(width, dtype=torch.float64)
    for pair in range(width // 2):
        angle = position / 10000 ** (2 * pair / width)
        row[2 * pair], row[2 * pair + 1] = np.sin(angle), np.cos(angle)
    return row


class Reference:
    """One network's weights by name, and what its parts compute from them."""

    def __init__(self, loaded):
        self.w = {name: tensor.double() for name, tensor in loaded.module.state_dict().items()}
        self.encoder = loaded.module.dimensions.encoder
        self.family = loaded.family

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def depthwise(self, name, x):
        """Return x [T, channels] convolved channel by channel, zeros beyond the ends."""
        w, b = self.w[f"{name}.weight"][:, 0], self.w[f"{name}.bias"]
        taps = w.shape[1]
        padded = torch.cat(
            (x.new_zeros(taps // 2, x.shape[1]), x, x.new_zeros(taps // 2, x.shape[1]))
        )
        return torch.stack([(padded[t : t + taps].T * w).sum(1) + b for t in range(len(x))])

    def feed_forward(self, name, x, activation):
        return self.linear(f"{name}.w_2", activation(self.linear(f"{name}.w_1", x)))

    def heads(self, name, x):
        return self.linear(name, x).reshape(len(x), HEADS, -1).transpose(0, 1)

    def attention(self, name, x, source, *, extra=None, first=None, is_causal=False):
        """Return attention with `extra(head, i, j)` added to the products of `first` and keys."""
        q, k, v = (
            self.heads(f"{name}.linear_{part}", given)
            for part, given in (("q", x), ("k", source), ("v", source))
        )
        out = []
        for head in range(HEADS):
            rows = []
            for i in range(len(x)):
                keys = range(i + 1 if is_causal else len(source))
                query = q[head, i] if first is None else q[head, i] + first[head]
                scores = torch.stack(
                    [
                        query @ k[head, j] + (extra(q[head], head, i, j) if extra else 0)
                        for j in keys
                    ]
                )
                weights = (scores / q.shape[-1] ** 0.5).softmax(0)
                rows.append(weights @ v[head, : len(weights)])
            out.append(torch.stack(rows))
        return self.linear(f"{name}.linear_out", torch.cat(out, dim=-1))

    def relative(self, name, x):
        """Return self-attention with scores of distances (Dai et al. 2019, section 3.3)."""
        count = len(x)
        by_distance = {}

        def key(position):
            if position not in by_distance:
                by_distance[position] = self.heads(f"{name}.linear_pos", sinusoid(position)[None])
            return by_distance[position][:, 0]

        bias = self.w[f"{name}.pos_bias_v"]

        def score(queries, head, i, j):
            if not self.encoder.is_legacy:
                return (queries[i] + bias[head]) @ key(i - j)[head]
            # A zero before every row of scores for positions 4999, 4998, ..., read in rows of T.
            row, column = divmod((i + 1) * count + j, count + 1)
            if column == 0:
                return queries.new_zeros(())
            return (queries[row] + bias[head]) @ key(4999 - (column - 1))[head]

        return self.attention(name, x, x, extra=score, first=self.w[f"{name}.pos_bias_u"])

    def subsample(self, given):
        strides = STRIDES[self.encoder.subsampling]
        x = given.double()[:, None]
        for layer, stride in zip((0, 2), strides, strict=True):
            name = f"encoder.embed.conv.{layer}"
            x = functional.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride)
            x = x.clamp(min=0)
        flat = x[0].permute(1, 0, 2).flatten(1)  # position, then channel by channel all bands
        return self.linear("encoder.embed.out.0", flat)

    def encode(self, given):
        x = self.subsample(given) * WIDTH**0.5
        if self.family == "transformer":
            x = x + torch.stack([sinusoid(t) for t in range(len(x))])
        layer = getattr(self, self.family)
        for index in range(self.encoder.layers):
            x = layer(f"encoder.encoders.{index}", x)
        return self.norm("encoder.after_norm", x)

    def transformer(self, name, x):
        h = self.norm(f"{name}.norm1", x)
        x = x + self.attention(f"{name}.self_attn", h, h)
        h = self.norm(f"{name}.norm2", x)
        return x + self.feed_forward(f"{name}.feed_forward", h, torch.relu)

    def half(self, name, part, x, factor):
        h = self.norm(f"{name}.norm_ff{part}", x)
        return x + factor * self.feed_forward(f"{name}.feed_forward{part}", h, swish)

    def conformer(self, name, x):
        factor = 0.5 if self.encoder.is_macaron else 1.0
        if self.encoder.is_macaron:
            x = self.half(name, "_macaron", x, factor)
        x = x + self.relative(f"{name}.self_attn", self.norm(f"{name}.norm_mha", x))
        x = x + self.convolution(f"{name}.conv_module", self.norm(f"{name}.norm_conv", x))
        return self.norm(f"{name}.norm_final", self.half(name, "", x, factor))

    def convolution(self, name, x):
        w = self.w
        y = x @ w[f"{name}.pointwise_conv1.weight"][:, :, 0].T + w[f"{name}.pointwise_conv1.bias"]
        y = y[:, :WIDTH] * torch.sigmoid(y[:, WIDTH:])
        y = self.depthwise(f"{name}.depthwise_conv", y)
        spread = (w[f"{name}.norm.running_var"] + 1e-5).sqrt()
        y = (y - w[f"{name}.norm.running_mean"]) / spread
        y = swish(y * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"])
        return (
            y @ w[f"{name}.pointwise_conv2.weight"][:, :, 0].T + w[f"{name}.pointwise_conv2.bias"]
        )

    def gate(self, name, x):
        y = self.linear(f"{name}.channel_proj1.0", x)
        y = y * (1 + torch.special.erf(y / 2**0.5)) / 2
        half = y.shape[1] // 2
        gate = self.norm(f"{name}.csgu.norm", y[:, half:])
        return self.linear(
            f"{name}.channel_proj2", y[:, :half] * self.depthwise(f"{name}.csgu.conv", gate)
        )

    def branches(self, name, x):
        attended = self.relative(f"{name}.attn", self.norm(f"{name}.norm_mha", x))
        gated = self.gate(f"{name}.cgmlp", self.norm(f"{name}.norm_mlp", x))
        return torch.cat((attended, gated), dim=1)

    def branchformer(self, name, x):
        x = x + self.linear(f"{name}.merge_proj", self.branches(name, x))
        return self.norm(f"{name}.norm_final", x)

    def e_branchformer(self, name, x):
        factor = 0.5 if self.encoder.is_macaron else 1.0
        if self.encoder.is_macaron:
            x = self.half(name, "_macaron", x, factor)
        both = self.branches(name, x)
        local = self.depthwise(f"{name}.depthwise_conv_fusion", both)
        x = x + self.linear(f"{name}.merge_proj", both + local)
        return self.norm(f"{name}.norm_final", self.half(name, "", x, factor))

    def logits(self, tokens, memory):
        """Return logits [tokens, vocabulary] of all positions at once, with causal attention."""
        x = self.w["decoder.embed.0.weight"][tokens] * WIDTH**0.5
        x = x + torch.stack([sinusoid(t) for t in range(len(tokens))])
        for index in range(DECODER["layers"]):
            name = f"decoder.decoders.{index}"
            h = self.norm(f"{name}.norm1", x)
            x = x + self.attention(f"{name}.self_attn", h, h, is_causal=True)
            x = x + self.attention(f"{name}.src_attn", self.norm(f"{name}.norm2", x), memory)
            h = self.norm(f"{name}.norm3", x)
            x = x + self.feed_forward(f"{name}.feed_forward", h, torch.relu)
        return self.linear("decoder.output_layer", self.norm("decoder.after_norm", x))


def swish(x):
    return x * torch.sigmoid(x)
