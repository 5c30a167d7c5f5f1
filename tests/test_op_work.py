"""What ops cost: every number worked out by hand, from the text of a program."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosim.ir import Program, from_text
from cosim.patterns import AttentionPattern
from cosim.schedule import schedule
from cosim.verify import verify
from hwmodels.workload import Gemm, Transfer, VectorOp, WorkItem


def program(text: str, *constants: str, bits: int = 32) -> Program:
    """Return the program of one graph with a length `t`; constants are `@name : type`."""
    lines = [f"constant {one} dense {{}} bits {bits} index 0 sha256 aa" for one in constants]
    body = "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())
    head = "\n".join(['program "p"', *lines, "graph g(t) {"])
    return verify(from_text(f"{head}\n{body}\n}}\n"))


def items(text: str, *constants: str, t: int = 10, bits: int = 32) -> tuple[WorkItem, ...]:
    return schedule(program(text, *constants, bits=bits), "g", bindings={"t": t}).items


def test_a_depthwise_convolution_is_a_product_of_one_column_per_channel():
    (gemm, bias) = items(
        """input %x : f32<1, 6, t>
        %y = conv1d(%x, @w, @b) {groups=6, padding=1, stride=2} : f32<1, 6, ((t - 1)//2) + 1>
        return y = %y""",
        "@w : f32<6, 1, 3>",
        "@b : f32<6>",
    )
    assert (gemm.count, gemm.m, gemm.n, gemm.k, gemm.kind) == (6, 5, 1, 3, "conv")
    assert gemm.w.elements == gemm.count * gemm.n * gemm.k
    assert (bias.function, bias.elements) == ("bias", 30)


def test_a_grouped_convolution_is_one_product_per_group():
    (gemm,) = items(
        """input %x : f32<1, 6, t>
        %y = conv1d(%x, @w) {groups=2, padding=0, stride=1} : f32<1, 8, t - 3>
        return y = %y""",
        "@w : f32<8, 3, 4>",
    )
    assert (gemm.count, gemm.m, gemm.n, gemm.k) == (2, 7, 4, 12)


def test_a_convolution_over_two_axes_is_one_product_over_all_positions():
    (gemm,) = items(
        """input %x : f32<1, 2, t, 9>
        %y = conv2d(%x, @w) {padding=0, stride=2} : f32<1, 5, ((t - 3)//2) + 1, 4>
        return y = %y""",
        "@w : f32<5, 2, 3, 3>",
    )
    assert (gemm.count, gemm.m, gemm.n, gemm.k, gemm.kind) == (1, 4 * 4, 5, 18, "conv")


def test_convolutions_of_codes_are_products_of_codes_with_the_same_macs():
    head = 'program "p"\n' + "".join(
        f'constant {name} bitpacked {{"bits": 8}} bits {bits} index 0 sha256 aa\n'
        for name, bits in (("@v : f32<5, 2, 3, 3>", 880), ("@w : f32<8, 3, 4>", 1024))
    )
    body = """graph g(t) {
  input %c : i8<1, 6, t>
  input %i : i8<1, 2, t, 9>
  input %s : f32<1>
  %y = quantized_conv1d(%c, %s, @w) {groups=2, padding=0, stride=1} : f32<1, 8, t - 3>
  %z = quantized_conv2d(%i, %s, @v) {padding=0, stride=2} : f32<1, 5, ((t - 3)//2) + 1, 4>
  return y = %y
  return z = %z
}
"""
    work = schedule(verify(from_text(head + body)), "g", bindings={"t": 10}).items
    grouped, scaled, image, scaled_image = work
    assert (grouped.count, grouped.m, grouped.n, grouped.k) == (2, 7, 4, 12)
    assert (image.count, image.m, image.n, image.k) == (1, 4 * 4, 5, 18)
    for gemm in (grouped, image):
        assert (gemm.a_number, gemm.w_number, gemm.accumulator) == ("i8", "i8", "i32")
    assert [item.function for item in (scaled, scaled_image)] == ["dequantize"] * 2
    assert (scaled.elements, scaled_image.elements) == (8 * 7, 5 * 16)


def test_a_product_of_activations_is_one_per_head_or_one_for_a_common_right_side():
    apart, common = items(
        """input %a : f32<1, 3, t, 4>
        input %b : f32<1, 3, 4, 7>
        input %c : f32<4, 5>
        %y = matmul(%a, %b) : f32<1, 3, t, 7>
        %z = matmul(%a, %c) : f32<1, 3, t, 5>
        return y = %y
        return z = %z"""
    )
    assert (apart.count, apart.m, apart.n, apart.k) == (3, 10, 7, 4)
    assert (common.count, common.m, common.n, common.k) == (1, 30, 5, 4)
    assert apart.w.kind == "input"


def test_a_bias_of_scores_is_added_where_they_are_made():
    scores, bias, softmax, context = items(
        """input %q : f32<1, 2, t, 4>
        input %bias : f32<2, t, t>
        %y = attention(%q, %q, %q, %bias) {scale=float(0x1.0p-1)} : f32<1, 2, t, 4>
        return y = %y"""
    )
    assert scores.macs == context.macs == 2 * 10 * 10 * 4
    assert (bias.function, bias.elements, bias.is_fused) == ("add", 200, True)
    assert [ref.id for ref in bias.reads] == [scores.result.id, "bias"]
    assert (softmax.function, softmax.elements, softmax.row_length) == ("softmax", 200, 10)


def attention_work(pattern: AttentionPattern, t: int) -> tuple[WorkItem, ...]:
    values = f'{{pattern="{pattern.to_text()}", scale=float(0x1.0p-1)}}'
    return items(
        f"""input %q : f32<1, 2, t, 4>
        input %k : f32<1, 2, t, 4>
        input %v : f32<1, 2, t, 4>
        %y = attention(%q, %k, %v) {values} : f32<1, 2, t, 4>
        return y = %y""",
        t=t,
    )


def test_a_pattern_costs_the_blocks_that_it_stores():
    """Blocks of 16 at 40 queries: 2 of 3, 3 of 3 and, with 8 rows, 2 of 3 blocks of keys."""
    work = attention_work(AttentionPattern("local", window=1, block=16), 40)
    gemms = [item for item in work if isinstance(item, Gemm)]
    # (products, queries, keys): 2 heads, keys 32, 40 and 24
    wanted = {(2, 16, 32), (2, 16, 40), (2, 8, 24)}
    assert {(g.count, g.m, g.n) for g in gemms if g.name.endswith("scores")} == wanted
    assert {(g.count, g.m, g.k) for g in gemms if g.name.endswith("context")} == wanted
    seen = 2 * (16 * 32 + 16 * 40 + 8 * 24)
    assert sum(g.macs for g in gemms) == 2 * seen * 4
    softmax = [item for item in work if isinstance(item, VectorOp)]
    assert sum(item.elements for item in softmax) == seen
    gathers = [item for item in work if isinstance(item, Transfer) and "gather" in item.name]
    # queries once, each stored block of keys and values once, in floats of 4 bytes and heads of 4
    assert sum(item.read_bytes for item in gathers) == 2 * 4 * 4 * (40 + 2 * (32 + 40 + 24))
    assert sum(item.write_bytes for item in gathers) == 2 * 4 * 4 * (40 + 2 * (32 + 40 + 24))
    assert work[-1].name.endswith("join")
    assert work[-1].writes[0].id == "y"


def test_blocks_of_queries_that_see_equally_much_are_products_of_one_size():
    """Block diagonal at 64 queries: 4 blocks of 2 heads; q and the result are not copied."""
    work = attention_work(AttentionPattern("strided", near=0, stride=9, block=16), 64)
    gather, scores, _, context = work
    assert (scores.count, scores.m, scores.n, scores.k) == (8, 16, 16, 4)
    assert scores.a.id == "q"
    assert scores.w.elements == 8 * 16 * 4
    assert context.result.id == "y"
    assert gather.read_bytes == gather.write_bytes == 2 * 2 * 64 * 4 * 4


@given(t=st.integers(1, 80), block=st.sampled_from([16, 32]))
@settings(max_examples=20, deadline=None)
def test_a_pattern_that_sees_all_has_the_macs_of_dense_attention(t, block):
    work = attention_work(AttentionPattern("local", window=100, block=block), t)
    assert sum(item.macs for item in work if isinstance(item, Gemm)) == 2 * 2 * t * t * 4


def test_a_query_block_that_sees_no_key_costs_nothing():
    pattern = AttentionPattern("custom", seen_blocks=("10", "00"), block=16)
    gemms = [item for item in attention_work(pattern, 32) if isinstance(item, Gemm)]
    assert sum(item.macs for item in gemms) == 2 * 2 * 16 * 16 * 4


def test_positions_are_read_from_a_table_without_arithmetic():
    relative, absolute, buckets = items(
        """%a = positions() {kind="relative", shape=[1, 2*t - 1, 6]} : f32<1, 2*t - 1, 6>
        %b = positions() {kind="absolute", shape=[1, 1, 6], start=t} : f32<1, 1, 6>
        %c = relative_buckets() {buckets=8, furthest=16, shape=[2*t - 1]} : i64<2*t - 1>
        return a = %a
        return b = %b
        return c = %c"""
    )
    assert isinstance(relative, Transfer)
    assert relative.read_bytes == relative.write_bytes == 19 * 6 * 4
    assert absolute.read_bytes == 6 * 4
    assert buckets.read_bytes == 19 * 4
    assert {relative.reads[0].kind, absolute.reads[0].kind} == {"constant"}
    assert len({item.reads[0].id for item in (relative, absolute, buckets)}) == 3


def test_views_cost_nothing_and_share_the_tensor_behind_them():
    (silu,) = items(
        """input %x : f32<1, t, 2*t - 1>
        %s = rel_shift(%x) : f32<1, t, t>
        %e = expand(%s) {shape=[3, t, t]} : f32<3, t, t>
        %y = silu(%e) : f32<3, t, t>
        return y = %y"""
    )
    assert [ref.id for ref in silu.reads] == ["x"]
    assert (silu.function, silu.elements) == ("silu", 300)


def test_a_part_of_a_value_is_read_as_large_as_it_is():
    """Of 1 x t x 6 floats: 2 columns of 6; then 2 and 3 of them, and 5 and 4, which are all."""
    text = "input %x : f32<1, t, 6>\n"
    cuts = {"a": (0, 2), "b": (3, 6), "c": (0, 5), "d": (2, 6)}
    for name, (start, stop) in cuts.items():
        run = f"{{axis=2, start={start}, stop={stop}}}"
        text += f"%{name} = slice(%x) {run} : f32<1, t, {stop - start}>\n"
    one, *two = items(
        text
        + """%y = silu(%a) : f32<1, t, 2>
        %z = concat(%a, %b) {axis=2} : f32<1, t, 5>
        %w = concat(%c, %d) {axis=2} : f32<1, t, 9>
        %u = concat(%x, %a) {axis=2} : f32<1, t, 8>
        return y = %y
        return z = %z
        return w = %w
        return u = %u"""
    )
    (read,) = one.reads
    assert (read.id, read.size_bytes, read.reserved_bits // 8) == ("x", 2 * 10 * 4, 6 * 10 * 4)
    assert read.is_part
    sizes = [item.reads[0].size_bytes for item in two]
    assert sizes == [item.read_bytes for item in two] == [5 * 40, 6 * 40, 6 * 40]
    assert all(len(item.reads) == 1 for item in two)


def test_shifted_scores_are_half_of_what_was_computed():
    (add,) = items(
        """input %x : f32<2, t, 2*t - 1>
        %s = rel_shift(%x) : f32<2, t, t>
        %y = relu(%s) : f32<2, t, t>
        return y = %y"""
    )
    assert [ref.size_bytes for ref in add.reads] == [2 * 10 * 10 * 4]


@pytest.mark.parametrize(
    ("op", "function", "elements", "row"),
    [
        (
            "affine(%x) {scale=float(0x1.0p+1), shift=float(0x0.0p+0)} : f32<1, 6, t>",
            "scale",
            60,
            10,
        ),
        (
            "affine(%x) {scale=float(0x1.0p+0), shift=float(0x1.0p+0)} : f32<1, 6, t>",
            "affine",
            60,
            10,
        ),
        ("glu(%x) {axis=1} : f32<1, 3, t>", "glu", 30, 10),
        ("sum(%x) : f32<1, 6>", "sum", 60, 10),
        ("mul(%x, %x) : f32<1, 6, t>", "mul", 60, 10),
        (
            "group_norm(%x, @b, @b) {eps=float(0x1.0p-17), groups=2} : f32<1, 6, t>",
            "group_norm",
            60,
            30,
        ),
        (
            "batch_norm(%x, @b, @b, @b, @b) {eps=float(0x1.0p-17)} : f32<1, 6, t>",
            "batch_norm",
            60,
            10,
        ),
    ],
)
def test_functions_cost_every_element_in_their_rows(op, function, elements, row):
    constants = ["@b : f32<6>"] if "@b" in op else []
    (item,) = items(f"input %x : f32<1, 6, t>\n%y = {op}\nreturn y = %y", *constants)
    assert isinstance(item, VectorOp)
    assert (item.function, item.elements, item.row_length) == (function, elements, row)
    assert len({ref.id for ref in item.reads}) == len(item.reads)


@pytest.mark.parametrize(
    ("op", "written"),
    [
        ("pad(%x) {after=2, axis=1, before=1} : f32<1, t + 3, 6>", 13 * 6 * 4),
        ("repeat(%x) {axis=1, times=3} : f32<1, 3*t, 6>", 30 * 6 * 4),
    ],
)
def test_copies_read_their_operand_once_and_write_their_result(op, written):
    (item,) = items(f"input %x : f32<1, t, 6>\n%y = {op}\nreturn y = %y")
    assert isinstance(item, Transfer)
    assert (item.read_bytes, item.write_bytes) == (10 * 6 * 4, written)


@pytest.mark.parametrize(
    ("run", "shape", "moved"),
    [
        ("axis=0, start=1, stop=2", "1, 6", 8),
        ("axis=0, start=1, stop=4", "3, 6", 24),
        ("axis=1, start=0, stop=3", "4, 3", 16),
    ],
)
def test_a_part_of_a_constant_moves_its_share_of_what_is_stored(run, shape, moved):
    """The table is stored in 32 bytes for its 24 values."""
    text = f"%y = slice(@w) {{{run}}} : f32<{shape}>\nreturn y = %y"
    (item,) = items(text, "@w : f32<4, 6>", bits=256)
    assert item.read_bytes == moved


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_windows_of_a_convolution_hold_what_unfolding_copies(padding):
    """An image whose elements are all one, unfolded by torch: padding alone is zero."""
    size = (9, 6)
    (gemm,) = items(
        f"""input %x : f32<1, 4, t, 6>
        %y = conv2d(%x, @w) {{groups=2, padding={padding}, stride=2}} : f32<1, 8, ((t + {2 * padding} - 3)//2) + 1, {(6 + 2 * padding - 2) // 2 + 1}>
        return y = %y""",  # noqa: E501 (one op is one line)
        "@w : f32<8, 2, 3, 2>",
        t=9,
    )
    windows = torch.nn.functional.unfold(
        torch.ones(1, 4, *size), kernel_size=(3, 2), padding=padding, stride=2
    )
    assert gemm.window_elements == int(windows.sum())
    assert gemm.count * gemm.m * gemm.k == windows.numel()
