"""A fingerprint changes when what it stands for would compute something else, and only then."""

import functools
import pathlib
import subprocess
import sys
import threading

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import EnsembleTeacher, ModelTeacher
from keras_distill.data.fingerprints import fingerprints_of


def net(seed=0, dtype="float32"):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), layers.Dense(2, dtype=dtype)])


def saved(seed, folder):
    path = str(folder / f"saved{seed}")
    if not pathlib.Path(path).exists():
        net(seed).export(path, verbose=False)
    return tf.saved_model.load(path)


def plain_module(seed, folder):
    """A SavedModel that lists no variables."""

    class Module(tf.Module):
        def __init__(self):
            self.factor = tf.Variable(float(seed))

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def serve(self, x):
            return x * self.factor

    path = str(folder / f"module{seed}")
    tf.saved_model.save(Module(), path)
    return tf.saved_model.load(path)


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.answer(x)

    def answer(self, x):
        return x * self.factor


class Module(tf.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = tf.Variable(float(factor))


def scaled(x, factor=1, *, shift=0):
    return x * factor + shift


def closure(value):
    return lambda x: (x, value)


def keyword(value):
    def function(x, *, shift=value):
        return x + shift

    return function


def table(value):
    keys = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, value])
    return tf.lookup.StaticHashTable(keys, 0)


def class_of(value):
    class Answer:
        if value:

            def __call__(self, x):
                return x
        else:

            def __call__(self, x):
                return -x

    return Answer()


TWO = {
    "a bfloat16 model": lambda value, folder: net(value, "bfloat16"),
    "a SavedModel": saved,
    "a SavedModel as a teacher": lambda value, folder: ModelTeacher(saved(value, folder)),
    "a function of a SavedModel": lambda value, folder: closure(saved(value, folder)),
    "a SavedModel without variables": plain_module,
    "a bound method": lambda value, folder: Scaled(value).answer,
    "an object that is called": lambda value, folder: Scaled(value),
    "a class of another code": lambda value, folder: class_of(value),
    "a partial": lambda value, folder: functools.partial(scaled, factor=value),
    "a keyword's default": lambda value, folder: keyword(value),
    "a module": lambda value, folder: Module(value),
    "a compiled function": lambda value, folder: tf.function(closure(value)),
    "a variable": lambda value, folder: closure(tf.Variable(value)),
    "Keras's variable": lambda value, folder: closure(keras.Variable(value)),
    "a tensor": lambda value, folder: closure(tf.constant([value])),
    "a tensor of strings": lambda value, folder: closure(tf.constant([str(value)])),
    "bytes": lambda value, folder: closure(bytes([value])),
    "a set": lambda value, folder: closure({"a", str(value)}),
    "an array's type": lambda value, folder: np.zeros(2, ["int32", "float32"][value]),
    "an array's shape": lambda value, folder: np.zeros([(2, 3), (3, 2)][value]),
    "a table": lambda value, folder: closure(table(value)),
    "a ufunc": lambda value, folder: closure([np.exp, np.tanh][value]),
    "a dtype": lambda value, folder: closure([tf.float32, tf.int32][value]),
    "a path": lambda value, folder: closure(pathlib.Path(str(value))),
    "an ensemble": lambda value, folder: EnsembleTeacher([net(value), net(2)]),
}


@pytest.mark.parametrize("name", TWO)
def test_it_changes_with_what_would_be_computed(name, tmp_path):
    first, again, other = (fingerprints_of(TWO[name](value, tmp_path)) for value in (0, 0, 1))
    assert first == again
    assert first != other


def test_nothing_is_called_to_find_out_what_it_is():
    class Exporter:
        def export(self):
            raise RuntimeError("exported")

    assert fingerprints_of(closure(Exporter())) == fingerprints_of(closure(Exporter()))


def test_weights_without_elements_count():
    found = []
    for shape in ((0, 3), (0, 3), (0, 4)):
        layer = layers.Layer(name="empty")
        layer.add_weight(shape=shape)
        found.append(fingerprints_of(layer))
    assert found[0] == found[1] != found[2]


def test_what_keeps_a_model_alive_is_not_hashed_again(monkeypatch):
    model, read = net(), []
    numpy_of = keras.ops.convert_to_numpy
    monkeypatch.setattr(keras.ops, "convert_to_numpy", lambda v: read.append(v) or numpy_of(v))
    fingerprints_of(ModelTeacher(model))
    assert len(read) == len(model.weights)


def test_a_function_that_calls_itself():
    def forever(x):
        return forever(x)

    assert fingerprints_of(forever) == fingerprints_of(forever)


IN_ANOTHER_PROCESS = """
import sys
import fingerprints_test as test
print(test.fingerprints_of([test.closure({"a", "b", "c"}), test.Scaled(2).answer,
                            lambda x: x in {"d", "e", "f"}, test.closure(test.table(3))]))
"""


def test_it_is_the_same_in_every_process():
    """The order of a set, and addresses, differ from one to the next."""
    here = pathlib.Path(__file__)
    code = f"import sys; sys.path[:0] = {[str(here.parent), str(here.parents[2])]}"
    found = set()
    for seed in "12":
        child = subprocess.run(
            [sys.executable, "-c", code + IN_ANOTHER_PROCESS],
            capture_output=True, text=True, env={"PYTHONHASHSEED": seed}, timeout=120,
        )  # fmt: skip
        assert child.returncode == 0, child.stderr
        found.add(child.stdout)
    assert len(found) == 1


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="What a `lock` holds cannot be told.*`fingerprints="):
        fingerprints_of(closure(threading.Lock()))


# Text


def bytes_pairs(words=("a", "b", "ab"), merges=("a b",)):
    vocabulary = {word: number for number, word in enumerate(words)}
    return keras_hub.tokenizers.BytePairTokenizer(vocabulary, list(merges))


def preprocessor(words):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = keras_hub.models.BertTokenizer(words)
    return keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8)


def test_a_preprocessors_vocabulary_counts():
    found = [fingerprints_of(preprocessor(words)) for words in (["a", "b"], ["a", "b"], ["b", "a"])]
    assert found[0] == found[1] != found[2]


def test_the_merges_of_byte_pairs_count():
    one, other = bytes_pairs(("a", "b", "ab", "ba")), bytes_pairs(("a", "b", "ab", "ba"), ["b a"])
    assert fingerprints_of(one) != fingerprints_of(other)
