"""A term says what is compared, where, with which loss, and how much it counts."""

from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_distill import projectors, taps
from keras_distill._keras import graph
from keras_distill._keras.layers import as_logits
from keras_distill.batch import TopK
from keras_distill.losses import as_distillation_loss
from keras_distill.projectors.fitting import resized
from keras_distill.schedules import Hyperparameter, check
from keras_distill.training import replicas, weights
from keras_distill.training.shapes import check_shapes


class Measured(NamedTuple):
    """A term's value and weight for each example or token of a batch.

    Args:
        values: the values, (batch, ...), 0 where the weight is 0.
        weights: the weights, of the same shape.
    """

    values: Any
    weights: Any

    def mean(self):
        """Returns the weighted mean over the batch of all replicas, or 0 if all weights are 0.

        On replicas each returns its part, so that their gradients sum to that of the mean.
        """
        total = replicas.total(ops.sum(self.weights))
        return ops.divide_no_nan(ops.sum(self.values * self.weights), total)


class Term:
    """A weighted loss between a part of the student and a part of a teacher.

    Args:
        loss: a `DistillationLoss`, any other `keras.losses.Loss`, or the name of a Keras loss. It
            is called with `y_true = teacher`, `y_pred = student`.
        student: a path in the student (see `taps`), or a list or dict of paths. The loss receives
            the same structure. Defaults to `"output"`.
        teacher: a path in the source, or a structure of paths. Defaults to `"output"`.
        source: the teacher's name in the distiller, or `"self"` for the student's own features.
        weight: a non-negative number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        projector: a layer for the student's side, `"auto"` for one that fits (see
            `projectors.fitting`), or `None`. It trains with the student and is never exported.
        mask: the weights of examples or tokens: `"sample_weight"` of the output that the term
            reads, `"sample_weight:KEY"` of another output, `"input:KEY"` for a mask among the
            inputs, a tuple of these (multiplied), or `None`. `"example:NAME"` is the largest
            weight among an example's tokens. Use it if the term reads other tokens, such as those
            of an encoder. `"last:NAME"` weighs only the last tokens. Use it if tokens of an image
            precede those of the text. The student's own Keras mask is always applied too. Defaults
            to `"sample_weight"`.
        name: the term's name in the logs. Defaults to the loss's name.

    Raises:
        TypeError: if the loss or the projector is of another kind.
        ValueError: if the weight is negative, or the loss cannot be used on logits.

    Example:

    ```python
    hint = Term("mse", student="block_1", teacher="block_2", projector="auto")
    Distiller(student, teacher=teacher, terms=[Term(losses.KLDivergence(2.0)), hint])
    ```
    """

    def __init__(
        self,
        loss: keras.losses.Loss | str,
        *,
        student: str | list | dict = "output",
        teacher: str | list | dict = "output",
        source: str = "teacher",
        weight: Hyperparameter = 1.0,
        projector: keras.layers.Layer | str | None = None,
        mask: str | tuple[str, ...] | None = "sample_weight",
        name: str | None = None,
    ):
        self.loss = as_distillation_loss(loss)
        self.student, self.teacher, self.source = student, teacher, source
        self.weight = check("weight", weight, low=0)
        if not (projector in (None, "auto") or isinstance(projector, keras.layers.Layer)):
            raise TypeError(
                f'`projector` must be a layer, "auto" or `None`. Received: projector={projector!r}'
            )
        self.projector = projector
        self.masks = weights.checked(mask)
        self.name = name or self.loss.name

    @property
    def trains(self):
        """Whether the term has weights of its own, in its projector or its loss."""
        return self.projector is not None or self.remembers

    @property
    def remembers(self):
        """Whether another distiller would continue from the weights that this one has trained."""
        return self.loss.stateful or isinstance(self.projector, keras.layers.Layer)

    def build(self, model, features, targets):
        """Returns the layers that train with the student, built for these features and targets.

        Args:
            model: the student. `"auto"` looks up the kind of layer at a path in it.
            features: the student's features by path.
            targets: the source's targets by path.

        Returns:
            `{"projector": layer, "loss": layer}`, without those that the term does not have.
        """
        y_pred, y_true = self.sides(features, targets)
        made = {"projector": self.projector}
        if self.projector == "auto":
            made["projector"] = self._fitting(model, y_pred, targets)
        if made["projector"] is not None:  # the call builds it
            y_pred = made["projector"](*_seen_by(made["projector"], y_pred, y_true))
        if self.loss.stateful:
            if self.loss.layer is None:
                self.loss.build(*each(lambda tensor: tuple(tensor.shape), [y_pred, y_true]))
            made["loss"] = self.loss.layer
        return {name: layer for name, layer in made.items() if layer is not None}

    def _fitting(self, model, y_pred, targets):
        if not isinstance(self.student, str) or not isinstance(self.teacher, str):
            raise ValueError(
                f'`projector="auto"` of `{self.name}` needs one path on each side. For several '
                f"paths, give a layer. Received: student={self.student}, teacher={self.teacher}"
            )
        shapes = tuple(y_pred.shape), tuple(targets[self.teacher].shape)
        layer = None if taps.is_edge(self.student) else taps.find_layer(model, self.student)
        heads = isinstance(layer, keras.layers.EinsumDense) and len(shapes[0]) == 4
        if heads or self.student.endswith(taps.SCORES):
            raise ValueError(
                f"`{self.student}` of `{self.name}` has attention heads {shapes[0]}, "
                'which `projector="auto"` does not mix. Compare relations between tokens or mean '
                "attention (`MiniLMRelations`, `AttentionMSE(heads='mean')`), or give a layer that "
                "maps the heads."
            )
        if [len(shape) for shape in shapes] == [4, 4] and graph.takes_any_size(model):
            shapes = [(shape[0], None, None, shape[-1]) for shape in shapes]  # see `resized`
        return projectors.fitting(*shapes, name=f"{self.name}_projector")

    def sides(self, features, targets):
        """Returns the values of student and source, in the structures of the term's paths."""
        y_pred = tree.map_structure(lambda path: features[path], self.student)
        return y_pred, tree.map_structure(lambda path: targets[path], self.teacher)

    def __call__(self, features, targets, batch, layers=None):
        """Returns what the term measures of a batch, as `Measured`.

        Args:
            features: the student's features by path.
            targets: the source's targets by path.
            batch: the `Batch`.
            layers: the result of `build`, if the term has weights of its own.
        """
        layers = layers or {}
        y_pred, y_true = self.sides(features, targets)
        counts = weights.product(
            self.masks, self.student, y_pred, batch, self.name, *self.loss.token_axes[:1]
        )
        if self.loss.expects_logits:
            y_pred, y_true = each(as_logits, (y_pred, y_true))
        if counts is not None:  # masked values may be anything, NaN included
            axes = self.loss.token_axes
            y_pred, y_true = each(lambda t: weights.silence(t, counts, axes), (y_pred, y_true))
        extras, projector = self._extras(features, batch, counts), layers.get("projector")
        whole = isinstance(projector, projectors.TwoSided)  # it compares the batch's examples
        if whole:
            y_true, y_pred, extras = replicas.gathered((y_true, y_pred, extras))
        if projector is not None:  # terms are measured in training only
            y_pred = projector(*_seen_by(projector, y_pred, y_true), training=True)
        if self.projector == "auto":
            y_pred = resized(y_pred, y_true)
        check_shapes(self, y_true, y_pred)
        y_pred, y_true = each(lambda t: ops.cast(t, self.loss.dtype), (y_pred, y_true))
        if self.loss.across_batch and not whole:
            y_true, y_pred, extras = replicas.gathered((y_true, y_pred, extras))
        counts = extras["mask"]
        asked = {name: extras[name] for name in (*self.loss.needs, *self.loss.reads)}
        values = self.loss.call(y_true, y_pred, **asked)
        return self.weighed(values, counts)

    def _extras(self, features, batch, counts):
        """Returns the further arguments that a loss may ask for; the mask is always among them."""
        extras = {"mask": counts}
        if "labels" in self.loss.needs:
            extras["labels"] = weights.part(batch.labels, self.student)
        for name, path in self.loss.reads.items():
            of_input = path.partition(":")[0] == "input"
            value = taps.pick(path, {"input": batch.x}) if of_input else features[path]
            value = ops.cast(value, self.loss.dtype)
            if counts is not None:  # ones if nothing counts, since losses divide by the sum
                axes = list(range(1, len(counts.shape)))
                shown = ops.any(counts > 0, axis=axes) if axes else counts > 0
                shown = weights.expanded(shown, len(value.shape))
                value = ops.where(shown, value, ops.ones_like(value))
            extras[name] = value
        return extras

    def weighed(self, values, counts):
        """Returns the loss's values with their weights, as `Measured`."""
        if len(values.shape) == 0:
            raise ValueError(
                f"The loss of `{self.name}` must return one value per example or token, because "
                "the term weighs, masks and averages them. Received: a scalar"
            )
        if counts is None:
            return Measured(values, ops.ones_like(values))
        if "mask" in self.loss.needs:  # the loss has left the tokens out itself
            axes = list(range(len(values.shape), len(counts.shape)))
            counts = ops.max(counts, axis=axes) if axes else counts
        counts = weights.aligned(counts, values, self.name)
        return Measured(ops.where(counts > 0, values, ops.zeros_like(values)), counts)

    def __repr__(self):
        return f"Term({self.loss.name}, {self.student} <- {self.source}:{self.teacher})"


def _seen_by(projector, y_pred, y_true):
    """Returns the arguments of a projector's call."""
    return (y_pred, y_true) if isinstance(projector, projectors.TwoSided) else (y_pred,)


def each(function, structure):
    """Applies `function` to every tensor; of a `TopK` to its log-probabilities, not to its ids."""

    def changed(value):
        if isinstance(value, TopK):
            parts = function(value.log_probs), function(value.log_tail)
            return value._replace(log_probs=parts[0], log_tail=parts[1])
        return None if tree.is_nested(value) else function(value)

    return tree.traverse(changed, structure)


def student_paths(terms):
    """Returns the paths that the terms read in the student, once each."""
    paths = []
    for term in terms:
        paths += tree.flatten(
            [term.student, term.teacher] if term.source == "self" else term.student
        )
        paths += [path for path in term.loss.reads.values() if path.partition(":")[0] != "input"]
    return list(dict.fromkeys(paths))


def teacher_paths(terms):
    """Returns the paths that the terms read in each source: `{source: paths}`."""
    paths = {}
    for term in terms:
        paths.setdefault(term.source, []).extend(tree.flatten(term.teacher))
    return {source: list(dict.fromkeys(asked)) for source, asked in paths.items()}
