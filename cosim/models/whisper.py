"""Whisper (Radford et al. 2022): the network, the graphs that capture takes, its checkpoints.

Parameter names are those of Hugging Face checkpoints without the leading `model.`. The encoder
graph ends in the cross-attention keys and values of every decoder layer, because they are computed
once per window; the step graph decodes one token and returns each layer's grown cache.

Symbols: `frames` feature frames, `memory` encoder positions = (frames - 1) // 2 + 1, `past` tokens
already in the cache.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge
from torch import Tensor, nn
from torch.export import Dim

from cosim.config import parse
from cosim.errors import CosimError
from cosim.models import (
    FrontEnd,
    GraphSpec,
    LoadedModel,
    ModelConfig,
    RandomWeights,
    StateSpec,
    Tokens,
    model,
)
from cosim.models.attention import Attention
from cosim.models.channels import Channels, inputs, outputs
from cosim.models.checkpoint import assign, checkpoint_folder, read_json, read_tensors
from cosim.models.drawn import draw
from cosim.models.packages import converted, describe
from cosim.models.whisper_rules import checkpoint_rules, published_rules

Size = Annotated[int, Ge(1)]
LAYER_NORM_EPSILON = 1e-5  # Whisper's LayerNorm keeps torch's default
HOP_S = 0.01  # Radford et al. 2022, section 2.2: log-mel every 10 ms
# Dimension -> the keys of config.json that must agree on it.
_CONFIG_KEYS: Mapping[str, tuple[str, ...]] = {
    "width": ("d_model",),
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "hidden": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "mels": ("num_mel_bins",),
    "vocabulary": ("vocab_size",),
    "source_positions": ("max_source_positions",),
    "target_positions": ("max_target_positions",),
}
# What else config.json may say, and the only value this network has.
_SETTINGS: Mapping[str, object] = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
}


@dataclass(frozen=True)
class WhisperDimensions:
    """Sizes of one Whisper network; `width` splits evenly into `heads`."""

    width: Size
    heads: Size
    encoder_layers: Size
    decoder_layers: Size
    hidden: Size
    mels: Size
    vocabulary: Size
    source_positions: Size
    target_positions: Annotated[int, Ge(2)]

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise CosimError(f"heads: found {self.heads}, expected a divisor of width {self.width}")


class PositionTable(nn.Module):
    """A table of position vectors [positions, width]; `forward` slices rows [start, stop)."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(positions, width))

    def forward(self, start: int, stop: int) -> Tensor:
        """Return rows [stop - start, width]."""
        return self.weight[start:stop]


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward block."""

    def __init__(self, dimensions: WhisperDimensions) -> None:
        super().__init__()
        width = dimensions.width
        self.self_attn = Attention(width, dimensions.heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.fc1 = nn.Linear(width, dimensions.hidden)
        self.fc2 = nn.Linear(dimensions.hidden, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, positions, width] of x of the same shape."""
        h = self.self_attn_layer_norm(x)
        k, v = self.self_attn.keys_values(h)
        x = x + self.self_attn(h, k, v)
        result: Tensor = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        return result


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward block for one token."""

    def __init__(self, dimensions: WhisperDimensions) -> None:
        super().__init__()
        width = dimensions.width
        self.self_attn = Attention(width, dimensions.heads)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.encoder_attn = Attention(width, dimensions.heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.fc1 = nn.Linear(width, dimensions.hidden)
        self.fc2 = nn.Linear(dimensions.hidden, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)

    def forward(
        self, x: Tensor, past_k: Tensor, past_v: Tensor, cross_k: Tensor, cross_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x [1, 1, width] and the caches [1, heads, past + 1, head_dim]."""
        h = self.self_attn_layer_norm(x)
        new_k, new_v = self.self_attn.keys_values(h)
        k = torch.cat((past_k, new_k), dim=2)
        v = torch.cat((past_v, new_v), dim=2)
        x = x + self.self_attn(h, k, v)
        x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), cross_k, cross_v)
        return x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))), k, v


