"""What a distiller refuses: when it is made, before `fit` reads data, and at its first batch."""

import keras
import numpy as np

from keras_distill import schedules, taps
from keras_distill.batch import TopK
from keras_distill.losses.softened import Divergence
from keras_distill.training.term import Term, logits_of, student_paths

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

RESERVED = ("loss", "label_loss")


def check_student(student):
    """A student must be a Keras model."""
    if not isinstance(student, keras.Model):
        raise TypeError(f"`student` must be a `keras.Model`. Received: student={student!r}")


def check_label_free(alpha):
    """Without labels the terms are all there is."""
    if alpha is not None and not (schedules.is_number(alpha) and alpha == 1):
        raise ValueError(
            "Without a `loss` in `compile` there is only the teacher: `alpha` must be 1 or left "
            f"out. Received: alpha={alpha}"
        )


def check_strategies(distiller):
    """A teacher that lives under another strategy would be read across devices, or not at all."""
    owner = distiller._distribute_strategy
    models = {"student": distiller.student}
    models.update((key, getattr(t, "model", None)) for key, t in distiller.teachers.items())
    for name, model in models.items():
        if isinstance(model, keras.Model) and model._distribute_strategy is not owner:
            raise ValueError(
                f"The distiller and its `{name}` must be made under one `strategy.scope()`. "
                f"Received: {owner} and {model._distribute_strategy}."
            )


def check_terms(distiller, terms):
    """Refuses a term whose name, source, layers or projector cannot work."""
    names = [*RESERVED, *(term.name for term in distiller.terms)]
    for term in terms:
        if not isinstance(term, Term):
            raise TypeError(f"`terms` must hold `Term`s. Received: {term!r}; give `Term(loss)`.")
        if term.name in names:
            raise ValueError(f"The name `{term.name}` is taken: give the term another `name`.")
        names.append(term.name)
        _check_term(distiller, term)


def _check_term(distiller, term):
    if term.source not in distiller.teachers:
        raise ValueError(
            f"`{term.name}`: no source `{term.source}`. There are: {', '.join(distiller.teachers)}."
        )
    optimizer = getattr(distiller, "optimizer", None)
    new = term.trains and term not in distiller.built_terms
    if new and optimizer is not None and optimizer.built:
        raise ValueError(
            f"`{term.name}` has weights of its own, and the optimizer is built for other "
            "variables: attach the term before the first `fit`, or `compile` again."
        )
    for path in student_paths([term]):
        if not taps.is_edge(path):
            taps.find_layer(distiller.student, path)
    teacher = distiller.teachers[term.source]
    model, made = getattr(teacher, "model", None), getattr(teacher, "made", ())
    for path in keras.tree.flatten(term.teacher):
        if isinstance(model, keras.layers.Layer) and not (taps.is_edge(path) or path in made):
            taps.find_layer(model, path)


def check_ready(distiller, arguments):
    """What can be refused before `fit` reads any data."""
    idle = set(distiller.teachers) - {"self"} - {term.source for term in distiller.terms}
    if idle:
        raise ValueError(
            f"No term uses the teacher `{', '.join(sorted(idle))}`: give a `Term` with that "
            f"`source`, or leave the teacher out. Terms: {distiller.terms}"
        )
    if not distiller.compiled:
        return
    if distiller._compile_loss is None and not distiller.terms:
        raise ValueError("Nothing to train on: no `loss` in `compile` and no terms.")
    validates = arguments.get("validation_data") is not None or arguments.get("validation_split")
    if validates and not distiller._compile_loss and not distiller._compile_metrics:
        raise ValueError("Nothing to validate: give `compile` a `loss` or `metrics`.")


def check_names(distiller):
    """No term may hide a compiled metric in the logs."""
    compiled = distiller._compile_metrics
    names = {metric.name for metric in compiled.metrics} if compiled is not None else set()
    for term in distiller.terms:
        if term.name in names:
            raise ValueError(f"A compiled metric is named `{term.name}`: give the term a `name`.")


def check_parts(term, features, targets):
    """Refuses several outputs where a loss compares the logits of one."""
    if not term.loss.expects_logits:
        return
    for side, values in (("student", features), ("teacher", targets)):
        path = getattr(term, side)
        value = values[path] if isinstance(path, str) else None
        if keras.tree.is_nested(value) and not isinstance(value, TopK):
            keys = value if isinstance(value, dict) else range(len(value))
            raise ValueError(
                f"`{term.name}` compares one tensor with one, but the {side}'s `{path}` has "
                f"several: name one, as `{path}:KEY`. It has: {', '.join(map(str, keys))}."
            )


