"""Operands of one bit in the executor: in any memory order, as caches, from encoder to steps."""

import numpy as np
import pytest
import small_whisper
import torch
from drafts import Draft, agree
from ir_interpreter import Codes, run

from cosim.compress.compressed import compress
from cosim.compress.recipe import parse_recipe
from cosim.execute import ProgramEngine, Weights
from cosim.lower import assemble, capture_all
from cosim.models.torch_engine import TorchEngine
from kernels import encodings as store

LENGTHS = ({"t": 5}, {"t": 40})
HEAD_ORDERS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]
W1A1 = {"method": "binarize", "layers": ["encoder.*", "decoder.*"], "activations": {"bits": 1}}


def signs(d: Draft, n: int, k: int) -> str:
    codes = np.where(d.generator.random((n, k)) < 0.5, 1, -1).astype(np.int8)
    scale = d.generator.uniform(0.1, 1, (n, 1)).astype(np.float32)
    return d.encoded(store.encode_binary(codes, scale), Codes(codes, scale, (n, k)))


def bits(d: Draft, x: str, chosen: str = "signed") -> tuple[str, str]:
    first = d.add("dynamic_binarize", x, results=2, set=chosen)
    return first, first[:-1] + "1"


@pytest.mark.parametrize("order", HEAD_ORDERS)
@pytest.mark.parametrize("chosen", ["signed", "unsigned"])
def test_bits_of_heads_are_multiplied_where_they_lie(order, chosen):
    d = Draft()
    x = d.input(1, 3, "t", 36, order=order)
    y = d.add("quantized_linear", *bits(d, x, chosen), signs(d, 7, 36), d.constant(7))
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("order", HEAD_ORDERS)
@pytest.mark.parametrize("per_head", [False, True])
def test_bits_about_fixed_thresholds_are_multiplied(order, per_head):
    d = Draft()
    x = d.input(1, 3, "t", 20, order=order)
    move = d.constant(3, 1, 20) if per_head else d.constant(20)
    level, w = d.constant(1, positive=True), signs(d, 7, 20)
    signed = d.add("binarize", x, level, move, set="signed")
    plain, steps = (d.add("binarize", x, level, set=chosen) for chosen in ("signed", "unsigned"))
    outputs = [d.add("quantized_linear", one, level, w) for one in (signed, plain, steps)]
    agree(d, *outputs, lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("order", HEAD_ORDERS)
@pytest.mark.parametrize("depth", [36, 64])
@pytest.mark.parametrize("has_level", [False, True])
def test_bits_of_heads_attend_where_they_lie(order, depth, has_level):
    d = Draft()
    q, k, v = (d.input(1, 2, "t", depth, order=order) for _ in range(3))
    level = [d.encoded(store.encode_dense(np.array([0.04], np.float32)))] if has_level else []
    operands = [name for x in (q, k, v) for name in bits(d, x)]
    y = d.add("binary_attention", *operands, *level, scale=0.05)
    agree(d, y, lengths=({"t": 7}, {"t": 41}), tolerance=2e-5)


def test_fixed_levels_attend():
    d = Draft()
    operands = []
    for _ in range(3):
        level = d.constant(1, positive=True)
        x = d.input(1, 2, "t", 36, order=(0, 2, 1, 3))
        operands += [d.add("binarize", x, level, d.constant(2, 1, 36), set="signed"), level]
    y = d.add("binary_attention", *operands, d.constant(1, positive=True), scale=0.01)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


def drive(network: torch.nn.Module) -> None:
    """Hear noise and take some tokens, as a calibration input."""
    engine = TorchEngine(network.graphs())
    engine.encode(np.random.default_rng(1).standard_normal((5, 32)).astype(np.float32))
    for past, token in enumerate([3, 14, 15, 9, 26]):
        engine.step(token, past)


@pytest.fixture(scope="module")
def captured():
    plain = small_whisper.encodings(quantized=False)
    return capture_all(small_whisper.specs().values(), encodings=plain)


@pytest.fixture(scope="module", params=["dynamic", "zero", "mean"])
def lowered(request, captured):
    static = {"scale": "static", "move": request.param} if request.param != "dynamic" else {}
    entry = {**W1A1, "activations": {"bits": 1, **static}}
    recipe = parse_recipe({"methods": [entry]}, name="w1a1", source="w1a1.yaml")
    made = compress(small_whisper.module(), recipe, batches=[drive])
    return made, assemble("small", captured, encodings=made.encodings, policies=made.policies)


def test_whisper_keeps_caches_and_memory_in_bits(lowered):
    made, program = lowered
    encoder, step = program.graphs
    is_static = any(policy.scale == "static" for policy in made.policies)
    dtypes = {name: step.types[name].dtype for name, _ in step.states}
    assert set(dtypes.values()) == ({"i1"} if is_static else {"i1", "f32"})
    assert all(kind == "f32" for name, kind in dtypes.items() if name.endswith("scales"))
    memory = [step.types[name].dtype for name in step.inputs if name.startswith("%cross")]
    assert memory.count("f32") == (0 if is_static else len(memory) // 2)
    assert memory.count("i1") == 4
    for graph in (encoder, step):
        assert {op.kind for op in graph.ops} & {"attention", "quantized_attention"} == set()
        assert any(op.kind == "dynamic_binarize" for op in graph.ops) is not is_static


def test_equal_operands_with_equal_levels_become_bits_once(lowered):
    _, program = lowered
    for graph in program.graphs:
        made = [op for op in graph.ops if "binarize" in op.kind]
        assert len({(op.inputs, op.attributes) for op in made}) == len(made)
        inputs = [op.inputs[0] for op in made]
        assert len(set(inputs)) == len(inputs)


def test_whisper_in_single_bits_does_what_its_ops_mean(lowered):
    made, program = lowered
    weights = {f"@{name}": value for name, value in made.encodings.items()}
    meanings = {
        name: Codes(store.codes(e), np.broadcast_to(store.scales(e), (e.shape[0], 1)), e.shape)
        if store.kind(e) == "binary"
        else store.decode(e)
        for name, e in weights.items()
    }
    engine = ProgramEngine(Weights(program, weights))
    encoder, step = program.graphs
    rng = np.random.default_rng(2)
    features = rng.standard_normal((5, 32)).astype(np.float32)
    engine.encode(features)
    handed, _ = run(encoder, meanings, {encoder.inputs[0][1:]: features[None]})
    states = {
        name: np.zeros(
            step.types[name].bind({"past": 0}),
            np.int8 if step.types[name].dtype == "i1" else np.float32,
        )
        for name, _ in step.states
    }
    for past, token in enumerate([3, 14, 15, 9]):
        inputs = {name[1:]: handed[name[1:]] for name in step.inputs if name[1:] in handed}
        outputs, states = run(step, meanings, {"token": np.array([[token]]), **inputs}, states)
        found = engine.step(token, past)
        np.testing.assert_allclose(found, outputs["logits"].reshape(-1), rtol=2e-4, atol=2e-4)
    chosen = {choice.op: choice.kernel for choice in engine.kernels}
    assert chosen["binary_attention"] == "attention_b1"
    assert chosen["quantized_linear"] == "w1a1"
    assert not any(choice.is_fallback for choice in engine.kernels)
