"""Attention scores, computed from the query and key of an attention layer."""

import functools
import inspect

from keras import ops

from keras_distill._keras.layers import attends

SCORES = ":scores"
SHORT = {"q": "query", "k": "key"}  # the names in Gemma
USUAL = {  # settings of models like Gemma; with others the scores would differ
    "logit_soft_cap": None,
    "use_sliding_window_attention": False,
    "query_head_dim_normalize": True,
}
UNLIKE = {  # KerasHub's layers whose scores are not scaled dot products of query and key
    "DisentangledSelfAttention": "it adds scores of relative positions",
    "Gemma3nTextAttention": "it scales them differently",
    "Gemma4TextAttention": "it scales them differently",
    "Gemma4VisionAttention": "it scales them differently",
    "GptOssAttention": "it adds a learned score that belongs to no key",
    "T5Gemma2Attention": "it scales them differently",
    "T5Gemma2MergedAttention": "it scales them differently",
    "T5GemmaAttention": "it scales them differently",
}
MASKED = -1e9  # the score of a key that a query may not see; zero after the softmax


def check(layer):
    """Raises an error if a layer shows no attention scores.

    Raises:
        ValueError: if the layer is no attention layer, or computes its scores in its own way.
    """
    kind = type(layer).__name__
    if unlike := [name for name, usual in USUAL.items() if getattr(layer, name, usual) != usual]:
        raise ValueError(
            f"The attention scores of `{layer.name}`, a `{kind}`, cannot be read, because its "
            f"{', '.join(unlike)} changes them before the softmax. Compare query, key and value "
            "instead."
        )
    if not attends(layer):
        raise ValueError(
            f"`{SCORES}` needs a layer with query, key and value, such as "
            f"`keras.layers.MultiHeadAttention`. Received: a `{kind}`"
        )
    for each in type(layer).__mro__:
        if each.__name__ in UNLIKE:
            raise ValueError(
                f"The attention scores of `{layer.name}`, a `{kind}`, cannot be read, because "
                f"{UNLIKE[each.__name__]}. Compare query, key and value instead."
            )


def noting_scores(compute, note):
    """Wraps the function that computes attention, so that it first calls `note` with its scores."""
    signature = inspect.signature(compute)

    @functools.wraps(compute)
    def computing(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        note(lambda: scores(**{SHORT.get(name, name): value for name, value in given.items()}))
        return compute(*args, **kwargs)

    return computing


def scores(query, key, attention_mask=None, use_causal_mask=False, **_):
    """Returns scaled dot products (batch, heads, queries, keys) before the softmax.

    `query` and `key` are (batch, tokens, heads, width). With fewer key heads, a group of queries
    shares a key head. Masked scores are very low.
    """
    repeats = query.shape[2] // key.shape[2]
    if repeats > 1:
        key = ops.repeat(key, repeats, axis=2)
    products = ops.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[3] ** 0.5
    products = ops.cast(products, "float32")
    if attention_mask is not None:
        mask = ops.cast(attention_mask, "bool")
        mask = mask if len(mask.shape) == 4 else ops.expand_dims(mask, 1)
        products = ops.where(mask, products, MASKED)
    if use_causal_mask:
        queries, keys = ops.shape(products)[2:]
        earlier = ops.expand_dims(ops.arange(queries), 1) >= ops.arange(keys)
        products = ops.where(earlier, products, MASKED)
    return products
