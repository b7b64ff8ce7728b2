"""The comparisons of the examples run whole at their smallest, and go on where they were."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill.experiments import Arm, Runner, run_folder

ARMS = {
    "self_distillation": ["each depth alone", "exits, labels only", "exits, self-distilled"],
    "early_exit": ["exit_1, for all", "exit_2, for all", "final, for all", "early exit",
                   "never early"],
    "mutual_learning": ["two peers, alone", "two peers, mutual", "teacher and student, online",
                        "teacher and student, offline"],
    "feature_distillation": ["teacher", "labels", "outputs", "outputs and hint",
                             "outputs and attention", "outputs and similarity"],
    "born_again": ["generation 0", "generation 1", "generation 2", "all generations together",
                   "a fifth of the labels", "and hard answers for the rest",
                   "and soft answers for the rest"],
    "teacher_assistant": ["teacher", "big assistant", "small assistant", "student of labels",
                          "student of labels, three times as long", "student of teacher",
                          "student of teacher, three times as long", "student of one assistant",
                          "student of two assistants"],
    "several_teachers": ["first teacher", "second teacher", "third teacher",
                         "three teachers together", "student of labels", "student of one teacher",
                         "student of three teachers, probabilities",
                         "student of three teachers, logits",
                         "student of three teachers, confidence"],
    "deit": ["teacher", "labels", "class token, soft", "two tokens, soft", "two tokens, hard"],
    "function_matching": ["teacher", "labels, short", "labels, long", "fixed teacher, short",
                          "fixed teacher, long", "same view, short", "same view, long",
                          "same view, mixed, short", "same view, mixed, long"],
    "foundation_encoder": ["pixels", "encoder", "student, untrained", "student, by contrast",
                           "student, direction", "student, likeness",
                           "student, direction and likeness"],
}  # fmt: skip


@pytest.fixture
def read_once(monkeypatch):
    """A file is read once while it stays as it is: a run reads its few models many times."""
    read, loaded = {}, run_folder.loaded

    def once(path):
        key = path, path.stat().st_mtime_ns
        if key not in read:
            read[key] = loaded(path)
        return read[key]

    monkeypatch.setattr(run_folder, "loaded", once)


@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.parametrize("name", ARMS)
def test_a_tiny_run_that_is_not_trained_twice(
    name, example, eagerly, read_once, tmp_path, capsys, monkeypatch
):
    module = example(name)
    module.main(["--tiny", f"--out={tmp_path}"])
    first = rows(tmp_path)
    assert [*first] == ARMS[name]
    assert all(np.isfinite(value) for row in first.values() for value in row.values())
    assert f"| {ARMS[name][0]} |" in capsys.readouterr().out

    def again(*arguments, **others):
        raise RuntimeError("trained again")

    monkeypatch.setattr(keras.Model, "fit", again)
    module.main(["--tiny", f"--out={tmp_path}", "--on=test"])
    assert without_times(rows(tmp_path)) == without_times(first)
    with pytest.raises(ValueError, match="other settings.*limit was .* and is 7 now"):
        module.main(["--tiny", f"--out={tmp_path}", "--limit=7"])
    for file in tmp_path.glob("*.keras"):  # beside those of the arms, which the second run read
        assert keras.models.load_model(file).count_params()


def rows(folder):
    found = json.loads((folder / "results.json").read_text())["arms"]
    return {arm: seeds[0] for arm, seeds in found.items()}


def without_times(found):
    return {
        arm: {column: value for column, value in row.items() if "latency" not in column}
        for arm, row in found.items()
    }


def test_networks_of_another_run_are_not_trained(example, eagerly, tmp_path, monkeypatch):
    exits, early, images = map(example, ("self_distillation", "early_exit", "images"))

    def untrained(seed, model_of):
        return exits.made(seed, exits.with_exits, (8, 8, 1)), {}

    arm = {exits.SELF_DISTILLED: Arm(untrained)}
    runner = Runner(arm, seeds=1, folder=tmp_path / "exits")
    runner.run()
    net = runner.model(exits.SELF_DISTILLED, 0)

    def again(*arguments, **others):
        raise RuntimeError("trained again")

    monkeypatch.setattr(exits, "trained", again)
    flags = ["--tiny", f"--out={tmp_path / 'early'}", f"--nets={tmp_path / 'exits'}"]
    early.main(flags)
    _, data = images.images_of(images.options("", flags[:1], out="."))
    measured = rows(tmp_path / "early")["final, for all"]["accuracy"]
    assert measured == pytest.approx(exits.accuracy(net, data("test"))["final"], abs=1e-3)


def test_the_limit_is_the_training_images(example):
    images = example("images")
    splits, data = images.images_of(images.options("", ["--limit=50"], out="."))
    assert [len(splits[split][0]) for split in ("train", "valid", "test")] == [50, 400, 600]
    assert data("train").cardinality() == 1


def test_online_and_offline_cost_the_same(example):
    module, images = example("mutual_learning"), example("images")
    given = images.options("", [], out=".")
    splits, _ = images.images_of(given)
    costs = module.compute(given, splits)
    assert module.teacher_epochs(given) == 8
    online, offline = (costs[f"teacher and student, {how}"] for how in ("online", "offline"))
    assert online == pytest.approx(offline, rel=1e-9)
    big = module.network((8, 8, 1), module.BIG)
    one = module.models.operations(big, tf.TensorSpec((1, 8, 8, 1)))
    assert online > 12 * 3 * one * 797 / 1e12
