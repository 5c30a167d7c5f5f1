from dataclasses import replace

import numpy as np
import pytest
import small_whisper

from cosim.ir import Program, from_text
from cosim.schedule import schedule, zero_patterns
from cosim.verify import problems
from hwmodels.workload import Gemm, Nonzero, TensorRef, Transfer, VectorOp
from kernels.encodings import decode, encode_bitmap, encode_bitpacked, encode_csr, encode_dense

TEXT = """\
program "tiny"
constant @bias : f32<6> dense {} bits 192 index 0 sha256 0b
constant @pos : f32<9, 6> dense {} bits 1728 index 0 sha256 0e
constant @table : f32<5, 6> bitpacked {"bits": 8, "group": 6, "shape": [5, 6]} bits 400 index 0 sha256 aa
constant @w : f32<6, 6> csr {"bits": 4, "group": 3, "shape": [6, 6]} bits 500 index 304 sha256 cc
graph encoder(frames) {
  input %x : f32<1, frames, 6>
  %h = linear(%x, @w, @bias) : f32<1, frames, 6> in "fc"
  %c, %s = dynamic_quantize(%h) {per="row"} : i8<1, frames, 6>, f32<1, frames> in "attn"
  return cross = %c
  return scales = %s
}
graph step(past, memory) {
  input %token : i64<1, 1>
  input %cross : i8<1, memory, 6>
  input %scales : f32<1, memory>
  input %v : i8<1, memory, 6>
  input %vs : f32<1>
  state %k : f32<1, past, 6> capacity 8
  %e = embedding(%token, @table) : f32<1, 1, 6> in "embed"
  %p = slice(@pos) {axis=0, start=past, stop=past + 1} : f32<1, 6> in "positions"
  %a = add(%e, %p) : f32<1, 1, 6>
  %ka = cache_append(%k, %a) {axis=1} : f32<1, past + 1, 6> in "attn"
  %row = reshape(%a) {shape=[1, 6]} : f32<1, 6>
  %back = reshape(%row) {shape=[1, 1, 6]} : f32<1, 1, 6>
  %y = attention(%back, %ka, %ka) {scale=float(0x1p-1)} : f32<1, 1, 6> in "attn"
  %yc, %ys = dynamic_quantize(%y) {per="tensor"} : i8<1, 1, 6>, f32<1> in "attn"
  %z = quantized_attention(%yc, %ys, %cross, %scales, %v, %vs) {scale=float(0x1p-1)} : f32<1, 1, 6> in "cross"
  %oc, %os = dynamic_quantize(%z) {per="row"} : i8<1, 1, 6>, f32<1, 1> in "proj"
  %logits = quantized_linear(%oc, %os, @table) : f32<1, 1, 5> in "proj"
  %flat = reshape(%logits) {shape=[5]} : f32<5>
  return logits = %flat
}
"""  # noqa: E501 (one op is one line)
PAST, MEMORY, FRAMES = 3, 5, 4


@pytest.fixture(scope="module")
def program() -> Program:
    return from_text(TEXT)


def f32(name: str, kind: str, *shape: int) -> TensorRef:
    return TensorRef(name, kind, shape, 32 * int(np.prod(shape)))


def i8(name: str, kind: str, *shape: int) -> TensorRef:
    return TensorRef(name, kind, shape, 8 * int(np.prod(shape)))


BIAS = TensorRef("bias", "constant", (6,), 192, digest="0b")
WEIGHT = TensorRef("w", "constant", (6, 6), 500 - 304, 304, digest="cc")
TABLE = TensorRef("table", "constant", (5, 6), 400, digest="aa")
POSITIONS = TensorRef("pos", "constant", (9, 6), 1728, digest="0e")


