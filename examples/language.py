"""Makes vocabularies and trains on tokens, for the examples that generate text."""

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
    """Returns `(vocabulary, merges)` of at most `size` tokens, the most common in `texts`.

    The vocabulary has a token for each of the 256 bytes, so it can spell every text.
    """
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=size, min_frequency=2, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [" ".join(pair) for pair in model["merges"]]


def from_scratch(backbone):
    """Scales the kernels of a new backbone to suit its width.

    KerasHub initializes them with a deviation of 0.02, which suits models with a width of about a
    thousand. In a narrow model each block would add so little that attention learns late.
    """
    for variable in backbone.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(variable * (1024 / backbone.hidden_dim) ** 0.5)
    return backbone


def by_length(rows, seed, boundaries=(24, 40)):
    """Batches examples of similar length, in random order, cut to the longest example of the batch.

    Args:
        rows: `(x, y, sample_weight)` of a causal language model.
        seed: the seed of the order.
        boundaries: the lengths that separate the groups.
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
    """Returns `(x, y, sample_weight)` of texts in windows of one length.

    An end token precedes each text.
    """
    ids = []
    for start in range(0, len(texts), 1024):
        for text in tokenizer(texts[start : start + 1024]):
            ids += [tokenizer.end_token_id, *np.asarray(text).tolist()]
    count = (len(ids) - 1) // length
    x, y = (np.array(ids[at : at + count * length]).reshape(count, length) for at in (0, 1))
    ones = np.ones_like(x)
    return {"token_ids": x, "padding_mask": ones.astype(bool)}, y, ones


def fit(distiller, batches, backup, *, valid, epochs, rate, tokens, tiny=False, jit_compile=False,
        seed=1):  # fmt: skip
    """Trains on next tokens; returns `(student, record)`.

    Args:
        distiller: a distiller that is not compiled.
        batches: `(x, y, sample_weight)` of all examples, as `completion_only` returns it, or a
            batched dataset for `fit`.
        backup: the folder from which a killed training resumes.
        valid: `(x, y, sample_weight)` of the validation examples.
        epochs: the number of epochs. With `tiny` it is one.
        rate: the highest learning rate.
        tokens: the number of tokens in an epoch.
        tiny: whether to run one epoch without a graph.
        jit_compile: whether XLA compiles the step, which is worth it for small blocks.
        seed: the seed of the order of `batches`, unless they are a dataset.
    """
    if isinstance(batches, tuple):
        rows = tf.data.Dataset.from_tensor_slices(batches)
        batches = rows.shuffle(len(rows), seed=seed).batch(BATCH)
    epochs = 1 if tiny else epochs
    optimizer = keras.optimizers.AdamW(warmed_up(rate, epochs * len(batches)))
    distiller.compile(optimizer, LOSS, run_eagerly=tiny, jit_compile=jit_compile and not tiny)
    valid = tf.data.Dataset.from_tensor_slices(valid).batch(BATCH)
    return train(
        distiller, batches, backup, epochs=epochs, validation_data=valid, tokens=tokens
    )


def tokens_of(x):
    """Returns how many tokens the inputs hold, without padding."""
    return sum(int(mask.sum()) for name, mask in x.items() if name.endswith("padding_mask"))
