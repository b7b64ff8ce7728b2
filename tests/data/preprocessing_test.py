"""What is given as data, and what a teacher with a preprocessor makes of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import CachedTeacher, Distiller, EnsembleTeacher, ModelTeacher, Term, losses
from keras_distill.data import read_targets, verify_targets, write_targets
from keras_distill.data.batches import as_dataset

hub = pytest.importorskip("keras_hub")
TEXTS = ["a b", "b", "c a", "b b a", "c"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def text_task(seed=0, length=6, words=WORDS):
    keras.utils.set_random_seed(seed)
    backbone = hub.models.BertBackbone(
        len(words), num_layers=1, num_heads=2, hidden_dim=4, intermediate_dim=8,
        max_sequence_length=8, dropout=0.0,
    )  # fmt: skip
    tokenizer = hub.models.BertTokenizer(words)
    preprocessor = hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)
    task = hub.models.BertTextClassifier(
        backbone, num_classes=3, preprocessor=preprocessor, dropout=0.0
    )
    for weight in task.weights:  # the initial ones say nearly the same of all texts
        weight.assign(np.random.default_rng(seed).normal(size=weight.shape))
    return task


def image_task():
    keras.utils.set_random_seed(2)
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64],
        stackwise_num_blocks=[1], stackwise_num_strides=[1], block_type="basic_block",
        image_shape=(8, 8, 3),
    )  # fmt: skip
    converter = hub.layers.ResNetImageConverter(image_size=(8, 8), scale=1 / 255.0)
    preprocessor = hub.models.ResNetImageClassifierPreprocessor(converter)
    return hub.models.ResNetImageClassifier(
        backbone=backbone, num_classes=3, preprocessor=preprocessor
    )


def served(dataset, path):
    """The targets of a cache, in the dataset's order."""
    return np.concatenate([y.targets["output"] for _, y in read_targets(dataset, path)])


def strings(texts=TEXTS):
    return tf.data.Dataset.from_tensor_slices(texts).batch(2)


def test_a_task_reads_strings_as_its_own_predict_does(tmp_path):
    task = text_task()
    write_targets(task, strings(), tmp_path, dtype="float32", verbose=0)
    expected = task.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(served(strings(), tmp_path), expected, atol=1e-5)
    found = verify_targets(task, strings(), tmp_path)["output"]
    assert found["rows"] == len(TEXTS) and found["largest_error"] < 1e-5
    tokens = task.preprocessor(TEXTS)
    ready = tf.data.Dataset.from_tensor_slices(tokens).batch(2)
    write_targets(task, ready, tmp_path / "tokens", dtype="float32", verbose=0)
    np.testing.assert_allclose(served(ready, tmp_path / "tokens"), expected, atol=1e-5)


def test_a_task_reads_raw_images_as_its_own_predict_does(tmp_path):
    task, images = image_task(), np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3))
    images = images.astype("float32")
    write_targets(task, images, tmp_path, dtype="float32", verbose=0)
    expected = task.predict(images, verbose=0)
    np.testing.assert_allclose(served(images, tmp_path), expected, atol=1e-4)
    assert np.abs(expected - task(images)).max() > 1e-2  # without its preprocessor


