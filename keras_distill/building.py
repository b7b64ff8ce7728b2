"""What a distiller checks and builds before its first step."""

import keras
import numpy as np

from keras_distill import first_batch, schedules, taps
from keras_distill.batch import Batch, TopK
from keras_distill.term import logits_of

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`

RESERVED = ("loss", "label_loss")
CATEGORICAL = ("sparse_categorical_crossentropy", "categorical_crossentropy")


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


def check_term(distiller, term):
    """Refuses a term whose name, source, layers or projector cannot work."""
    if term.source not in distiller.teachers:
        raise ValueError(
            f"`{term.name}`: no source `{term.source}`. There are: {', '.join(distiller.teachers)}."
        )
    if term.name in RESERVED or any(term.name == other.name for other in distiller.terms):
        raise ValueError(f"The name `{term.name}` is taken: give the term another `name`.")
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
    model = getattr(distiller.teachers[term.source], "model", None)
    for path in keras.tree.flatten(term.teacher):
        if isinstance(model, keras.layers.Layer) and not taps.is_edge(path):
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


def reducible(distiller, logs):
    """Under several workers Keras averages logs along an axis, which scalars do not have."""
    if not isinstance(distiller._distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)


def student_paths(terms):
    """What the terms read in the student, each path once."""
    paths = [[t.student, t.teacher] if t.source == "self" else t.student for t in terms]
    return list(dict.fromkeys(keras.tree.flatten(paths)))


def teacher_paths(terms):
    """What the terms read in each source: `{source: paths}`."""
    paths = {}
    for term in terms:
        paths.setdefault(term.source, []).extend(keras.tree.flatten(term.teacher))
    return {source: list(dict.fromkeys(asked)) for source, asked in paths.items()}


def unbuilt(distiller):
    """The terms whose projector or loss waits for a batch."""
    return [term for term in distiller.terms if term.trains and term not in distiller.built_terms]


def state(distiller):
    """What a forward pass may change: batch statistics, seeds, a loss's memory."""
    layers = [distiller.student, *distiller.projectors.values()]
    return [variable for layer in layers for variable in layer.non_trainable_variables]


def build(distiller, iterator, data_batch, training):
    """Builds what the first batch of `fit` decides, before any callback or optimizer."""
    distributed = distiller._distribute_strategy is not None
    look_due = training and distiller._look_due and distiller.terms
    if iterator is not None and (distributed or look_due):
        data_batch = _first(distiller, iterator)
    if data_batch is None or not (distributed or look_due):
        return
    with distiller.distribute_strategy.scope():
        if look_due:
            look(distiller, Batch.unpack(data_batch))
            distiller._look_due = False
        if distributed:
            distiller._symbolic_build(data_batch=data_batch)
        if training and not distiller.optimizer.built:
            distiller.optimizer.build(distiller.trainable_variables)


def look(distiller, batch):
    """Runs student and teachers once on the first batch: refuses what is wrong, builds projectors.

    Runs eagerly and in inference mode, and leaves the student's state as it was.
    """
    batch = keras.tree.map_structure(_tensor, batch)
    distiller.first_batch = batch  # for callbacks that measure on a batch
    student = distiller.student
    before = [(v, v.numpy()) for v in student.non_trainable_variables]
    with schedules.at(0):
        features = distiller._features(batch, training=False)
        targets = distiller._targets(batch, features)
        distiller.built = True
        _check_finite(targets)
        _check_knobs(distiller)
        for term in unbuilt(distiller):
            distiller.projectors.update(term.build(student, features, targets[term.source]))
            distiller.built_terms.append(term)
        own = [v for layer in distiller.projectors.values() for v in layer.non_trainable_variables]
        before += [(v, v.numpy()) for v in own]
        for term in distiller.terms:
            if getattr(term.loss, "expects_logits", False):
                _check_logits(term, features, targets[term.source])
        distiller._measure(features, targets, batch)
    _check_labels(distiller, batch, features["output"])
    for variable, value in before:
        variable.assign(value)


def suspects(distiller, label, measured, targets):
    """What to look at, by name, when a total is not finite; the causes first."""
    step = distiller.optimizer.iterations
    found = {
        knob: knob.within(step)
        for knob in schedules.knobs(distiller._share(), distiller.terms)
        if not schedules.is_number(knob.value)
    }
    found |= {
        f"the output of `{source}` at `{path}`": value
        for source, values in targets.items()
        for path, value in values.items()
        if source != "self"
    }
    found["label_loss"] = label
    found.update((f"the term `{term.name}`", values) for term, (values, _) in measured.items())
    return found


def one_each(labels, outputs):
    """One label tensor for a dict of outputs goes to every output."""
    if isinstance(outputs, dict) and labels is not None and not keras.tree.is_nested(labels):
        return {name: labels for name in outputs}
    return labels


def metrics_of_outputs(student, metrics):
    """A list of metric names, given to a student with a dict of outputs, goes to every output."""
    outputs = getattr(student, "_outputs_struct", None)
    if isinstance(outputs, dict) and all(isinstance(metric, str) for metric in metrics):
        return {name: list(metrics) for name in outputs}
    return metrics


def described(distiller):
    """Teachers and terms, a line each."""
    student = distiller.student
    lines = [f"Distiller: {student.name}{_size(student)}"]
    for key, teacher in distiller.teachers.items():
        if key != "self":
            model = getattr(teacher, "model", None)
            name = getattr(model, "name", type(teacher).__name__)
            lines.append(f"  teacher `{key}`: {name}{_size(model)}")
    for term in distiller.terms:
        fixed = schedules.is_number(term.weight) or isinstance(term.weight, keras.Variable)
        weight = (
            f"{schedules.number_at(term.weight, 0):.6g}" if fixed else type(term.weight).__name__
        )
        lines.append(
            f"  term `{term.name}`: {term.loss.name}, student {term.student} <- {term.source} "
            f"{term.teacher}, weight {weight}, projector {term.projector or 'none'}"
        )
    return "\n".join(lines)


def _size(model):
    if not isinstance(model, keras.layers.Layer):
        return ""
    return f", {model.count_params():,} parameters" if model.built else ", not built"


def _tensor(value):
    return value if value is None or tf.is_tensor(value) else tf.convert_to_tensor(value)


def _first(distiller, iterator):
    """The first batch, of the first replica."""

    def local(value):
        if isinstance(value, tf.experimental.Optional):
            return None
        if isinstance(value, tf.distribute.DistributedValues):
            return distiller.distribute_strategy.experimental_local_results(value)[0]
        return value

    batch = first_batch.look(iterator, distiller._distribute_strategy is not None)
    if batch is None:
        raise ValueError("The dataset is empty: `fit` needs at least one batch.")
    return keras.tree.map_structure(local, batch)


def _check_finite(targets):
    for source, values in targets.items():
        for path, value in values.items():
            for tensor in keras.tree.flatten(value):
                if np.isnan(np.asarray(tensor, "float32")).any() and source != "self":
                    raise ValueError(f"NaN in the output of `{source}` at `{path}`, at step 0.")


def _check_knobs(distiller):
    for knob in schedules.knobs(distiller._share(), distiller.terms):
        if np.isnan(knob.within(0)):
            raise knob.error(0)


def _check_logits(term, features, targets):
    """A softmax must not be softened twice."""
    sides = {"student": features, "teacher": targets}
    for side, values in sides.items():
        for path in keras.tree.flatten(getattr(term, side)):
            value = values[path]
            if isinstance(value, TopK):
                continue
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


def _check_labels(distiller, batch, output):
    """Class ids in range, and the compiled loss's `from_logits` as the student's head has it."""
    loss = distiller.loss if distiller.compiled and distiller._compile_loss else None
    name = loss if isinstance(loss, str) else getattr(loss, "name", None)
    if name not in CATEGORICAL or not tf.is_tensor(output):
        return
    from_logits = getattr(loss, "from_logits", False)
    if from_logits == (logits_of(output) is not output or are_probabilities(output)):
        gives, needs = ("logits", True) if not from_logits else ("probabilities", False)
        raise ValueError(
            f"The student gives {gives}: `compile` needs a loss with `from_logits={needs}`. "
            f"Received: from_logits={from_logits}"
        )
    if name == "sparse_categorical_crossentropy" and batch.labels is not None:
        labels, classes = np.asarray(batch.labels), output.shape[-1]
        ignored = getattr(loss, "ignore_class", None)
        wrong = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if wrong.size:
            raise ValueError(f"Labels must be class ids in [0, {classes}). Received: {wrong[0]}.")
