"""A Whisper network small enough to lower in a second, with random weights, and its programs."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from ir_interpreter import Codes

from cosim.ir import Program
from cosim.lower import lower
from cosim.models import GraphSpec
from cosim.models.whisper import Attention, Whisper, WhisperDimensions
from kernels.encodings import Encoding, encode_bitpacked, encode_dense

DIMENSIONS = WhisperDimensions(
    width=12,
    heads=3,
    encoder_layers=1,
    decoder_layers=2,
    hidden=20,
    mels=5,
    vocabulary=31,
    source_positions=16,
    target_positions=8,
)


@dataclass(frozen=True)
class Policy:
    target: str
    operand: str
    bits: int = 8
    signed: bool = True
    per: str = "row"
    scale: str = "dynamic"


@lru_cache
def module() -> Whisper:
    torch.manual_seed(7)
    network = Whisper(DIMENSIONS).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return network


@lru_cache
def specs() -> dict[str, GraphSpec]:
    return {spec.name: spec for spec in module().graphs()}


class OneLinear(torch.nn.Module):
    """x [rows, 3] -> [rows, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)


@lru_cache
def linear_spec() -> GraphSpec:
    """Return a graph of one linear layer, `fc`."""
    return GraphSpec(
        name="encoder",
        module=OneLinear(),
        examples=(torch.zeros(5, 3),),
        inputs=("x",),
        shapes=(("rows", 3),),
        outputs=("y",),
        dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2, max=64)}},
        states=(),
    )


def codes_of(weight: np.ndarray) -> Codes:
    """Round each output channel to 8 bits."""
    rows = weight.reshape(len(weight), -1)
    scale = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float32)
    return Codes(np.rint(rows / scale).astype(np.int8), scale, weight.shape)


@lru_cache
def constants(*, quantized: bool) -> dict[str, np.ndarray | Codes]:
    """Return weights for the interpreter; matrices as codes where `quantized`."""
    found: dict[str, np.ndarray | Codes] = {}
    for name, parameter in module().named_parameters():
        weight = parameter.detach().numpy()
        is_matrix = weight.ndim > 1 and "embed_positions" not in name
        found[f"@{name}"] = codes_of(weight) if quantized and is_matrix else weight
    return found


def encodings(*, quantized: bool) -> dict[str, Encoding]:
    """Return the same weights, encoded, by parameter name."""
    return {
        name[1:]: encode_bitpacked(value.codes.reshape(value.shape), value.scale, bits=8)
        if isinstance(value, Codes)
        else encode_dense(value)
        for name, value in constants(quantized=quantized).items()
    }


@lru_cache
def policies() -> tuple[Policy, ...]:
    """Return 8-bit policies for every product of the network."""
    found: list[Policy] = []
    for name, part in module().named_modules():
        if isinstance(part, torch.nn.Conv1d):
            found.append(Policy(name, "input", per="tensor"))
        elif isinstance(part, torch.nn.Linear):
            found.append(Policy(name, "input"))
        elif isinstance(part, Attention):
            found += [Policy(name, "q"), Policy(name, "k"), Policy(name, "v", per="tensor")]
            found.append(Policy(name, "p", signed=False, scale="unit"))
    return tuple(found)


@lru_cache
def program(*, quantized: bool) -> Program:
    return lower(
        "small_whisper",
        specs().values(),
        encodings=encodings(quantized=quantized),
        policies=policies() if quantized else (),
    )
