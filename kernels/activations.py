"""Activation codes prepared for byte products that saturate: split so that they cannot.

vpmaddubsw multiplies unsigned weight codes ``u`` by signed activation codes ``x`` and adds two
neighbouring products in 16 bits, where it saturates. With u in [0, 255] (a code plus 128) a pair of
activations is safe if its positive parts sum to at most 128 and its negative parts too: 255 * 128 =
32640 <= 32767. Pairs beyond that are rare in a row scaled by its largest
value, so each is halved: the main product runs over one half, and the other halves, listed per
row, are multiplied again. Halves of magnitude at most 64 are safe: 2 * 64 = 128. The result is
exact for every input; an input whose pairs are all extreme only takes twice the time.
"""

import numpy as np

from kernels.jit import compiled
from kernels.simd import I8X32, I16X16, I32, I32X8, I64, Value, Writer, constant, row_at, tile

SAFE_PAIR_SUM = 128
FORBIDDEN = -(2**62)
QUAD = 4
"""Steps of k that lie together in a panel, as vpmaddubsw and vpmaddwd sum them."""
BLOCK = 32
"""Bytes of a row that are looked at together; copies of rows are padded to it with zeros."""


def _pair_sums(w: Writer, value: Value) -> tuple[Value, Value]:
    """int16 sums of the positive and of the negative parts of each pair of int8."""
    ones = constant(I8X32, 1)
    positive = w.positive(value)
    negative = w.positive(w.b.sub(constant(I8X32, 0), value))
    return w.madd_bytes(positive, ones), w.madd_bytes(negative, ones)


@tile(5)
def _copy_and_flag(w: Writer, source, target, blocks, flags, total):
    """Copy blocks of 32 codes, flag unsafe pairs (32 bits each), sum codes, and note any -128.

    ``total`` is 64 bytes: eight partial sums, then 32 bytes of which one is not zero after a -128.
    """
    b = w.b
    limit = constant(I16X16, SAFE_PAIR_SUM)

    def body(i, so_far: Value, bad: Value):
        at = b.mul(i, I64(BLOCK))
        value = w.load(I8X32, b.add(source, at))
        w.store(value, b.add(target, at))
        positive, negative = _pair_sums(w, value)
        unsafe = b.or_(b.icmp_signed(">", positive, limit), b.icmp_signed(">", negative, limit))
        bytes_ = b.bitcast(b.sext(unsafe, I16X16), I8X32)
        mask = w.call("llvm.x86.avx2.pmovmskb", I32, [bytes_])
        w.store(mask, b.add(flags, b.mul(i, I64(4))))
        signed = w.madd_words(b.sub(positive, negative), constant(I16X16, 1))
        lowest = b.sext(b.icmp_signed("==", value, constant(I8X32, -128)), I8X32)
        return [b.add(so_far, signed), b.or_(bad, lowest)]

    sums, bad = w.loop(blocks, [constant(I32X8, 0), constant(I8X32, 0)], body)
    w.store(sums, total)
    w.store(bad, total, 32)


@tile(3)
def _pair_peaks(w: Writer, source, blocks, peak):
    """Store the largest sums, over 128 codes, of one parity's positive or negative pair sums."""
    b = w.b

    def folded(lanes: Value) -> Value:
        """Sum of the even pairs in all even lanes, of the odd pairs in all odd lanes."""
        for shift in (8, 4, 2):
            order = [(lane + shift) % 16 for lane in range(16)]
            lanes = b.add(lanes, w.shuffle(lanes, lanes, order))
        return lanes

    def body(i, so_far: Value):
        at = b.add(source, b.mul(i, I64(128)))
        sums = [_pair_sums(w, w.load(I8X32, at, BLOCK * j)) for j in range(4)]
        for parts in zip(*sums, strict=True):
            lanes = folded(b.add(b.add(parts[0], parts[1]), b.add(parts[2], parts[3])))
            so_far = b.select(b.icmp_signed(">", lanes, so_far), lanes, so_far)
        return [so_far]

    (peaks,) = w.loop(blocks, [constant(I16X16, 0)], body)
    w.store(peaks, peak)


@compiled
def padded_bytes(k):
    """Bytes of a row's copy: k rounded up to whole groups of 128 codes."""
    return (k + 127) // 128 * 128


@compiled
def _sum_of(total):
    """Sum of the partial sums; FORBIDDEN after a -128."""
    sums = row_at(total, 16, np.int32)
    count = 0
    for i in range(8):
        count += sums[i]
    for i in range(8, 16):
        if sums[i] != 0:
            return FORBIDDEN
    return count


@compiled
def copy_row(source, k, target, flags, total):
    """Copy k codes to ``target``, zeros after, and return their sum, or FORBIDDEN for a -128.

    ``flags`` and ``total`` as in _copy_and_flag.
    """
    whole = k // BLOCK
    _copy_and_flag(source, target, whole, flags, total)
    count = _sum_of(total)
    size = padded_bytes(k)
    if size > whole * BLOCK:
        at = target + whole * BLOCK
        rest = row_at(at, size - whole * BLOCK, np.int8)
        rest[:] = 0
        rest[: k - whole * BLOCK] = row_at(source + whole * BLOCK, k - whole * BLOCK, np.int8)
        _copy_and_flag(at, at, 1, flags + whole * 4, total)
        more = _sum_of(total)
        count = FORBIDDEN if FORBIDDEN in (count, more) else count + more
    return count


@compiled
def split_row(codes, k, flags, extras):
    """Halve the unsafe pairs of a copied row; list the other halves in ``extras``.

    An extra is two int32: the offset in bytes of its quad, and the quad of codes to multiply
    again. Returns their number.
    """
    row = row_at(codes, padded_bytes(k), np.int8)
    masks = row_at(flags, (k + BLOCK - 1) // BLOCK, np.uint32)
    found = 0
    for block in range(masks.size):
        if masks[block] == 0:
            continue
        for quad in range(BLOCK // QUAD):
            if (masks[block] >> np.uint32(quad * QUAD)) & np.uint32(15) == 0:
                continue
            at = block * BLOCK + quad * QUAD
            entry = row_at(extras + found * 8, 1, np.int32)
            entry[0] = at
            other = row_at(extras + found * 8 + 4, QUAD, np.int8)
            for i in range(QUAD):
                half = row[at + i] // 2
                other[i] = half
                row[at + i] -= half
            found += 1
    return found


@compiled
def widest_sums(codes, k, scratch):
    """Return the largest sum, over 128 codes, of one parity's positive (or negative) codes."""
    _pair_peaks(codes, padded_bytes(k) // 128, scratch)
    lanes = row_at(scratch, 16, np.int16)
    return max(lanes[0], lanes[1])
