"""Operands by a fixed rule, calibrated or of 16 bits, in every product; what a chip is charged."""

import numpy as np
import pytest
from drafts import Draft, agree
from test_execute_codes import codes_of

from cosim.schedule import schedule
from hwmodels.workload import Gemm, VectorOp
from kernels.encodings import encode_dense, encode_half

LENGTHS = ({"t": 5}, {"t": 40})
HEADS = [(0, 1, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)]


def scale_of(d: Draft, value: float) -> str:
    return d.encoded(encode_dense(np.array([value], np.float32)))


def halves(d: Draft, *shape: int) -> str:
    values = d.generator.standard_normal(shape).astype(np.float16).astype(np.float32)
    return d.encoded(encode_half(values, "f16"))


@pytest.mark.parametrize("order", HEADS)
def test_calibrated_codes_are_multiplied_wherever_the_operand_lies(order):
    d = Draft()
    x, scale = d.input(1, 3, "t", 32, order=order), scale_of(d, 0.02)
    codes = d.add("quantize", x, scale)  # 2.5 deviations: some saturate
    y = d.add("quantized_linear", codes, scale, codes_of(d, 7, 32), d.constant(7))
    agree(d, codes, y, lengths=LENGTHS, tolerance=2e-5)


def test_calibrated_codes_are_convolved():
    d = Draft()
    x, scale = d.input(1, 8, "t"), scale_of(d, 0.03)
    codes = d.add("quantize", x, scale)
    values = {"stride": 2, "padding": 1}
    own, grouped = codes_of(d, 6, 8, 3), codes_of(d, 8, 4, 3)
    agree(
        d,
        d.add("quantized_conv1d", codes, scale, own, d.constant(6), groups=1, **values),
        d.add("quantized_conv1d", codes, scale, grouped, groups=2, **values),
        lengths=LENGTHS,
        tolerance=2e-5,
    )


def test_attention_reads_calibrated_scales_of_all_three_operands():
    d = Draft()
    q, k, v = (d.input(1, 2, "t", 8) for _ in range(3))
    scales = [scale_of(d, value) for value in (0.02, 0.03, 0.025)]
    codes = [d.add("quantize", x, s) for x, s in zip((q, k, v), scales, strict=True)]
    operands = [name for pair in zip(codes, scales, strict=True) for name in pair]
    agree(d, d.add("quantized_attention", *operands, scale=0.3), lengths=LENGTHS, tolerance=1e-3)


@pytest.mark.parametrize("number", ["f16", "bf16"])
@pytest.mark.parametrize("order", HEADS)
def test_rounded_operands_are_multiplied_in_float32(order, number):
    d = Draft()
    x = d.add("cast", d.input(1, 3, "t", 32, order=order), number=number)
    agree(d, d.add("linear", x, halves(d, 7, 32), d.constant(7)), lengths=LENGTHS, tolerance=2e-5)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_rounded_operands_are_convolved_in_any_groups(groups):
    d = Draft()
    x = d.add("cast", d.input(1, 8, "t"), number="f16")
    w = halves(d, 8, 8 // groups, 3)
    y = d.add("conv1d", x, w, d.constant(8), stride=1, padding=1, groups=groups)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


def test_rounded_images_are_convolved():
    d = Draft()
    x = d.add("cast", d.input(1, 2, "t", 9), number="bf16")
    y = d.add("conv2d", x, halves(d, 4, 2, 3, 3), stride=2, padding=1, groups=1)
    agree(d, y, lengths=LENGTHS, tolerance=2e-5)


def test_a_chip_is_charged_one_pass_for_codes_and_moves_16_bits_of_a_float():
    d = Draft()
    x, scale = d.input(1, 5, 32), scale_of(d, 0.02)
    codes = d.add("quantize", x, scale)
    rounded = d.add("cast", x, number="bf16")
    outputs = [
        d.add("quantized_linear", codes, scale, codes_of(d, 7, 32)),
        d.add("linear", rounded, halves(d, 7, 32)),
    ]
    weights = d.weights(*outputs)
    items = schedule(weights.program, "encoder", bindings={}).items
    passes = {item.function: item for item in items if isinstance(item, VectorOp)}
    assert (passes["quantize"].elements, passes["cast"].elements) == (160, 160)
    assert [ref.size_bytes for ref in passes["quantize"].writes] == [160]
    assert [ref.size_bytes for ref in passes["cast"].writes] == [320]
    products = {item.a_number: item for item in items if isinstance(item, Gemm)}
    assert (products["i8"].w_number, products["i8"].accumulator) == ("i8", "i32")
    assert (products["bf16"].w_number, products["bf16"].accumulator) == ("f16", "f32")
    assert products["bf16"].w.size_bytes == 7 * 32 * 2
