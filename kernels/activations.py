"""Activation codes prepared for products of bytes: copied, summed by group, and kept in bounds.

vpmaddubsw multiplies unsigned weights ``u`` by signed activation codes ``x`` and adds two
neighbouring products in 16 bits, where it saturates. Three ways keep sums exact:

- u in [0, 255] and x in [-127, 127]: a pair of activations is safe if its positive parts sum to at
  most 128 and its negative parts too: 255 * 128 = 32640 <= 32767. Pairs beyond that are rare in a
  row scaled by its largest value, so each is halved: the main product runs over one half, and the
  other halves, listed per row, are multiplied again. Halves of magnitude at most 64 are safe, as
  2 * 64 = 128. An input whose pairs are all extreme only takes twice the time. With x in [-63, 63]
  every pair is safe, as 2 * 63 = 126.
- The same bound on two pairs of equal place in neighbouring quads, an octet, lets two products be
  added before they are widened. Unsafe octets are taken out and listed. It is done for a tile of
  rows where few octets are unsafe: with codes in [-63, 63], or where few values set the scale.
- u of fewer bits: pairs are safe, and so are sums of many quads, which ``longest_run`` bounds.
"""

import numpy as np
from numba import float32, int32

from kernels.epilogue import clear_words
from kernels.jit import compiled
from kernels.lowbit_tiles import UNROLL
from kernels.simd import (
    I8,
    I8X32,
    I16X16,
    I32,
    I32X8,
    I64,
    Value,
    Writer,
    constant,
    row_at,
    stack_bytes,
    tile,
)

SAFE_PAIR_SUM = 128
FORBIDDEN = -(2**62)
QUAD = 4
"""Steps of k that lie together in a panel, as vpmaddubsw and vpmaddwd sum them."""
EACH_QUAD = 0x11111111
"""One bit in four: a mask has four bits per quad."""
BLOCK = 32
"""Bytes of a row that are looked at together; copies of rows are padded to it with zeros."""


def _pair_sums(w: Writer, value: Value) -> tuple[Value, Value]:
    """int16 sums of the positive and of the negative parts of each pair of int8."""
    ones = constant(I8X32, 1)
    positive = w.positive(value)
    negative = w.positive(w.b.sub(constant(I8X32, 0), value))
    return w.madd_bytes(positive, ones), w.madd_bytes(negative, ones)


def _copy(*, is_flagged: bool):
    """Make the copy of blocks of 32 codes: their sum, and whether one lies beyond the limit.

    ``total`` is 64 bytes: eight partial sums, then 32 bytes of which one is not zero after such a
    code. If flagged, 32 bits per block at ``flags`` tell unsafe pairs.
    """

    def generate(w: Writer, source, target, blocks, limit, flags, total) -> None:
        b = w.b
        highest = w.splat(b.trunc(limit, I8), I8X32)
        lowest = w.splat(b.trunc(b.neg(limit), I8), I8X32)
        safe = constant(I16X16, SAFE_PAIR_SUM)

        def body(i, so_far: Value, bad: Value):
            at = b.mul(i, I64(BLOCK))
            value = w.load(I8X32, b.add(source, at))
            w.store(value, b.add(target, at))
            beyond = b.or_(b.icmp_signed(">", value, highest), b.icmp_signed("<", value, lowest))
            bad = b.or_(bad, b.sext(beyond, I8X32))
            if is_flagged:
                positive, negative = _pair_sums(w, value)
                swapped = [lane ^ 2 for lane in range(16)]  # the same parity of the other quad
                both = [b.add(one, w.shuffle(one, one, swapped)) for one in (positive, negative)]
                for place, sums in enumerate(((positive, negative), both)):
                    unsafe = b.or_(*(b.icmp_signed(">", one, safe) for one in sums))
                    bytes_ = b.bitcast(b.sext(unsafe, I16X16), I8X32)
                    mask = w.call("llvm.x86.avx2.pmovmskb", I32, [bytes_])
                    w.store(mask, b.add(flags, b.mul(i, I64(8))), 4 * place)
                pairs = b.sub(positive, negative)
            else:
                pairs = w.madd_bytes(constant(I8X32, 1), value)
            return [b.add(so_far, w.madd_words(pairs, constant(I16X16, 1))), bad]

        sums, bad = w.loop(blocks, [constant(I32X8, 0), constant(I8X32, 0)], body)
        w.store(sums, total)
        w.store(bad, total, 32)

    return tile(6)(generate)


_copy_and_flag, _copy_and_sum = _copy(is_flagged=True), _copy(is_flagged=False)


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


