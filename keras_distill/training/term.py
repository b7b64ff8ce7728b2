"""A term: what is compared, where, and with which loss."""

import keras
from keras import tree

from keras_distill import projectors, taps
from keras_distill.batch import TopK
from keras_distill.losses import as_distillation_loss
from keras_distill.schedules import check
from keras_distill.training import weights as weights_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


class Term:
    """A loss times what the student shows, what a source shows, and a weight.

    Args:
        loss: a `DistillationLoss`, any other `keras.losses.Loss`, or the name of a Keras loss;
            called with `y_true = teacher`, `y_pred = student`.
        student: a path in the student (see `taps`), or a list or dict of paths: the loss receives
            the same structure. Defaults to `"output"`.
        teacher: a path in the source, or a structure of paths. Defaults to `"output"`.
        source: the teacher's name in the distiller, or `"self"` for the student's own features.
        weight: non-negative: a number, a schedule or a `keras.Variable`. Defaults to `1.0`.
        projector: a layer for the student's side, `"auto"` for one that fits (see
            `projectors.fitting`), or `None`. It trains with the student and is in no export.
        mask: what weighs examples or tokens: `"sample_weight"` (the term's output's; `:key` names
            another's), `"input:key"`, a tuple of these (multiplied) or `None`. The student's own
            Keras mask always joins.
        name: the term's name in the logs. Defaults to the loss's name.

    Raises:
        ValueError: for a negative weight, or a loss that cannot be used on logits.

    Example:

    ```python
    hint = Term("mse", student="block_2", teacher="backbone/block_4", projector="auto")
    Distiller(student, teacher=teacher, terms=[Term(KLDivergence(2.0)), hint])
    ```
    """

    def __init__(self, loss, *, student="output", teacher="output", source="teacher", weight=1.0,
                 projector=None, mask="sample_weight", name=None):  # fmt: skip
        self.loss = as_distillation_loss(loss)
        self.student, self.teacher, self.source = student, teacher, source
        self.weight = check("weight", weight, low=0)
        if not (projector in (None, "auto") or isinstance(projector, keras.layers.Layer)):
            raise TypeError(
                f'`projector` must be a layer, "auto" or `None`. Received: projector={projector!r}'
            )
        self.projector = projector
        self.masks = weights_of.checked(mask)
        self.name = name or self.loss.name

    @property
    def trains(self):
        """Whether the term has weights of its own: a projector's or its loss's."""
        return self.projector is not None or self.remembers

    @property
    def remembers(self):
        """Whether another distiller would go on with what this one has trained."""
        return self.loss.stateful or isinstance(self.projector, keras.layers.Layer)

    def build(self, model, features, targets):
        """The layers that train with the student, built for these features and targets.

        Returns:
            `{name: layer}`: the projector, by the term's name, and the loss's own layer.
        """
        projector = self.projector
        y_pred = tree.map_structure(lambda path: features[path], self.student)
        y_true = tree.map_structure(lambda path: targets[path], self.teacher)
        if projector == "auto":
            projector = self._fitting(model, y_pred, targets)
        if projector is not None:
            y_pred = projector(y_pred)  # builds it
        if self.loss.stateful and self.loss.layer is None:
            shapes = _each(lambda t: tuple(t.shape), [y_pred, y_true])
            self.loss.build(*shapes)
        made = {self.name: projector, f"{self.name}_loss": self.loss.layer}
        return {name: layer for name, layer in made.items() if layer is not None}

    def _fitting(self, model, y_pred, targets):
        if not isinstance(self.student, str) or not isinstance(self.teacher, str):
            raise ValueError(
                f'`{self.name}`: `projector="auto"` takes one path on each side. Received: '
                f"student={self.student}, teacher={self.teacher}. Give a layer for a structure."
            )
        shapes = tuple(y_pred.shape), tuple(targets[self.teacher].shape)
        layer = None if taps.is_edge(self.student) else taps.find_layer(model, self.student)
        heads = isinstance(layer, keras.layers.EinsumDense) and len(shapes[0]) == 4
        if heads or self.student.endswith(taps.SCORES):
            raise ValueError(
                f"`{self.name}`: `{self.student}` holds attention heads {shapes[0]}, "
                'which `projector="auto"` does not mix. Compare relations between tokens or mean '
                "attention (`MiniLMRelations`, `AttentionMSE(heads='mean')`), or give a layer that "
                "maps them."
            )
        return projectors.fitting(*shapes, name=f"{self.name}_projector")

    def __call__(self, features, targets, batch, projector=None):
        """One value per example or token, and its weight, unreduced."""
        y_pred = tree.map_structure(lambda path: features[path], self.student)
        y_true = tree.map_structure(lambda path: targets[path], self.teacher)
        weights = weights_of.product(self.masks, self.student, y_pred, batch, self.name)
        if self.loss.expects_logits:
            y_true, y_pred = _each(logits_of, (y_true, y_pred))
        if weights is not None:  # what is masked may hold anything, NaN included
            axes = self.loss.token_axes
            y_true, y_pred = _each(lambda t: weights_of.silence(t, weights, axes), (y_true, y_pred))
        if projector is not None:  # terms are measured in training only
            y_pred = projector(y_pred, training=True)
        self._check_shapes(y_true, y_pred)
        dtype = self.loss.dtype
        y_true, y_pred = _each(lambda t: tf.cast(t, dtype), (y_true, y_pred))
        wanted = "labels" in self.loss.needs
        labels = weights_of.part(batch.labels, self.student) if wanted else None
        read = self._read(features, batch, weights)
        if self.loss.across_batch:
            sides = (y_true, y_pred, weights, labels, read)
            y_true, y_pred, weights, labels, read = _gather(sides)
        extras = {"mask": weights, "labels": labels}
        extras = {name: extras[name] for name in self.loss.needs}
        values = self.loss.call(y_true, y_pred, **extras, **read)
        return self._weighed(values, weights)

    def _read(self, features, batch, weights):
        """What the loss reads beside both sides: ones where an example does not count."""
        ends = {"input": batch.x}
        found = {}
        for name, path in self.loss.reads.items():
            value = taps.pick(path, ends) if path.startswith("input") else features[path]
            value = tf.cast(value, self.loss.dtype)
            if weights is not None:
                axes = range(1, weights.shape.rank)
                counts = tf.reduce_any(weights > 0, list(axes))
                counts = tf.reshape(counts, [-1] + [1] * (value.shape.rank - 1))
                value = tf.where(counts, value, 1.0)
            found[name] = value
        return found

    def _weighed(self, values, weights):
        if values.shape.rank == 0:
            raise ValueError(
                f"`{self.name}`: a loss must return one value per example or token, not a scalar: "
                "a term weighs, masks and averages them itself."
            )
        if weights is None:
            return values, tf.ones_like(values)
        if "mask" in self.loss.needs:  # the loss has left the tokens out itself
            axes = list(range(values.shape.rank, weights.shape.rank))
            weights = tf.reduce_max(weights, axes) if axes else weights
        weights = weights_of.aligned(weights, values, self.name)
        return tf.where(weights > 0, values, 0.0), weights

    def _check_shapes(self, y_true, y_pred):
        """Refuses what would broadcast in silence."""
        if isinstance(y_true, TopK):
            self._check_top_k(y_true, y_pred)
            return
        if not self.loss.same_shape or not tf.is_tensor(y_pred):
            return
        if tf.is_tensor(y_true) and y_true.shape.is_compatible_with(y_pred.shape):
            return
        shapes = [tree.map_structure(lambda t: tuple(t.shape), side) for side in (y_true, y_pred)]
        if self.loss.expects_logits:
            way_out = (
                "Map the classes: `ModelTeacher(lambda x: tf.gather(model(x), classes, axis=-1))`; "
                "of several outputs, choose one by `output:key`."
            )
        else:
            way_out = 'Give `projector="auto"` or a layer.'
        raise ValueError(
            f"`{self.name}`: shapes differ: teacher `{self.teacher}` {shapes[0]}, student "
            f"`{self.student}` {shapes[1]}. {way_out}"
        )

    def _check_top_k(self, top, y_pred):
        if not self.loss.takes_top_k:
            raise ValueError(
                f"`{self.name}`: {type(self.loss).__name__} does not take the `TopK` that the "
                f"source has at `{self.teacher}`: cache whole logits (leave `top_k` out), or take "
                "a loss that does, such as `KLDivergence`."
            )
        fits = top.ids.shape.is_compatible_with(top.log_probs.shape)
        fits = fits and top.ids.shape[:-1].is_compatible_with(top.log_tail.shape)
        if not fits or not top.log_tail.shape.is_compatible_with(y_pred.shape[:-1]):
            raise ValueError(
                f"`{self.name}`: shapes differ: ids {tuple(top.ids.shape)}, log-probabilities "
                f"{tuple(top.log_probs.shape)} and tail {tuple(top.log_tail.shape)} of the "
                f"`TopK`, student `{self.student}` {tuple(y_pred.shape)}."
            )

    def __repr__(self):
        return f"Term({self.loss.name}, {self.student} <- {self.source}:{self.teacher})"


