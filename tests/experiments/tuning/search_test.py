"""A search over few settings: what it stops, repeats, writes and resumes."""

import functools
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tuned_experiment import FILE

from keras_distill.cli.main import main
from keras_distill.experiments.compressing import compress
from keras_distill.experiments.experiment import Experiment
from keras_distill.experiments.file import load_experiment
from keras_distill.experiments.run_folder import RunFolder
from keras_distill.experiments.tuning import chosen, ranking, trial, tune
from keras_distill.experiments.tuning.ranking import row, verdict
from keras_distill.experiments.tuning.search import Candidate, _order
from keras_distill.report import tasks

SWEEP = {"recipe": ["hinton"], "temperature": [4.0], "alpha": [0.2, 0.9]}
CALL = {"halvings": 1, "leaders": 1, "repeats": 2}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def found(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return folder, tune(file, folder, SWEEP, command="keras_distill tune", **CALL)


def test_half_is_stopped_the_student_alone_never_and_leaders_have_fresh_seeds(found):
    folder, rows = found
    stages = json.loads((folder / "ranking.json").read_text())["search"]
    alone = [s["epochs"] for s in stages if s["setting"] == "alone"]
    taught = [s["epochs"] for s in stages if s["setting"] != "alone"]
    assert alone == [2, 4] and sorted(taught) == [2, 2, 4]
    scores = {s["setting"]: s["score"] for s in stages if s["epochs"] == 2}
    stopped = {*scores} - {s["setting"] for s in stages if s["epochs"] == 4}
    kept = [scores[s["setting"]] for s in stages if s["epochs"] == 4 and s["setting"] != "alone"]
    assert max(scores[name] for name in stopped) <= min(kept)
    (row,) = rows
    assert len(row["scores"]) == len(row["alone"]) == 2
    np.testing.assert_allclose(row["gain"], np.mean(row["scores"]) - np.mean(row["alone"]))
    names = {path.name for path in (folder / "trials").iterdir()}
    assert {"000-1-4.json", "000-2-4.json"} <= names  # the student alone, with the repeats' seeds
    assert not [name for name in names if not name.endswith(".json")]
    assert (folder / "ranking.png").stat().st_size > 1000


def test_the_winner_is_an_experiment(found, file):
    folder, rows = found
    experiment = load_experiment(folder / "winner.py", {"epochs": 3})
    (term,) = experiment.terms(None, None)
    assert experiment.alpha == rows[0]["setting"]["alpha"] and experiment.epochs == 3
    assert term.loss.temperature == rows[0]["setting"]["temperature"]
    assert any("inside" in name for name in experiment.origin["files"])
    with pytest.raises(ValueError, match="no option `depth`"):
        load_experiment(folder / "winner.py", {"depth": 3})


class Killed(BaseException):
    """As by a signal."""


def test_the_winner_takes_the_teacher_that_the_search_trained(found, file, tmp_path, capsys):
    winner = found[0] / "winner.py"
    load_experiment(winner, {"epochs": 1}).run(tmp_path)
    assert "The teacher is used without further training." in capsys.readouterr().out
    ours, theirs = (
        keras.saving.load_model(folder / "arms" / "teacher.keras").get_weights()
        for folder in (tmp_path, found[0])
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    again = winner.with_name("again.py")
    again.write_text(winner.read_text().replace('"teacher.keras"', '"gone.keras"'))
    with pytest.raises(FileNotFoundError, match="No such teacher.*gone.*TEACHER = None"):
        load_experiment(again, {})
    again.write_text(winner.read_text().replace("TEACHER = ", "TEACHER = None and "))
    assert load_experiment(again, {}).teacher_epochs == 4


def test_another_teacher_is_trained_where_its_options_are_given(found, tmp_path):
    text = FILE.replace("units=2, epochs=4, seeds=1", "units=2, teacher_epochs=2, data=None")
    file = tmp_path / "tiny.py"
    text = text.replace("def data(", "def batches_of(").replace("data=data,", "data=batches_of,")
    file.write_text(text.replace("epochs=epochs, seeds=seeds", "epochs=4"))
    teacher = found[0] / "arms" / "teacher.keras"
    make = functools.partial(chosen, file, {}, trained_teacher=teacher)
    before = {"teacher_epochs": 2, "data": str(tmp_path)}
    assert make(trained_with=before).teacher_epochs == 0
    assert make(trained_with=before, **before).teacher_epochs == 0
    assert make(trained_with=before, units=3).teacher_epochs == 0
    for other in ({"teacher_epochs": 3}, {"data": "elsewhere"}):
        assert make(trained_with=before, **other).teacher_epochs == 4


def test_a_killed_search_resumes_to_the_same_numbers(found, file, tmp_path, monkeypatch):
    out = shutil.copytree(found[0], tmp_path / "out")
    second = next(path for path in (out / "trials").glob("*-0-4.json") if path.name[:3] != "000")
    first = second.with_name(second.name.replace("-4.", "-2."))
    before = [json.loads(path.read_text()) for path in (first, second)]
    first.unlink(), second.unlink()
    written, write = [], trial.write_json

    def killed(path, value):
        written.append(path.name)
        if len(written) == 2:  # the second piece: trained, but not yet marked
            raise Killed
        write(path, value)

    monkeypatch.setattr(trial, "write_json", killed)
    with pytest.raises(Killed):
        tune(file, out, SWEEP, resume=True, **CALL)
    assert tune(file, out, SWEEP, resume=True, **CALL) == found[1]
    assert written == [first.name, second.name, second.name]  # one piece was trained twice
    for path, expected in zip((first, second), before, strict=True):
        again = json.loads(path.read_text())
        assert {**again, "seconds": 0} == {**expected, "seconds": 0}
    with pytest.raises(FileExistsError):
        tune(file, out, SWEEP, **CALL)
    with pytest.raises(ValueError, match="halvings was 1 and is 2 now"):
        tune(file, out, SWEEP, resume=True, **{**CALL, "halvings": 2})


def test_a_setting_that_diverges_is_last(found, file, tmp_path):
    teacher = keras.saving.load_model(found[0] / "arms" / "teacher.keras")
    setting = {"weight": 1e30, "alpha": 0.9}
    diverging = trial.Trial(tmp_path, "000", "distilled", 0)
    make = functools.partial(chosen, file, setting)
    record = diverging.train(make, 0, 1, teacher, found[0] / "targets")
    assert record["score"] == 0 and "Not finite" in record["failed"]
    fine = {"score": 0.0, "nll": 9.0}
    arms = [Candidate(0, setting, True, 1), Candidate(1, {}, True, 1)]
    assert min([(record, arms[0]), (fine, arms[1])], key=_order)[1] is arms[1]


def test_what_is_swept_is_not_set_as_well(file, tmp_path):
    with pytest.raises(ValueError, match="`alpha` is in `sweep`.*Leave it out of one of them"):
        tune(file, tmp_path / "run", {"alpha": [0.5, 0.9]}, options={"alpha": 0.1})
    assert not (tmp_path / "run").exists()


def test_the_verb(file, tmp_path, capsys, monkeypatch):
    given = {}
    tune = "keras_distill.experiments.tuning.tune"
    monkeypatch.setattr(tune, lambda *a, **k: given.update(k, sweep=a[2]))
    verb = ["tune", f"--experiment={file}", f"--out={tmp_path / 'out'}"]
    assert main([*verb, "--sweep=recipe=hinton,dist", "--sweep=alpha=0.5,1", "--set=units=3"]) == 0
    assert given["sweep"] == {"recipe": ["hinton", "dist"], "alpha": [0.5, 1]}
    assert given["options"] == {"units": 3} and given["leaders"] == 3
    for wrong, said in (
        ("--sweep=alpha", "KEY=VALUE,VALUE"),
        ("--teacher=no.keras", "No such model"),
    ):
        assert main([*verb, wrong]) == 2
        assert said in capsys.readouterr().err
    assert main(["tune", "--help"]) == 0
    assert "example:" in capsys.readouterr().out


@pytest.mark.parametrize("search", [
    lambda file, out: tune(file, out, SWEEP, teacher=out / "no.keras"),
    lambda file, out: compress(file, out),
])  # fmt: skip
def test_the_second_process_in_a_folder_is_refused(file, tmp_path, monkeypatch, search):
    monkeypatch.setattr("keras_distill.experiments.tuning.search.loaded", lambda path: None)
    monkeypatch.setattr(Experiment, "rehearse", lambda *arguments: None)
    with RunFolder(tmp_path).alone(), pytest.raises(RuntimeError, match="in use by another"):
        search(file, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_gains_are_by_pairs():
    def records(*scores):
        return [{"score": score} for score in scores]

    found = row({"alpha": 1}, records(0.9, 0.8, 0.7), records(0.8, 0.7, 0.5), {})
    np.testing.assert_allclose(found["gain"], 0.4 / 3)
    np.testing.assert_allclose(found["error"], np.std([0.1, 0.1, 0.2], ddof=1) / 3**0.5)
    assert "more than two" in verdict([found])
    assert "No setting" in verdict([row({}, records(0.5, 0.5), records(0.6, 0.6), {})])
    assert "may be chance" in verdict([row({}, records(0.6), records(0.5), {})])


def test_numbers_are_ranked_by_r_squared():
    found = row({"alpha": 1}, [{"score": -0.25}], [{"score": -0.5}], {})
    text = ranking.table([found], tasks.Numbers)
    assert "| setting | R² | student alone | gain |" in text
    assert "| -0.2500 | -0.5000 | +0.2500 |" in text
    failed = {"score": 0.0, "nll": None, "failed": "NaN"}  # which is more than -0.25
    arms = [Candidate(0, {}, True, 1), Candidate(1, {}, True, 1)]
    low = {"score": -0.25, "nll": None}
    assert min([(failed, arms[0]), (low, arms[1])], key=_order)[1] is arms[1]


def test_a_training_that_failed_is_no_gain():
    failed = [{"score": 0.0, "nll": None, "failed": "NaN"}]
    found = row({"alpha": 1}, [{"score": 0.9}], failed, {})
    assert found["gain"] is None and found["failed"] == 1
    assert "1 of 2 trainings failed" in ranking.table([found])
    assert "The gain is unknown" in verdict([found])


def test_what_is_found_outlives_a_plot(tmp_path, monkeypatch, capsys):
    """Text between dollars is a formula to matplotlib, here a wrong one."""
    found = row({"name": r"$\frac$"}, [{"score": 0.9}], [{"score": 0.8}], {})
    told = {"file": "file.py", "options": {}, "command": "tune"}
    ranking.write(tmp_path, [found], [], **told)
    assert (tmp_path / "ranking.png").exists()
    monkeypatch.setattr(ranking, "_plot", lambda *_: [][0])
    for name in ("ranking.json", "winner.py"):
        (tmp_path / name).unlink()
    ranking.write(tmp_path, [found], [], **told)
    assert (tmp_path / "ranking.json").exists() and (tmp_path / "winner.py").exists()
    assert "could not be drawn" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_damaged_state_is_named_with_the_way_out(tmp_path, content):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    (tmp_path / "arm-0-2.weights.h5").write_bytes(content)
    arm = trial.Trial(tmp_path, "arm", "alone", 0)
    train = tf.data.Dataset.from_tensors((np.ones((1, 2)), np.ones((1, 1))))
    with pytest.raises(ValueError, match=r"arm-0-2\.weights\.h5 is damaged.* begin with arm-0-"):
        arm._restore(model, train, 2)


def test_what_diverged_does_not_go_on(tmp_path):
    arm = trial.Trial(tmp_path, "arm", "distilled", 0)
    record = {"epochs": 2, "score": 0.0, "nll": None, "failed": "NaN", "seconds": 1.0,
              "run": None}  # fmt: skip
    (tmp_path / "arm-0-2.json").write_text(json.dumps(record))
    for begin, end in ((2, 4), (4, 8)):
        assert arm.train(None, begin, end, None, None) == {**record, "epochs": end}
