"""What a distiller builds before its first step, and what its step reads."""

import inspect

import keras
import numpy as np

from keras_distill import schedules
from keras_distill.batch import Batch
from keras_distill.losses import KLDivergence
from keras_distill.teachers import CachedTeacher, ModelTeacher, SelfTeacher, Teacher
from keras_distill.training import checks, first_batch
from keras_distill.training.term import Term, teacher_paths

import tensorflow as tf  # isort: skip: after the check of the backend in `taps`


def teachers_by_name(teacher):
    """The sources that terms can name: those given, and "self"."""
    named = teacher if isinstance(teacher, dict) else {"teacher": teacher}
    if "self" in named:
        raise ValueError("The name `self` means the student's own features: name the teacher else.")
    given = {key: source for key, source in named.items() if source is not None}
    cached = [key for key, source in given.items() if isinstance(source, CachedTeacher)]
    if len(cached) > 1:
        raise ValueError(
            "One `CachedTeacher` serves all targets of a batch: two would say the same. Those of "
            'several teachers have paths of their own, such as "a/output" and "b/output", which a '
            f"term names as its `teacher`. Received: CachedTeacher as {cached}"
        )
    return {"self": SelfTeacher()} | {
        key: source if isinstance(source, Teacher) else ModelTeacher(source)
        for key, source in given.items()
    }


def default_terms(teachers):
    """Hinton's distillation from every teacher, each with the same share."""
    names = [name for name in teachers if name != "self"]
    loss = KLDivergence(temperature=2.0)
    if len(names) == 1:
        return [Term(loss, source=names[0])]
    return [Term(loss, source=n, weight=1 / len(names), name=f"{loss.name}_{n}") for n in names]


def reducible(distiller, logs):
    """Under several workers Keras averages logs along an axis, which scalars do not have."""
    if not isinstance(distiller._distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return keras.tree.map_structure(lambda value: tf.reshape(value, (1,)), logs)


def leave_inputs(distiller):
    """Has Keras hand inputs on as they are: the student converts them, as it does in training."""
    distiller._convert_input_args = False
    distiller._allow_non_tensor_positional_args = True


def share(alpha):
    """Alpha, checked; a variable is not trained, or the optimizer would move it."""
    if isinstance(alpha, keras.Variable):
        alpha.trainable = False
    return None if alpha is None else schedules.check("alpha", alpha, low=0, high=1)


def compile_arguments(distiller, *args, **kwargs):
    """The arguments of Keras's `compile` by name, fitting for the outputs and the teachers."""
    given = inspect.signature(keras.Model.compile).bind(distiller, *args, **kwargs).arguments
    del given["self"]
    if isinstance(given.get("metrics"), (list, tuple)):
        given["metrics"] = metrics_of_outputs(distiller.student, given["metrics"])
    if given.get("jit_compile", "auto") == "auto" and not teachers_jit(distiller):
        given["jit_compile"] = False
    return given


def added_losses(distiller):
    """What the student and the attached terms' layers add; a teacher's copy adds nothing."""
    names = [name for term in distiller.terms for name in (term.name, f"{term.name}_loss")]
    layers = [distiller.projectors[name] for name in names if name in distiller.projectors]
    return [each for layer in (distiller.student, *layers) for each in layer.losses]


def teachers_jit(distiller):
    """Whether XLA can compile all teachers, of which Keras, which does not track them, asks none.

    A function may do anything: of it that is not known.
    """
    found = [one for teacher in distiller.teachers.values() for one in _models(teacher)]
    known = all(isinstance(model, keras.Model) for model in found)
    return known and all(layer.supports_jit for model in found for layer in model._flatten_layers())


def _models(teacher):
    members = getattr(teacher, "members", None)
    if members is not None:
        return [model for member in members.values() for model in _models(member)]
    return [teacher.model] if hasattr(teacher, "model") else []


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
    look_due = training and distiller._look_due
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
    if not hasattr(distiller, "first_batch"):
        distiller.first_batch = batch  # for callbacks that measure on a batch
    student = distiller.student
    before = [(v, v.numpy()) for v in student.non_trainable_variables]
    with schedules.at(0):
        features = distiller._features(batch, training=False)
        for source, asked in teacher_paths(distiller.terms).items():
            distiller.teachers[source].examine(batch, asked)
        targets = distiller._targets(batch, features)
        distiller.built = True
        checks.check_knobs(distiller)
        for term in distiller.terms:
            checks.check_parts(term, features, targets[term.source])
        for term in unbuilt(distiller):
            distiller.projectors.update(term.build(student, features, targets[term.source]))
            distiller.built_terms.append(term)
        own = [v for layer in distiller.projectors.values() for v in layer.non_trainable_variables]
        before += [(v, v.numpy()) for v in own]
        for term in distiller.terms:
            if term.loss.expects_logits:
                checks.check_logits(term, features, targets[term.source])
        for term, (values, _) in distiller._measure(features, targets, batch).items():
            checks.check_finite(term, targets[term.source], values)
    checks.check_labels(distiller, batch, features["output"])
    for variable, value in before:
        variable.assign(value)


def trained(distiller):
    """The variables that a step trains: not those of terms that were detached."""
    names = {made for term in distiller.terms for made in (term.name, f"{term.name}_loss")}
    layers = [layer for name, layer in distiller.projectors.items() if name not in names]
    idle = {id(variable) for layer in layers for variable in layer.trainable_variables}
    return [v for v in distiller.trainable_variables if id(v) not in idle]


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
            dtype = getattr(teacher, "dtype", None)
            precision = f", in {dtype}" if dtype else ""
            lines.append(f"  teacher `{key}`: {name}{_size(model)}{precision}")
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


def tensors(batch):
    """A batch whose arrays are tensors: eagerly Keras hands on what it was given."""
    return keras.tree.map_structure(
        lambda value: tf.convert_to_tensor(value) if isinstance(value, np.ndarray) else value, batch
    )


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


def add(mean, total, count):
    """Adds to a `keras.metrics.Mean`, with two operations where `update_state` takes twenty."""
    mean.total.value.assign_add(tf.cast(total, mean.total.dtype))
    mean.count.value.assign_add(tf.cast(count, mean.count.dtype))
