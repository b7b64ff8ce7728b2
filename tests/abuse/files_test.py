"""Files that were damaged are refused by their names, or give what they gave when they were whole.

`ABUSE_MUTATIONS` says how many damages are drawn in all, and `ABUSE_SEED` where the seeds begin.
The folders are small, nothing is trained, and each kind of file is damaged in every way that
`mutations` knows.
"""

import collections
import os
import pathlib
import random
import shutil
import warnings

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")

import tensorflow as tf
from mutations import mutated

from keras_distill.cli import mistakes
from keras_distill.data import TargetsOnDisk, read_targets, records, write_targets
from keras_distill.data.keys import hashed
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.run_folder import RunFolder
from keras_distill.training import checkpoints
from keras_distill.training.resuming import Place

MUTATIONS = int(os.environ.get("ABUSE_MUTATIONS", 400))
SEED = int(os.environ.get("ABUSE_SEED", 0))
N = 24
X = np.random.default_rng(0).normal(size=(N, 4)).astype("float32")
CACHES = {
    "whole": {"paths": ["output", "hidden"], "dtype": "float32"},
    "top": {"top_k": 2},
    "bytes": {"top_k": 3, "dtype": "uint8"},
}


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(5)]
    )


def damaged(folder, count, act, seed):
    """Damages one file of a folder after the other, and acts; the file then is as it was.

    `act(name)` raises what is refused, or returns nothing where all is as it was. An error must be
    one that the command line says in a line, and name a file of the folder.
    """
    draw, seen = random.Random(seed), collections.Counter()
    files = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    for _ in range(count):
        path = draw.choice(files)
        whole = path.read_bytes()
        way, content = mutated(whole, draw)
        path.write_bytes(content)
        said = "as it was"
        try:
            act(path.relative_to(folder).as_posix())
        except Exception as error:
            said = mistakes.line(error, folder)
            about = f"{path.name}, {way}: {type(error).__name__}: {str(error)[:300]}"
            if said is None:
                raise AssertionError(f"an error that is no refusal: {about}") from error
            if not any(each.name in said for each in files) and str(folder) not in said:
                raise AssertionError(f"no file is named: {about}") from error
            said = "refused"
        path.write_bytes(whole)
        seen[said] += 1
    assert seen["refused"] > count // 4, seen
    return seen


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """`{name: (folder, right targets)}`."""
    found, data = {}, tf.data.Dataset.from_tensor_slices(X).batch(8)
    for name, arguments in CACHES.items():
        path = tmp_path_factory.mktemp(name) / "cache"
        write_targets(net(), data, path, rows_per_shard=10, verbose=0, **arguments)
        for mark in path.glob(".in-use*"):
            mark.unlink()  # it holds nothing
        found[name] = path, targets_of(path)
    return found


KEYS = hashed(tf.constant(X)).numpy()


def targets_of(path):
    """The targets of all examples, read as the pipeline reads them."""
    cache = TargetsOnDisk(path)
    found = records.parse(cache.forms, cache.lookup(KEYS, KEYS))
    return [np.asarray(leaf) for leaf in tf.nest.flatten(found)]


