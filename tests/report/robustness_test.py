"""What is done to inputs to make them worse, by what they are."""

import numpy as np

from keras_distill.report.robustness import changes

RANDOM = np.random.default_rng(0)


def made(x):
    return {name: change(x, np.random.default_rng(1)) for name, change in changes(x).items()}


def test_images_get_noise_and_are_shifted():
    images = RANDOM.random((6, 16, 24, 3)).astype("float32")
    found = made(images)
    assert [*found] == ["noise of 0.1 deviations", "noise of 0.3 deviations", "shifted by 6%",
                        "shifted by 12%"]  # fmt: skip
    noise = found["noise of 0.3 deviations"] - images
    assert abs(noise.std() / images.std() - 0.3) < 0.02 and noise.dtype == "float32"
    moved = found["shifted by 12%"]
    ways = [(a, b) for a in (2, -2) for b in (3, -3)]
    sides = [np.roll(images[0], way, (0, 1))[2:-2, 3:-3] for way in ways]
    assert any(np.array_equal(moved[0, 2:-2, 3:-3], each) for each in sides)
    np.testing.assert_array_equal(made(images)["shifted by 12%"], moved)


def test_pixels_stay_pixels():
    noisy = made(RANDOM.integers(0, 256, (4, 9, 9), dtype="uint8"))["noise of 0.3 deviations"]
    assert noisy.dtype == "uint8"


def test_small_images_are_shifted_once():
    assert [n for n in changes(np.zeros((2, 8, 8), "float32")) if "shifted" in n] == [
        "shifted by 12%"]  # fmt: skip


def test_token_ids_lose_words_but_not_the_first():
    ids = RANDOM.integers(5, 99, (50, 40))
    found = made(ids)["30% of the tokens missing"]
    assert (found[:, 0] == ids[:, 0]).all()
    assert 0.25 < np.mean(found[:, 1:] == 0) < 0.35 and ((found == ids) | (found == 0)).all()
    masked = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    hidden = made(masked)["30% of the tokens missing"]
    np.testing.assert_array_equal(hidden["padding_mask"] == 0, hidden["token_ids"] == 0)


def test_texts_lose_words():
    texts = np.array(["one two three four five six seven eight nine ten"] * 30, object)
    found = made(texts)["30% of the words missing"]
    counts = [len(text.split()) for text in found]
    assert 6 < np.mean(counts) < 8 and min(counts) >= 1


def test_other_inputs_are_left_alone():
    assert changes({"a": np.zeros((2, 3), "int64"), "b": np.zeros((2, 3))}) == {}
    assert [*changes({"a": np.zeros((2, 3)), "b": np.zeros((2, 3))})] == [
        "noise of 0.1 deviations", "noise of 0.3 deviations"]  # fmt: skip