def test_a_student_of_another_tokenizer_learns_from_a_cache_of_strings(tmp_path):
    teacher, student = text_task(1), text_task(2, length=5, words=[*WORDS[:5], "c", "b", "a"])
    data = tf.data.Dataset.from_tensor_slices((TEXTS, np.arange(5) % 3)).batch(5)
    write_targets(teacher, data, tmp_path, dtype="float32", verbose=0)
    distiller = Distiller(student, teacher=CachedTeacher(), terms=[Term(losses.KLDivergence(1.0))])
    distiller.compile(keras.optimizers.SGD(0.0), LOGITS)
    found = distiller.fit(read_targets(data, tmp_path), verbose=0).history["kl_divergence"]
    ours, theirs = (np.log(keras.ops.convert_to_numpy(keras.ops.softmax(
        task.predict(TEXTS, verbose=0)))) for task in (student, teacher))  # fmt: skip
    expected = (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
    assert found[0] == pytest.approx(expected, rel=1e-3)


def test_a_teachers_own_preprocess_comes_before_the_tasks(tmp_path):
    task = text_task()
    read = ModelTeacher(task, preprocess=lambda x: task.preprocessor(tf.strings.lower(x)))
    named = {"teacher.preprocess": "lower case, version 1"}
    upper = [text.upper() for text in TEXTS]
    write_targets(read, strings(upper), tmp_path, dtype="float32", verbose=0, fingerprints=named)
    expected = task.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(served(strings(upper), tmp_path), expected, atol=1e-5)


def test_an_ensemble_of_tasks_is_refused_in_words(tmp_path):
    ensemble = EnsembleTeacher([text_task(0), text_task(1)])
    with pytest.raises(ValueError, match="has a preprocessor, but the members.*must read the same"):
        write_targets(ensemble, strings(), tmp_path, verbose=0)
    tokens = tf.data.Dataset.from_tensor_slices(text_task().preprocessor(TEXTS)).batch(2)
    assert write_targets(ensemble, tokens, tmp_path, verbose=0).rows == len(TEXTS)


def test_lists_and_columns_are_batched(tmp_path):
    pandas = pytest.importorskip("pandas")
    task = text_task()
    expected = task.predict(TEXTS, verbose=0)
    frame = pandas.DataFrame({"text": TEXTS, "label": np.arange(5)})
    given = {"list": TEXTS, "array": np.array(TEXTS), "column": frame["text"],
             "pair": (frame["text"], frame["label"])}  # fmt: skip
    for name, data in given.items():
        write_targets(task, data, tmp_path / name, dtype="float32", verbose=0)
        np.testing.assert_allclose(served(data, tmp_path / name), expected, atol=1e-5)
    _, y = next(iter(read_targets(given["pair"], tmp_path / "pair")))
    np.testing.assert_array_equal(y.labels, np.arange(5)[:, None])


def test_structures_of_arrays():
    x = np.arange(70.0)
    assert as_dataset([x[:, None], list(x)]).element_spec[1].shape.as_list() == [None]
    assert as_dataset({"a": x, "b": x}).element_spec["a"].dtype == tf.float64
    assert [len(batch) for batch in as_dataset(x)] == [32, 32, 6]
    dataset = tf.data.Dataset.range(3)
    assert as_dataset(dataset) is dataset


class Batches(keras.utils.PyDataset):
    """Pairs of batches, the last of which is shorter and has other lengths."""

    passes = 0

    def __len__(self):
        return 3

    def __getitem__(self, index):
        count, length = (2, 5) if index == 2 else (4, 3)
        ids = np.full((count, length), index)
        return {"ids": ids, "text": ["a"] * count}, np.arange(count), np.ones(count, "float32")

    def on_epoch_end(self):
        self.passes += 1


def test_a_py_dataset_is_read_in_its_order_and_told_of_the_end():
    data = Batches()
    dataset = as_dataset(data)
    x, y, weight = dataset.element_spec
    shapes = [spec.shape.as_list() for spec in (x["ids"], x["text"], y)]
    assert shapes == [[None, None], [None], [None]]
    assert (x["text"].dtype, weight.dtype, len(dataset)) == (tf.string, tf.float32, 3)
    for passes in (1, 2):
        assert [len(y) for _, y, _ in dataset] == [4, 4, 2] and data.passes == passes


def test_a_student_learns_from_the_targets_of_a_py_dataset(tmp_path):
    class Pairs(Batches):
        def __getitem__(self, index):
            x = np.random.default_rng(index).normal(size=(4, 3)).astype("float32")
            return x, np.arange(4) % 2, None

    teacher, data = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), Pairs()
    write_targets(teacher, data, tmp_path, dtype="float32", verbose=0)
    for index, (x, y) in enumerate(read_targets(data, tmp_path, teacher=teacher)):
        np.testing.assert_array_equal(x, data[index][0])
        np.testing.assert_allclose(y.targets["output"], teacher(x), rtol=1e-6)


def test_what_is_no_data_is_refused():
    with pytest.raises(TypeError, match=r"`dataset` must be a batched.*of type generator"):
        as_dataset(x for x in range(3))
    with pytest.raises(ValueError, match="finite number of batches.*num_batches=None"):
        as_dataset(type("Endless", (Batches,), {"num_batches": None})())
    with pytest.raises(ValueError, match=r"same number of examples. Received: \[2, 3\]"):
        as_dataset((np.zeros(3), np.zeros(2)))
