"""onnxruntime as a peer: dynamic int8, and weights of 4 and 2 bits in blocks of 32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.bench.cases import Floats
from cosim.bench.peers import Build, Call, load, peer

F32 = NDArray[np.float32]
BLOCK = 32
_OPSET, _IR = 21, 10
_CONTRIB = "com.microsoft"


def _run(
    operator: str,
    constants: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, int],
    n: int,
    x: F32,
    threads: int,
) -> Call:
    """Make a session of one operator on ``x`` and constants."""
    onnx = load("onnx", "onnx")
    runtime = load("onnxruntime", "onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(operator, ["x", *constants], ["y"], domain=_CONTRIB, **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, ["rows", x.shape[1]])],
        [helper.make_tensor_value_info("y", kind, ["rows", n])],
        initializer=[onnx.numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return Call(lambda: session.run(None, {"x": x}), _first)


def _first(result: Any) -> Floats:
    return np.asarray(result[0])


@peer("onnxruntime_int8", "onnxruntime", 8)
def _dynamic(weight: F32, x: F32, threads: int) -> Call:
    """DynamicQuantizeMatMul: signed weights with a scale per output, unsigned activations."""
    scale = (np.abs(weight).max(axis=1) / 127).astype(np.float32)
    codes = np.rint(weight / scale[:, np.newaxis]).astype(np.int8)
    constants = {"w": np.ascontiguousarray(codes.T), "scale": scale}
    return _run("DynamicQuantizeMatMul", constants, {}, weight.shape[0], x, threads)


def packed_blocks(weight: F32, bits: int) -> tuple[NDArray[np.uint8], F32]:
    """Codes (n, k / 32, bytes), low bits first, and scales (n, k / 32), as MatMulNBits reads them.

    The value of largest magnitude in a block becomes the code 0, so that a code stands for
    ``(code - 2**(bits-1)) * scale``.
    """
    n, k = weight.shape
    if k % BLOCK:
        raise ValueError(f"packed_blocks: found {k} columns, expected a multiple of {BLOCK}")
    middle = 2 ** (bits - 1)
    blocks = weight.reshape(n, k // BLOCK, BLOCK)
    at = np.abs(blocks).argmax(axis=2)[..., np.newaxis]
    scale = (np.take_along_axis(blocks, at, axis=2) / -middle).astype(np.float32)
    steps = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0)
    codes = np.clip(np.rint(steps) + middle, 0, 2 * middle - 1).astype(np.uint8)
    parts = codes.reshape(n, k // BLOCK, BLOCK * bits // 8, 8 // bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(parts << shifts, axis=3).astype(np.uint8), scale[..., 0]


def _nbits(bits: int, accuracy_level: int) -> Build:
    """Make MatMulNBits; accuracy level 4 lets it quantise activations to 8 bits, 0 keeps floats."""

    def build(weight: F32, x: F32, threads: int) -> Call:
        n, k = weight.shape
        codes, scale = packed_blocks(weight, bits)
        attributes = {
            "K": k,
            "N": n,
            "bits": bits,
            "block_size": BLOCK,
            "accuracy_level": accuracy_level,
        }
        return _run("MatMulNBits", {"w": codes, "scale": scale}, attributes, n, x, threads)

    return build


peer("onnxruntime_int4_a8", "onnxruntime", 5)(_nbits(4, 4))
peer("onnxruntime_int4_a32", "onnxruntime", 5)(_nbits(4, 0))
peer("onnxruntime_int2_a8", "onnxruntime", 3)(_nbits(2, 4))
