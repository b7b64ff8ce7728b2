"""The record of one example: a `tf.train.Example` with the bytes of each path's target."""

import numpy as np
from keras import ops

from keras_distill._backend import tensorflow
from keras_distill.batch import TopK
from keras_distill.data import packing

tf = tensorflow("A cache of targets")

KEY = "//key"  # features that every record has beside the targets; no path has such a name
HASH = "//input"  # the hash of the input that a model sees
QUANTIZED = "uint8"


class Whole:
    """The form that keeps a tensor whole, in float16 or float32."""

    kind = "whole"

    def __init__(self, path, shape, dtype):
        self.path, self.shape, self.dtype = path, tuple(shape), dtype

    @property
    def bytes_a_row(self):
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def config(self):
        return {"kind": self.kind, "shape": list(self.shape), "dtype": self.dtype}

    def taken(self, value):
        """Returns the part of a teacher's value to keep, on the teacher's backend."""
        return ops.cast(value, "float32")

    def encode(self, value):
        """Returns `{feature: bytes (rows, size)}` of the values of a batch."""
        with np.errstate(over="ignore"):
            cast = value.astype(f"<f{np.dtype(self.dtype).itemsize}")
        if np.isinf(cast).sum() > np.isinf(value).sum():
            raise ValueError(
                f"`{self.path}` holds values of up to {np.abs(value[np.isfinite(value)]).max():g}, "
                'which float16 cannot hold. Give `dtype="float32"`.'
            )
        return {self.path: cast.reshape(len(value), -1).view("uint8")}

    def decode(self, data):
        """Returns the tensor (batch, ...), float32, from `{feature: strings (batch,)}`."""
        flat = tf.io.decode_raw(data[self.path], tf.as_dtype(self.dtype))
        return tf.cast(tf.reshape(flat, [-1, *self.shape]), tf.float32)

    @property
    def features(self):
        return [self.path]


class Top:
    """The form that keeps the `k` likeliest classes and the mass of the rest, as a `TopK`."""

    kind = "top_k"

    def __init__(self, path, shape, dtype, k, classes, temperature):
        self.path, self.shape, self.dtype = path, tuple(shape), dtype
        self.k, self.classes, self.temperature = k, classes, temperature
        self.tokens = int(np.prod(self.shape))  # the number of rows of the last axis in one example
        self.width = packing.width_of(classes)

    @property
    def bytes_a_row(self):
        if self.dtype == QUANTIZED:
            a_token = packing.gap_layout(self.k, self.classes)[1] + self.k + 12
        else:
            a_token = packing.packed_size(self.k, self.width) + 4
            a_token += self.k * np.dtype(self.dtype).itemsize
        return self.tokens * a_token

    def config(self):
        return {
            "kind": self.kind, "shape": list(self.shape), "dtype": self.dtype, "k": self.k,
            "classes": self.classes, "temperature": self.temperature,
        }  # fmt: skip

    def taken(self, value):
        """Returns `(ids, log_probs, log_tail)` of logits."""
        log_probs = ops.log_softmax(ops.cast(value, "float32") / self.temperature)
        top, ids = ops.top_k(log_probs, self.k)
        ids = ops.cast(ids, "int32")
        flat = ops.reshape(ids, [-1, self.k])
        row = ops.arange(ops.shape(flat)[0], dtype="int32")[:, None] + ops.zeros_like(flat)
        places = ops.reshape(ops.stack([row, flat], -1), [-1, 2])
        lowest = ops.full_like(ops.reshape(top, [-1]), -np.inf)
        rest = ops.scatter_update(ops.reshape(log_probs, [-1, self.classes]), places, lowest)
        return ids, top, ops.reshape(ops.logsumexp(rest, -1), ops.shape(ids)[:-1])

    def encode(self, value):
        rows = len(value[0])
        ids, log_probs = (part.reshape(-1, self.k) for part in value[:2])
        tail = value[2].reshape(-1).astype("<f4")
        if self.dtype != QUANTIZED:
            kept = log_probs.astype(f"<f{np.dtype(self.dtype).itemsize}")
            parts = [packing.pack(ids, self.width), kept, tail]
        else:
            order = np.argsort(ids, axis=-1)
            ids, log_probs = (np.take_along_axis(part, order, -1) for part in (ids, log_probs))
            parts = [packing.pack_gaps(ids, self.classes)]
            parts += [*packing.quantize(log_probs, tail), tail]
        parts = [np.ascontiguousarray(part).reshape(rows, -1).view("uint8") for part in parts]
        return dict(zip(self.features, parts, strict=True))

    def decode(self, data):
        """Returns a `TopK` of (batch, ..., k), with a temperature for each example."""
        parts = [data[feature] for feature in self.features]
        tail = tf.io.decode_raw(parts[-1], tf.float32)
        decode = self._decode_quantized if self.dtype == QUANTIZED else self._decode_exact
        ids, log_probs = (tf.reshape(part, [-1, *self.shape, self.k]) for part in decode(parts))
        temperature = tf.fill(tf.shape(ids)[:1], self.temperature)
        return TopK(ids, log_probs, tf.reshape(tail, [-1, *self.shape]), temperature)

    def _decode_exact(self, parts):
        size = packing.packed_size(self.k, self.width)
        ids = packing.unpack(self._bytes(parts[0], size), self.k, self.width)
        return ids, tf.cast(tf.io.decode_raw(parts[1], tf.as_dtype(self.dtype)), tf.float32)

    def _decode_quantized(self, parts):
        _, size = packing.gap_layout(self.k, self.classes)
        ids = packing.unpack_gaps(self._bytes(parts[0], size), self.k, self.classes)
        codes = self._bytes(parts[1], self.k)
        peak, spread = (tf.reshape(tf.io.decode_raw(p, tf.float32), [-1, 1]) for p in parts[2:4])
        return ids, packing.dequantize(codes, peak, spread)

    def _bytes(self, data, size):
        return tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, size])

    @property
    def features(self):
        parts = ["ids", "log_probs", "log_tail"]
        if self.dtype == QUANTIZED:
            parts[2:2] = ["peak", "spread"]
        return [f"{self.path}/{part}" for part in parts]


