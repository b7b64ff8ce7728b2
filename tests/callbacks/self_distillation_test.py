"""Deep-to-shallow terms that open, close and go with one `fit`."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import Distiller
from keras_distill.callbacks import SelfDistillation

X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int64") + (X[:, 2] > 0)
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TERMS = ["exit_1_from_final", "exit_2_from_final"]


def net():
    x = inputs = keras.Input((6,))
    outputs = {}
    for name, width in (("exit_1", 4), ("exit_2", 6), ("final", 8)):
        x = layers.Dense(width, activation="relu", name=f"{name}_feature")(x)
        outputs[name] = layers.Dense(3, name=f"{name}_head")(x)
    return keras.Model(inputs, outputs)


def made(student=None, **compiled):
    distiller = Distiller(student or net())
    distiller.compile(keras.optimizers.SGD(0.1), CE, **compiled)
    return distiller


def fit(distiller, *callbacks, **arguments):
    arguments = {"epochs": 4, "batch_size": 10, "shuffle": False, "verbose": 0, **arguments}
    return distiller.fit(X, Y, callbacks=list(callbacks), **arguments).history


def twin(student):
    copy = keras.models.clone_model(student)
    copy.set_weights(student.get_weights())
    return copy


class Weights(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([v.numpy().copy() for v in self.model.trainable_variables])


def alike(one, other):
    return all(np.allclose(a, b, atol=1e-7) for a, b in zip(one, other))


def test_opens_at_its_epoch_and_is_gone_afterwards():
    student = net()
    watched, plain = Weights(), Weights()
    distiller, alone = made(student), made(twin(student))
    distiller.alpha = 0.5
    logs = fit(distiller, SelfDistillation("final", ["exit_1", "exit_2"], start_epoch=2), watched)
    # closed terms take no part, but their presence makes alpha count: half the label loss
    alone.compile(keras.optimizers.SGD(0.05), CE)
    fit(alone, plain)
    assert logs["self_distillation"] == [0, 0, 1, 1]
    assert [alike(a, b) for a, b in zip(watched.seen, plain.seen)] == [True, True, False, False]
    assert all(value > 0 for name in TERMS for value in logs[name])  # measured while closed, too
    assert not distiller.terms and {*fit(distiller, epochs=1)} == {
        "loss", "exit_1_loss", "exit_2_loss", "final_loss"
    }  # fmt: skip


def test_an_open_term_is_the_same_term():
    from keras_distill import Term, losses

    student = net()
    copy = twin(student)
    terms = [
        Term(losses.KLDivergence(3.0), student=f"output:exit_{k}", teacher="output:final",
             source="self", weight=0.5, name=f"kl_{k}")
        for k in (1, 2)
    ]  # fmt: skip
    fixed = Distiller(copy, terms=terms)
    fixed.compile(keras.optimizers.SGD(0.1), CE)
    fit(fixed)
    fit(made(student), SelfDistillation("final", ["exit_1", "exit_2"], weight=0.5))
    assert alike(student.get_weights(), copy.get_weights())


def test_nothing_is_traced_anew():
    traces = []

    class Traced(Distiller):
        def train_step(self, data):
            traces.append(1)
            return super().train_step(data)

    def count(start_epoch):
        distiller = Traced(net())
        distiller.compile(keras.optimizers.SGD(0.1), CE)
        traces.clear()
        fit(distiller, SelfDistillation("final", "exit_1", start_epoch=start_epoch))
        return len(traces)

    assert count(2) == count(0) > 0


def test_each_exits_accuracy_is_logged_as_keras_measures_it():
    distiller = made(metrics=["accuracy"])
    names = [f"{exit}_accuracy" for exit in ("exit_1", "exit_2", "final")]
    with_metrics = fit(distiller, SelfDistillation("final", ["exit_1", "exit_2"], accuracy=False))
    assert {*names} <= {*with_metrics}
    student = net()
    ours = fit(made(twin(student)), SelfDistillation("final", ["exit_1", "exit_2"]))
    keras_logs = fit(
        made(student, metrics=["accuracy"]),
        SelfDistillation("final", ["exit_1", "exit_2"], accuracy=False),
    )
    for name in names:
        np.testing.assert_allclose(ours[name], keras_logs[name], atol=1e-6)
    assert not [name for name in ours if name.startswith("accuracy_of")]


@pytest.mark.parametrize("labels", [Y[:, None], np.eye(3)[Y]])
def test_accuracy_of_other_shapes_of_labels(labels):
    loss = CE if labels.shape[-1] == 1 else keras.losses.CategoricalCrossentropy(from_logits=True)
    student = net()
    distiller = Distiller(student)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    logs = distiller.fit(
        X, labels, verbose=0, callbacks=[SelfDistillation("final", "exit_1")]
    ).history
    right = (np.argmax(student(X)["final"], -1) == Y).mean()
    assert logs["final_accuracy"][-1] == pytest.approx(right, abs=1e-6)


def test_opens_when_the_deep_exit_leads(monkeypatch):
    callback = SelfDistillation("final", ["exit_1", "exit_2"], margin=0.1, start_epoch=1)
    leads = {0: 0.5, 1: 0.05, 2: 0.2, 3: 0.0, 4: 0.0}

    class Scores(keras.callbacks.Callback):
        """Puts known accuracies into the logs before the callback reads them."""

        def on_epoch_end(self, epoch, logs=None):
            logs.update(accuracy_of_exit_1=0.4, accuracy_of_exit_2=0.3,
                        accuracy_of_final=0.4 + leads[epoch])  # fmt: skip

    # an early lead counts at the end of the epoch before `start_epoch`; a lost one closes nothing
    assert fit(made(), Scores(), callback, epochs=5)["self_distillation"] == [0, 1, 1, 1, 1]
    leads[0] = 0.0
    assert fit(made(), Scores(), callback, epochs=5)["self_distillation"] == [0, 0, 0, 1, 1]


def test_monitors_a_loss_and_validation():
    callback = SelfDistillation("final", "exit_1", margin=-100, monitor="val_loss")
    logs = fit(made(), callback, epochs=2, validation_data=(X, Y))
    assert logs["self_distillation"] == [0, 1]
    callback = SelfDistillation("final", "exit_1", margin=100, monitor="loss")
    assert fit(made(), callback, epochs=2)["self_distillation"] == [0, 0]
    with pytest.raises(ValueError, match="monitor.*val_final_recall"):
        fit(made(), SelfDistillation("final", "exit_1", margin=0, monitor="val_recall"), epochs=2)


def test_hints_have_projectors_that_are_trained():
    hint = {"exit_1_feature": "final_feature"}
    distiller = made()
    logs = fit(distiller, SelfDistillation("final", "exit_1", hint=hint), epochs=6)
    assert logs["exit_1_feature_hint"][-1] < logs["exit_1_feature_hint"][0]
    with pytest.raises(ValueError, match="optimizer is already built"):
        fit(distiller, SelfDistillation("final", "exit_1", hint={"exit_2_feature": "exit_2_head"}))


def test_a_second_fit_starts_closed():
    callback = SelfDistillation("final", "exit_1", start_epoch=1)
    distiller = made()
    assert fit(distiller, callback, epochs=2)["self_distillation"] == [0, 1]
    assert fit(distiller, callback, epochs=2)["self_distillation"] == [0, 1]
    assert fit(distiller, callback, epochs=3, initial_epoch=1)["self_distillation"] == [1, 1]


def test_a_killed_fit_resumes_with_what_a_margin_had_opened(tmp_path):
    class Killed(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(student, *others):
        callback = SelfDistillation("final", "exit_1", margin=-100)
        return fit(made(student), callback, *others)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    first = net()
    copies = [twin(first) for _ in range(2)]
    whole = run(first)
    with pytest.raises(KeyboardInterrupt):
        run(copies[0], backup(), Killed())
    assert whole["self_distillation"] == [0, 1, 1, 1]
    assert run(copies[1], backup())["self_distillation"] == [1, 1]
    assert alike(first.get_weights(), copies[1].get_weights())


def test_without_labels():
    distiller = Distiller(net())
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="accuracy=False"):
        distiller.fit(X, verbose=0, callbacks=[SelfDistillation("final", "exit_1")])
    callback = SelfDistillation("final", "exit_1", accuracy=False)
    assert "exit_1_from_final" in distiller.fit(X, verbose=0, callbacks=[callback]).history


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"shallow": []}, "at least one exit"),
        ({"shallow": ["final"]}, "other than `deep`"),
        ({"weight": -1}, "weight.*non-negative.*-1"),
        ({"hint": 0.1}, "`hint` must be a dict.*0.1"),
        ({"start_epoch": -1}, "start_epoch.*-1"),
        ({"start_epoch": 0.5}, "start_epoch.*0.5"),
        ({"monitor": "accuracy"}, "needs a `margin`"),
        ({"margin": "much"}, "margin.*number"),
        ({"margin": 0.1, "accuracy": False}, "accuracy=True"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SelfDistillation(**{"deep": "final", "shallow": ["exit_1"], **arguments})


def test_an_exit_that_does_not_exist_is_refused_before_training():
    distiller = made()
    before = distiller.student.get_weights()
    with pytest.raises(ValueError, match="exit_9.*exit_1"):
        fit(distiller, SelfDistillation("final", "exit_9"))
    assert alike(before, distiller.student.get_weights()) and not distiller.terms