class Encoder(nn.Module):
    """Two convolutions (the second of stride 2), positions, Transformer layers, a norm."""

    def __init__(self, dimensions: WhisperDimensions) -> None:
        super().__init__()
        width = dimensions.width
        self.conv1 = nn.Conv1d(dimensions.mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = PositionTable(dimensions.source_positions, width)
        self.layers = nn.ModuleList(
            EncoderLayer(dimensions) for _ in range(dimensions.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)

    def forward(self, features: Tensor) -> Tensor:
        """Return [1, memory, width] of log-mel features [1, mels, frames]."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(features)))).transpose(1, 2)
        x = x + self.embed_positions(0, x.shape[1])
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.layer_norm(x)
        return result

    def channels(self) -> tuple[Channels, ...]:
        """Return those of the first convolution."""
        return (Channels("conv1", (*outputs("conv1"), inputs("conv2"))),)


class Decoder(nn.Module):
    """Token and position embedding, Transformer layers, a norm; one token at a time."""

    def __init__(self, dimensions: WhisperDimensions) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(dimensions.vocabulary, dimensions.width)
        self.embed_positions = PositionTable(dimensions.target_positions, dimensions.width)
        self.layers = nn.ModuleList(
            DecoderLayer(dimensions) for _ in range(dimensions.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(dimensions.width, eps=LAYER_NORM_EPSILON)


class EncoderGraph(nn.Module):
    """Features in, cross-attention keys and values of every decoder layer out."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return (cross_k_0, cross_v_0, cross_k_1, ...), each [1, heads, memory, head_dim]."""
        memory = self.encoder(features)
        cross: list[Tensor] = []
        for layer in cast("Iterable[DecoderLayer]", self.decoder.layers):
            cross.extend(layer.encoder_attn.keys_values(memory))
        return tuple(cross)


class StepGraph(nn.Module):
    """One token and the caches in, logits and the caches grown by one row out."""

    def __init__(self, decoder: Decoder, proj_out: nn.Linear) -> None:
        super().__init__()
        self.decoder = decoder
        self.proj_out = proj_out

    def forward(self, token: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return (logits [1, vocabulary], k_0, v_0, ...) of token [1, 1].

        `caches` are past_k_0, past_v_0, ... [1, heads, past, head_dim], then cross_k_0,
        cross_v_0, ... [1, heads, memory, head_dim].
        """
        decoder = self.decoder
        own, cross = caches[: len(caches) // 2], caches[len(caches) // 2 :]
        past = own[0].shape[2]
        x = decoder.embed_tokens(token) + decoder.embed_positions(past, past + 1)
        grown: list[Tensor] = []
        for index, layer in enumerate(decoder.layers):
            pair = slice(2 * index, 2 * index + 2)
            x, k, v = layer(x, *own[pair], *cross[pair])
            grown.extend((k, v))
        return (self.proj_out(decoder.layer_norm(x)).view(1, -1), *grown)


class Whisper(nn.Module):
    """The whole network; `proj_out` shares its weight with `decoder.embed_tokens`."""

    def __init__(self, dimensions: WhisperDimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.encoder = Encoder(dimensions)
        self.decoder = Decoder(dimensions)
        self.proj_out = nn.Linear(dimensions.width, dimensions.vocabulary, bias=False)
        self.tie()

    def tie(self) -> None:
        """Make `proj_out` use the token embedding (again, after parameters were replaced)."""
        self.proj_out.weight = self.decoder.embed_tokens.weight

    def graphs(self) -> tuple[GraphSpec, ...]:
        """Return `encoder` and `step`, ready for torch.export."""
        d = self.dimensions
        own = tuple(f"{kind}_{i}" for i in range(d.decoder_layers) for kind in ("k", "v"))
        layers = list(cast("Iterable[DecoderLayer]", self.decoder.layers))
        own_heads = [layer.self_attn.heads for layer in layers for _ in ("k", "v")]
        cross_heads = [layer.encoder_attn.heads for layer in layers for _ in ("k", "v")]
        past = tuple(f"past_{name}" for name in own)
        cross = tuple(f"cross_{name}" for name in own)
        frames_dim = Dim.DYNAMIC(min=3, max=2 * d.source_positions)
        memory_dim = Dim("memory", min=1, max=d.source_positions)
        past_dim = Dim("past", min=0, max=d.target_positions - 1)
        # Lengths 0 and 1 would be specialised by torch.export, so the examples are longer.
        memory, rows = min(20, d.source_positions), min(7, d.target_positions - 1)
        head = d.width // d.heads
        encoder = GraphSpec(
            name="encoder",
            module=EncoderGraph(self.encoder, self.decoder),
            inputs=("features",),
            outputs=cross,
            examples=(torch.zeros(1, d.mels, 2 * memory),),
            shapes=((1, d.mels, "frames"),),
            dynamic_shapes={"features": {2: frames_dim}},
            states=(),
        )
        step = GraphSpec(
            name="step",
            module=StepGraph(self.decoder, self.proj_out),
            inputs=("token", *past, *cross),
            outputs=("logits", *own),
            examples=(
                torch.zeros(1, 1, dtype=torch.int64),
                *(torch.zeros(1, heads, rows, head) for heads in own_heads),
                *(torch.zeros(1, heads, memory, head) for heads in cross_heads),
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
                StateSpec(before, after, axis=2, capacity=d.target_positions)
                for before, after in zip(past, own, strict=True)
            ),
        )
        return encoder, step


@model("whisper")
def load_whisper(config: ModelConfig) -> LoadedModel:
    """Return a Whisper model in inference mode: from a package, a folder, the hub, or drawn.

    Raises CosimError for anything missing, unreadable or inconsistent in the checkpoint.
    """
    weights = config.weights
    if weights.random is not None:
        return _drawn(config, weights.random)
    if weights.package is not None:
        folder, source = converted(weights.package), describe(weights.package)
    else:
        folder, source = checkpoint_folder(weights)
    tensors = read_tensors(folder)
    dimensions = _dimensions(config, folder / "config.json")
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=build(dimensions, tensors, source=str(folder)),
        source=source,
        front=_front(dimensions),
        decoding=checkpoint_rules(folder, dimensions.vocabulary, dimensions.target_positions),
        tokens=Tokens("tokenizer_json", folder / "tokenizer.json"),
    )


def _drawn(config: ModelConfig, weights: RandomWeights) -> LoadedModel:
    """Return a Whisper model with weights from a distribution; it has no tokenizer."""
    at = f"model {config.name}"
    dimensions = parse(config.dimensions or {}, WhisperDimensions, source=at, at="dimensions")
    rules = published_rules(
        dimensions.vocabulary, dimensions.target_positions, at=f"{at}: dimensions.vocabulary"
    )
    with torch.device("meta"):
        module = Whisper(dimensions)
    draw(module, weights)
    return LoadedModel(
        name=config.name,
        family=config.family,
        module=module.eval().requires_grad_(requires_grad=False),
        source=f"random weights, {weights.distribution}, seed {weights.seed}",
        front=_front(dimensions),
        decoding=rules,
        is_random=True,
    )


def _front(dimensions: WhisperDimensions) -> FrontEnd:
    """Return Whisper's log-mel over a window of as many frames as the encoder has positions for."""
    window_s = 2 * HOP_S * dimensions.source_positions
    return FrontEnd("whisper_log_mel", mels=dimensions.mels, fft=400, window_s=window_s)


def build(dimensions: WhisperDimensions, tensors: Mapping[str, Tensor], *, source: str) -> Whisper:
    """Return the network with `tensors` (Hugging Face names, any float dtype) as its fp32 weights.

    The leading `model.` may be there or not, `proj_out.weight` too; it must equal the token
    embedding. Raises CosimError listing every tensor that does not fit.
    """
    named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    projection = named.pop("proj_out.weight", None)
    embedding = named.get("decoder.embed_tokens.weight")
    if projection is not None and embedding is not None and not torch.equal(projection, embedding):
        raise CosimError(
            f"{source}: proj_out.weight: found values other than decoder.embed_tokens.weight, "
            "expected the tied weight of Whisper"
        )
    with torch.device("meta"):
        module = Whisper(dimensions)
    assign(module, named, source=source)
    module.tie()
    return module.eval().requires_grad_(requires_grad=False)


def _dimensions(config: ModelConfig, path: Path) -> WhisperDimensions:
    """Return the dimensions of config.json, which must agree with those of the model file."""
    stated = read_json(path)
    problems = [
        f"{path}: {key}: found {stated[key]!r}, expected {wanted!r}"
        for key, wanted in _SETTINGS.items()
        if key in stated and stated[key] != wanted
    ]
    sizes: dict[str, object] = {}
    for name, keys in _CONFIG_KEYS.items():
        problems += [f"{path}: {key}: missing" for key in keys if key not in stated]
        values = {str(stated[key]): stated[key] for key in keys if key in stated}
        if len(values) > 1:
            problems.append(f"{path}: {', '.join(keys)}: found {', '.join(values)}, expected one")
        sizes[name] = next(iter(values.values()), None)
    if problems:
        raise CosimError(problems)
    found = parse(sizes, WhisperDimensions, source=str(path))
    if config.dimensions is None:
        return found
    at = f"model {config.name}"
    wanted = parse(config.dimensions, WhisperDimensions, source=at, at="dimensions")
    differing = [
        f"{at}: dimensions.{name}: found {value}, but the checkpoint {path.parent} has {theirs}"
        for (name, value), theirs in zip(
            asdict(wanted).items(), asdict(found).values(), strict=True
        )
        if value != theirs
    ]
    if differing:
        raise CosimError(differing)
    return found
