"""Losses on maps against plain loops."""

import numpy as np
import pytest
from backends import array, tensor, tensorflow_only, tf

from keras_distill.losses import ChannelWise, IntraClassVariation, PixelWise

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = (RANDOM.normal(size=(2, 3, 4, 5)) for _ in range(2))


def call(loss, teacher=TEACHER, student=STUDENT, **extras):
    return array(loss.call(*(tensor(x, "float32") for x in (teacher, student)), **extras))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def divergence(teacher, student, temperature):
    one, other = softmax(teacher / temperature), softmax(student / temperature)
    return temperature**2 * np.sum(one * np.log(one / other))


def mse(teacher, student):
    return np.sum((softmax(teacher) - softmax(student)) ** 2)


def channels(maps, example):
    return [maps[example, :, :, c].ravel() for c in range(5)]


def pixels(maps):
    return [maps[b, i, j] for b in range(2) for i in range(3) for j in range(4)]


def test_channels_are_distributions_over_positions():
    for example, value in enumerate(call(ChannelWise(3.0))):
        pairs = zip(channels(TEACHER, example), channels(STUDENT, example))
        np.testing.assert_allclose(value, np.mean([divergence(*p, 3.0) for p in pairs]), rtol=1e-5)
    for example, value in enumerate(call(ChannelWise(3.0, divergence="mse"))):
        pairs = zip(channels(TEACHER, example), channels(STUDENT, example))
        np.testing.assert_allclose(value, np.mean([mse(*p) for p in pairs]), rtol=1e-5)


def test_positions_may_be_a_sequence():
    flat = (x.reshape(2, 12, 5) for x in (TEACHER, STUDENT))
    np.testing.assert_allclose(call(ChannelWise(), *flat), call(ChannelWise()), rtol=1e-6)


def test_a_channel_of_minus_infinity_is_finite():
    padded = [np.concatenate([x, np.full((2, 3, 4, 1), -np.inf)], -1) for x in (TEACHER, STUDENT)]
    for loss in (ChannelWise(), ChannelWise(3.0), ChannelWise(divergence="mse")):
        np.testing.assert_allclose(6 * call(loss, *padded), 5 * call(loss), rtol=1e-5)


@tensorflow_only
def test_a_channel_of_minus_infinity_is_finite_by_xla():
    """Dividing -1e30 by three is rounded once by eager and maybe never by XLA."""
    maps = tensor(np.concatenate([STUDENT, np.full((2, 3, 4, 1), -np.inf)], -1), "float32")
    by_xla = tf.function(ChannelWise(3.0).call, jit_compile=True)
    np.testing.assert_allclose(by_xla(maps, maps), [0, 0], atol=1e-6)


def test_pixels_are_distributions_over_classes():
    pairs = list(zip(pixels(TEACHER), pixels(STUDENT)))
    expected = np.reshape([divergence(*pair, 2.0) for pair in pairs], (2, 3, 4))
    np.testing.assert_allclose(call(PixelWise(2.0)), expected, rtol=1e-4, atol=1e-6)
    of_code = call(PixelWise(2.0, variant="code"))
    np.testing.assert_allclose(of_code, expected / 4 / 5, rtol=1e-4, atol=1e-6)
    squares = np.reshape([mse(*pair) for pair in pairs], (2, 3, 4))
    np.testing.assert_allclose(call(PixelWise(2.0, divergence="mse")), squares, rtol=1e-4)


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def variation(maps, labels, counts, b, i, j):
    """The cosine of a pixel's feature with the center of its class."""
    if not 0 <= labels[b, i, j] < 2:
        return 1.0
    same = [
        maps[b, k, m]
        for k in range(3)
        for m in range(4)
        if labels[b, k, m] == labels[b, i, j] and counts[b, k, m]
    ]
    return cosine(maps[b, i, j], np.mean(same, axis=0))


@pytest.mark.parametrize("masked", [False, True])
def test_pixels_point_away_from_their_class(masked):
    labels, counts = RANDOM.integers(0, 3, (2, 3, 4)), np.ones((2, 3, 4))
    labels[0, 0, 0] = 255
    if masked:
        counts = RANDOM.integers(0, 2, (2, 3, 4)).astype("float32")
    mask = tensor(counts, "float32") if masked else None
    values = call(IntraClassVariation(2), labels=tensor(labels), mask=mask)
    for place in np.argwhere(counts):
        teacher, student = (variation(x, labels, counts, *place) for x in (TEACHER, STUDENT))
        expected = (teacher - student) ** 2
        np.testing.assert_allclose(values[tuple(place)], expected, rtol=1e-4, atol=1e-6)


def test_labels_take_the_size_of_the_maps():
    labels = RANDOM.integers(0, 3, (2, 3, 4))
    expected = call(IntraClassVariation(3), labels=tensor(labels))
    larger = np.repeat(np.repeat(labels, 2, 1), 3, 2)
    for one in (larger, larger[..., None], larger.astype("uint8")):
        values = call(IntraClassVariation(3), labels=tensor(one))
        np.testing.assert_allclose(values, expected)
    image = call(IntraClassVariation(3), labels=tensor([1, 2]))
    whole = call(IntraClassVariation(3), labels=tensor(np.ones((2, 3, 4), "int32")))
    np.testing.assert_allclose(image, whole)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="`divergence` must be one of .*divergence='l1'"):
        ChannelWise(divergence="l1")
    with pytest.raises(ValueError, match="`classes` must be positive. Received: classes=0"):
        IntraClassVariation(0)
    with pytest.raises(ValueError, match="needs labels"):
        call(IntraClassVariation(3))
    with pytest.raises(ValueError, match="same height and width"):
        call(IntraClassVariation(3), TEACHER[:, :2], labels=tensor([1, 2]))