def test_encoder_work_is_as_worked_out_by_hand(program):
    pattern = Nonzero(np.ones((6, 1), np.uint8), "p")
    workload = schedule(program, "encoder", bindings={"frames": FRAMES}, patterns={"@w": pattern})
    x = f32("x", "input", 1, FRAMES, 6)
    h = f32("encoder/h", "activation", 1, FRAMES, 6)
    cross = i8("cross", "output", 1, FRAMES, 6)
    scales = f32("scales", "output", 1, FRAMES)
    assert workload.name == "encoder(frames=4)"
    assert workload.items == (
        Gemm(
            "encoder/fc",
            "linear",
            m=4,
            n=6,
            k=6,
            a=x,
            w=WEIGHT,
            result=h,
            a_number="f32",
            w_number="i4",
            accumulator="f32",
            nonzero=pattern,
            scale_group=3,
        ),
        VectorOp("encoder/fc.bias", "linear", "bias", 24, 6, (h, BIAS), (h,), is_fused=True),
        VectorOp(
            "encoder/attn.dynamic_quantize",
            "quantize",
            "dynamic_quantize_row",
            24,
            6,
            (h,),
            (cross, scales),
        ),
    )
    assert workload.macs == 4 * 6 * 6
    ids = ["x", "w", "encoder/h", "bias", "cross", "scales"]
    assert [ref.id for ref in workload.tensors()] == ids


def test_step_work_is_as_worked_out_by_hand(program):
    workload = schedule(program, "step", bindings={"past": PAST, "memory": MEMORY})
    token = TensorRef("token", "input", (1, 1), 64)
    e = f32("step/e", "activation", 1, 1, 6)
    p = f32("step/p", "activation", 1, 6)
    a = f32("step/a", "activation", 1, 1, 6)
    k = TensorRef("k", "state", (1, 4, 6), 4 * 6 * 32, reserved_bits=8 * 6 * 32)
    y = f32("step/y", "activation", 1, 1, 6)
    yc, ys = i8("step/yc", "activation", 1, 1, 6), f32("step/ys", "activation", 1)
    z = f32("step/z", "activation", 1, 1, 6)
    oc, os = i8("step/oc", "activation", 1, 1, 6), f32("step/os", "activation", 1, 1)
    cross, scales = i8("cross", "input", 1, 5, 6), f32("scales", "input", 1, 5)
    v, vs = i8("v", "input", 1, 5, 6), f32("vs", "input", 1)
    logits = f32("logits", "output", 1, 1, 5)
    own_scores = f32("step/y.scores", "activation", 1, 1, 4)
    own_weights = f32("step/y.probabilities", "activation", 1, 1, 4)
    scores = f32("step/z.scores", "activation", 1, 1, 5)
    weights = i8("step/z.probabilities", "activation", 1, 1, 5)
    row_bytes = 10  # 400 bits over 5 rows
    assert workload.name == "step(memory=5, past=3)"
    assert workload.items == (
        Transfer("step/embed.embedding", "embedding", (token, TABLE), (e,), row_bytes + 8, 24),
        VectorOp(
            "step/embed.embedding.dequantize",
            "embedding",
            "dequantize",
            6,
            6,
            (e,),
            (e,),
            is_fused=True,
        ),
        Transfer("step/positions.slice", "embedding", (POSITIONS,), (p,), 24, 24),
        VectorOp("step/add", "add", "add", 6, 6, (e, p), (a,)),
        Transfer("step/attn.cache_append", "cache", (a,), (k,), 24, 24),
        # the query is a view of a view of %a; the cache is read as past + 1 rows
        Gemm(
            "step/attn.attention.scores",
            "attention",
            1,
            4,
            6,
            a,
            k,
            own_scores,
            "f32",
            "f32",
            "f32",
        ),
        VectorOp(
            "step/attn.attention.softmax",
            "attention",
            "softmax",
            4,
            4,
            (own_scores,),
            (own_weights,),
        ),
        Gemm(
            "step/attn.attention.context",
            "attention",
            1,
            6,
            4,
            own_weights,
            k,
            y,
            "f32",
            "f32",
            "f32",
        ),
        VectorOp(
            "step/attn.dynamic_quantize",
            "quantize",
            "dynamic_quantize_tensor",
            6,
            6,
            (y,),
            (yc, ys),
        ),
        Gemm(
            "step/cross.quantized_attention.scores",
            "attention",
            1,
            5,
            6,
            yc,
            cross,
            scores,
            "i8",
            "i8",
            "i32",
        ),
        VectorOp(
            "step/cross.quantized_attention.scores.dequantize",
            "attention",
            "dequantize",
            5,
            5,
            (scores, ys, scales),
            (scores,),
            is_fused=True,
        ),
        VectorOp(
            "step/cross.quantized_attention.softmax",
            "attention",
            "softmax",
            5,
            5,
            (scores,),
            (weights,),
        ),
        VectorOp(
            "step/cross.quantized_attention.quantize",
            "attention",
            "quantize_carrying",
            5,
            5,
            (weights,),
            (weights,),
            is_fused=True,
        ),
        Gemm(
            "step/cross.quantized_attention.context",
            "attention",
            1,
            6,
            5,
            weights,
            v,
            z,
            "u8",
            "i8",
            "i32",
        ),
        VectorOp(
            "step/cross.quantized_attention.context.dequantize",
            "attention",
            "dequantize",
            6,
            6,
            (z, vs),
            (z,),
            is_fused=True,
        ),
        VectorOp(
            "step/proj.dynamic_quantize",
            "quantize",
            "dynamic_quantize_row",
            6,
            6,
            (z,),
            (oc, os),
        ),
        Gemm("step/proj", "linear", 1, 5, 6, oc, TABLE, logits, "i8", "i8", "i32"),
        VectorOp(
            "step/proj.dequantize",
            "linear",
            "dequantize",
            5,
            5,
            (logits, os),
            (logits,),
            is_fused=True,
        ),
    )


