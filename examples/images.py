"""Reads small grey images for the examples, from scikit-learn, idx files or TensorFlow Datasets."""

import argparse
import functools
import gzip
import pathlib

import numpy as np
import tensorflow as tf
from settings import add_settings

from keras_distill.data import without_autotune
from keras_distill.experiments import Runner

FILES = {"train": "train", "test": "t10k"}


def digits():
    """Returns scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which are part of its wheel.

    The split is always the same. It has 797 images for training, 400 for validation and 600 for the
    test. Every digit has the same share in each.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    images, test_x, labels, test_y = train_test_split(
        images, labels, test_size=600, stratify=labels, random_state=0
    )
    train_x, valid_x, train_y, valid_y = train_test_split(
        images, labels, test_size=400, stratify=labels, random_state=0
    )
    return {"train": (train_x, train_y), "valid": (valid_x, valid_y), "test": (test_x, test_y)}


def from_idx(folder, valid=5000):
    """Reads MNIST or Fashion-MNIST from the idx `.gz` files in `folder`."""
    folder = pathlib.Path(folder)
    read = {}
    for split, prefix in FILES.items():
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        read[split] = images, read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return _three_splits(read["train"], read["test"], valid)


def read_idx(path):
    """Returns the array of a gzipped idx file of bytes.

    The file holds a magic number, the sizes and the values.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Give the folder of the idx files to --data.")
    content = gzip.decompress(path.read_bytes())
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an idx file of bytes.")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * rank).reshape(shape)


def from_tfds(name, valid=5000):
    """Reads the same from TensorFlow Datasets, which downloads it on first use."""
    import tensorflow_datasets as tfds

    def arrays(split):
        both = tfds.load(name, split=split, as_supervised=True, batch_size=-1)
        images, labels = tfds.as_numpy(both)
        return np.squeeze(images, -1), labels

    return _three_splits(arrays("train"), arrays("test"), valid)


def _three_splits(train, test, valid):
    """Uses the last `valid` training images for validation, and scales pixels to [0, 1]."""
    splits = {
        "train": [part[:-valid] for part in train],
        "valid": [part[-valid:] for part in train],
        "test": test,
    }
    return {
        split: (images[..., None].astype("float32") / 255, labels.astype("int64"))
        for split, (images, labels) in splits.items()
    }


@functools.lru_cache(maxsize=1)  # `tune` loads the same data many times
def load(data=None, tfds=None, limit=None):
    """Returns `{split: (images, labels)}` from idx files, TensorFlow Datasets or scikit-learn.

    `limit` keeps only the first examples of each split.
    """
    splits = from_idx(data) if data else from_tfds(tfds) if tfds else digits()
    return {split: (x[:limit], y[:limit]) for split, (x, y) in splits.items()}


def batched(splits, batch_size):
    """Returns a function from a split's name to its batches.

    It shuffles the training split in each epoch.
    """

    def data(split):
        images, labels = splits[split]
        dataset = tf.data.Dataset.from_tensor_slices((images, labels))
        if split == "train":
            dataset = dataset.shuffle(len(images))  # the experiment sets the seed
        return without_autotune(dataset.batch(batch_size).prefetch(2))

    return data


def options(about, arguments=None, *, out, **settings):
    """Parses the command line of a comparison, with the common options and one for each setting."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", help="the folder of the idx files of Fashion-MNIST")
    parser.add_argument("--tfds", help="a data set of TensorFlow Datasets to download")
    parser.add_argument("--out", default=out, type=pathlib.Path, help="the folder of the results")
    parser.add_argument("--limit", type=int, help="use only the first training images")
    parser.add_argument("--on", default="test", choices=("valid", "test"),
                        help="the split to measure; choose settings on `valid`")  # fmt: skip
    parser.add_argument("--tiny", action="store_true", help="few images, one seed, one epoch")
    add_settings(parser, **{"seeds": 3, "epochs": 12, "batch_size": 128, **settings})
    given = parser.parse_args(arguments)
    if given.tiny:
        given.seeds, given.epochs, given.batch_size = 1, 1, 32
    return given


def images_of(given):
    """Returns the splits that the command line chooses, and the function that batches them."""
    splits = load(given.data, given.tfds, limit=32 if given.tiny else None)
    splits["train"] = tuple(part[: given.limit] for part in splits["train"])
    return splits, batched(splits, given.batch_size)


def compared(given, arms, measured=()):
    """Trains and measures the arms of a comparison. The same command resumes a killed run.

    Args:
        given: the parsed options, as `options` returns them.
        arms: `{name: Arm}`.
        measured: the names of the options that change only how models are measured.
    """
    apart = {"out", "seeds", "on", *measured}
    settings = {name: value for name, value in vars(given).items() if name not in apart}
    return Runner(arms, seeds=given.seeds, folder=given.out, settings=settings).run(resume=True)
