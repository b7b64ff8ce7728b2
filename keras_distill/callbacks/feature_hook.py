"""Compares a layer of the student with a layer of its teacher during one `fit`."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_distill import taps
from keras_distill.batch import Batch
from keras_distill.losses import as_distillation_loss
from keras_distill.losses.kernel_alignment import cka
from keras_distill.report.cka_heat_map import check_drawable, cka_heat_map, rows_of
from keras_distill.schedules import Hyperparameter
from keras_distill.teachers import ModelTeacher
from keras_distill.text.pipeline import is_dataset
from keras_distill.training.term import Term


class FeatureHook(keras.callbacks.Callback):
    """Compares a layer of the student with a layer of the teacher during one `fit`.

    With a `loss` it adds a feature term, which is attached when `fit` starts and detached when it
    ends. Without a `loss`, or with a `probe`, it logs values for a fixed batch at each epoch's end.
    These are `{name}_cka` (see `report.cka_heat_map`), and `{name}_student_norm` and
    `{name}_teacher_norm`, the mean length of an example's feature. If both sides have one shape,
    after the term's projector if there is one, it also logs `{name}_cosine`. Put callbacks that
    read the logs (`TensorBoard`, `CSVLogger`, `EarlyStopping`) after it in the list.

    Args:
        student: the student's path (see `taps`).
        teacher: the teacher's path.
        loss: as in `Term`. Defaults to `None`, which only logs.
        weight: the term's weight, as in `Term`. Defaults to `1.0`.
        projector: as in `Term`. Defaults to `"auto"`, which makes none if the loss takes sides of
            different widths. A projector has weights, so add the hook to the first `fit` after
            `compile`.
        source: the teacher's name. Defaults to `"teacher"`.
        probe: a batch of inputs, `(x, y)`, or a `tf.data.Dataset`, of which the first batch
            counts. Defaults to the first batch of the distiller's first `fit`.
        heat_map: the path of a PNG that is written when `fit` ends. It shows the CKA of every
            layer of the student with every layer of the teacher on the probe
            (`report.cka_heat_map`), and needs matplotlib. Defaults to `None`, which is none.
        name: the term's name, and the prefix of its logs. Defaults to the paths, joined by "_".

    Raises:
        ValueError: before the first step, if a path does not exist or holds no single tensor, and
            for the reasons of `Term`.

    Example:

    ```python
    hint = callbacks.FeatureHook("block_1", "block_2", loss="mse", name="hint")
    look = callbacks.FeatureHook("block_2", "block_2", probe=x[:8], name="look")
    distiller = Distiller(student, teacher=teacher)
    distiller.compile("adam", loss)
    distiller.fit(x, y, callbacks=[hint, look, keras.callbacks.CSVLogger("log.csv")])
    ```

    Reference:
        - [Romero et al., 2015](https://arxiv.org/abs/1412.6550)
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)
    """

    def __init__(
        self,
        student: str,
        teacher: str,
        *,
        loss: keras.losses.Loss | str | None = None,
        weight: Hyperparameter = 1.0,
        projector: keras.layers.Layer | str | None = "auto",
        source: str = "teacher",
        probe: Any = None,
        heat_map: str | None = None,
        name: str | None = None,
    ):
        super().__init__()
        self.student, self.teacher, self.source = student, teacher, source
        self.name = name or _name(student, teacher)
        self.terms, self.heat_map = [], heat_map
        if loss is not None:
            loss = as_distillation_loss(loss)
            projector = None if projector == "auto" and not loss.same_shape else projector
            term = Term(loss, student=student, teacher=teacher, source=source, weight=weight,
                        projector=projector, name=self.name)  # fmt: skip
            self.terms.append(term)
        self.looks_on = loss is None or probe is not None or heat_map is not None
        if self.looks_on and not (isinstance(student, str) and isinstance(teacher, str)):
            raise ValueError(
                "A `FeatureHook` needs a `loss` to compare several paths. Received: "
                f"student={student}, teacher={teacher}"
            )
        self.probe = None if probe is None else _batch(probe)

    def on_train_begin(self, logs=None):
        if not self.looks_on:
            return
        if not hasattr(self.model, "teachers"):
            raise TypeError(
                f"A `FeatureHook` must be used with a `Distiller`. Received: {self.model!r}"
            )
        if self.source not in self.model.teachers:
            names = ", ".join(self.model.teachers)
            raise ValueError(
                f"`{self.name}` must read one of the sources {names}. Received: "
                f"source={self.source!r}"
            )
        self.model.objective.when_ready(self._check_pair)
        if self.heat_map is not None:
            check_drawable(self.model.student, self._other())

    def _check_pair(self):
        for side, value in zip(("student", "teacher"), self._pair()):
            if not ops.is_tensor(value) or len(value.shape) < 2:
                shapes = tree.map_structure(lambda t: getattr(t, "shape", None), value)
                raise ValueError(
                    f"`{self.name}` without a `loss` compares one tensor of shape (batch, ...) of "
                    f"the student with one of the teacher. Received: {side} {shapes}"
                )

    def on_epoch_end(self, epoch, logs=None):
        if self.looks_on and logs is not None:
            logs.update({f"{self.name}_{key}": value for key, value in self._measured().items()})

    def on_train_end(self, logs=None):
        if self.heat_map is not None:
            cka_heat_map(self.model.student, self._other(), self._probe().x, self.heat_map)

    def _other(self):
        own = self.source == "self"
        return ModelTeacher(self.model.student) if own else self.model.teachers[self.source]

    def _measured(self):
        student, teacher = self._pair()
        ours, theirs = rows_of(student), rows_of(teacher)
        lengths = [np.linalg.norm(rows, axis=1) for rows in (ours, theirs)]
        found = {
            "cka": float(cka(ours, theirs)),
            "student_norm": float(lengths[0].mean()),
            "teacher_norm": float(lengths[1].mean()),
        }
        projector = self.model.projectors.get(self.name) if self.terms else None
        if projector is not None:
            ours = rows_of(projector(student))
        if ours.shape == theirs.shape:
            found["cosine"] = _cosine(ours, theirs)
        return found

    def _pair(self):
        """Returns the values of both layers on the probe."""
        distiller, batch = self.model, self._probe()
        paths = [self.student, *([self.teacher] if self.source == "self" else [])]
        features = taps.run(distiller.student, batch.x, list(dict.fromkeys(paths)))
        targets = distiller.teachers[self.source].targets(batch, features, [self.teacher])
        return features[self.student], targets[self.teacher]

    def _probe(self):
        return self.probe or self.model.objective.first_batch


def _batch(probe):
    if is_dataset(probe):
        probe = next(iter(probe))
    batch = Batch.unpack(probe) if isinstance(probe, tuple) else Batch(probe)
    return batch._replace(x=tree.map_structure(ops.convert_to_tensor, batch.x))


def _name(student, teacher):
    paths = [student] if student == teacher else [student, teacher]
    return "_".join(str(path).replace("/", "_").replace(":", "_") for path in paths)


def _cosine(ours, theirs):
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.mean(np.sum(ours * theirs, axis=1) / np.maximum(lengths, 1e-30)))
