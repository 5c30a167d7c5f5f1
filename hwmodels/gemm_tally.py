"""What one GEMM does to buffers, lanes and the array besides time: the counts of its steps."""

from hwmodels.cells import Pace
from hwmodels.dataflow import DATAFLOWS
from hwmodels.mapping import Mapping, array_passes, is_leaving
from hwmodels.plan import Tally
from hwmodels.planner import Operand, Planner, Result
from hwmodels.precision import Engine
from hwmodels.products import activation_bits
from hwmodels.sparse_steps import Totals
from hwmodels.vector import operation_count
from hwmodels.workload import NUMBER_BITS, Gemm


def tally_gemm(
    planner: Planner,
    gemm: Gemm,
    mapping: Mapping,
    operands: tuple[Operand, Operand],
    results: tuple[Result, ...],
    *,
    engine: Engine | None,
    zeros: Totals | None,
    together: int = 1,
) -> None:
    """Count what the steps do to buffers and lanes; loads and stores count themselves.

    `together` products run at once on the array, block-diagonally, and do what each does alone:
    the cells between the blocks do nothing. `zeros` is what the array does of a GEMM whose zeros it
    leaves out.
    """
    lanes = planner.architecture.vector_unit.lanes
    head = planner.groups[-1].items[0]
    tally = planner.tallies[head]
    outputs = gemm.count * gemm.m * gemm.n
    sum_bytes = -(-planner.architecture.array.accumulator_bits // 8)
    tally.mapping = mapping.describe()
    if engine is not None:
        array = engine.array
        packed_n = together * gemm.n
        input_passes, weight_passes = array_passes(gemm.m, packed_n, array, mapping)
        input_read = input_passes * activation_bits(gemm) // 8
        weight_read = weight_passes * gemm.w.size_bytes
        parts = is_leaving(array, mapping, m=gemm.m, n=packed_n, k=engine.words)
        sums = -(-engine.words // mapping.tile_k) if parts else _sums(engine)
        is_paced = array.pace != Pace(array.pace.depth)
        tally.is_stretched = parts or is_paced or array.coupling is not None
        tally.array_macs = gemm.macs
        tally.array_action = engine.action
        tally.array_speed = float(engine.macs_per_cycle)
        tally.mapping += engine.describe()
        if together > 1:
            tally.mapping += f" block_diagonal{together}"
        if engine.is_dequantizing:
            tally.dequantized = weight_passes * gemm.count * gemm.n * gemm.k
        operations = planner.patterns.setting.functions["rescale"].operations
        _tally_rescales(tally, engine, outputs, sum_bytes, operations)
    else:
        tally.vector_macs = gemm.macs
        input_read = -(-gemm.n // lanes) * activation_bits(gemm) // 8
        weight_read = gemm.macs * NUMBER_BITS[gemm.w_number] // 8
        sums = -(-gemm.k // mapping.tile_k)
    written = sums * outputs
    if zeros is not None:
        tally.array_macs, input_read, weight_read, written = zeros[:4]
        tally.weight_buffer_write += zeros.index_bytes
        tally.indices_decoded, tally.words_moved = zeros.indices, zeros.moved
    for operand, size in zip(operands, (input_read, weight_read), strict=True):
        if operand.port == "input":
            tally.input_buffer_read += size
        else:
            tally.weight_buffer_read += size
    tally.partial_sums_written = written * sum_bytes
    tally.partial_sums_read = (written - outputs) * sum_bytes
    tally.output_buffer_write += tally.partial_sums_written
    tally.output_buffer_read += tally.partial_sums_read
    for result in results:  # to memory, to the kept part, or both
        times = result.is_kept + (result.written is not None)
        tally.output_buffer_read += times * result.ref.size_bytes
        tally.input_buffer_write += result.is_kept * result.ref.size_bytes
    planner.tally_fused(element_bytes=sum_bytes)


def _sums(engine: Engine) -> int:
    """Return how often the cells give out a part of each result, chunks of the sum aside."""
    if DATAFLOWS[engine.array.dataflow].time == "k":
        return max(1, engine.rescales)
    return -(-engine.words // engine.array.rows)


def _tally_rescales(
    tally: Tally, engine: Engine, results: int, sum_bytes: int, operations: tuple[int, ...]
) -> None:
    """Count the rescaling of each result at the end of each scale group.

    On the vector unit one takes `operations`, and reads and writes a sum in the output buffer.
    """
    number = results * engine.rescales
    if engine.array.rescale == "accumulators":
        tally.array_rescales = number
        return
    tally.vector_operations = operation_count(operations, number)
    tally.output_buffer_read = tally.output_buffer_write = number * sum_bytes