FORMS = {form.kind: form for form in (Whole, Top)}


def form(path, config):
    """Returns the form that a header's entry describes."""
    return FORMS[config["kind"]](path, **{k: v for k, v in config.items() if k != "kind"})


def serialize(keys, hashes, data):
    """Returns the records of a batch, bytes (rows, size), of `{feature: bytes (rows, size)}`.

    They are the bytes of `tf.train.Example`, joined here for all rows at once. To make and encode
    the objects takes many times as long, which matters if rows are small and many. Every number
    takes the ten bytes that the largest needs, so all records have one layout.
    """
    parts = []
    for name, values in data.items():
        parts += [_before(name, 1, values.shape[1]), values]
    for name, numbers in ((KEY, keys), (HASH, hashes)):
        parts += [_before(name, 3, 10), _varints(numbers)]
    size = sum(part.shape[-1] for part in parts)
    parts = [np.frombuffer(_message(1, bytes(size))[:-size], "uint8"), *parts]
    return np.concatenate([np.broadcast_to(part, (len(keys), part.shape[-1])) for part in parts], 1)


def _before(name, kind, size):
    """Returns the bytes before a feature of `size` bytes: a list of bytes (1) or integers (3)."""
    value = _message(2, _message(kind, _message(1, bytes(size))))
    whole = _message(1, _message(1, name.encode()) + value)
    return np.frombuffer(whole[: len(whole) - size], "uint8")


def _message(field, content):
    """Returns a field of bytes or of a message in the wire format of Protocol Buffers."""
    length, size = [], len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([field << 3 | 2, *length, size]) + content


def _varints(numbers):
    """Encodes 64-bit integers as varints: seven bits per byte, the eighth says that more follow."""
    shifts = np.arange(0, 70, 7).astype("uint64")
    found = (np.asarray(numbers, "int64").view("uint64")[:, None] >> shifts) & np.uint64(127)
    found[:, :-1] |= np.uint64(128)
    return found.astype("uint8")


def parse(forms, records):
    """Returns `{path: target}` of a batch of records."""
    names = [name for each in forms.values() for name in each.features]
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in names}
    data = tf.io.parse_example(records, spec)
    return {path: each.decode(data) for path, each in forms.items()}