def test_the_hand_worked_program_is_legal(program):
    assert problems(program) == []


@pytest.mark.parametrize("past", [0, 1, 7])
def test_a_cache_is_charged_for_past_and_one_rows_and_reserved_whole(program, past):
    workload = schedule(program, "step", bindings={"past": past, "memory": MEMORY})
    (cache,) = (ref for ref in workload.tensors() if ref.kind == "state")
    assert cache.shape == (1, past + 1, 6)
    assert cache.size_bytes == (past + 1) * 24
    assert cache.reserved_bits == 8 * 6 * 32
    (append,) = (item for item in workload.items if item.kind == "cache")
    assert (append.read_bytes, append.write_bytes) == (24, 24)


@pytest.mark.parametrize("quantized", [False, True])
def test_what_the_encoder_returns_is_what_the_step_reads(quantized):
    whisper = small_whisper.program(quantized=quantized)
    frames = 11
    encoder = schedule(whisper, "encoder", bindings={"frames": frames})
    step = schedule(whisper, "step", bindings={"past": 2, "memory": (frames - 1) // 2 + 1})
    made = {ref.id: ref for ref in encoder.tensors() if ref.kind == "output"}
    read = {ref.id: ref for ref in step.tensors() if ref.kind == "input"}
    assert set(read) == {*made, "token"}
    for name, ref in made.items():
        assert read[name].elements == ref.elements
        assert read[name].stored_bits == ref.stored_bits


def test_ids_are_one_for_each_tensor_and_the_tied_weight_is_one_tensor():
    for quantized in (False, True):
        whisper = small_whisper.program(quantized=quantized)
        for name, lengths in (("encoder", {"frames": 9}), ("step", {"past": 4, "memory": 5})):
            workload = schedule(whisper, name, bindings=lengths)
            seen: dict[str, TensorRef] = {}
            for item in workload.items:
                for ref in (*item.reads, *item.writes):
                    found = replace(ref, runs=None)  # how an op reads it is the op's
                    assert seen.setdefault(ref.id, found) == found
            names = [item.name for item in workload.items]
            assert len(set(names)) == len(names)
        users = [
            item.name
            for item in workload.items
            for ref in item.reads
            if ref.id == "decoder.embed_tokens.weight"
        ]
        assert users == ["step/decoder.embed_tokens.embedding", "step/proj_out"]


def test_every_read_was_written_before_or_comes_from_outside():
    for quantized in (False, True):
        whisper = small_whisper.program(quantized=quantized)
        for name, lengths in (("encoder", {"frames": 9}), ("step", {"past": 4, "memory": 5})):
            written: set[str] = set()
            for item in schedule(whisper, name, bindings=lengths).items:
                for ref in item.reads:
                    assert ref.kind in ("constant", "input", "state") or ref.id in written
                written |= {ref.id for ref in item.writes}


def test_stored_bits_of_a_workload_are_those_of_the_encodings():
    encodings = small_whisper.encodings(quantized=True)
    whisper = small_whisper.program(quantized=True)
    workload = schedule(whisper, "step", bindings={"past": 1, "memory": 5})
    for ref in workload.tensors():
        if ref.kind == "constant":
            constant = whisper.constants[f"@{ref.id}"]
            assert ref.size_bits == constant.size_bits
            assert ref.digest == constant.digest
            assert ref.shape == encodings[ref.id].shape


def test_a_repeated_name_is_numbered():
    text = (
        'program "p"\ngraph g(n) {\n  input %x : f32<n, 6>\n'
        '  %a = gelu(%x) : f32<n, 6> in "m"\n  %b = gelu(%a) : f32<n, 6> in "m"\n'
        "  return y = %b\n}\n"
    )
    workload = schedule(from_text(text), "g", bindings={"n": 2})
    assert [item.name for item in workload.items] == ["g/m.gelu", "g/m.gelu#2"]


@pytest.mark.parametrize(
    "encode",
    [
        lambda codes: encode_bitpacked(codes, np.ones((6, 1)), bits=4),
        lambda codes: encode_csr(codes, np.ones((6, 1)), bits=8),
        lambda codes: encode_bitmap(codes.astype(np.float32)),
        lambda codes: encode_dense(codes.astype(np.float32)),
    ],
)
def test_zero_patterns_are_those_of_the_decoded_weights(encode):
    codes = np.random.default_rng(5).integers(-1, 2, (6, 11))
    encoding = encode(codes)
    (found,) = zero_patterns({"@w": encoding}).values()
    bits = np.unpackbits(found.mask, axis=1, bitorder="little")[:, :11]
    np.testing.assert_array_equal(bits, decode(encoding) != 0)
    assert found.mask.shape == (6, 2)


def test_constants_without_zeros_have_no_pattern():
    assert zero_patterns({"@w": encode_dense(np.ones((3, 4)))}) == {}


def test_patterns_are_told_apart_by_shape_and_by_content():
    def pattern(shape: tuple[int, int], zero: int) -> Nonzero:
        values = np.ones(shape, np.float32)
        values[0, zero] = 0
        return zero_patterns({"@w": encode_dense(values)})["@w"]

    assert pattern((2, 16), 0) == pattern((2, 16), 0)
    assert pattern((2, 16), 0) != pattern((2, 16), 1)
    assert pattern((2, 16), 0) != pattern((4, 8), 0)  # the same bytes
    assert pattern((2, 16), 0).mask.tobytes() == pattern((4, 8), 0).mask.tobytes()


def test_lengths_that_are_missing_or_unknown_are_named(program):
    with pytest.raises(ValueError, match=r"graph step: lengths missing \['memory'\]"):
        schedule(program, "step", bindings={"past": 3})
    with pytest.raises(KeyError, match="no graph 'decoder'"):
        schedule(program, "decoder", bindings={})
