"""What the examples that generate text share: vocabularies, and training on tokens."""

import json

import keras
import numpy as np
import tensorflow as tf
import tokenizers
from training import train, warmed_up

LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight"
)
BATCH = 32


def byte_pairs(texts, size):
    """`(vocabulary, merges)` of at most `size` tokens, the commonest in `texts`.

    The 256 bytes are tokens too, so that every text can be spelled.
    """
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=size, min_frequency=2, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def from_scratch(backbone):
    """A new backbone with kernels of a size that suits its width.

    KerasHub draws them with a deviation of 0.02, for models a thousand numbers wide. In narrow ones
    each block would add so little that it learns to attend late.
    """
    for variable in backbone.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(variable * (1024 / backbone.hidden_dim) ** 0.5)
    return backbone


def by_length(rows, seed, boundaries=(24, 40)):
    """Batches of examples of about one length, cut to the longest of the batch, in a random order.

    Args:
        rows: `(x, y, sample_weight)` of a causal language model.
        seed: of the order.
        boundaries: between the lengths that go together.
    """
    lengths = rows[0]["padding_mask"].sum(-1, dtype="int32")
    together = np.bincount(np.searchsorted(boundaries, lengths, side="right"))

    def cut(row, lengths):
        return keras.tree.map_structure(lambda part: part[:, : tf.reduce_max(lengths)], row)

    dataset = tf.data.Dataset.from_tensor_slices((rows, lengths)).shuffle(len(lengths), seed=seed)
    dataset = dataset.bucket_by_sequence_length(
        lambda row, length: length, boundaries, [BATCH] * (len(boundaries) + 1)
    )
    count = tf.data.experimental.assert_cardinality(int(np.sum(-(-together // BATCH))))
    return dataset.map(cut).apply(count)


def packed(tokenizer, texts, length):
    """`(x, y, sample_weight)` of texts, an end token after each, in windows of one length."""
    ids = []
    for start in range(0, len(texts), 1024):
        for text in tokenizer(texts[start : start + 1024]):
            ids += [tokenizer.end_token_id, *np.asarray(text).tolist()]
    count = (len(ids) - 1) // length
    x, y = (np.array(ids[at : at + count * length]).reshape(count, length) for at in (0, 1))
    ones = np.ones_like(x)
    return {"token_ids": x, "padding_mask": ones.astype(bool)}, y, ones


def fit(distiller, batches, backup, *, valid, epochs, rate, tokens, tiny=False, jit_compile=False):
    """Trains on next tokens; returns `(student, record)`, as an arm is trained.

    Args:
        distiller: not compiled.
        batches: `(x, y, sample_weight)` of all examples, as `completion_only` makes them, or what
            `fit` takes, in batches.
        backup: the folder of what a killed training goes on from.
        valid: the same of the validation examples.
        epochs: how many; one if `tiny`, which also runs without a graph.
        rate: the greatest learning rate.
        tokens: how many an epoch has.
        tiny: whether only to try it out.
        jit_compile: whether XLA compiles the step, which pays for small blocks.
    """
    if isinstance(batches, tuple):
        rows = tf.data.Dataset.from_tensor_slices(batches)
        batches = rows.shuffle(len(rows), seed=1).batch(BATCH)
    epochs = 1 if tiny else epochs
    optimizer = keras.optimizers.AdamW(warmed_up(rate, epochs * len(batches)))
    distiller.compile(optimizer, LOSS, run_eagerly=tiny, jit_compile=jit_compile and not tiny)
    valid = tf.data.Dataset.from_tensor_slices(valid).batch(BATCH)
    return train(
        distiller, batches, backup, epochs=epochs, validation_data=valid, tokens=tokens
    )


def tokens_of(x):
    """How many tokens inputs hold, padding not counted."""
    return sum(int(mask.sum()) for name, mask in x.items() if name.endswith("padding_mask"))
