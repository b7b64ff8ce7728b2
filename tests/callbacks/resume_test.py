"""A `fit` that was killed goes on and ends as one that was not, bit for bit."""

import contextlib
import os
import pathlib
import re
import signal

import children
import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow")
from full_disk import full_disk
from resumed import KINDS, At, Killed, kill, train

from keras_distill import Distiller, _files
from keras_distill.callbacks import Resume
from keras_distill.training import checkpoints
from keras_distill.training.resuming import Place


@pytest.fixture(scope="module")
def uninterrupted():
    """What each kind of data ends with, by its name; trained when it is first asked for."""
    found = {}
    return lambda kind: found.setdefault(kind, train(kind, None))


def killed(kind, folder, at, **arguments):
    with pytest.raises(Killed):
        train(kind, folder, [At(at, kill)], **arguments)


def same(found, expected):
    weights, history = found
    np.testing.assert_equal(weights, expected[0])
    assert {*history} == {*expected[1]}
    for name, values in expected[1].items():
        np.testing.assert_allclose(history[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("kind", "at"), zip(KINDS, (9, 4, 8, 9, 6)))
def test_what_was_killed_ends_as_what_was_not(tmp_path, uninterrupted, kind, at):
    """The last one is killed after the last step of an epoch of unknown length."""
    killed(kind, tmp_path, at)
    same(train(kind, tmp_path), uninterrupted(kind))


def test_the_same_again_trains_nothing_and_more_epochs_go_on(tmp_path, uninterrupted):
    whole = uninterrupted("arrays")
    train("arrays", tmp_path, epochs=2, every=None)
    same(train("arrays", tmp_path), whole)
    same(train("arrays", tmp_path, [At(1, kill)]), whole)


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(tmp_path, uninterrupted):
    killed("arrays", tmp_path, 9)
    latest, before = checkpoints.listed(tmp_path)
    content = bytearray(pathlib.Path(latest).read_bytes())
    content[len(content) // 2] ^= 255
    pathlib.Path(latest).write_bytes(content)
    with pytest.warns(UserWarning, match=f"{pathlib.Path(latest).name} is damaged"):
        same(train("arrays", tmp_path), uninterrupted("arrays"))


def test_a_full_disk_is_said_and_costs_what_came_after(tmp_path, uninterrupted):
    with contextlib.ExitStack() as later:
        fills = At(3, lambda: later.enter_context(full_disk()))
        with pytest.raises(OSError, match=re.escape(checkpoints.path_of(tmp_path, Place(0, 4)))):
            train("arrays", tmp_path, [fills])
    assert checkpoints.listed(tmp_path) == [checkpoints.path_of(tmp_path, Place(0, 2))]
    same(train("arrays", tmp_path), uninterrupted("arrays"))


@pytest.mark.parametrize("at", [8, 6])  # how it is compressed, and whether it is encrypted
def test_a_checkpoint_that_zipfile_cannot_read_is_damaged(tmp_path, at):
    about, paths = {"epoch": 0}, [checkpoints.path_of(tmp_path, Place(0, step)) for step in (1, 2)]
    for path in paths:
        checkpoints.write(path, about, {"variables": [np.ones(3)]})
    content = bytearray(pathlib.Path(paths[1]).read_bytes())
    for mark, offset in ((b"PK\3\4", at), (b"PK\1\2", at + 2)):
        where = content.find(mark)
        while where >= 0:
            content[where + offset] |= 1
            where = content.find(mark, where + 1)
    pathlib.Path(paths[1]).write_bytes(content)
    with pytest.warns(UserWarning, match="000002.npz is damaged"):
        assert checkpoints.latest(tmp_path)[0] == paths[0]


def test_where_all_are_damaged_nothing_is_trained(tmp_path):
    pathlib.Path(checkpoints.path_of(tmp_path, Place(1, 0))).write_bytes(b"PK")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="All checkpoints in"):
        train("arrays", tmp_path)


def test_data_in_another_order_are_refused(tmp_path):
    killed("arrays", tmp_path, 3)
    with pytest.raises(ValueError, match="The first batch differs"):
        train("arrays", tmp_path, seed=1)


def test_a_process_that_is_killed_or_told_to_end_goes_on(tmp_path, uninterrupted):
    """The one is another process, which draws the same numbers; the other ends at step 6."""
    child = children.start("resumed.py", tmp_path, "arrays", KILL="5")
    child.communicate(timeout=600)
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(SystemExit) as end:
        train("arrays", tmp_path, [At(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    assert end.value.code == 143
    place = Place(1, 0) if keras.backend.backend() == "jax" else Place(0, 6)  # the epoch's last
    assert checkpoints.listed(tmp_path)[0] == checkpoints.path_of(tmp_path, place)
    same(train("arrays", tmp_path), uninterrupted("arrays"))


def test_the_second_process_is_refused(tmp_path):
    with _files.alone(tmp_path / ".in-use", "It"):
        with pytest.raises(RuntimeError, match="is in use by another process"):
            train("arrays", tmp_path)


def test_what_a_killed_process_left_of_a_checkpoint_is_deleted(tmp_path):
    part = tmp_path / f"{_files.UNFINISHED}1-00000000-state-000001-000000000.npz"
    other = tmp_path / f"{_files.UNFINISHED}1-00000000-report.html"
    part.write_bytes(bytes(9)), other.write_bytes(bytes(9))
    train("arrays", tmp_path, epochs=1)
    assert not part.exists() and other.exists()


def test_a_model_that_is_no_distiller_is_told_what_to_do(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(TypeError, match=r"`Distiller\(student, alpha=0\)`"):
        model.fit(np.ones((2, 2)), np.ones((2, 1)), callbacks=[Resume(tmp_path)], verbose=0)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_steps_are_whole_and_positive(tmp_path, every):
    with pytest.raises(ValueError, match="`every` must be"):
        Resume(tmp_path, every)


def test_a_student_alone_without_terms(tmp_path):
    def alone(callbacks):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
        )
        distiller = Distiller(model, alpha=0)
        distiller.compile("adam", "mse", metrics=["mae"])
        x = np.random.default_rng(0).normal(size=(20, 5))
        history = distiller.fit(x, x[:, :2], batch_size=4, epochs=2, callbacks=callbacks, verbose=0)
        return model.get_weights(), history.history

    whole = alone([])
    with pytest.raises(Killed):
        alone([Resume(tmp_path, 1), At(3, kill)])
    same(alone([Resume(tmp_path, 1)]), whole)
