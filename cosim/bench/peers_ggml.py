"""ggml as a peer: its block formats of 8, 4 and 2 bits, activations quantised by itself."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosim.bench.cases import AbsentError, Floats
from cosim.bench.peers import Build, Call, load, peer

F32 = NDArray[np.float32]
_SPARE_BYTES = 1 << 20
"""For the records of three tensors and a graph of 2048 nodes."""


def _format(kind_name: str) -> Build:
    def build(weight: F32, x: F32, threads: int) -> Call:
        ggml = load("ggml", "ggml-python")
        kind = getattr(ggml, f"GGML_TYPE_{kind_name}", None)
        if kind is None:
            raise AbsentError(f"this ggml has no format {kind_name}")
        n, k = weight.shape
        if k % ggml.ggml_blck_size(kind):
            raise AbsentError(f"ggml's {kind_name} needs a multiple of its block, found {k}")
        size = weight.nbytes + x.nbytes + 4 * n * x.shape[0] + _SPARE_BYTES
        memory = np.zeros(size, np.uint8)
        context = ggml.ggml_init(
            ggml.ggml_init_params(
                mem_size=size, mem_buffer=ctypes.c_void_p(memory.ctypes.data), no_alloc=False
            )
        )
        a = ggml.ggml_new_tensor_2d(context, kind, k, n)
        b = ggml.ggml_new_tensor_2d(context, ggml.GGML_TYPE_F32, k, x.shape[0])
        y = ggml.ggml_mul_mat(context, a, b)
        graph = ggml.ggml_new_graph(context)
        ggml.ggml_build_forward_expand(graph, y)
        ggml.ggml_quantize_init(kind)
        source = weight.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        ggml.ggml_quantize_chunk(kind, source, ggml.ggml_get_data(a), 0, n, k, None)
        ctypes.memmove(ggml.ggml_get_data(b), x.ctypes.data, x.nbytes)
        plan = ggml.ggml_graph_plan(graph, threads, None)
        work = np.zeros(plan.work_size + 64, np.uint8)
        plan.work_data = ctypes.cast(work.ctypes.data, type(plan.work_data))
        by_reference = ctypes.byref(plan)
        floats = ctypes.cast(ggml.ggml_get_data(y), ctypes.POINTER(ctypes.c_float))
        out = np.ctypeslib.as_array(floats, (x.shape[0], n))
        compute = ggml.ggml_graph_compute

        def result(status: Any) -> Floats:
            if status:
                raise AbsentError(f"ggml: status {status}")
            return out

        return Call(lambda: compute(graph, by_reference), result, (memory, work, plan))

    return build


peer("ggml_q8_0", "ggml-python", 8.5)(_format("Q8_0"))
peer("ggml_q4_0", "ggml-python", 4.5)(_format("Q4_0"))
peer("ggml_q4_K", "ggml-python", 4.5)(_format("Q4_K"))
peer("ggml_tq2_0", "ggml-python", 2.06)(_format("TQ2_0"))
