"""Packing of codes, indices and bit masks into bytes, lowest bits first."""

import numpy as np
from numpy.typing import NDArray

CODE_LIMITS = {8: 127, 4: 7, 3: 3, 2: 1}
"""Largest magnitude of a symmetric signed code, by bits."""


def pack_fields(fields: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """uint8 ``(n, k)`` below ``2**bits`` as uint8 ``(n, ceil(k * bits / 8))``, field 0 lowest.

    >>> pack_fields(np.array([[1, 2, 3, 0]], np.uint8), 2).tolist()
    [[57]]
    """
    n, k = fields.shape
    if bits == 8:
        return np.ascontiguousarray(fields)
    if 8 % bits == 0:
        per_byte = 8 // bits
        padded = np.zeros((n, -(-k // per_byte) * per_byte), np.uint8)
        padded[:, :k] = fields
        payload = padded[:, 0::per_byte].copy()
        for position in range(1, per_byte):
            payload |= padded[:, position::per_byte] << np.uint8(bits * position)
        return payload
    planes = np.unpackbits(fields[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(planes.reshape(n, k * bits), axis=1, bitorder="little")


def unpack_fields(payload: NDArray[np.uint8], k: int, bits: int) -> NDArray[np.uint8]:
    """uint8 fields ``(n, k)`` of a payload made by ``pack_fields``."""
    n = payload.shape[0]
    if bits == 8:
        return payload
    if 8 % bits == 0:
        per_byte = 8 // bits
        fields = np.empty((n, payload.shape[1] * per_byte), np.uint8)
        below = np.uint8((1 << bits) - 1)
        for position in range(per_byte):
            fields[:, position::per_byte] = (payload >> np.uint8(bits * position)) & below
        return fields[:, :k]
    planes = np.unpackbits(payload, axis=1, count=k * bits, bitorder="little")
    return np.packbits(planes.reshape(n, k, bits), axis=2, bitorder="little").reshape(n, k)


def pack_codes(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """int8 ``(n, k)`` as uint8 ``(n, ceil(k * bits / 8))``, two's complement, code 0 lowest.

    Codes may use the whole range ``[-2**(bits - 1), 2**(bits - 1) - 1]``.

    >>> pack_codes(np.array([[1, -1, 2]], np.int8), 4).tolist()
    [[241, 2]]
    """
    fields = np.ascontiguousarray(codes).view(np.uint8)
    return pack_fields(fields if bits == 8 else fields & np.uint8((1 << bits) - 1), bits)


def unpack_codes(payload: NDArray[np.uint8], k: int, bits: int) -> NDArray[np.int8]:
    """int8 codes ``(n, k)`` of a payload made by ``pack_codes``."""
    fields = unpack_fields(payload, k, bits)
    lift = np.uint8(8 - bits)  # move the sign bit up and back, as an arithmetic shift
    return (fields << lift).view(np.int8) >> np.int8(lift) if lift else fields.view(np.int8)


def pack_bitmask(nonzero: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack flags ``(n, k)`` into uint8 ``(n, ceil(k / 8))``, bit 0 first."""
    return np.packbits(nonzero, axis=1, bitorder="little")


def unpack_bitmask(mask: NDArray[np.uint8], k: int) -> NDArray[np.bool_]:
    """Unpack the flags ``(n, k)`` that ``pack_bitmask`` packed."""
    return np.unpackbits(mask, axis=1, count=k, bitorder="little").astype(np.bool_)
