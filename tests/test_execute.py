"""The executor gives what the program means: against torch, and against plain numpy op by op."""

import threading

import ir_interpreter
import numpy as np
import pytest
import small_whisper
import torch

from cosim.execute import EXECUTABLE, ProgramEngine, Weights, plan
from cosim.ir import Constant, Graph, Op, Program, TensorType
from cosim.lower import lower
from cosim.ops import OPS
from kernels.encodings import digest, encode_bitpacked, encode_dense, size_bits

FRAMES = 21
generator = np.random.default_rng(11)


def features(seed=0):
    d = small_whisper.DIMENSIONS
    return np.random.default_rng(seed).standard_normal((d.mels, FRAMES)).astype(np.float32)


def engine(*, quantized):
    encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=quantized).items()}
    weights = Weights(small_whisper.program(quantized=quantized), encodings)
    return ProgramEngine(weights, length=FRAMES)


def test_every_op_of_the_table_can_be_executed():
    assert set(OPS) == EXECUTABLE


def test_encoder_and_logits_agree_with_torch_at_every_past():
    ours = engine(quantized=False)
    encoder, step = (spec.module for spec in small_whisper.module().graphs())
    x = features()
    ours.encode(x)
    with torch.inference_mode():
        cross = encoder(torch.from_numpy(x)[None])
        for (name, _), expected in zip(ours.encoder.graph.outputs, cross, strict=True):
            assert np.allclose(ours.encoder.output(name), expected.numpy(), atol=2e-5), name
        caches = [torch.zeros(1, 3, 0, 4)] * 4
        for past, token in enumerate((3, 30, 0, 7, 12, 1, 29)):
            logits, *caches = step(torch.tensor([[token]]), *caches, *cross)
            assert np.allclose(ours.step(token, past), logits[0].numpy(), atol=5e-5), past


def test_a_quantised_program_gives_what_numpy_integers_give():
    ours = engine(quantized=True)
    program = small_whisper.program(quantized=True)
    constants = small_whisper.constants(quantized=True)
    x = features(2)
    ours.encode(x)
    cross, _ = ir_interpreter.run(program.graph("encoder"), constants, {"features": x[None]})
    for name, expected in cross.items():
        found = ours.encoder.output(name)
        if expected.dtype == np.int8:  # a float that rounds the other way moves a code by one
            assert np.abs(found.astype(int) - expected).max() <= 1, name
            assert np.mean(found != expected) < 0.01, name
        else:
            assert np.allclose(found, expected, rtol=1e-3), name
    graph = program.graph("step")
    states = {
        name: np.zeros(graph.types[name].bind({"past": 0, "memory": 11}), _dtype(graph, name))
        for name, _ in graph.states
    }
    for past, token in enumerate((3, 17, 30)):
        inputs = {"token": np.array([[token]]), **cross}
        result, states = ir_interpreter.run(graph, constants, inputs, states)
        scale = np.abs(result["logits"]).max()
        assert np.abs(ours.step(token, past) - result["logits"][0]).max() < 0.02 * scale


def _dtype(graph, name):
    return ir_interpreter.DTYPES[graph.types[name].dtype]


def one_op(op, types, result, weights):
    """Plan a graph of one op."""
    graph = Graph(
        "encoder",
        (),
        tuple(types),
        (),
        (("y", "%y"),),
        (op,),
        {**types, "%y": result},
    )
    constants = {
        name: Constant(TensorType(e.shape, "f32"), "bitpacked", "{}", size_bits(e), 0, digest(e))
        for name, e in weights.items()
    }
    return plan(Weights(Program("one", (graph,), constants), weights), "encoder", bindings={})


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_integer_sums_are_exact_at_the_extremes(bits, rows):
    limit = 127 if bits == 8 else 7
    n, k = 19, 131
    codes = generator.choice(np.array([-limit, limit], np.int8), (n, k))
    weight = encode_bitpacked(codes, np.ones((n, 1), np.float32), bits=bits)
    op = Op("quantized_linear", ("%x", "%s", "@w"), ("%y",))
    types = {"%x": TensorType((rows, k), "i8"), "%s": TensorType((rows,), "f32")}
    made = one_op(op, types, TensorType((rows, n), "f32"), {"@w": weight})
    x = np.where(generator.random((rows, k)) < 0.5, -127, 127).astype(np.int8)
    x[0] = 127 * np.sign(codes[0])
    made.input("x")[:] = x
    made.input("s")[:] = 1
    made.run()
    assert np.array_equal(made.output("y"), x.astype(np.int64) @ codes.astype(np.int64).T)


def test_a_table_shared_by_gather_and_product_gives_the_same_rows():
    ours = engine(quantized=True)
    ours.encode(features())
    ours.step(5, 0)
    op = next(op for op in ours.decoder.graph.ops if op.kind == "embedding")
    found = ours.decoder.values[ours.decoder.slots[op.outputs[0]]]
    expected = small_whisper.constants(quantized=True)["@decoder.embed_tokens.weight"].values[5]
    # the buffer may have been taken over by a later value; gather again
    ours.decoder.calls[0](ours.decoder.values, 0)
    assert np.allclose(found.reshape(-1), expected)


def test_buffers_are_used_again_and_results_stay_the_same():
    ours = engine(quantized=True)
    first, second = features(1), features(2)

    def logits(x):
        ours.encode(x)
        return [ours.step(token, past).copy() for past, token in enumerate((1, 2, 3))]

    once = logits(first)
    logits(second)
    assert all(np.array_equal(a, b) for a, b in zip(once, logits(first), strict=True))


def test_two_threads_share_weights_and_agree():
    encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=False).items()}
    weights = Weights(small_whisper.program(quantized=False), encodings)
    engines = [ProgramEngine(weights, length=FRAMES) for _ in range(2)]
    results = [[], []]

    def work(index):
        for seed in range(5):
            engines[index].encode(features(seed))
            results[index].append(engines[index].step(4, 0).copy())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_product_says_which_kernel_it_runs_on():
    kernels = {choice.scope: choice for choice in engine(quantized=True).kernels}
    assert "8-bit" in kernels["encoder.layers.0.fc1"].reason
    assert kernels["proj_out"].kernel == kernels["decoder.layers.0.fc1"].kernel


def test_inputs_of_another_shape_are_refused():
    program = small_whisper.program(quantized=False)
    encodings = {f"@{k}": v for k, v in small_whisper.encodings(quantized=False).items()}
    with pytest.raises(ValueError, match="cross_k_0"):
        plan(
            Weights(program, encodings),
            "step",
            bindings={"memory": 11},
            inputs={"cross_k_0": np.zeros((1, 3, 10, 4), np.float32)},
        )


def test_a_linear_of_fixed_rows_runs_from_capture_to_array():
    spec = small_whisper.linear_spec()
    weight = spec.module.fc.weight.detach().numpy()
    program = lower("one", [spec], encodings={"fc.weight": encode_dense(weight)})
    made = plan(
        Weights(program, {"@fc.weight": encode_dense(weight)}), "encoder", bindings={"rows": 6}
    )
    x = generator.standard_normal((6, 3)).astype(np.float32)
    made.input("x")[:] = x
    made.run()
    assert np.allclose(made.output("y"), x @ weight.T, atol=1e-6)