@tile(4)
def _scan(w: Writer, source, blocks, limit, bad):
    """Make the 32 bytes at ``bad`` not all zero if a code lies beyond the limit."""
    b = w.b
    highest = w.splat(b.trunc(limit, I8), I8X32)
    lowest = w.splat(b.trunc(b.neg(limit), I8), I8X32)

    def body(i, so_far: Value):
        value = w.load(I8X32, b.add(source, b.mul(i, I64(BLOCK))))
        beyond = b.or_(b.icmp_signed(">", value, highest), b.icmp_signed("<", value, lowest))
        return [b.or_(so_far, b.sext(beyond, I8X32))]

    (found,) = w.loop(blocks, [w.load(I8X32, bad)], body)
    w.store(found, bad)


@compiled
def within(x, x_step, rows, k, limit):
    """Tell whether all codes of ``rows`` rows lie in [-limit, limit]."""
    bad = stack_bytes(64)
    any_bad = row_at(bad, 4, np.int64)
    for i in range(4):
        any_bad[i] = 0
    whole = k // BLOCK
    for t in range(rows):
        row = x + t * x_step
        _scan(row, whole, limit, bad)
        rest = row_at(row + whole * BLOCK, k - whole * BLOCK, np.int8)
        for i in range(rest.size):
            if rest[i] > limit or rest[i] < -limit:
                return False
    return any_bad[0] == 0 and any_bad[1] == 0 and any_bad[2] == 0 and any_bad[3] == 0


@compiled
def row_bytes(codes):
    """Bytes from one copy to the next: whole groups of 128 codes, and an odd number of lines.

    Rows a power of two apart would all fall on the same few lines of a cache.
    """
    return (codes + 127) // 128 * 128 + 64


@compiled
def _sum_of(total):
    """Sum of the partial sums; FORBIDDEN after a code beyond the limit."""
    sums = row_at(total, 16, np.int32)
    count = 0
    for i in range(8):
        count += sums[i]
    for i in range(8, 16):
        if sums[i] != 0:
            return FORBIDDEN
    return count


@compiled
def _copy_blocks(source, target, blocks, limit, flags, total):
    if flags:
        _copy_and_flag(source, target, blocks, limit, flags, total)
    else:
        _copy_and_sum(source, target, blocks, limit, 0, total)
    return _sum_of(total)


@compiled
def _copy_bytes(source, target, count):
    a, b = row_at(source, count, np.int8), row_at(target, count, np.int8)
    for i in range(count):
        b[i] = a[i]


