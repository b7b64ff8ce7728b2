"""An experiment on a few random points: what it writes, repeats, refuses and resumes."""

import json
import pathlib
import shutil
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Experiment, Term, _files
from keras_distill.experiments import experiment
from keras_distill.experiments.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("all_eagerly")  # the command line's tests trace such runs


def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)]
    )


def data(split):
    generator = np.random.default_rng(len(split))
    x = generator.normal(size=(24, 4)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (dataset.shuffle(24) if split == "train" else dataset).batch(8)


def tiny(**changes):
    arguments = {
        "student": lambda: model(2),
        "teacher": lambda: model(8),
        "data": data,
        "optimizer": lambda: keras.optimizers.Adam(0.01),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "epochs": 1,
        "seeds": 1,
    }
    return Experiment("tiny", **{**arguments, **changes})


def weights(folder, key):
    return keras.saving.load_model(folder / "arms" / f"{key}.keras", compile=False).get_weights()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def loss_of_tokens(y, found):
    """The loss of `SparseCategoricalCrossentropy`, which takes no -100."""
    return keras.losses.sparse_categorical_crossentropy(
        keras.ops.maximum(y, 0), found, from_logits=True
    )


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C in the `at`-th fit, at the end of its first epoch."""

    fits = 0

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_begin(self, logs=None):
        Interrupt.fits += 1

    def on_epoch_end(self, epoch, logs=None):
        if Interrupt.fits == self.at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny().run(folder)


def test_writes_everything(run):
    folder, results = run
    for name in ("report.html", "report.json", "student.keras", "teacher.keras"):
        assert (folder / name).is_file(), name
    assert (folder / "serving/tiny/1/saved_model.pb").is_file()
    assert not list(folder.rglob("*unfinished*"))
    for file in (*folder.glob("*.keras"), *folder.glob("arms/*.keras")):
        with zipfile.ZipFile(file) as held, h5py.File(held.open("model.weights.h5")) as weights:
            assert "optimizer" not in weights, file
    assert set(results["arms"]) == {"teacher", "alone", "distilled"}
    assert json.loads((folder / "report.json").read_text())["name"] == "tiny"
    assert results["arms"]["distilled"]["history"][0]["val_accuracy"]
    assert "kl_to_teacher" in results["arms"]["alone"]["seeds"][0]


def test_what_is_exported_after_a_resume_is_the_same_even_if_no_plot_can_be_drawn(
    tmp_path, monkeypatch
):
    """A SavedModel also holds the seeds of dropout, which the file of a trained model does not."""

    def student():
        return keras.Sequential([*model(2).layers, keras.layers.Dropout(0.5)])

    def variables():
        reader = tf.train.load_checkpoint(str(tmp_path / "serving/tiny/1/variables/variables"))
        names = [name for name in reader.get_variable_to_shape_map() if "OBJECT" not in name]
        return {reader.get_tensor(name).tobytes() for name in names}

    tiny(student=student).run(tmp_path)
    before = variables()
    assert len(before) > 4  # the four weights, and the seeds
    (tmp_path / "serving/mine").mkdir()
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *a, **k: [][0])
    tiny(student=student).run(tmp_path, resume=True)
    assert (tmp_path / "serving/mine").exists()  # another export of the user's
    assert variables() == before
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "could not be drawn" in page and "Comparison" in page


def test_iterators_end_at_once():
    assert tiny().data("train").options().autotune.enabled is False


def test_both_arms_get_the_same_weights_and_data(tmp_path, run, quick):
    tiny(alpha=0.0).run(tmp_path)
    assert same(weights(tmp_path, "alone-0"), weights(tmp_path, "distilled-0"))
    assert not same(weights(run[0], "alone-0"), weights(run[0], "distilled-0"))


@pytest.fixture
def quick(monkeypatch):
    """Runs without the comparison at their end, which trains nothing."""
    monkeypatch.setattr(Interrupt, "fits", 0)
    monkeypatch.setattr(experiment, "compare", lambda run, *rest: run)


def never():
    return [Interrupt(at=0)]


def same_runs(a, b, keys=("teacher", "alone-0", "distilled-0")):
    """Whether two runs trained the same models in the same way."""
    histories = [[RunFolder(folder).record(key)["history"] for key in keys] for folder in (a, b)]
    return histories[0] == histories[1] and all(same(weights(a, k), weights(b, k)) for k in keys)


@pytest.mark.parametrize("at", [1, 3])
def test_resumed_run_ends_as_an_uninterrupted_one(tmp_path, run, quick, at):
    with pytest.raises(KeyboardInterrupt):
        tiny().run(tmp_path, callbacks=lambda: [Interrupt(at)])
    assert len(list((tmp_path / "arms").glob("*.json"))) == at - 1
    tiny().run(tmp_path, resume=True, callbacks=never)
    assert Interrupt.fits == 4  # the one that was cut off was trained again
    assert same_runs(tmp_path, run[0])


def test_a_kill_while_a_model_is_written_leaves_no_model(tmp_path, run, quick, monkeypatch):
    save = keras.Model.save

    def killed(model, path):
        save(model, path)
        path = pathlib.Path(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        raise SystemExit("killed")

    monkeypatch.setattr(keras.Sequential, "save", killed)
    with pytest.raises(SystemExit):
        tiny().run(tmp_path)
    assert not list((tmp_path / "arms").iterdir())
    (tmp_path / "arms" / f"{_files.UNFINISHED}1-ab-teacher.keras").write_text("by a signal")
    monkeypatch.setattr(keras.Sequential, "save", save)
    tiny().run(tmp_path, resume=True)
    assert not list(tmp_path.rglob("*unfinished*"))
    assert same_runs(tmp_path, run[0])


def test_what_is_not_whole_is_trained_again(tmp_path, run, quick):
    shutil.copytree(run[0], tmp_path / "copy")
    (tmp_path / "copy/arms/alone-0.json").unlink()
    (tmp_path / "copy/arms/distilled-0.keras").unlink()
    tiny().run(tmp_path / "copy", resume=True, callbacks=never)
    assert Interrupt.fits == 2
    assert same_runs(tmp_path / "copy", run[0])


def test_seeds_may_be_added_behind_the_others(tmp_path, run, quick):
    shutil.copytree(run[0], tmp_path / "copy")
    tiny(seeds=2).run(tmp_path / "copy", resume=True, callbacks=never)
    assert Interrupt.fits == 2
    assert same_runs(tmp_path / "copy", run[0])
    for seeds in (1, [1, 0], [0, 2]):
        with pytest.raises(ValueError, match="seeds was"):
            tiny(seeds=seeds).run(tmp_path / "copy", resume=True)


def test_a_teacher_that_is_trained_already(tmp_path, run):
    saved = run[0] / "teacher.keras"
    results = tiny(teacher=lambda: keras.saving.load_model(saved), teacher_epochs=0).run(tmp_path)
    assert same(weights(tmp_path, "teacher"), weights(run[0], "teacher"))
    assert same(weights(tmp_path, "distilled-0"), weights(run[0], "distilled-0"))
    assert results["arms"]["teacher"]["history"] == [{}]
    assert (tmp_path / "report.html").exists()


def test_a_teacher_that_is_not_trained_needs_no_optimizer(tmp_path, run, quick):
    def none():
        raise RuntimeError("made an optimizer")

    saved = run[0] / "teacher.keras"
    made = tiny(teacher=lambda: keras.saving.load_model(saved), teacher_epochs=0,
                teacher_optimizer=none)  # fmt: skip
    made.run(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["training"]["teacher_optimizer"] is None


def test_a_schedule_is_the_same_in_every_process(tmp_path):
    def settings():
        return tiny(alpha=keras.optimizers.schedules.PolynomialDecay(0.9, 10))._settings()

    folder = RunFolder(tmp_path)
    folder.open(settings())
    folder.open(settings(), resume=True)
    other = tiny(alpha=keras.optimizers.schedules.PolynomialDecay(0.8, 10))._settings()
    with pytest.raises(ValueError, match="alpha.initial_learning_rate was 0.9 and is 0.8 now"):
        folder.open(other, resume=True)


def test_refuses_a_folder_with_a_run(run):
    with pytest.raises(FileExistsError, match="already holds a run"):
        tiny().run(run[0])


def test_refuses_to_resume_other_settings(run):
    before = (run[0] / "run.json").read_text()
    with pytest.raises(ValueError, match="other settings.* epochs was 1 and is 2 now"):
        tiny(epochs=2, teacher_epochs=1).run(run[0], resume=True)
    assert (run[0] / "run.json").read_text() == before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"optimizer": lambda: keras.optimizers.Adam(0.02)}, "optimizer.learning_rate was"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "loss.from_logits was true and"),
        ({"terms": [Term("mse", weight=2.0)]}, "terms was"),
    ],
)
def test_refuses_to_resume_what_trains_otherwise(run, changes, said):
    with pytest.raises(ValueError, match=f"training.{said}"):
        tiny(**changes).run(run[0], resume=True)


def test_parts_of_a_run_cannot_be_resumed(tmp_path):
    (tmp_path / "arms").mkdir()
    with pytest.raises(FileExistsError, match="parts of a run .arms. but no run.json"):
        tiny().run(tmp_path, resume=True)


def test_overwriting_keeps_what_is_not_the_runs(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report.json").write_text("{}")
    RunFolder(tmp_path).open({"seeds": [0]}, overwrite=True)
    assert (tmp_path / "notes.txt").exists()
    assert not (tmp_path / "report.json").exists()


class Unregistered(keras.Model):
    def __init__(self, width):
        super().__init__()
        self.dense = keras.layers.Dense(width)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": model(2)}, "`student` must be a function without arguments"),
        ({"student": lambda width: model(width)}, "`student` must be a function without arguments"),
        ({"data": lambda: None}, "`data` must be a function of 'split'"),
        ({"seeds": 0}, "positive number of seeds"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"epochs": 0}, "`epochs` must be an integer of at least 1. Received: epochs=0"),
        ({"teacher_epochs": -1}, "`teacher_epochs` must be an integer of at least 0"),
        ({"alpha": 2}, r"`alpha` must be in \[0, 1\]. Received: alpha=2"),
        ({"task": "values"}, "`task` must be one of classes, numbers. Received: task='values'"),
    ],
)
def test_bad_arguments_are_refused(changes, said):
    with pytest.raises((TypeError, ValueError), match=said):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": lambda: None}, "`student` must return a `keras.Model`"),
        ({"teacher": lambda: len}, "`teacher` must return a `keras.Model`.*`ModelTeacher`"),
        ({"student": lambda: Unregistered(3)}, "Register its classes"),
        ({"terms": [Term("mse", student="nowhere")]}, "has no layer `nowhere`"),
        ({"terms": lambda student, teacher: [Term("mse", source="aide")]}, "aide"),
        ({"data": lambda split: data(split).take(split != "test")}, "at least one batch"),
    ],
)
def test_what_does_not_fit_is_said_before_any_training(tmp_path, quick, changes, said):
    with pytest.raises((TypeError, ValueError), match=said):
        tiny(**changes).run(tmp_path, callbacks=never)
    assert Interrupt.fits == 0
    assert not list(tmp_path.iterdir())


def test_what_draws_the_report_is_missed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"keras-distill\[examples\]"):
        tiny().run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("metrics", [["accuracy"], ("accuracy",), {"head": "accuracy"}, None])
def test_metrics_are_as_compile_takes_them(metrics):
    inputs = keras.Input((4,))
    student = keras.Model(inputs, keras.layers.Dense(3, name="head")(inputs))
    made = tiny(metrics=metrics)
    made._compile(student, made.optimizer)
    logs = student.fit(data("train"), verbose=0).history
    assert ("accuracy" in logs) == (metrics is not None)


def test_a_list_of_terms_holds_no_weights():
    terms = [Term("mse", student="hidden", projector=keras.layers.Dense(8))]
    with pytest.raises(ValueError, match="`terms` must be a function.*projector"):
        tiny(terms=terms)
    assert tiny(terms=lambda student, teacher: terms) and tiny(terms=[Term("mse")])


def test_a_run_that_is_there_outlives_a_mistake(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="has no layer `nowhere`"):
        tiny(terms=[Term("mse", student="nowhere")]).run(tmp_path, overwrite=True)
    assert (tmp_path / "run.json").read_text() == "{}"


def test_labels_may_have_an_axis_of_one_and_the_test_split_a_shuffle(tmp_path):
    def shuffled(split):
        dataset = data(split).unbatch().map(lambda x, y: (x, y[None]))
        return dataset.shuffle(24).batch(8)

    results = tiny(data=shuffled).run(tmp_path)
    bins, count = results["reliability"]["teacher"], sum(results["reliability"]["teacher"]["count"])
    right = sum(n * (a or 0) for a, n in zip(bins["accuracy"], bins["count"], strict=True))
    accuracy = results["arms"]["teacher"]["seeds"][0]["accuracy"]
    assert right / count == pytest.approx(accuracy)


def of_one_unit(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(1)]
    )


def of_a_sum(split):
    x = np.random.default_rng(len(split)).normal(size=(24, 4)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, x.sum(-1))).batch(8)


ONE_UNIT = {"student": lambda: of_one_unit(2), "teacher": lambda: of_one_unit(8)}


def test_a_regression_is_judged_by_r_squared(tmp_path):
    made = tiny(**ONE_UNIT, data=of_a_sum, loss="mse", seeds=2)
    results = made.run(tmp_path)
    (x, y), = of_a_sum("test").batch(3).map(lambda x, y: (tf.reshape(x, (-1, 4)), y)).take(1)
    student = keras.saving.load_model(tmp_path / "arms" / "distilled-1.keras", compile=False)
    wrong = np.square(np.ravel(y) - student.predict(x, verbose=0)[:, 0]).mean()
    found = results["arms"]["distilled"]["seeds"][1]
    assert found["r2"] == pytest.approx(1 - wrong / np.var(y), rel=1e-5)
    assert found["distance_to_teacher"] > 0 and "accuracy" not in found
    assert results["arms"]["alone"]["history"][0]["val_mean_absolute_error"]
    best = max((0, 1), key=lambda seed: made.measure(keras.saving.load_model(
        tmp_path / "arms" / f"distilled-{seed}.keras", compile=False), "valid")["r2"])  # fmt: skip
    assert same(keras.saving.load_model(tmp_path / "student.keras", compile=False).get_weights(),
                weights(tmp_path, f"distilled-{best}"))  # fmt: skip
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "R²" in page and "accuracy" not in page


def test_one_unit_is_a_classifier_of_two(tmp_path):
    def yes_or_no(split):
        return of_a_sum(split).map(lambda x, y: (x, tf.cast(y > 0, "int32")))

    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    results = tiny(**ONE_UNIT, data=yes_or_no, loss=loss).run(tmp_path)
    x, y = (np.concatenate(each) for each in zip(*yes_or_no("test").as_numpy_iterator()))
    student = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    right = np.mean((student.predict(x, verbose=0)[:, 0] > 0) == y)
    assert results["arms"]["distilled"]["seeds"][0]["accuracy"] == right
    assert len(results["reliability"]) == 3


def tagger(width):
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, width)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def padded(split):
    """Texts padded to the longest of their batch, whose padding has labels that are no classes."""
    draw = np.random.default_rng(len(split))
    texts = [draw.integers(1, 9, length).tolist() for length in draw.integers(2, 7, 24)]
    ids = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(texts, dtype="int32"))
    found = ids.map(lambda row: (row, row % 3, tf.ones_like(row, "float32")))
    return found.padded_batch(8, padding_values=(0, -100, 0.0))


def test_an_answer_for_each_token_of_padded_texts(tmp_path):
    results = tiny(student=lambda: tagger(2), teacher=lambda: tagger(8), data=padded,
                   loss=loss_of_tokens).run(tmp_path)  # fmt: skip
    student = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    right = []
    for ids, labels, weights in padded("test").as_numpy_iterator():
        right += (student.predict(ids, verbose=0).argmax(-1) == labels)[weights > 0].tolist()
    assert results["arms"]["distilled"]["seeds"][0]["accuracy"] == pytest.approx(np.mean(right))
    assert len(results["reliability"]) == 3 and "doubts" not in results
    with np.load(tmp_path / "examples.npz") as kept:
        assert sorted(kept) == ["inputs", "sample_weight", "targets"]


def test_the_loss_or_the_task_says_what_is_judged():
    assert tiny().task.name == "classes" and tiny(loss="huber").task.name == "numbers"
    assert tiny(loss="mse", task="classes").metrics == ("accuracy",)
    assert tiny(loss=lambda y, f: abs(y - f), task="numbers").task.metric == "r2"


def test_a_strategy_trains_the_same(tmp_path, quick, request):
    tf.config.run_functions_eagerly(False)
    request.addfinalizer(lambda: tf.config.run_functions_eagerly(True))
    strategies = {"one": None, "mirrored": tf.distribute.MirroredStrategy(["CPU:0"])}
    for name, strategy in strategies.items():  # under a strategy Keras reads a batch first
        tiny(data=lambda split: data("test")).run(tmp_path / name, strategy=strategy)
    for key in ("teacher", "alone-0", "distilled-0"):
        for pair in zip(*(weights(tmp_path / name, key) for name in strategies), strict=True):
            np.testing.assert_allclose(*pair, atol=1e-6)


def test_what_changes_in_a_training_is_logged():
    alpha = keras.optimizers.schedules.PolynomialDecay(0.9, decay_steps=6, end_learning_rate=0.3)
    teacher = model(8)
    for given, names in [(alpha, {"alpha"}), (0.5, set())]:
        found = tiny(alpha=given, epochs=2)
        student, distiller, train = found.prepared("distilled", 0, teacher)
        logs = found._fit(student, distiller, train, 2, None)["history"]
        assert {"alpha"} & {*logs} == names
    alone, trained, train = found.prepared("alone", 0, None)
    assert "alpha" not in found._fit(alone, trained, train, 1, None)["history"]
