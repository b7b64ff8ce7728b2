"""The runner on arms of one number: what it trains, keeps, refuses and goes on with."""

import functools
import json
import pathlib
import re

import keras
import numpy as np
import pytest

from keras_distill.experiments import Arm, Runner, markdown, over_seeds


def number(value):
    """A model that holds one number."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), value)])
    return model


def held(model):
    return float(np.squeeze(model.get_weights()[0]))


class Comparison:
    """A teacher, a student that adds its seed to it, and the sum of both; counts trainings."""

    def __init__(self):
        self.done, self.kills = [], []

    def train(self, name, make, seed, model_of):
        self.done.append((name, seed))
        if (name, seed) in self.kills:
            self.kills.remove((name, seed))
            raise KeyboardInterrupt
        return number(make(seed, model_of)), {"history": {"loss": [1.0]}}

    def arms(self):
        def measure(seed, model, model_of):
            return {"value": held(model)}

        def both(seed, model, model_of):
            return {"sum": held(model_of("teacher")) + held(model_of("student"))}

        def student(seed, model_of):
            return held(model_of("teacher")) + seed

        teacher = functools.partial(self.train, "teacher", lambda seed, _: 10.0)
        return {
            "teacher": Arm(teacher, measure, once=True),
            "student": Arm(functools.partial(self.train, "student", student), measure),
            "both": Arm(None, both),
        }

    def runner(self, folder, seeds=3, **more):
        return Runner(self.arms(), seeds=seeds, folder=folder, **more)


EXPECTED = {
    "teacher": [{"value": 10.0}],
    "student": [{"value": 10.0}, {"value": 11.0}, {"value": 12.0}],
    "both": [{"sum": 20.0}, {"sum": 21.0}, {"sum": 22.0}],
}


def test_every_arm_is_trained_once_a_seed_and_the_teacher_once(tmp_path, capsys):
    compared = Comparison()
    runner = compared.runner(tmp_path)
    assert runner.run(title="test split") == EXPECTED
    assert compared.done == [("teacher", 0), ("student", 0), ("student", 1), ("student", 2)]
    assert json.loads((tmp_path / "results.json").read_text())["arms"] == EXPECTED
    assert "3 of 3 seeds, test split" in capsys.readouterr().out
    assert runner.record("student", 2) == {"history": {"loss": [1.0]}}
    assert runner.file("student", 2).exists() and runner.is_trained("teacher")
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.parametrize("at", [("teacher", 0), ("student", 0), ("student", 1)])
def test_a_killed_run_goes_on_where_it_was(tmp_path, at):
    compared = Comparison()
    compared.kills.append(at)
    with pytest.raises(KeyboardInterrupt):
        compared.runner(tmp_path).run()
    assert compared.runner(tmp_path).run(resume=True) == EXPECTED
    assert compared.done.count(at) == 2 and len(compared.done) == 5
    assert compared.runner(tmp_path).run(resume=True) == EXPECTED
    assert len(compared.done) == 5


def test_an_arm_that_others_need_is_trained_on_demand(tmp_path):
    compared = Comparison()
    arms = compared.arms()
    arms = {name: arms[name] for name in ("both", "teacher", "student")}
    arms |= {name: arms[name]._replace(measure=None) for name in ("teacher", "student")}
    results = Runner(arms, seeds=[5], folder=tmp_path).run()
    assert results == {"both": [{"sum": 25.0}]}
    assert compared.done == [("teacher", 5), ("student", 5)]


def test_training_and_measuring_apart_give_the_same(tmp_path):
    compared = Comparison()
    runner = compared.runner(tmp_path)
    runner.open()
    runner.train()
    assert len(compared.done) == 4
    assert runner.measure() == EXPECTED and len(compared.done) == 4


def test_a_run_is_neither_mixed_nor_deleted_by_mistake(tmp_path):
    compared = Comparison()
    compared.runner(tmp_path, seeds=1, settings={"alpha": 0.5, "data": tmp_path}).run()
    with pytest.raises(FileExistsError, match="already holds a run"):
        compared.runner(tmp_path, seeds=1, settings={"alpha": 0.5}).run()
    with pytest.raises(ValueError, match="other settings.*alpha was 0.5 and is 0.9 now"):
        compared.runner(tmp_path, settings={"alpha": 0.9, "data": tmp_path}).run(resume=True)
    with pytest.raises(ValueError, match="seeds was .0. and is .1, 0. now"):
        compared.runner(tmp_path, seeds=[1, 0], settings={"alpha": 0.5, "data": tmp_path}).check(
            resume=True
        )
    assert len(compared.done) == 2
    same = compared.runner(tmp_path, settings={"alpha": 0.5, "data": tmp_path})
    assert same.run(resume=True) == EXPECTED and len(compared.done) == 4
    compared.runner(tmp_path, seeds=1, settings={"alpha": 0.9}).run(overwrite=True)
    assert len(compared.done) == 6


def test_a_model_is_kept_without_its_optimizer_and_read_by_load(tmp_path):
    model, paths = number(3.0), []
    model.compile("adam", "mse")
    model.fit(np.ones((2, 1)), np.ones((2, 1)), verbose=0)

    def load(path):
        paths.append(path)
        return keras.saving.load_model(path)

    arm = Arm(lambda seed, model_of: (model, {}), lambda seed, m, _: {"value": held(m)})
    runner = Runner({"a, b": arm}, seeds=1, folder=tmp_path, load=load)
    assert runner.run()["a, b"][0]["value"] == pytest.approx(held(model))
    assert [path.name for path in paths] == ["a_b-0.keras"]
    assert model.compiled and not runner.model("a, b", 0).compiled


def test_wrong_arguments_are_refused(tmp_path):
    arms = Comparison().arms()
    for seeds in (0, [], [1, 1], ["one"]):
        with pytest.raises(ValueError, match="`seeds` must be a positive number"):
            Runner(arms, seeds=seeds, folder=tmp_path)
    with pytest.raises(ValueError, match="names of arms also name files"):
        Runner({"a, b": arms["both"], "a: b": arms["both"]}, seeds=1, folder=tmp_path)
    runner = Runner(arms, seeds=1, folder=tmp_path)
    for name in ("both", "nobody"):
        with pytest.raises(ValueError, match="a trained arm .teacher, stud"):
            runner.model(name, 0)


def test_a_table_shows_counts_means_and_gaps():
    rows = {"teacher": {"share": 0.5, "count": 1200}, "student": {"share": [0.25, 0.75]}}
    assert markdown(rows, digits=2).splitlines() == [
        "| | share | count |", "|---|---|---|", "| teacher | 0.50 | 1,200 |",
        "| student | 0.50 ± 0.35 | - |",
    ]  # fmt: skip
    results = {"a": [{"accuracy": 90.0}, {"accuracy": 91.0}, {"accuracy": 92.0}]}
    assert markdown(over_seeds(results)).splitlines()[2] == "| a | 91.00 ± 1.00 |"
    rows = over_seeds({"a": [{"best": 90}, {"best": 94, "late": 1}]})
    assert markdown(rows).splitlines()[2] == "| a | 92.00 ± 2.83 | 1 |"


def test_what_is_said_can_be_silenced(tmp_path, capsys):
    keras.config.disable_interactive_logging()
    try:
        Comparison().runner(tmp_path).run()
    finally:
        keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == ""


def test_the_example_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (pathlib.Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    scope = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], scope)
    assert {arm: len(rows) for arm, rows in scope["results"].items()} == {
        "teacher": 1,
        "alone": 2,
        "distilled": 2,
    }