def same(found, right):
    for one, other in zip(found, right, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_cache_gives_right_targets_or_none(caches, name):
    folder, right = caches[name]
    damaged(folder, MUTATIONS // 8, lambda _: same(targets_of(folder), right), SEED)


def test_every_damaged_byte_of_a_shard_is_found(caches):
    """By `verify`, those around the records too."""
    folder, _ = caches["whole"]
    draw, shards = random.Random(SEED), sorted(folder.glob("*.tfrecord"))
    for _ in range(MUTATIONS // 8):
        shard = draw.choice(shards)
        whole = shard.read_bytes()
        changed, at = bytearray(whole), draw.randrange(len(whole))
        changed[at] ^= draw.randint(1, 255)
        shard.write_bytes(changed)
        with pytest.raises(ValueError, match=f"{shard.name}.*damaged"):
            TargetsOnDisk(folder).verify()
        shard.write_bytes(whole)


def test_the_pipeline_refuses_what_the_reader_refuses(caches):
    folder, right = caches["top"]
    data = tf.data.Dataset.from_tensor_slices(X).batch(8)

    def read(_):
        batches = [y.targets for _, y in read_targets(data, folder)]
        leaves = [tf.nest.flatten(batch) for batch in batches]
        same([np.concatenate(each) for each in zip(*leaves)], right)

    damaged(folder, MUTATIONS // 40, read, SEED)


def test_a_damaged_cache_is_written_again_or_refused(caches, tmp_path):
    folder, right = caches["top"]
    data = tf.data.Dataset.from_tensor_slices(X).batch(8)
    copy = tmp_path / "cache"

    def write(name):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        try:
            write_targets(net(), data, copy, rows_per_shard=10, verbose=0, **CACHES["top"])
        except Exception as error:
            raise type(error)(str(error).replace(str(copy), str(folder))) from error
        same(targets_of(copy), right)

    draw, files = random.Random(SEED), sorted(folder.iterdir())
    for _ in range(MUTATIONS // 40):
        path = draw.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, draw)[1])
        try:
            write(path.name)
        except (ValueError, FileNotFoundError) as error:
            assert any(each.name in str(error) for each in files) or str(folder) in str(error)
        path.write_bytes(whole)


# Runs

SETTINGS = {"seeds": [0, 1], "epochs": 2, "options": {"units": 3}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run") / "run")
    folder.open(SETTINGS)
    folder.keep("alone-0", net(), {"history": {"loss": [1.0, 0.5]}, "seconds": 1.5})
    return folder.path


def test_a_damaged_run_is_refused_or_goes_on(run):
    weights = net().get_weights()

    def resume(name):
        folder = RunFolder(run)
        folder.check(SETTINGS, resume=True)
        if folder.is_trained("alone-0"):
            assert isinstance(folder.record("alone-0"), dict)
            same(folder.model("alone-0").get_weights(), weights)

    damaged(run, MUTATIONS // 4, resume, SEED)


def test_a_damaged_checkpoint_is_not_taken(tmp_path):
    arrays = [np.arange(12.0).reshape(3, 4), np.float32(3), np.zeros((0, 2), "int64")]
    about = {"epoch": 1, "step": 2, "stopped": False, "history": {}, "epochs": [0]}
    older, newer = (checkpoints.path_of(tmp_path, Place(1, step)) for step in (2, 4))
    checkpoints.write(older, about, {"variables": arrays})
    checkpoints.write(newer, {**about, "step": 4}, {"variables": arrays})
    draw, whole = random.Random(SEED), pathlib.Path(newer).read_bytes()
    for _ in range(MUTATIONS // 8):
        pathlib.Path(newer).write_bytes(mutated(whole, draw)[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path, found, groups = checkpoints.latest(tmp_path)
        assert found["step"] == (2 if path == older else 4)
        same(groups["variables"], arrays)


# Experiments

EXPERIMENT = '''"""An experiment."""
import keras

from keras_distill import Experiment


def experiment(units=3, epochs=2, label="größe"):
    return Experiment("tiny", student=lambda: units, teacher=lambda: units, data=lambda split: [],
                      optimizer=keras.optimizers.Adam, loss="mse", epochs=epochs, seeds=[0, 1])
'''


def test_a_damaged_experiment_is_refused_by_its_name(tmp_path):
    """Or it is another experiment: what it says then is what its file says."""
    (tmp_path / "tiny.py").write_text(EXPERIMENT, encoding="utf-8")
    draw, file = random.Random(SEED), tmp_path / "tiny.py"
    whole = file.read_bytes()
    for _ in range(MUTATIONS // 8):
        way, content = mutated(whole, draw)
        file.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python, about the file
                load_experiment(file, {"units": 4})
        except Exception as error:
            said = mistakes.line(error, tmp_path)
            assert said is not None and file.name in said, (way, content, error)
