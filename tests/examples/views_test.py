"""What the examples on images make of images, and their losses, against plain loops."""

import keras
import numpy as np
import pytest
import tensorflow as tf


def test_an_image_moves_by_an_eighth_at_most(example):
    matching = example("function_matching")
    keras.utils.set_random_seed(0)
    images = np.zeros((40, 16, 16, 1), "float32")
    images[:, 8, 5] = 1
    found = matching.moved(tf.constant(images)).numpy()
    places = np.argwhere(found[..., 0])
    assert len(places) == 40 and [*places[:, 0]] == [*range(40)]
    moves = places[:, 1:] - [8, 5]
    assert {*moves[:, 0]} == {*moves[:, 1]} == {-2, -1, 0, 1, 2}


def test_mixed_images_lie_between_two(example):
    keras.utils.set_random_seed(0)
    images = np.zeros((4, 2, 2, 1), "float32") + np.arange(4, dtype="float32")[:, None, None, None]
    found = example("function_matching").mixed(tf.constant(images)).numpy()
    assert (found == found[:, :1, :1]).all()  # one share for all pixels of an image
    assert ((found[0] > 0) & (found[0] < 3)).all() and found[1, 0, 0, 0] != found[2, 0, 0, 0]


def test_views_of_a_fixed_teacher_keep_its_answers(example):
    matching, images = example("function_matching"), example("images")
    splits = {"train": tuple(part[:32] for part in images.digits()["train"])}
    teacher = matching.network((8, 8, 1), (2, 2, 2))
    answers = teacher.predict(splits["train"][0], verbose=0)
    batches = list(matching.views("fixed teacher", teacher, splits, 16)("train"))
    given = np.concatenate([y.targets["output"] for _, y in batches])
    labels = np.concatenate([y.labels for _, y in batches])
    for answer, label in zip(answers, splits["train"][1]):
        same = np.isclose(given, answer, atol=1e-6).all(-1)
        assert same.any() and label in labels[same]
    shown = np.concatenate([x for x, _ in batches])
    assert not all((image == splits["train"][0]).all((1, 2, 3)).any() for image in shown)


def test_a_hard_decision_is_a_label(example):
    deit = example("deit")
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 5, 3)).astype("float32")
    found = np.array(deit.HardDecision().call(teacher, student))
    for t, s, value in zip(teacher, student, found):
        assert value == pytest.approx(np.log(np.exp(s).sum()) - s[np.argmax(t)], rel=1e-5)


def test_tokens_stand_before_the_patches(example):
    deit = example("deit")
    layer = deit.Tokens(2)
    patches = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    found = np.array(layer(patches))
    tokens, places = (weight.numpy() for weight in (layer.tokens, layer.places))
    assert found.shape == (3, 6, 5)
    np.testing.assert_allclose(found[:, :2], np.repeat(tokens + places[:, :2], 3, 0), atol=1e-6)
    np.testing.assert_allclose(found[:, 2:], patches + places[:, 2:], atol=1e-6)


def test_contrast_is_finding_the_other_view(example):
    encoder = example("foundation_encoder")
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    found = np.array(encoder.contrast(None, vectors, temperature=0.5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(6):
        alike = {j: unit[i] @ unit[j] / 0.5 for j in range(6) if j != i}
        total = np.log(sum(np.exp(value) for value in alike.values()))
        assert found[i] == pytest.approx(total - alike[(i + 3) % 6], rel=1e-4)


def test_views_stand_behind_their_images(example):
    encoder = example("foundation_encoder")
    grey = np.linspace(0.2, 1, 5, dtype="float32")
    images = np.broadcast_to(grey[:, None, None, None], (5, 8, 8, 1))
    found = encoder.views_of(images, 2)
    assert found.shape == (15, 8, 8, 1)
    np.testing.assert_array_equal(found[:5], images)
    for part in (found[5:10], found[10:]):  # what comes in at the edge is black
        np.testing.assert_allclose(part[:, 4, 4, 0], grey, atol=1e-5)
        assert (part[:, [0, -1]] < grey[:, None, None, None] - 1e-3).any()
    labels = np.array([1, 0, 1, 1, 0])
    assert encoder.few(labels, 2).tolist() == [1, 4, 0, 2]
