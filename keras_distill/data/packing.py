"""Packs class ids and log-probabilities into few bytes: NumPy writes them, a graph reads them.

Ids of a fixed width are split into whole bytes and the bits above them. Sorted ids are gap-coded as
by Elias and Fano: the low bits are stored as they are, the high ones as a unary code of their gaps.
This bounds the size of a row beforehand.
"""

import numpy as np

from keras_distill._backend import tensorflow

tf = tensorflow("A cache of targets")

EXTRA = (0, 1, 2, 4, 8)  # numbers of bits that fill a byte evenly


def width_of(classes):
    """Returns the number of bits for ids of `classes` classes."""
    width = max(1, (classes - 1).bit_length())
    if width > 24:
        raise ValueError(f"A cache can hold at most 2^24 classes. Received: {classes} classes")
    return width


def split(width):
    """Returns `(whole, extra)`: the bits of an id in whole bytes, and those above, rounded up."""
    whole = 16 if width >= 16 else 8 if width >= 8 else 0
    return whole, next(bits for bits in EXTRA if bits >= width - whole)


def pack(values, width):
    """Packs integers (rows, n) below 2^width into bytes (rows, size)."""
    whole, extra = split(width)
    parts = []
    if whole:
        low = (values & (2**whole - 1)).astype(f"<u{whole // 8}")
        parts.append(np.ascontiguousarray(low).view("uint8").reshape(len(values), -1))
    if extra:
        parts.append(_pack_bits(values >> whole, extra))
    return np.concatenate(parts, axis=-1)


def unpack(data, n, width):
    """Unpacks bytes (rows, size), uint8, from `pack` into int32 (rows, n)."""
    whole, extra = split(width)
    size = n * whole // 8
    values = tf.zeros([tf.shape(data)[0], n], tf.int32)
    for byte in range(whole // 8):
        values += tf.cast(data[:, byte : size : whole // 8], tf.int32) * 256**byte
    if extra:
        high = _unpack_bits(data[:, size:], extra)[:, :n]
        values += high * 2**whole
    return values


def packed_size(n, width):
    """Returns the size of `n` packed integers in bytes."""
    whole, extra = split(width)
    return n * whole // 8 + -(-n * extra // 8)


def _pack_bits(values, bits):
    each = 8 // bits
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % each)))
    values = values.reshape(len(values), -1, each)
    return (values << np.arange(0, 8, bits)).sum(-1).astype("uint8")


def _unpack_bits(data, bits):
    shifts = tf.range(0, 8, bits)
    values = tf.bitwise.right_shift(tf.cast(data, tf.int32)[..., None], shifts)
    return tf.reshape(values & (2**bits - 1), [tf.shape(data)[0], data.shape[1] * (8 // bits)])


def gap_layout(n, classes):
    """Returns `(low, size)`: the low bits that make gap-coded ids smallest, and a row's bytes."""
    width = width_of(classes)
    sizes = {
        low: (packed_size(n, low) if low else 0) + _unary_size(n, classes, low)
        for low in sorted({0, 1, 2, 4, 8, 9, 10, 12, 16})
        if low <= width
    }
    low = min(sizes, key=sizes.get)
    return low, sizes[low]


def _unary_size(n, classes, low):
    return -(-(n + ((classes - 1) >> low)) // 8)


def pack_gaps(ids, classes):
    """Packs ids (rows, n), sorted in each row, into bytes (rows, size)."""
    n = ids.shape[1]
    low, _ = gap_layout(n, classes)
    bits = np.zeros((len(ids), 8 * _unary_size(n, classes, low)), "uint8")
    np.put_along_axis(bits, (ids >> low) + np.arange(n), 1, axis=-1)
    unary = np.packbits(bits, axis=-1, bitorder="little")
    return np.concatenate([pack(ids & (2**low - 1), low), unary], -1) if low else unary


def unpack_gaps(data, n, classes):
    """Unpacks bytes from `pack_gaps` into int32 (rows, n)."""
    low, _ = gap_layout(n, classes)
    size = packed_size(n, low) if low else 0
    bits = _unpack_bits(data[:, size:], 1)
    places = tf.reshape(tf.cast(tf.where(bits > 0)[:, 1], tf.int32), [-1, n])
    high = (places - tf.range(n)) * 2**low
    return high + unpack(data[:, :size], n, low) if low else high


def quantize(log_probs, log_tail):
    """Quantizes log-probabilities (rows, n) to a byte each: `(codes, peak, spread)`.

    `log p = peak - spread * (code / 255)^2`, so that likely classes get finer steps. With `peak`
    they sum to one, together with the tail.
    """
    top = log_probs.max(-1, keepdims=True)
    below = np.minimum(top - log_probs, 100.0)
    spread = np.maximum(below.max(-1, keepdims=True), 1e-6).astype("float32")
    codes = np.rint(255 * np.sqrt(below / spread)).astype("uint8")
    exponents = -spread * (codes / 255.0) ** 2
    mass = np.log(np.exp(exponents).sum(-1, keepdims=True))
    kept = np.log(-np.expm1(np.minimum(log_tail[:, None], -1e-7)))
    return codes, (kept - mass).astype("float32"), spread


def dequantize(codes, peak, spread):
    """Restores what `quantize` packed: codes (rows, n), `peak` and `spread` (rows, 1)."""
    return peak - spread * tf.square(tf.cast(codes, tf.float32) / 255.0)
