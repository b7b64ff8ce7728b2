"""Lower precision for a frozen model: the choices, their effect, and the allowed error."""

import contextlib
import copy
import pathlib
import re

import keras
import numpy as np
from keras import ops

from keras_distill import _backend, taps
from keras_distill._keras.layers import as_logits, is_quantized, sublayers

POLICIES = {
    "bfloat16": "mixed_bfloat16",
    "mixed_bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
    "mixed_float16": "mixed_float16",
}
CHOICES = ("auto", "float32", *POLICIES, "int8")
MOST_KL = 5e-3  # nats, at temperature 1; students end ten times as far off or more
MOST_ERROR = 0.05  # relative to a tensor's norm


def chosen(dtype):
    """Returns the precision of a name; "auto" stands for what this machine computes fast.

    Raises:
        ValueError: for an unknown name.
    """
    if dtype not in CHOICES:
        raise ValueError(f"`dtype` must be one of {CHOICES} or None. Received: dtype={dtype!r}")
    if dtype == "auto":
        return "mixed_bfloat16" if _multiplies_bfloat16() else "float32"
    return POLICIES.get(dtype, dtype)


def _multiplies_bfloat16():
    """Returns whether the GPU, or else the processor, has instructions for bfloat16."""
    capability = _backend.gpu_capability()
    if capability is not None:
        return capability >= (8, 0)
    return bool({"avx512_bf16", "amx_bf16"} & cpu_flags())


def cpu_flags():
    """Returns the processor's instruction sets as Linux names them; empty on other systems."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


@contextlib.contextmanager
def computing(model, policy):
    """Makes a model's float32 layers compute by another policy, with the same weights."""
    plain = [layer for layer in [model, *sublayers(model, recursive=True)] if _is_float32(layer)]
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
    """Returns a copy of a model whose dense and embedding layers multiply integers of 8 bits.

    Raises:
        ValueError: if Keras cannot copy the model, or if none of its layers can run in int8.
    """
    if not model.built:
        raise ValueError(f'`dtype="int8"`: `{model.name}` is not built. Call it on a batch first.')
    try:
        with _backend.scope_of(model):
            twin = copy.deepcopy(model)
    except Exception as error:
        raise ValueError(
            f'`dtype="int8"` needs a copy of `{model.name}`, which Keras cannot make '
            f"({' '.join(str(error).split())[:300]}). Give the class a `get_config` and register "
            'it, or give `dtype="mixed_bfloat16"`, which needs no copy.'
        ) from error
    for layer in sublayers(twin, recursive=True):
        if layer.built and not list(sublayers(layer)):  # a tokenizer is not built
            with contextlib.suppress(NotImplementedError):  # such a layer stays as it is
                layer.quantize("int8")
    if not any(is_quantized(layer) for layer in sublayers(twin, recursive=True)):
        raise ValueError(
            f"`{model.name}` has no layer that Keras can run in int8 (a dense, einsum or embedding "
            'layer, but no convolution). Try `dtype="mixed_bfloat16"`.'
        )
    return twin


def errors(expected, found, logits=True):
    """Returns the error of each path against float32: `{path: (measure, error, bound)}`.

    Outputs of several units count as logits, unless `logits` is false. Their error is the mean KL
    divergence of their softmax at temperature 1. The error of other tensors is the norm of the
    difference divided by the norm.
    """
    return {path: _error(expected[path], found[path], logits and taps.is_edge(path))
            for path in expected}  # fmt: skip


def _error(expected, found, logits):
    pairs = zip(keras.tree.flatten(expected), keras.tree.flatten(found))
    pairs = [pair for pair in pairs if _is_float(pair[0])]
    logits = logits and all(own.shape[-1] > 1 for own, _ in pairs)
    measure = _divergence if logits else _relative
    worst = max((measure(*(_numbers(side) for side in pair)) for pair in pairs), default=0.0)
    return ("KL", worst, MOST_KL) if logits else ("relative error", worst, MOST_ERROR)


def _is_float(value):
    return ops.is_tensor(value) and "float" in keras.backend.standardize_dtype(value.dtype)


def _numbers(value):
    """Returns values in float64: float32's rounding is as large as a divergence."""
    return ops.convert_to_numpy(ops.cast(as_logits(value), "float32")).astype("float64")


def _divergence(expected, found):
    log_p, log_q = (_log_softmax(side) for side in (expected, found))
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):
        divergence = np.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    known = ~np.isnan(log_p).any(-1)  # a masked token may hold anything
    return float(divergence[known].mean())


def _log_softmax(logits):
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _relative(expected, found):
    with np.errstate(invalid="ignore"):
        known = np.abs(expected) < -taps.MASKED / 10  # no masked scores
    difference = np.linalg.norm(found[known] - expected[known])
    return float(difference / max(np.linalg.norm(expected[known]), 1e-30))


def check(model, dtype, errors):
    """Raises an error if a precision errs too much or gives values that are not finite."""
    for path, (measure, error, bound) in errors.items():
        if not error <= bound:  # true for NaN as well
            raise ValueError(
                f"`{model.name}` in {dtype} differs too much from float32 at `{path}` on the first "
                f"batch. The {measure} is {error:.2g}, and at most {bound:g} is allowed. If "
                "float16 overflows or int8 is too coarse, give "
                '`dtype="mixed_bfloat16"`. Otherwise leave `dtype` out.'
            )
