"""Students with fewer tokens that read the teacher's token ids."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller, models

IDS = np.array([[1, 2, 3, 0, 0, 0], [3, 1, 2, 2, 0, 0]])


def classifier(mask_zero=True):
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype="int32", name="ids")
    mean = layers.GlobalAveragePooling1D()(layers.Embedding(20, 4, mask_zero=mask_zero)(ids))
    return keras.Model(ids, layers.Dense(3)(layers.Dense(8, "relu")(mean)))


def vectors(model):
    found = [layer for layer in model._flatten_layers() if isinstance(layer, layers.Embedding)]
    return keras.ops.convert_to_numpy(found[0].embeddings)


def test_kept_tokens_have_their_vectors_and_the_others_the_mean_of_theirs():
    teacher = classifier()
    student = models.shrink(teacher, vocabulary=[1, 2, 3], same_ids=True)
    np.testing.assert_allclose(student(IDS), teacher(IDS), atol=1e-6)
    words = vectors(teacher)
    np.testing.assert_array_equal(vectors(student)[:4], words[:4])  # padding stays
    np.testing.assert_allclose(vectors(student)[4:], [words[4:].mean(0)], atol=1e-6)
    np.testing.assert_allclose(student(IDS + 4), student(np.full_like(IDS, 19)), atol=1e-6)


def test_it_is_saved_and_trained_as_any_model(tmp_path):
    teacher = classifier()
    student = models.shrink(teacher, vocabulary=[1, 2, 3], width=0.5, same_ids=True, name="small")
    student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(loaded(IDS), student(IDS), atol=1e-6)
    assert student.name == "small" and student.count_params() == 5 * 4 + 4 * 4 + 4 + 4 * 3 + 3
    before = vectors(student)
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(IDS, np.array([0, 1]), verbose=0)
    assert np.any(vectors(student) != before)


def test_a_sequential_model_of_floats_and_no_padding():
    teacher = keras.Sequential([keras.Input((6,)), layers.Embedding(20, 5), layers.Flatten(),
                                layers.Dense(2)])  # fmt: skip
    student = models.shrink(teacher, vocabulary=[2, 7], same_ids=True)
    ids = np.array([[2, 7, 2, 2, 7, 7]])
    np.testing.assert_allclose(student(ids), teacher(ids), atol=1e-6)
    assert vectors(student).shape == (3, 5)
    new_ids = models.shrink(teacher, vocabulary=[2, 7])
    np.testing.assert_allclose(new_ids(ids == 7), teacher(ids), atol=1e-6)


def test_tokens_that_occur():
    assert models.seen_tokens(classifier(), [IDS, (IDS + 1, [0, 1])]) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="Received: strings"):
        models.seen_tokens(classifier(), [np.array(["a", "b"], object)])


def test_a_task_of_keras_hub():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(vocabulary_size=30, num_layers=2, num_heads=2, hidden_dim=8,
                                       intermediate_dim=8, max_sequence_length=6)  # fmt: skip
    teacher = hub.models.BertTextClassifier(backbone, num_classes=2)
    x = {"token_ids": IDS, "segment_ids": 0 * IDS, "padding_mask": IDS > 0}
    seen = models.seen_tokens(teacher, [x])
    student = models.shrink(teacher, depth=1, vocabulary=seen, same_ids=True)
    np.testing.assert_allclose(student(x), models.shrink(teacher, depth=1)(x), atol=1e-6)
    words = keras.ops.convert_to_numpy(backbone.token_embedding.embeddings)
    kept = student.layers[-1].backbone.token_embedding.embeddings
    np.testing.assert_allclose(kept[4], words[4:].mean(0), atol=1e-6)


@pytest.mark.parametrize("given, message", [
    ({"same_ids": True, "width": 0.5}, "`same_ids` needs `vocabulary`"),
    ({"same_ids": True, "vocabulary": [20]}, r"ids in \[0, 20\)"),
])  # fmt: skip
def test_wrong_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        models.shrink(classifier(), **given)


def test_a_model_without_tokens_is_refused():
    dense = keras.Sequential([keras.Input((6,)), layers.Dense(3), layers.Dense(2)])
    for same_ids in (False, True):
        with pytest.raises(ValueError, match="has no vocabulary to cut.*Leave `vocabulary` out"):
            models.shrink(dense, vocabulary=3, same_ids=same_ids)
    with pytest.raises(ValueError, match="has no vocabulary"):
        models.seen_tokens(dense, [IDS])