def logits_of(tensor):
    """The logits behind a softmax, where Keras remembers them; else the tensor itself."""
    return getattr(tensor, "_keras_logits", tensor)


def _each(function, structure):
    """`function` of every tensor; of a `TopK`'s log-probabilities, not of its ids."""

    def changed(value):
        if isinstance(value, TopK):
            parts = function(value.log_probs), function(value.log_tail)
            return value._replace(log_probs=parts[0], log_tail=parts[1])
        return None if tree.is_nested(value) else function(value)

    return tree.traverse(changed, structure)


def student_paths(terms):
    """What the terms read in the student, each path once."""
    paths = [[t.student, t.teacher] if t.source == "self" else t.student for t in terms]
    paths += [path for t in terms for path in t.loss.reads.values() if not path.startswith("input")]
    return list(dict.fromkeys(tree.flatten(paths)))


def teacher_paths(terms):
    """What the terms read in each source: `{source: paths}`."""
    paths = {}
    for term in terms:
        paths.setdefault(term.source, []).extend(tree.flatten(term.teacher))
    return {source: list(dict.fromkeys(asked)) for source, asked in paths.items()}


def global_mean(values, weights):
    """Sum of weighted values over the weight of all replicas: their gradients add to the mean's."""
    context = tf.distribute.get_replica_context()
    total = tf.reduce_sum(weights)
    if context is not None and context.num_replicas_in_sync > 1:
        total = context.all_reduce("SUM", total)
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights), total)


def _gather(values):
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return values

    def gathered(value):
        return context.all_gather(value, axis=0) if tf.is_tensor(value) else value

    return tree.map_structure(gathered, values)
