"""Reads texts for the examples, from tab-separated tables or from TensorFlow Datasets."""

import collections
import csv
import hashlib
import pathlib

import numpy as np

SPLITS = ("train", "valid", "test")


def add_arguments(parser, text="text", label="label"):
    """Adds the options that say where the texts come from. All examples of text have them."""
    parser.add_argument("--data", type=pathlib.Path, help="the folder of the prepared files")
    parser.add_argument("--tsv", type=pathlib.Path, help="a tab-separated file with a header")
    parser.add_argument("--tfds", help="a data set of TensorFlow Datasets to download")
    parser.add_argument("--text", default=text, help="the column or key of the texts")
    parser.add_argument("--label", default=label, help="the column or key of the labels or targets")


def columns(given, names, file):
    """Returns `{split: {name: list}}` for the columns `names`.

    Args:
        given: the parsed options of `add_arguments`, which choose the source.
        names: the columns of the file, or the keys of the data set's examples.
        file: the name of the file in the folder `--data`.

    Raises:
        ValueError: if the options choose no source, or several.
    """
    sources = [name for name in ("data", "tsv", "tfds") if getattr(given, name)]
    if sources == ["data"] or sources == ["data", "tsv"]:  # `--data` then only holds the encoder
        return from_tsv(given.tsv or given.data / file, names)
    if sources == ["tsv"]:
        return from_tsv(given.tsv, names)
    if sources in (["tfds"], ["data", "tfds"]):
        return from_tfds(given.tfds, names)
    raise ValueError(f"Give --data, --tsv or --tfds, and only one. Received: {sources or 'none'}")


def from_tsv(path, names):
    """Returns the columns of a tab-separated file.

    The column `split` says whether a row is for `train`, `valid` or `test`. Without that column, a
    hash of the first column of `names` splits the rows into 80, 10 and 10 percent.
    """
    found = {split: {name: [] for name in names} for split in SPLITS}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in names if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {missing}. It has: {rows.fieldnames}")
        for row in rows:
            split = row.get("split") or hashed_split(row[names[0]])
            for name in names:
                found[split][name].append(row[name])
    return found


def hashed_split(text):
    """Returns the split of a text. The same text always gets the same split."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return {8: "valid", 9: "test"}.get(number, "train")


def from_tfds(name, names, share=0.1):
    """Returns the columns of a data set in TensorFlow Datasets, which downloads it on first use.

    Some data sets have no validation split or no test labels (SST-2 gives -1). A tenth of their
    training split is then used for validation, and the labelled split that remains is used for the
    test.
    """
    import tensorflow_datasets as tfds

    def read(split):
        rows = list(tfds.as_numpy(tfds.load(name, split=split)))
        return {key: [_plain(row[key]) for row in rows] for key in names}

    there = tfds.builder(name).info.splits
    train = read("train")
    others = [read(split) for split in ("validation", "test") if split in there]
    others = [each for each in others if -1 not in each[names[-1]]]
    if not others:
        raise ValueError(f"{name} has neither a validation nor a test split with labels.")
    if len(others) == 2:
        return {"train": train, "valid": others[0], "test": others[1]}
    order = np.random.default_rng(0).permutation(len(train[names[0]]))
    cut = int(len(order) * share)
    return {
        "train": {key: [values[i] for i in order[cut:]] for key, values in train.items()},
        "valid": {key: [values[i] for i in order[:cut]] for key, values in train.items()},
        "test": others[0],
    }


def _plain(value):
    return value.decode() if isinstance(value, bytes) else value.item()


def classified(found, text, label, classes=None, limit=None):
    """Returns `{split: (texts, labels)}` and the sorted names of the classes.

    Args:
        found: the columns, as `columns` returns them.
        text: the name of the column of texts.
        label: the name of the column of labels.
        classes: how many classes to keep. The most common classes of the training split are kept,
            and rows of other classes are left out. Defaults to `None`, which keeps all.
        limit: how many rows of each split to keep, from the first. Defaults to `None`, which keeps
            all.
    """
    counts = collections.Counter(found["train"][label])
    names = sorted(name for name, _ in counts.most_common(classes))
    number = {name: index for index, name in enumerate(names)}
    splits = {}
    for split, columns_ in found.items():
        pairs = zip(columns_[text], columns_[label], strict=True)
        kept = [(words, number[name]) for words, name in pairs if name in number][:limit]
        splits[split] = [words for words, _ in kept], np.array([y for _, y in kept], "int64")
    return splits, names