def check_finite(term, targets, values):
    """Refuses NaN in what a teacher gives, where it counts: what is masked may hold anything."""
    if term.source == "self" or not np.isnan(values).any():
        return
    for path in keras.tree.flatten(term.teacher):
        for tensor in keras.tree.flatten(targets[path]):
            if np.isnan(np.asarray(tensor, "float32")).any():
                raise ValueError(f"NaN in the output of `{term.source}` at `{path}`, at step 0.")


def check_knobs(distiller):
    """Refuses a schedule that starts outside its range."""
    for knob in schedules.knobs(distiller._share(), distiller.terms):
        if np.isnan(knob.within(0)):
            raise knob.error(0)


def check_logits(term, features, targets):
    """Refuses probabilities where logits are due: a softmax must not be softened twice."""
    sides = {"student": features, "teacher": targets}
    for side, values in sides.items():
        for path in keras.tree.flatten(getattr(term, side)):
            value = values[path]
            if isinstance(value, TopK):
                continue
            if isinstance(term.loss, Divergence) and value.shape[-1] == 1:
                raise ValueError(
                    f"`{term.name}` compares distributions over classes, but the {side}'s `{path}` "
                    f"has one unit, {tuple(value.shape)}: the divergence is 0 always. Give "
                    "`BinaryKLDivergence` for yes or no, or a loss on values for a regression."
                )
            if logits_of(value) is not value:
                print(f"`{term.name}`: the {side}'s `{path}` ends in a softmax; its logits count.")
            elif are_probabilities(value):
                raise ValueError(
                    f"`{term.name}` takes logits, but the {side}'s `{path}` gives probabilities: "
                    "the first batch is non-negative and sums to one. Take the softmax out of the "
                    "model, or give `tf.math.log` of its output."
                )


def are_probabilities(value):
    """Whether the values are non-negative and sum to one along the last axis."""
    value = np.asarray(value, "float32")
    if value.ndim < 2 or value.shape[-1] < 2 or (value < 0).any():
        return False
    return np.allclose(value.sum(-1), 1, atol=1e-3)


def check_labels(distiller, batch, output):
    """Refuses class ids out of range, and a `from_logits` that the student's head belies."""
    loss = distiller.loss if distiller.compiled and distiller._compile_loss else None
    if loss is not None and batch.labels is None:
        raise ValueError(
            "`compile` has a `loss`, but the data hold no labels: give `(x, y)`, or leave the "
            "loss out to learn from the teacher alone."
        )
    if not tf.is_tensor(output):
        return
    _check_binary(loss, output)
    loss, sparse = _categorical(loss)
    if loss is None:
        return
    _check_from_logits(loss, logits_of(output) is not output or are_probabilities(output))
    if sparse and batch.labels is not None:
        labels, classes = np.asarray(batch.labels), output.shape[-1]
        ignored = getattr(loss, "ignore_class", None)
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if wrong.size:
            raise ValueError(f"Labels must be class ids in [0, {classes}). Received: {wrong[0]}.")


def _check_from_logits(loss, probabilities):
    """Refuses a loss that takes logits for probabilities, or the other way round."""
    from_logits = getattr(loss, "from_logits", False)
    if from_logits == probabilities:
        gives = "probabilities" if probabilities else "logits"
        raise ValueError(
            f"The student gives {gives}: `compile` needs a loss with "
            f"`from_logits={not probabilities}`. Received: from_logits={from_logits}"
        )


def _check_binary(loss, output):
    """The same where each unit has a label; only what is sure is refused."""
    loss = _one(loss)
    kinds = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
    functions = (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy)
    if not (isinstance(loss, kinds) or loss in functions):
        return
    values = np.asarray(output, "float32")
    if logits_of(output) is not output:
        _check_from_logits(loss, probabilities=True)
    elif ((values < 0) | (values > 1)).any():
        _check_from_logits(loss, probabilities=False)


def _one(loss):
    """A compiled loss that stands for one output, however it was given."""
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    return keras.losses.get(loss) if isinstance(loss, str) else loss


def _categorical(loss):
    """The cross-entropy that was compiled, and whether it takes class ids."""
    loss = _one(loss)
    one_hot = (keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy)
    ids = (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)
    for sparse, (kind, function) in ((False, one_hot), (True, ids)):
        if loss is function or isinstance(loss, kind):
            return loss, sparse
    return None, False
