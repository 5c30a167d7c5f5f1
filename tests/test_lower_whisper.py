from dataclasses import replace

import numpy as np
import pytest
import small_whisper
import torch
import torch.nn.functional as F  # noqa: N812
from ir_interpreter import kinds, run

from cosim.errors import CosimError
from cosim.lower import lower
from cosim.verify import problems
from kernels.encodings import digest, encode_dense, index_bits, size_bits

PASTS = (0, 1, 2, 5)
D = small_whisper.DIMENSIONS
TOLERANCE = 1e-5


def features(frames: int) -> np.ndarray:
    rng = np.random.default_rng(frames)
    return rng.normal(size=(1, D.mels, frames)).astype(np.float32)


def encoded(frames: int, *, quantized: bool) -> dict[str, np.ndarray]:
    program = small_whisper.program(quantized=quantized)
    weights = small_whisper.constants(quantized=quantized)
    return run(program.graph("encoder"), weights, {"features": features(frames)})[0]


def caches(past: int) -> dict[str, np.ndarray]:
    """Return random float caches by state name, in the order that the module takes them."""
    rng = np.random.default_rng(past)
    shape = (1, D.heads, past, D.width // D.heads)
    return {
        f"%past_{kind}_{layer}": rng.normal(size=shape).astype(np.float32)
        for layer in range(D.decoder_layers)
        for kind in ("k", "v")
    }


@pytest.mark.parametrize("frames", [3, 4, 17, 32])
def test_encoder_program_gives_what_torch_gives(frames):
    found = encoded(frames, quantized=False)
    spec = small_whisper.specs()["encoder"]
    with torch.no_grad():
        wanted = spec.module(torch.from_numpy(features(frames)))
    assert tuple(found) == spec.outputs
    for array, tensor in zip(found.values(), wanted, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("past", PASTS)
def test_step_program_gives_what_torch_gives(past):
    cross = encoded(9, quantized=False)
    own = caches(past)
    token = np.array([[past * 5 + 1]])
    graph = small_whisper.program(quantized=False).graph("step")
    weights = small_whisper.constants(quantized=False)
    outputs, grown = run(graph, weights, {"token": token, **cross}, own)
    with torch.no_grad():
        logits, *states = small_whisper.specs()["step"].module(
            torch.from_numpy(token),
            *(torch.from_numpy(array) for array in (*own.values(), *cross.values())),
        )
    assert outputs["logits"].shape == (1, D.vocabulary)
    np.testing.assert_allclose(outputs["logits"], logits.numpy(), atol=TOLERANCE, rtol=TOLERANCE)
    assert list(grown) == list(own)
    for array, tensor in zip(grown.values(), states, strict=True):
        assert array.shape[2] == past + 1
        np.testing.assert_allclose(array, tensor.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


def decoded(tokens: list[int], *, quantized: bool) -> np.ndarray:
    """Return the logits of each call of `step`, from empty caches on."""
    graph = small_whisper.program(quantized=quantized).graph("step")
    weights = small_whisper.constants(quantized=quantized)
    cross = encoded(9, quantized=quantized)
    dtypes = {"f32": np.float32, "i8": np.int8}
    states = {
        name: np.zeros(graph.types[name].bind({"past": 0, "memory": 5}), dtypes[dtype])
        for name, _ in graph.states
        for dtype in [graph.types[name].dtype]
    }
    logits = []
    for token in tokens:
        outputs, states = run(graph, weights, {"token": np.array([[token]]), **cross}, states)
        logits.append(outputs["logits"][0])
    return np.stack(logits)


def test_caches_carry_from_call_to_call_up_to_their_capacity():
    tokens = [3, 30, 0, 11, 11, 7, 2, 1]
    assert len(tokens) == D.target_positions
    found = decoded(tokens, quantized=False)
    module = small_whisper.specs()["step"].module
    cross = [torch.from_numpy(array) for array in encoded(9, quantized=False).values()]
    own = [torch.zeros(1, D.heads, 0, D.width // D.heads)] * (2 * D.decoder_layers)
    for row, token in zip(found, tokens, strict=True):
        with torch.no_grad():
            logits, *own = module(torch.tensor([[token]]), *own, *cross)
        np.testing.assert_allclose(row, logits[0].numpy(), atol=1e-4, rtol=1e-4)


def test_integer_program_stays_near_the_float_program_and_is_not_it():
    tokens = [3, 30, 0, 11]
    floats, integers = (decoded(tokens, quantized=flag) for flag in (False, True))
    spread = floats.std()
    error = np.abs(integers - floats).max()
    assert 1e-4 * spread < error < 0.25 * spread


def test_constants_are_those_of_the_encodings_and_a_tied_weight_is_one():
    for quantized in (False, True):
        program = small_whisper.program(quantized=quantized)
        encodings = small_whisper.encodings(quantized=quantized)
        assert {f"@{name}" for name in encodings} == set(program.constants)
        for name, encoding in encodings.items():
            constant = program.constants[f"@{name}"]
            assert constant.digest == digest(encoding)
            assert constant.size_bits == size_bits(encoding)
            assert constant.index_bits == index_bits(encoding)
            assert constant.type.shape == encoding.shape
        users = program.graph("step").consumers()["@decoder.embed_tokens.weight"]
        assert [op.scope for op in users] == ["decoder.embed_tokens", "proj_out"]


def test_lowered_programs_are_legal_and_the_same_every_time():
    assert problems(small_whisper.program(quantized=False)) == []
    program = small_whisper.program(quantized=True)
    assert problems(program) == []
    again = small_whisper.program.__wrapped__(quantized=True)
    assert again == program
    assert again.hash == program.hash


class Repeats(small_whisper.OneLinear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.gelu(x.view(x.shape) * 1)) + self.fc(F.gelu(x[:, 0:3] + 0))


def test_what_changes_nothing_and_repeated_ops_go_but_products_are_done_as_often_as_asked_for():
    spec = replace(small_whisper.linear_spec(), module=Repeats())
    weight = np.ones((4, 3), np.float32)
    program = lower("p", [spec], encodings={"fc.weight": encode_dense(weight)})
    assert kinds(program.graphs[0]) == ["gelu", "linear", "linear", "add"]


def test_a_network_without_some_encodings_or_with_strange_policies_is_refused():
    spec = small_whisper.linear_spec()
    with pytest.raises(CosimError, match=r"fc\.weight: parameter has no encoding"):
        lower("p", [spec], encodings={})
    encodings = {"fc.weight": small_whisper.encodings(quantized=False)["encoder.conv1.weight"]}
    with pytest.raises(CosimError, match=r"operand policy fc1\.input: no op"):
        lower("p", [spec], encodings=encodings, policies=[small_whisper.Policy("fc1", "input")])
    with pytest.raises(CosimError, match=r"fc \(linear\): integer activations need integer"):
        lower("p", [spec], encodings=encodings, policies=[small_whisper.Policy("fc", "input")])
