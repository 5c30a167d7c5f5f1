"""The products of a GEMM as they are mapped: one or several at once, with the bytes of each."""

from dataclasses import replace

from hwmodels.mapping import Shape
from hwmodels.precision import Engine
from hwmodels.workload import NUMBER_BITS, Gemm


def array_operands(gemm: Gemm) -> str:
    """Return the operand types as chips list them: activation x weight."""
    return f"{gemm.a_number}x{gemm.w_number}"


def activation_bits(gemm: Gemm) -> int:
    """Return the bits of the activations as the array takes them, a convolution's after im2col."""
    return gemm.count * gemm.m * gemm.k * NUMBER_BITS[gemm.a_number]


def block_diagonal(gemm: Gemm, together: int) -> Gemm:
    """Return a GEMM with `together` of its products in one, block-diagonally.

    The last of the new products may hold fewer. Tensors and their bytes stay as they are.

    Example: ten groups of three taps at once.
        >>> from hwmodels.workload import TensorRef
        >>> x = TensorRef("x", "input", (64, 99), 8)
        >>> one = block_diagonal(Gemm("g", "conv", 99, 1, 3, x, x, x, "i8", "i8", "i32", 64), 10)
        >>> one.n, one.k, one.count
        (10, 30, 7)

    """
    if together == 1:
        return gemm
    number = -(-gemm.count // together)
    return replace(gemm, n=together * gemm.n, k=together * gemm.k, count=number)


def shape_of(
    gemm: Gemm,
    engine: Engine | None,
    *,
    loaded_bytes: int,
    stored_bytes: int,
    is_input_kept: bool,
    is_weight_kept: bool,
) -> Shape:
    """Return one product of a GEMM as the mapper sees it; bytes are those of all."""
    return Shape(
        gemm.m,
        gemm.n,
        engine.words if engine else gemm.k,
        -(-loaded_bytes // gemm.count),
        -(-gemm.w.size_bytes // gemm.count),
        is_input_kept,
        is_weight_kept,
        -(-activation_bits(gemm) // (8 * gemm.count)),
        -(-stored_bytes // gemm.count),
        is_input_by_row=gemm.a.elements == gemm.count * gemm.m * gemm.k,
        is_weight_by_row=_is_by_row(gemm),
    )


def _is_by_row(gemm: Gemm) -> bool:
    """Whether the second operand lies column by column of the product, each over all of k.

    Constants lie tile by tile; values of heads that lie side by side row by row.
    """
    runs = gemm.w.runs
    is_along_n = runs is not None and runs.elements == gemm.n != gemm.k
    is_whole = gemm.w.elements == gemm.count * gemm.n * gemm.k
    return gemm.w.kind != "constant" and is_whole and not is_along_n