@compiled
def copy_row(source, k, group, padded, target, limit, flags, total):
    """Copy k codes to ``target`` and return their sum, or FORBIDDEN for one beyond ``limit``.

    Each group of codes takes ``padded`` places, of which the last are zeros; zeros follow up to
    whole groups of 128. ``flags`` 0 is none; ``total`` is 64 bytes of room.
    """
    if padded == group or k <= group:
        held, whole = k, k // BLOCK
        count = _copy_blocks(source, target, whole, limit, flags, total)
    else:
        held, whole, count = 0, 0, 0
    size = ((k + group - 1) // group * padded + 127) // 128 * 128
    at = target + whole * BLOCK
    if size > whole * BLOCK:
        rest = row_at(at, size - whole * BLOCK, np.int8)
        for i in range(rest.size):
            rest[i] = 0
        if held == k:
            _copy_bytes(source + whole * BLOCK, at, k - whole * BLOCK)
            blocks = 1
        else:
            for start in range(0, k, group):
                length = min(group, k - start)
                _copy_bytes(source + start, target + start // group * padded, length)
            blocks = size // BLOCK
        more = _copy_blocks(at, at, blocks, limit, flags + whole * 8 if flags else 0, total)
        count = FORBIDDEN if FORBIDDEN in (count, more) else count + more
    return count


@compiled
def note_sums(codes, padded, groups, total, offset, starts, sums, step):
    """Note the sum of each group of a copied row, whose sum is ``total``, as float32.

    ``starts`` gets minus the offset times it, int32; both lie ``step`` bytes apart.
    """
    for g in range(groups):
        count = int32(total if groups == 1 else 0)
        if groups > 1:
            part = row_at(codes + g * padded, padded, np.int8)
            for i in range(padded):
                count += int32(part[i])
        row_at(starts + g * step, 1, np.int32)[0] = -offset * count
        row_at(sums + g * step, 1, np.float32)[0] = float32(count)


@compiled
def _flagged(mask):
    """One bit in four for each quad that has a bit set."""
    folded = mask | (mask >> np.uint32(1))
    folded |= folded >> np.uint32(2)
    return folded & np.uint32(EACH_QUAD)


@compiled
def _count(flags):
    """Count the bits of ``_flagged``: their sum stands in the highest four bits, 8 at most."""
    return np.int64(np.uint32(flags * np.uint32(EACH_QUAD)) >> np.uint32(28))


@compiled
def _extras_of(flags, blocks):
    """Count the extras of a row: when pairs must be safe, and when octets must be."""
    masks = row_at(flags, 2 * blocks, np.uint32)
    by_pair, by_octet = 0, 0
    for i in range(blocks):
        pairs = _count(_flagged(masks[2 * i]))
        by_pair += pairs
        by_octet += pairs + _count(_flagged(masks[2 * i + 1]))
    return by_pair, by_octet


@compiled
def sums_octets(flags, flag_step, rows, blocks):
    """Tell whether products of two quads should be summed before they are widened.

    That spares a sixth of the work on quads, and an extra costs about as much as a quad and a half:
    worth it if extras grow by less than an eighth of the quads, of which a block has eight.
    """
    most_pairs, most_octets = 0, 0
    for r in range(rows):
        by_pair, by_octet = _extras_of(flags + r * flag_step, blocks)
        most_pairs, most_octets = max(most_pairs, by_pair), max(most_octets, by_octet)
    return most_octets - most_pairs < blocks


@compiled
def split_quads(codes, flags, first, last, by_octet, extras):
    """Take out of quads ``first`` to ``last`` of a copied row what is unsafe; list it as extras.

    Of an unsafe pair's quad one half stays and the other is listed. If octets must be safe, both
    quads of an unsafe one are taken out, whole or, where a pair is unsafe, in halves.
    An extra is two int32: the number of the first of four steps, and the quad of codes. Returns
    how many there are.
    """
    masks = row_at(flags, (last + 7) // 8 * 2, np.uint32)
    found, quad = 0, first
    while quad < last:
        shift = np.uint32(quad % 8 * QUAD)
        pairs = masks[quad // 8 * 2] >> shift
        octets = masks[quad // 8 * 2 + 1] >> shift if by_octet else pairs
        if octets == 0:
            quad = (quad // 8 + 1) * 8
            continue
        if octets & np.uint32(15):
            is_halved = pairs & np.uint32(15) != 0
            mine = row_at(codes + quad * QUAD, QUAD, np.int8)
            if is_halved:
                found = _list_extra(extras, found, quad, mine, True)
            if by_octet:
                found = _list_extra(extras, found, quad, mine, False)
        quad += 1
    return found


@compiled
def _list_extra(extras, found, quad, codes, is_half):
    """Move a quad of codes, or half of each, to the list; return its new length."""
    row_at(extras + found * 8, 1, np.int32)[0] = quad * QUAD
    other = row_at(extras + found * 8 + 4, QUAD, np.int8)
    for i in range(QUAD):
        moved = codes[i] // 2 if is_half else codes[i]
        other[i] = moved
        codes[i] -= moved
    return found + 1


@compiled
def split_rows(
    codes, step, rows, flags, flag_step, group_quads, groups, by_octet, extras, extra_step, ends
):
    """Split a tile of rows group by group, so that all rows list as many extras in each group.

    Quads of zeros fill the shorter lists. ``ends`` gets, per group, the extras listed so far.
    """
    at = 0
    end = row_at(ends, groups, np.int32)
    listed = row_at(stack_bytes(64), 16, np.int32)
    for g in range(groups):
        longest = 0
        for r in range(rows):
            found = split_quads(
                codes + r * step,
                flags + r * flag_step,
                g * group_quads,
                (g + 1) * group_quads,
                by_octet,
                extras + r * extra_step + at * 8,
            )
            listed[r] = found
            longest = max(longest, found)
        for r in range(rows):
            empty = extras + r * extra_step + (at + listed[r]) * 8
            clear_words(empty, (longest - listed[r]) * 2)
        at += longest
        end[g] = at


@compiled
def widest_sums(codes, size, scratch):
    """Return the largest sum, over 128 codes, of one parity's positive (or negative) codes."""
    _pair_peaks(codes, (size + 127) // 128, scratch)
    lanes = row_at(scratch, 16, np.int16)
    return max(lanes[0], lanes[1])


@compiled
def longest_run(bits, widest, group_quads, groups):
    """Quads whose products with u of ``bits`` bits sum to 16 bits, in any order.

    Any number of them is at most ``2 * 127 * u`` per quad. Where no window of 32 quads has more
    than ``widest`` of one sign and parity, a run of whole windows has at most that in each; a run
    that starts within a window touches one window more.
    """
    largest = (1 << bits) - 1
    proven = 32767 // (2 * 127 * largest) // UNROLL * UNROLL
    windows = 32767 // (largest * widest) if widest else 1 << 20
    starts_whole = groups == 1 or group_quads % 32 == 0 or 32 % group_quads == 0
    return max(proven, 32 * (windows if starts_whole else windows - 1))
