"""Trains the arms of a `Pair`; saves every training, so that a command can continue."""

import math
import pathlib

import keras
import numpy as np

from keras_distill import CachedTeacher, Distiller, Supervision, Term, recipes
from keras_distill._files import read_json, write_json
from keras_distill.recipes.defaults import chosen_by, signs

FALLS = "falls"  # the share of the teacher falls from 0.9 to 0 along a cosine


def terms_of(setting):
    """Returns the terms of `{"recipe", "temperature"}`; "values" means the squared error."""
    if setting.get("recipe", "values") == "values":
        return [Term("mse")]
    return getattr(recipes, setting["recipe"])(temperature=setting["temperature"])


class Trained:
    """A pair with its data and its teacher's answers.

    Args:
        name: the name of the pair.
        pair: a `Pair`.
        data: the folder of data that no dependency ships.
        out: the folder for answers and scores.
    """

    def __init__(self, name, pair, data, out):
        self.name, self.pair, self.data_folder = name, pair, data
        self.folder = pathlib.Path(out) / name.replace(", ", "-").replace(" ", "_")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = pair.data(data)
        self.answers = self._answers()

    def _answers(self):
        """Returns the teacher's outputs on each split, `{split: array}`."""
        path = self.folder / "answers.npz"
        if not path.exists():
            teacher = self._teacher()
            found = {split: teacher(x) for split, (x, _) in self.data.items()}
            np.savez(path, **found)
        return dict(np.load(path))

    def _teacher(self):
        if self.pair.black_box:
            return self.pair.teacher(*self._teachers_data()["train"])
        model = self.teacher()
        return lambda x: model.predict(x, batch_size=512, verbose=0)

    def _teachers_data(self):
        given = self.pair.teacher_data
        return self.data if given is None else given(self.data_folder)

    def teacher(self):
        """Returns the teacher that is a Keras model, trained once."""
        pair = self.pair
        path = self.folder.parent / ("fashion.keras" if pair.teacher_data else
                                     f"{self.folder.name}.keras")  # fmt: skip
        if not path.exists():
            keras.utils.set_random_seed(0)
            model = pair.teacher()
            self._fit(model, *self._teachers_data()["train"], pair.teacher_epochs, 2e-3)
            model.save(path)
        return keras.saving.load_model(path, compile=False)

    def _alpha(self, alpha):
        steps = math.ceil(len(self.data["train"][0]) / self.pair.batch) * self.pair.epochs
        return keras.optimizers.schedules.CosineDecay(0.9, steps) if alpha == FALLS else alpha

    def _fit(self, model, x, y, epochs, rate, **compiled):
        pair, count = self.pair, len(x)
        steps = math.ceil(count / pair.batch) * epochs
        loss = (keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                if pair.loss == "classes" else keras.losses.MeanSquaredError())  # fmt: skip
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        if not compiled:
            compiled = {"loss": loss, "steps_per_execution": 8}
        model.compile(keras.optimizers.Adam(decay), **compiled)
        model.fit(x, y, batch_size=pair.batch, epochs=epochs, verbose=0)

    def score(self, outputs, split):
        """Returns the score in percent: accuracy, or R squared."""
        y = self.data[split][1]
        if self.pair.loss == "classes":
            return 100 * float(np.mean(outputs.argmax(-1) == y))
        return 100 * float(1 - np.mean((outputs - y) ** 2) / np.var(y))

    def trained(self, arm, setting, seed):
        """Returns `{split: score}` of a student under a seed; alone if `setting` is `None`."""
        path = self.folder / f"{arm}-{seed}.json"
        known = read_json(path)
        if known is None:
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            student, (x, y) = self.pair.student(), self.data["train"]
            model = student
            if setting is not None:
                teacher = CachedTeacher()
                model = Distiller(student, teacher=teacher, terms=terms_of(setting),
                                  alpha=self._alpha(setting["alpha"]))  # fmt: skip
                y = Supervision(y, self.answers["train"])
            self._fit(model, x, y, self.pair.epochs, self.pair.rate)
            known = {"setting": setting, **self._scores(student)}
            write_json(path, known)
        return known

    def _scores(self, student):
        return {split: self.score(student.predict(x, batch_size=512, verbose=0), split)
                for split, (x, _) in self.data.items()}  # fmt: skip

    def by_keras(self, temperature, alpha, seed):
        """Returns `{split: score}` of a student that `keras.distillation` has trained.

        The loss is an object, since the name "kl_divergence" compares logits without softmax.
        """
        path = self.folder / f"keras-{temperature:g}-{alpha:g}-{seed}.json"
        if read_json(path) is None:
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            student, (x, y) = self.pair.student(), self.data["train"]
            loss = keras.distillation.LogitsDistillation(
                temperature=temperature, loss=keras.losses.KLDivergence()
            )
            model = keras.distillation.Distiller(
                self.teacher(), student, loss, student_loss_weight=1 - alpha
            )
            labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self._fit(model, x, y, self.pair.epochs, self.pair.rate, loss=labels)
            setting = {"temperature": temperature, "alpha": alpha}
            write_json(path, {"setting": setting, **self._scores(student)})
        return read_json(path)

    def default(self, seed):
        """Returns the choice of `recipes.default`, which needs one student trained alone."""
        found = {split: signs(self.answers[split], self.data[split][1])
                 for split in ("train", "valid")}  # fmt: skip
        alone = self.trained("alone", None, seed)
        return chosen_by(found["train"]._replace(
            valid=found["valid"].train, alone_train=alone["train"] / 100,
            alone_valid=alone["valid"] / 100,
            valid_examples=len(self.data["valid"][1])))  # fmt: skip
