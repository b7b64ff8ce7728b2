"""A fingerprint changes when what it stands for would compute something else, and only then."""

import functools
import json
import pathlib
import re
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


def preprocessed(factor):
    return ModelTeacher(net(), preprocess=layers.Rescaling(factor))


TWO = {
    "a model": lambda value, folder: net(value),
    "a bfloat16 model": lambda value, folder: net(value, "bfloat16"),
    "a model as a teacher": lambda value, folder: ModelTeacher(net(value)),
    "a layer that preprocesses": lambda value, folder: preprocessed(value / 2),
    "a SavedModel": saved,
    "a SavedModel as a teacher": lambda value, folder: ModelTeacher(saved(value, folder)),
    "a SavedModel without variables": plain_module,
    "a variable": lambda value, folder: tf.Variable(value),
    "Keras's variable": lambda value, folder: keras.Variable(value),
    "a tensor": lambda value, folder: {"a": tf.constant([value])},
    "a tensor of strings": lambda value, folder: tf.constant([str(value)]),
    "bytes": lambda value, folder: bytes([value]),
    "an array's type": lambda value, folder: np.zeros(2, ["int32", "float32"][value]),
    "an array's shape": lambda value, folder: np.zeros([(2, 3), (3, 2)][value]),
    "an object with a config": lambda value, folder: keras.initializers.Constant(value),
    "an ensemble": lambda value, folder: EnsembleTeacher([net(value), net(2)]),
}


@pytest.mark.parametrize("name", TWO)
def test_it_changes_with_what_would_be_computed(name, tmp_path):
    first, again, other = (fingerprints_of(TWO[name](value, tmp_path)) for value in (0, 0, 1))
    assert first == again
    assert first != other


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


def test_models_have_the_fingerprints_that_caches_of_version_1_hold():
    """A cache that was written before is still found."""
    net = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="dense_7")], name="net_3")
    net.set_weights([np.arange(4, dtype="float32").reshape(2, 2), np.zeros(2, "float32")])
    assert fingerprints_of(net)["weights"] == "3d8236ef16eb7d56"
    assert fingerprints_of(np.arange(3, dtype="int32")) == "aa3b9940995d9d89"


def several():
    """The fingerprints of things whose order or address could show, as JSON."""
    keras.utils.set_random_seed(1)
    things = [net(), ModelTeacher(net(1)), preprocessor(["a", "b"]), np.arange(3)]
    return json.dumps(fingerprints_of(things))


def test_it_is_the_same_in_every_process():
    """The order of a set, and addresses, differ from one to the next."""
    here = pathlib.Path(__file__)
    code = f"import sys; sys.path[:0] = {[str(here.parent), str(here.parents[2])]}\n"
    child = subprocess.run(
        [sys.executable, "-c", code + "import fingerprints_test as test; print(test.several())"],
        capture_output=True, text=True, env={"PYTHONHASHSEED": "7"}, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines()[-1] == several()


class Answers:
    def __call__(self, x):
        return x


WITHOUT_A_FINGERPRINT = {
    "a function": lambda x: x,
    "a partial": functools.partial(print, 1),
    "a method": Answers().__call__,
    "an object that is called": Answers(),
    "a class": Answers,
    "a class with a config": layers.Dense,
    "a compiled function": tf.function(lambda x: x),
    "a module": tf.Module(),
    "a lock": threading.Lock(),
    "a set": {1},
}


@pytest.mark.parametrize("what", WITHOUT_A_FINGERPRINT)
def test_what_has_no_fingerprint_needs_a_name(what):
    value = {"part": WITHOUT_A_FINGERPRINT[what]}
    said = f"`tokenizer.part` is a `{type(value['part']).__name__}`, which cannot be fingerprinted"
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        fingerprints_of(value, {"another": "v1"}, "tokenizer")
    assert 'fingerprints={"tokenizer.part": "its name, version 1"}' in str(error.value)
    assert fingerprints_of(value, {"tokenizer.part": "v1"}, "tokenizer") == {"part": "v1"}


def test_a_name_stands_for_the_whole_or_for_a_part():
    def teacher(seed):
        return ModelTeacher(net(seed), preprocess=lambda x: x)

    whole = [fingerprints_of(teacher(seed), {"teacher": "v1"}, "teacher") for seed in (0, 1)]
    assert whole == ["v1", "v1"]
    named = {"teacher.preprocess": "identity"}
    first, other = (fingerprints_of(teacher(seed), named, "teacher") for seed in (0, 1))
    assert first["preprocess"] == other["preprocess"] == "identity"
    assert first["model"] != other["model"]


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
