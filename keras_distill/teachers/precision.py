"""Cheaper arithmetic for a frozen model: which there is, what it changes, how far it may err."""

import contextlib
import copy
import pathlib
import re
import warnings

import keras

from keras_distill import taps

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

POLICIES = {
    "bfloat16": "mixed_bfloat16",
    "mixed_bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
    "mixed_float16": "mixed_float16",
}
CHOICES = ("auto", "float32", *POLICIES, "int8")
MOST_KL = 5e-3  # nats an example or token, at temperature 1; students end ten times as far and more
MOST_ERROR = 0.05  # of a tensor's norm


def chosen(dtype):
    """The precision that a name stands for: for "auto" what this machine computes fast.

    Raises:
        ValueError: for an unknown name.
    """
    if dtype not in CHOICES:
        raise ValueError(f"`dtype` must be one of {CHOICES} or None. Received: dtype={dtype!r}")
    if dtype == "auto":
        return "mixed_bfloat16" if _multiplies_bfloat16() else "float32"
    return POLICIES.get(dtype, dtype)


def _multiplies_bfloat16():
    """Whether the GPU, or the processor where there is none, has instructions for bfloat16."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def cpu_flags():
    """The processor's instruction sets as Linux names them; empty elsewhere."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


@contextlib.contextmanager
def computing(model, policy):
    """Within, the float32 layers of a model compute by another policy, with the same weights."""
    plain = [layer for layer in model._flatten_layers() if _is_float32(layer)]
    before = [layer.dtype_policy for layer in plain]
    try:
        for layer in plain:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, own in zip(plain, before):
            layer.dtype_policy = own


def _is_float32(layer):
    policy = layer.dtype_policy
    return type(policy) is keras.dtype_policies.DTypePolicy and policy.name == "float32"


def quantized(model):
    """A copy of a model whose dense and embedding layers multiply integers of 8 bits.

    Raises:
        ValueError: where Keras cannot copy the model, or has no layer of it in int8.
    """
    if not model.built:
        raise ValueError(f'`dtype="int8"`: `{model.name}` is not built: call it on a batch first.')
    try:
        with model.distribute_strategy.scope():
            twin = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f'`dtype="int8"` needs a copy of `{model.name}`, which Keras cannot make: '
            f"{' '.join(str(error).split())[:300]}. Give the class a `get_config` and register "
            'it, or take `dtype="mixed_bfloat16"`, which copies nothing.'
        ) from error
    with warnings.catch_warnings(action="ignore"):  # one for each layer that stays as it is
        twin.quantize("int8", filters=lambda layer: layer.built)  # a tokenizer is not
    if not any(getattr(layer, "_is_quantized", False) for layer in twin._flatten_layers()):
        raise ValueError(
            f"`{model.name}` has no layer that Keras runs in int8 (dense, einsum and embedding "
            'layers; no convolutions): `dtype="mixed_bfloat16"` may help it.'
        )
    return twin


def errors(expected, found, logits=True):
    """How far each path is from float32: `{path: (measure, error, bound)}`.

    Outputs of several units count as logits, unless `logits` is false: the mean KL divergence of
    their softmax at temperature 1. Other tensors: the norm of the difference over the norm.
    """
    return {path: _error(expected[path], found[path], logits and taps.is_edge(path))
            for path in expected}  # fmt: skip


def _error(expected, found, logits):
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(found))
    pairs = [pair for pair in pairs if getattr(pair[0], "dtype", tf.bool).is_floating]
    logits = logits and all(own.shape[-1] > 1 for own, _ in pairs)
    measure = _divergence if logits else _relative
    worst = max((float(measure(*pair)) for pair in pairs), default=0.0)
    return ("KL", worst, MOST_KL) if logits else ("relative error", worst, MOST_ERROR)


def _divergence(expected, found):
    # In float64: what rounding of float32 adds is as large as a good teacher's divergence.
    expected, found = (tf.cast(getattr(side, "_keras_logits", side), tf.float64)
                       for side in (expected, found))  # fmt: skip
    log_p, log_q = tf.nn.log_softmax(expected), tf.nn.log_softmax(found)
    p = tf.exp(log_p)
    divergence = tf.reduce_sum(tf.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)
    known = tf.reduce_all(~tf.math.is_nan(log_p), axis=-1)  # a masked token may hold anything
    return tf.reduce_mean(tf.boolean_mask(divergence, known))


def _relative(expected, found):
    expected, found = tf.cast(expected, tf.float32), tf.cast(found, tf.float32)
    known = tf.abs(expected) < -taps.MASKED / 10  # not NaN, infinite or a masked score
    expected, found = tf.boolean_mask(expected, known), tf.boolean_mask(found, known)
    return tf.norm(found - expected) / tf.maximum(tf.norm(expected), 1e-30)


def check(model, dtype, errors):
    """Refuses a precision that errs too much, or gives what is not finite."""
    for path, (measure, error, bound) in errors.items():
        if not error <= bound:  # NaN too
            raise ValueError(
                f"`{model.name}` in {dtype} differs from float32 at `{path}` on the first batch: "
                f'{measure} {error:.2g}, allowed is {bound:g}. Take `dtype="mixed_bfloat16"` where '
                "float16 overflows or int8 is too coarse, else leave `dtype` out."
            )
