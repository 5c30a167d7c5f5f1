"""ESPnet's Transformer decoder, one token at a time, and the graph of its step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.export import Dim

from cosim.models import GraphSpec, StateSpec
from cosim.models.espnet_attention import MultiHeadAttention
from cosim.models.espnet_encoder import LONGEST
from cosim.models.espnet_layers import FeedForward, layer_norm
from cosim.models.marks import positions

_EXAMPLE_MEMORY, _EXAMPLE_PAST = 20, 7  # torch.export would specialise 0 and 1


@dataclass(frozen=True)
class DecoderDimensions:
    """Sizes of a decoder; `heads` divide the encoder's width. `positions` bounds the tokens."""

    layers: Annotated[int, Ge(1)]
    heads: Annotated[int, Ge(1)]
    hidden: Annotated[int, Ge(1)]
    positions: Annotated[int, Ge(2)] = 1024


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, attention to the encoder and feed-forward layer for one token."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads)
        self.src_attn = MultiHeadAttention(width, heads)
        self.feed_forward = FeedForward(width, hidden, "relu")
        self.norm1 = layer_norm(width)
        self.norm2 = layer_norm(width)
        self.norm3 = layer_norm(width)

    def forward(
        self, x: Tensor, past_k: Tensor, past_v: Tensor, cross_k: Tensor, cross_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x [1, 1, width] and the caches [1, heads, past + 1, head_dim]."""
        h = self.norm1(x)
        new_k, new_v = self.self_attn.keys_values(h)
        k = torch.cat((past_k, new_k), dim=2)
        v = torch.cat((past_v, new_v), dim=2)
        x = x + self.self_attn(h, k, v)
        x = x + self.src_attn(self.norm2(x), cross_k, cross_v)
        return x + self.feed_forward(self.norm3(x)), k, v


class Decoder(nn.Module):
    """Token embedding and sinusoid positions, layers, a norm and the output layer."""

    def __init__(self, width: int, vocabulary: int, dimensions: DecoderDimensions) -> None:
        super().__init__()
        d = dimensions
        self.dimensions = dimensions
        self.width = width
        self.embed = nn.Sequential(nn.Embedding(vocabulary, width))
        self.decoders = nn.ModuleList(
            DecoderLayer(width, d.heads, d.hidden) for _ in range(d.layers)
        )
        self.after_norm = layer_norm(width)
        self.output_layer = nn.Linear(width, vocabulary)

    @property
    def layers(self) -> Iterable[DecoderLayer]:
        """The layers in order."""
        return cast("Iterable[DecoderLayer]", self.decoders)

    def cross(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Return cross_k_0, cross_v_0, ... [1, heads, memory, head_dim] of the encoder's output."""
        pairs = (layer.src_attn.keys_values(memory) for layer in self.layers)
        return tuple(tensor for pair in pairs for tensor in pair)

    def forward(self, token: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return (logits [1, vocabulary], k_0, v_0, ...) of token [1, 1].

        `caches` are past_k_0, past_v_0, ... [1, heads, past, head_dim], then cross_k_0,
        cross_v_0, ... [1, heads, memory, head_dim].
        """
        own, cross = caches[: len(caches) // 2], caches[len(caches) // 2 :]
        x = self.embed(token) * self.width**0.5
        x = x + positions(x, own[0].shape[2], 1, self.width)
        grown: list[Tensor] = []
        for index, layer in enumerate(self.decoders):
            pair = slice(2 * index, 2 * index + 2)
            x, k, v = layer(x, *own[pair], *cross[pair])
            grown.extend((k, v))
        return (self.output_layer(self.after_norm(x)).view(1, -1), *grown)


class StepGraph(nn.Module):
    """The decoder under the name it has in the whole network."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, token: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return what the decoder does."""
        result: tuple[Tensor, ...] = self.decoder(token, *caches)
        return result


def cache_names(decoder: Decoder) -> tuple[str, ...]:
    """Return k_0, v_0, k_1, ...: the caches of a decoder's layers."""
    return tuple(f"{kind}_{i}" for i in range(decoder.dimensions.layers) for kind in ("k", "v"))


def step_graph(decoder: Decoder) -> GraphSpec:
    """Return the graph `step`: one token and the caches in, logits and the grown caches out."""
    d = decoder.dimensions
    own = cache_names(decoder)
    past = tuple(f"past_{name}" for name in own)
    cross = tuple(f"cross_{name}" for name in own)
    memory_dim = Dim("memory", min=1, max=LONGEST)
    past_dim = Dim("past", min=0, max=d.positions - 1)
    own_heads = [layer.self_attn.heads for layer in decoder.layers for _ in ("k", "v")]
    cross_heads = [layer.src_attn.heads for layer in decoder.layers for _ in ("k", "v")]
    rows = min(_EXAMPLE_PAST, d.positions - 1)
    head = decoder.width // d.heads
    return GraphSpec(
        name="step",
        module=StepGraph(decoder),
        inputs=("token", *past, *cross),
        outputs=("logits", *own),
        examples=(
            torch.zeros(1, 1, dtype=torch.int64),
            *(torch.zeros(1, heads, rows, head) for heads in own_heads),
            *(torch.zeros(1, heads, _EXAMPLE_MEMORY, head) for heads in cross_heads),
        ),
        dynamic_shapes={
            "token": {},
            "caches": (*({2: past_dim} for _ in past), *({2: memory_dim} for _ in cross)),
        },
        shapes=(
            (1, 1),
            *((1, heads, "past", head) for heads in own_heads),
            *((1, heads, "memory", head) for heads in cross_heads),
        ),
        states=tuple(
            StateSpec(before, after, axis=2, capacity=d.positions)
            for before, after in zip(past, own, strict=True)
        ),
    )
