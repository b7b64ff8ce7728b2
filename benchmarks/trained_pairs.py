"""Trains the arms of a `Pair`; saves every training, so that a command can continue."""

import math
import pathlib

import keras
import numpy as np
from pairs import BATCH
from peer import keras_distiller

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
            teacher, read = self._teacher(), self.pair.teacher_reads
            inputs = read(self.data_folder) if read else self.data
            found = {split: teacher(x) for split, (x, _) in inputs.items()}
            np.savez(path, **found)
        return dict(np.load(path))

    def _teacher(self):
        """Returns the trained teacher, a function of its inputs."""
        pair = self.pair
        given = pair.teacher_data or pair.teacher_reads
        x, y = (given(self.data_folder) if given else self.data)["train"]
        if pair.black_box:
            return pair.teacher(x, y, self.data_folder)
        path = self.folder.parent / f"{pair.teacher_file or self.folder.name}.keras"
        if not path.exists():
            keras.utils.set_random_seed(0)
            model = pair.teacher()
            self._fit(model, x, y, pair.teacher_epochs, 2e-3, BATCH)
            model.save(path)
        model = keras.saving.load_model(path, compile=False)
        return lambda x: model.predict(x, batch_size=512, verbose=0)

    def _alpha(self, alpha):
        steps = math.ceil(len(self.data["train"][0]) / self.pair.batch) * self.pair.epochs
        return keras.optimizers.schedules.CosineDecay(0.9, steps) if alpha == FALLS else alpha

    def _fit(self, model, x, y, epochs, rate, batch):
        steps = math.ceil(len(keras.tree.flatten(x)[0]) / batch) * epochs
        loss = (keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                if self.pair.loss == "classes" else keras.losses.MeanSquaredError())  # fmt: skip
        decay = keras.optimizers.schedules.CosineDecay(rate, steps)
        model.compile(keras.optimizers.Adam(decay), loss, steps_per_execution=8)
        model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)

    def _fit_student(self, model, x, y):
        self._fit(model, x, y, self.pair.epochs, self.pair.rate, self.pair.batch)

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
            self._fit_student(model, x, y)
            known = {"setting": setting, **self._scores(student)}
            write_json(path, known)
        return known

    def _scores(self, student):
        return {split: self.score(student.predict(x, batch_size=512, verbose=0), split)
                for split, (x, _) in self.data.items()}  # fmt: skip

    def by_keras(self, temperature, alpha, seed):
        """Returns `{split: score}` of a student that `keras.distillation` has trained."""
        path = self.folder / f"keras-{temperature:g}-{alpha:g}-{seed}.json"
        if read_json(path) is None:
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            student, (x, y) = self.pair.student(), self.data["train"]
            model = keras_distiller(student, temperature, 1 - alpha)
            self._fit_student(model, {"x": x, "logits": self.answers["train"]}, y)
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
