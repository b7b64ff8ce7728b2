"""What every distillation keeps, whatever it is made of: checks of one `drawing.Case`."""

import contextlib
import dataclasses

import keras
import numpy as np
from drawing import LOSSES
from keras import ops
from loss_families import family
from making import made

from keras_distill.batch import Batch

BACKEND = keras.backend.backend()
UNLIKE = ("byot", "one", "review_kd", "semckd")  # recipes with batch normalization


def check(case):
    """Trains by a case, and raises where a contract that it names does not hold."""
    keeps = {"order": order_is_irrelevant, "padded": padding_changes_nothing,
             "alone": without_a_share_it_is_the_student, "slope": gradients_are_slopes,
             "modes": modes_agree}  # fmt: skip
    if case.optimizer == "adam" and {*case.contracts} != {"alone"}:
        case = dataclasses.replace(case, optimizer="momentum")  # Adam blows a rounding up near zero
    parts = made(case)
    batches = None if {"order", "modes"} & {*case.contracts} else [parts.batch(slice(case.batch))]
    steps = trained(parts.distiller(), parts, batches)
    for name in case.contracts:
        keeps[name](case, parts, steps)


def trained(distiller, parts, batches=None):
    """The student's values after each step on `batches`, by default two of the case; finite."""
    size, found = parts.case.batch, []
    for batch in batches or [parts.batch(slice(size)), parts.batch(slice(size, None))]:
        if len(keras.tree.flatten(batch)[0]):  # none is left of a batch of one
            logs = distiller.train_on_batch(*batch, return_dict=True)
            found.append(parts.values())
            for value in (*found[-1], *logs.values()):
                np.testing.assert_array_equal(np.isfinite(value), True)
    return found


def close(found, expected, dtype):
    tolerance = {"float32": 2e-4, "float64": 2e-4, "mixed_bfloat16": 5e-2}[dtype]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance / 5)


def order_is_irrelevant(case, parts, steps):
    distiller = parts.distiller(reverse=True)
    if sum(term.trains for term in distiller.terms) > 1:
        return  # each draws its weights after those before it
    close(trained(distiller, parts)[-1], steps[-1], case.dtype)


def padding_changes_nothing(case, parts, steps):
    if {"norm", "dropout"} & {*case.parts} or case.recipe in UNLIKE:
        return  # what is added counts there
    padded = parts.batch(slice(case.batch), filler=np.nan)
    close(trained(parts.distiller(), parts, [padded])[0], steps[0], case.dtype)


def without_a_share_it_is_the_student(case, parts, steps):
    """At `alpha=0` a distiller trains as the student does, bit for bit."""
    options = {"batch_size": case.batch, "epochs": 1, "shuffle": False, "verbose": 0}
    student, batch = parts.student, parts.batch()
    parts.rewind()
    student.compile(**parts.settings())
    x, y, weight = parts.for_student(batch)
    student.fit(x, y, sample_weight=weight, **options)
    expected = parts.values()
    x, y, weight = batch
    parts.distiller(alpha=0.0).fit(x, y, sample_weight=weight, **options)
    for one, other in zip(parts.values(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def modes_agree(case, parts, steps):
    """What is compiled trains as what is run eagerly."""
    if BACKEND == "torch" or case.dtype == "mixed_bfloat16":
        return  # one way alone; XLA rounds in other places
    expected = trained(parts.distiller(mode="eager"), parts)[-1]
    modes = ["graph", "xla"] if BACKEND == "tensorflow" else ["xla"]
    draws = BACKEND == "tensorflow" and "dropout" in case.parts  # XLA draws other numbers there
    if draws or case.build == "recurrent":  # which takes XLA a minute
        modes.remove("xla")
    for mode in modes:
        close(trained(parts.distiller(mode=mode), parts)[-1], expected, case.dtype)


def gradients_are_slopes(case, parts, steps):
    """In float64 the gradient of the total is the limit of its differences."""
    terms = [term for term in case.terms
             if term.source != "self" and family(LOSSES[term.loss]).slope]  # fmt: skip
    if BACKEND != "tensorflow" or not terms:
        return
    parts = tuple({*case.parts} - {"dropout"})
    with everything_in("float64"):
        compare_slopes(dataclasses.replace(case, terms=tuple(terms), dtype="float64", parts=parts))


@contextlib.contextmanager
def everything_in(dtype):
    """Meanwhile what Keras makes is of this dtype: projectors and the label loss, too."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def compare_slopes(case):
    parts = made(case)
    distiller = parts.distiller()
    batch = parts.batch(slice(case.batch))
    distiller.look(batch)
    objective, batch = distiller.objective, Batch.unpack(batch)
    batch = keras.tree.map_structure(
        lambda value: value if value is None else ops.convert_to_tensor(value), batch
    )
    variables = objective.trained(distiller.trainable_variables)
    random = np.random.default_rng(case.seed)
    directions = [random.normal(size=tuple(variable.shape)) for variable in variables]
    middle = [np.array(variable) for variable in variables]
    targets, step, found = objective.targets(batch), 1e-6, {}
    objective.forward(batch, targets, 0)  # a loss may hold constant what its first batch has shown
    with kept(objective.state()) as rewind:
        for sign in (0, 1, -1):
            rewind()
            for variable, value, direction in zip(variables, middle, directions):
                variable.assign(value + sign * step * direction)
            found[sign] = total_and_gradients(objective, batch, targets, variables)
    slope = (found[1][0] - found[-1][0]) / (2 * step)
    product = sum(np.sum(g * d) for g, d in zip(found[0][1], directions))
    np.testing.assert_allclose(product, slope, rtol=1e-4, atol=1e-6 * (1 + abs(found[0][0])))


def total_and_gradients(objective, batch, targets, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        total = objective.forward(batch, targets, 0).total
    values = [variable.value for variable in variables]
    gradients = tape.gradient(total, values, unconnected_gradients="zero")
    return float(total), [tf.convert_to_tensor(each).numpy() for each in gradients]


@contextlib.contextmanager
def kept(variables):
    """A function that gives variables their values back."""
    before = [np.array(ops.convert_to_numpy(variable.value)) for variable in variables]

    def rewind():
        for variable, value in zip(variables, before):
            variable.assign(value)

    yield rewind
    rewind()

