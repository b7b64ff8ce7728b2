"""What the examples that generate text share: vocabularies, training on tokens, tables."""

import json

import keras
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


def fit(distiller, batches, file, *, valid, epochs, rate, tokens, tiny=False):
    """Trains on next tokens, and writes the student to `file`.

    Args:
        distiller: not compiled.
        batches: `(x, y, sample_weight)` of all examples, as `prompt_masked` makes them, or what
            `fit` takes, in batches.
        file: the path of the `.keras` file.
        valid: the same of the validation examples.
        epochs: how many; one if `tiny`, which also runs without a graph.
        rate: the greatest learning rate.
        tokens: how many an epoch has.
        tiny: whether only to try it out.
    """
    if isinstance(batches, tuple):
        rows = tf.data.Dataset.from_tensor_slices(batches)
        batches = rows.shuffle(len(rows), seed=1).batch(BATCH)
    epochs = 1 if tiny else epochs
    optimizer = keras.optimizers.AdamW(warmed_up(rate, epochs * len(batches)))
    distiller.compile(optimizer, LOSS, run_eagerly=tiny)
    valid = tf.data.Dataset.from_tensor_slices(valid).batch(BATCH)
    train(distiller, batches, file, epochs=epochs, validation_data=valid, tokens=tokens)


def tokens_of(x):
    """How many tokens inputs hold, padding not counted."""
    return sum(int(mask.sum()) for name, mask in x.items() if name.endswith("padding_mask"))


def file_name(name):
    return name.lower().replace(", ", "_").replace(" ", "_")


def table(rows):
    """Markdown of `{model: its row}`; whole numbers are counts, and a row may lack a number."""
    heads = list(dict.fromkeys(head for row in rows.values() for head in row))
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row.get(head)) for head in heads) + " |")
    return "\n".join(lines)


def _cell(value):
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
