"""What a KerasHub task takes as raw text, it takes inside of a distiller, with the same results.

The rows are containers of strings (lists, arrays, pandas columns, datasets) and the arguments that
count batches. Each runs on the task alone and on `Distiller(task, alpha=0)`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller

hub = pytest.importorskip("keras_hub")
TEXTS = ["the cat sat", "the dog", "cat", "a mat", "dog dog", "ran", "the cat", "sat"] * 6
LABELS = np.arange(len(TEXTS)) % 3
WEIGHTS = np.linspace(0.5, 2, len(TEXTS)).astype("float32")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "ran", "mat"]


def task():
    tokenizer = hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True)
    sizes = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8, "max_sequence_length": 8}
    keras.utils.set_random_seed(3)
    made = hub.models.BertTextClassifier(
        hub.models.BertBackbone(vocabulary_size=len(WORDS), num_layers=1, dropout=0.0, **sizes),
        num_classes=3,
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=6),
        dropout=0.0,
    )
    return made


@pytest.fixture(scope="module")
def made():
    """A task, and the weights that it starts with."""
    made = task()
    return made, made.get_weights()


def column(values):
    return pytest.importorskip("pandas").Series(values)


def dataset(repeats=1):
    return tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(8).repeat(repeats)


def fit(*data, **more):
    def run(model):
        history = model.fit(*data, verbose=0, **more).history
        student = model.student if isinstance(model, Distiller) else model
        return history, [w.tolist() for w in student.get_weights()]

    return run


def evaluate(*data, **more):
    return lambda model: model.evaluate(*data, verbose=0, **more)


def predict(data, **more):
    return lambda model: model.predict(data, verbose=0, **more).tolist()


# `{name: function without arguments that returns a function of the model}`
ROWS = {
    "a list": lambda: fit(TEXTS, LABELS),
    "an array": lambda: fit(np.array(TEXTS), LABELS, batch_size=10, epochs=2),
    "columns": lambda: fit(column(TEXTS), column(LABELS), sample_weight=WEIGHTS),
    "steps_per_epoch, no batch_size": lambda: fit(TEXTS, LABELS, steps_per_epoch=2),
    "steps_per_epoch of a dataset": lambda: fit(dataset(), steps_per_epoch=3),
    "steps_per_epoch, endless": lambda: fit(dataset(-1), steps_per_epoch=4, epochs=2),
    "validation": lambda: fit(
        TEXTS, LABELS, validation_data=(TEXTS[:9], LABELS[:9]), validation_steps=1),
    "validation of columns": lambda: fit(
        column(TEXTS), column(LABELS), validation_data=(column(TEXTS[:9]), column(LABELS[:9]))),
    "validation_split": lambda: fit(np.array(TEXTS), LABELS, validation_split=0.25),
    "evaluate a column": lambda: evaluate(column(TEXTS), column(LABELS)),
    "evaluate some steps": lambda: evaluate(TEXTS, LABELS, batch_size=8, steps=2),
    "evaluate a dataset, some steps": lambda: evaluate(dataset(-1), steps=3),
    "predict a column": lambda: predict(column(TEXTS)),
    "predict some steps": lambda: predict(TEXTS, batch_size=8, steps=2),
}  # fmt: skip


WRAPS = (lambda model: model, lambda model: Distiller(model, alpha=0))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_a_distiller_reads_what_its_task_reads(row, made):
    behaviour, values = row(), []
    alone, start = made
    for wrap in WRAPS:
        alone.set_weights(start)
        model = wrap(alone)
        model.compile(
            keras.optimizers.SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
            run_eagerly=True,
        )
        try:
            keras.utils.set_random_seed(4)
            values.append(behaviour(model))
        except Exception as error:
            values.append(f"{type(error).__name__}: {error}")
    assert not isinstance(values[0], str), values[0]
    assert values[1] == values[0]


def test_what_is_left_out_in_compile_is_the_tasks_own():
    found = []
    for wrap in WRAPS:
        model = wrap(task())
        model.compile(run_eagerly=True)
        logs = model.evaluate(TEXTS, LABELS, verbose=0, return_dict=True)
        found.append((type(model.optimizer), float(model.optimizer.learning_rate), logs))
    assert found[1] == found[0] and len(found[0][2]) == 2
    taught = Distiller(task(), teacher=task())
    taught.compile("sgd")
    assert taught.loss is None and set(taught.fit(TEXTS, verbose=0).history) >= {"kl_divergence"}
