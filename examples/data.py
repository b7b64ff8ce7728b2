"""Texts for the examples: from tables of tab-separated columns or TensorFlow Datasets."""

import collections
import csv
import hashlib
import pathlib

import numpy as np

SPLITS = ("train", "valid", "test")


def add_arguments(parser, text="text", label="label"):
    """The flags that say where the texts come from, the same in every example of language."""
    parser.add_argument("--data", type=pathlib.Path, help="the folder of the prepared files")
    parser.add_argument("--tsv", type=pathlib.Path, help="a tab-separated file with a header")
    parser.add_argument("--tfds", help="a name in TensorFlow Datasets, such as imdb_reviews")
    parser.add_argument("--text", default=text, help="the texts' column or key")
    parser.add_argument("--label", default=label, help="the labels' (or targets') column or key")


def columns(given, names, file):
    """`{split: {name: list}}` of the columns `names`, from what the flags say.

    Args:
        given: the parsed flags of `add_arguments`.
        names: columns of the file, or keys of the dataset's examples.
        file: the name of the file that is read in the folder `--data`.

    Raises:
        ValueError: where no flag or several say where the texts are.
    """
    sources = [name for name in ("data", "tsv", "tfds") if getattr(given, name)]
    if sources == ["data"] or sources == ["data", "tsv"]:  # then `--data` holds only the encoder
        return from_tsv(given.tsv or given.data / file, names)
    if sources == ["tsv"]:
        return from_tsv(given.tsv, names)
    if sources in (["tfds"], ["data", "tfds"]):
        return from_tfds(given.tfds, names)
    raise ValueError(f"Give --data, --tsv or --tfds, one of them. Received: {sources or 'none'}")


def from_tsv(path, names):
    """Columns of a tab-separated file.

    A column `split` says where a row belongs: train, valid or test. Without one a hash of the
    first column of `names` does, in shares of 80, 10 and 10 in a hundred.
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
    """The split of a text, always the same for the same text."""
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 10
    return {8: "valid", 9: "test"}.get(number, "train")


def from_tfds(name, names, share=0.1):
    """Columns of a dataset in TensorFlow Datasets, which fetches it on first use.

    Where it has no validation split, or keeps its test labels secret (SST-2 gives -1), a tenth of
    the training split is for validation, and its validation split for the test.
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
    """`{split: (texts, labels)}` and the names of the classes, sorted, from `columns`.

    Args:
        found: what `columns` returns.
        text: the name of the texts' column.
        label: the name of the labels'.
        classes: how many classes to keep, the commonest in the training split; others' rows are
            left out. Defaults to `None`: all.
        limit: how many rows of each split, the first ones. Defaults to `None`: all.
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
