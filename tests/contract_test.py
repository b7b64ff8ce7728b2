"""What every exported loss and every teacher must do. A new one is tested by being exported.

Without `WHOLE` graphs are compiled by XLA alone, fillers are tried in one batch, and losses take
turns in the two half precisions.
"""

import copy
import functools
import inspect
import json

import keras
import numpy as np
import pytest
from derivatives import array, of_structure
from keras import ops
from loss_families import CLASSES, FAMILIES, each, family, leaves, title
from whole import WHOLE

from keras_distill import losses, schedules, teachers
from keras_distill.batch import Batch
from keras_distill.training.term import Measured, Term


def exported(module, base):
    names = getattr(module, "__all__", dir(module))
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {
        name: value
        for name, value in found.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


BACKEND = keras.backend.backend()
LOSSES = exported(losses, losses.DistillationLoss)


def misfits():
    """What a loss raises for a shape that it does not take."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return ValueError, tf.errors.InvalidArgumentError
    return ValueError, TypeError, RuntimeError


MISFITS = misfits()


def make(name, **arguments):
    return LOSSES[name](**{**family(LOSSES[name]).arguments, **arguments})


def cases():
    """Every loss on every shape that it takes."""
    for name, loss in LOSSES.items():
        for shape in family(loss).shapes:
            try:
                usual(name, shape)
            except MISFITS:
                if name in FAMILIES or len(shape) == 2:
                    raise
                continue
            yield pytest.param(name, shape, id=f"{name}-{title(shape)}")


def once(function):
    """A function of a loss and a shape, which may be a dict, that is computed once for each."""
    found = {}

    def get(name, shape):
        key = name, title(shape)
        if key not in found:
            keras.utils.set_random_seed(0)  # for what `build` makes
            found[key] = function(name, shape)
        return found[key]

    return get


@once
def _usual(name, shape):
    case = Case(make(name), shape)
    case.first = case.gradient()
    return case


def usual(name, shape):
    """A case of random outputs for a test to change, with its gradient as it is: `first`."""
    return copy.copy(_usual(name, shape))


class Case:
    """A term on the outputs of a batch: inputs, weights and what comes out.

    `shape` is the student's: one shape, or a dict or list of them, the batch first.
    """

    def __init__(self, loss, shape=None, *, y_true=None, y_pred=None, weight=None, seed=0):
        random = np.random.default_rng(seed)
        self.loss = loss
        if shape is not None:
            usual = family(type(loss))
            teacher = usual.teacher_of(shape)
            y_true = each(lambda shape: targets(random, shape, usual.scale), teacher)
            y_pred = each(lambda shape: usual.scale * random.normal(size=shape), shape)
            if loss.layer is None:
                loss.build(shape, teacher)
        self.y_true, self.y_pred, self.weight = y_true, y_pred, weight
        self.rows = slice(None)  # of the labels
        self.dtype = "float32"

    def rewind(self):
        """A loss that remembers starts from what it knew after its first batch."""
        if self.loss.layer is None:
            return
        variables = self.loss.layer.non_trainable_variables
        if not hasattr(self.loss, "start"):
            self.unreduced()
            self.loss.start = [array(variable.value) for variable in variables]
        for variable, value in zip(variables, self.loss.start, strict=True):
            variable.assign(value)

    def unreduced(self, y_pred=None):
        y_pred = self.tensors(self.y_pred) if y_pred is None else y_pred
        y_true = self.tensors(self.y_true)
        first = keras.tree.flatten(y_pred)[0]
        leading = tuple(first.shape)
        leading = leading[:-1] if len(leading) < 4 else leading[:1]
        if (one := family(type(self.loss)).labels) is not None:
            leading = (first.shape[0], *one)
        labels = np.indices(leading).sum(0) % CLASSES  # the same once padded
        labels = ops.convert_to_tensor(labels[self.rows])
        weight = self.weight
        if weight is not None:
            weight = ops.convert_to_tensor(np.asarray(weight, "float32"))
        batch = Batch(x=None, labels=labels, sample_weight=weight, targets=None)
        term = Term(self.loss, student=self.paths("s", y_pred), teacher=self.paths("t", y_true))
        values, weights = term(self.named("s", y_pred), self.named("t", y_true), batch)
        self.shape, self.dtypes = values.shape, (dtype_of(values), dtype_of(weights))
        return Measured(values, weights)

    def paths(self, side, values):
        if isinstance(values, dict):
            return {key: f"{side}{key}" for key in values}
        if isinstance(values, list):
            return [f"{side}{index}" for index in range(len(values))]
        return side

    def named(self, side, values):
        paths = keras.tree.flatten(self.paths(side, values))
        return dict(zip(paths, keras.tree.flatten(values), strict=True))

    def tensors(self, values):
        return each(lambda value: ops.cast(ops.convert_to_tensor(value), self.dtype), values)

    def change(self, function):
        """Both sides, changed by a function of each array."""
        self.y_true, self.y_pred = each(function, self.y_true), each(function, self.y_pred)

    def values(self):
        self.rewind()
        return array(self.unreduced()[0])

    def differentiate(self, y_pred):
        """The mean over the batch and its gradients for the student's outputs, as tensors."""
        return of_structure(lambda given: self.unreduced(given).mean(), y_pred)

    def gradient(self):
        """The same as arrays."""
        self.rewind()
        loss, gradient = self.differentiate(self.tensors(self.y_pred))
        return array(loss), each(array, gradient)


def compiled(cases, jit_compile):
    """`gradient()` of every case, from one function of them all; none where it does not compile."""

    def differentiate(inputs):
        return {key: case.differentiate(inputs[key]) for key, case in cases.items()}

    for case in cases.values():
        case.rewind()
    inputs = {key: case.tensors(case.y_pred) for key, case in cases.items()}
    try:
        outputs = _compile(differentiate, jit_compile)(inputs)
    except Exception:
        if len(cases) == 1:
            raise
        return {}  # each alone then says which it was
    return keras.tree.map_structure(array, outputs)


def _compile(function, jit_compile):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit_compile)
    if BACKEND == "jax" and jit_compile:
        import jax

        return jax.jit(function)
    pytest.skip(f"{BACKEND} has no such compiler")


def compiled_gradient(make_case, name, shape, jit_compile):
    """One case's part of what its family gives, compiled as one function."""
    key = f"{name}-{title(shape)}"
    together = compiled_family(make_case, LOSSES[name].__module__, jit_compile)
    return together[key] if together else compiled({key: make_case(name, shape)}, jit_compile)[key]


@functools.cache
def compiled_family(make_case, module, jit_compile):
    """All cases of the losses of one file; of logits alone where the case is about them."""
    values = [case.values for case in (EVERY if make_case is weighted else OF_LOGITS)]
    family = [(name, shape) for name, shape in values if LOSSES[name].__module__ == module]
    made = {f"{name}-{title(shape)}": make_case(name, shape) for name, shape in family}
    return compiled(made, jit_compile)


def weighted(name, shape):
    keras.utils.set_random_seed(0)  # for what `build` makes
    return Case(make(name), shape, weight=np.arange(examples(shape)))


@once
def weighted_gradient(name, shape):
    return weighted(name, shape).gradient()


def with_padded_vocabulary(name, shape):
    case = Case(make(name), shape)
    case.change(padded_with(-np.inf, (len(shape) - 1,), 3))
    return case


def dtype_of(values):
    return keras.backend.standardize_dtype(values.dtype)


def close(actual, expected, tolerance=1e-5):
    keras.tree.assert_same_structure(actual, expected)
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected)):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def tolerance_of(name):
    return family(LOSSES[name]).tolerance


def targets(random, shape, scale):
    """A teacher's values; where there is but one an example, its index."""
    if len(shape) == 1:
        return random.integers(0, CLASSES, shape).astype("float64")
    return scale * random.normal(size=shape)


def half(values, dtype):
    return array(ops.cast(ops.cast(ops.convert_to_tensor(values), dtype), "float32"))


def examples(shape):
    return leaves(shape)[0][0]


def token_axes(shape, loss):
    """The axes of tokens in a shape of which every part has tokens."""
    ranks = {len(part) for part in leaves(shape)}
    usual = loss.token_axes != (1,) or ranks == {3}
    return loss.token_axes if usual or (family(type(loss)).tokens and min(ranks) > 2) else ()


def padded_with(filler, axes, size=2):
    """Makes arrays longer along `axes`."""

    def pad(array):
        for axis in axes:
            more = [size if i == axis else length for i, length in enumerate(array.shape)]
            array = np.concatenate([array, np.full(more, filler)], axis=axis)
        return array

    return pad


def filled_with(fillers):
    """Makes arrays of whose examples each holds one of the fillers alone."""

    def fill(array):
        filled = np.empty_like(array)
        for turn, filler in enumerate(fillers):
            filled[turn :: len(fillers)] = filler
        return filled

    return fill


EVERY = list(cases())
OF_LOGITS = [case for case in EVERY if family(LOSSES[case.values[0]]).kind == "logits"]
every = pytest.mark.parametrize("name, shape", EVERY)
every_of_logits = pytest.mark.parametrize("name, shape", OF_LOGITS)
HALVES = [
    pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}")
    for number, case in enumerate(EVERY)
    for turn, dtype in enumerate(["float16", "bfloat16"])
    if WHOLE or number % 2 == turn
]
# What masked examples hold: each alone, or all in one batch.
FILLERS = [(np.nan,), (np.inf,), (1e30,)] if WHOLE else [(np.nan, np.inf, 1e30)]
# Run by one process where there are several: what is compiled once serves them all.
compiles = pytest.mark.xdist_group("compiled losses")


# Losses


def test_there_are_losses():
    assert "KLDivergence" in LOSSES


def test_every_family_is_a_loss():
    assert {*FAMILIES} <= {*LOSSES}


@every
def test_values_have_the_leading_axes(name, shape):
    case = usual(name, shape)
    values, weights = case.unreduced()
    assert len(values.shape) >= 1 and values.shape[0] == examples(shape)
    axes = token_axes(shape, case.loss)
    if not axes and isinstance(shape, tuple):
        assert tuple(values.shape) == shape[: len(values.shape)]
    elif len(values.shape) > 1:
        assert values.shape[1] == leaves(shape)[0][axes[0]]
    assert values.shape == weights.shape
    assert case.dtypes[0] == "float32" and np.isfinite(array(values)).all()


@every
def test_is_a_keras_loss(name, shape):
    """Called as Keras calls it, it is the mean of its values."""
    if make(name).needs:
        pytest.skip("asks for more than Keras gives")
    if not isinstance(shape, tuple):
        pytest.skip("Keras takes one tensor on each side")
    case = usual(name, shape)
    case.rewind()
    loss = case.loss(case.tensors(case.y_true), case.tensors(case.y_pred))
    close(array(loss), case.first[0], tolerance_of(name))


@every
def test_agreement_is_the_minimum(name, shape):
    minimum = family(LOSSES[name]).minimum
    if minimum is None:
        pytest.skip("has no minimum where both agree")
    case = usual(name, shape)
    case.y_pred = case.y_true
    agreed, gradient = case.gradient()
    close(agreed, np.float32(minimum), tolerance_of(name))
    close(gradient, each(np.zeros_like, case.y_true), tolerance_of(name))
    assert agreed < case.first[0]


@every
def test_the_gradient_is_the_slope(name, shape):
    if not family(LOSSES[name]).slope:
        pytest.skip("holds a part constant")
    case = usual(name, shape)
    random = np.random.default_rng(1)
    direction = each(lambda shape: random.normal(size=shape), shape)
    products = keras.tree.map_structure(lambda g, d: np.sum(g * d), case.first[1], direction)
    step, middle = family(LOSSES[name]).step, case.y_pred
    ends = []
    for sign in (1, -1):
        case.y_pred = keras.tree.map_structure(
            lambda m, d, sign=sign: m + sign * step * d, middle, direction
        )
        ends.append(case.gradient()[0])
    close((ends[0] - ends[1]) / (2 * step), sum(keras.tree.flatten(products)), 1e-2)


@every
def test_a_weight_of_two_is_the_example_twice(name, shape):
    if make(name).across_batch:
        pytest.skip("an example twice is another batch")
    size, heavy, twice = examples(shape), usual(name, shape), usual(name, shape)
    heavy.weight = [2.0] + [1.0] * (size - 1)
    twice.rows = [0, *range(size)]
    twice.change(lambda array: array[twice.rows])
    (loss_once, gradient_once), (loss_twice, gradient_twice) = heavy.gradient(), twice.gradient()
    close(loss_once, loss_twice, tolerance_of(name))
    summed = each(lambda g: np.concatenate([g[:1] + g[1:2], g[2:]]), gradient_twice)
    close(gradient_once, summed, tolerance_of(name))


@every
@pytest.mark.parametrize("fillers", FILLERS, ids=str)
def test_masked_examples_may_hold_anything(name, shape, fillers):
    padded, size = usual(name, shape), examples(shape)
    (loss, gradient), more = padded.first, len(fillers)
    padded.weight = [1.0] * size + [0.0] * more
    for filler in fillers:
        padded.change(padded_with(filler, (0,), 1))
    padded_loss, padded_gradient = padded.gradient()
    close(padded_loss, loss, tolerance_of(name))
    close(padded_gradient, each(padded_with(0.0, (0,), more), gradient), tolerance_of(name))


@every
def test_masked_tokens_may_hold_anything(name, shape):
    padded = usual(name, shape)
    axes = token_axes(shape, padded.loss)
    if not axes or (len(padded.shape) < 2 and not family(LOSSES[name]).tokens):
        pytest.skip("has one value per example")
    tokens = leaves(shape)[0][axes[0]]
    padded.weight = np.repeat([[1.0] * tokens + [0.0] * 2], examples(shape), axis=0)
    padded.change(padded_with(np.nan, axes))
    (loss, gradient), (padded_loss, padded_gradient) = padded.first, padded.gradient()
    close(padded_loss, loss, tolerance_of(name))
    close(padded_gradient, each(padded_with(0.0, axes), gradient), tolerance_of(name))


@every
@pytest.mark.parametrize("fillers", [(0.0,), (np.nan,)] if WHOLE else [(0.0, np.nan)], ids=str)
def test_a_batch_of_padding_is_zero(name, shape, fillers):
    case = usual(name, shape)
    case.weight = [0.0] * examples(shape)
    case.change(filled_with(fillers))
    loss, gradient = case.gradient()
    assert loss == 0 and not any(part.any() for part in keras.tree.flatten(gradient))


@every
def test_the_scale_of_the_weights_does_not_matter(name, shape):
    case = weighted(name, shape)
    case.weight = case.weight / 8
    close(case.gradient(), weighted_gradient(name, shape), tolerance_of(name))


@compiles
@every
@pytest.mark.parametrize("jit_compile", [False, True] if WHOLE else [True],
                         ids={False: "graph", True: "xla"}.get)  # XLA compiles such a graph
def test_graphs_compute_what_eager_computes(name, shape, jit_compile):
    graph = compiled_gradient(weighted, name, shape, jit_compile)
    close(graph, weighted_gradient(name, shape), tolerance_of(name))


@pytest.mark.parametrize("name, shape, dtype", HALVES)
def test_half_precision_is_computed_in_float32(name, shape, dtype):
    case = usual(name, shape)
    case.change(lambda array: half(array, dtype))
    loss, gradient = case.gradient()
    case.dtype = dtype
    half_loss, half_gradient = case.gradient()
    assert case.dtypes == ("float32", "float32")
    close(half_loss, loss, tolerance_of(name))
    close(each(lambda part: part.astype("float32"), half_gradient), gradient, 1e-2)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras computes it in float32 there")
@every
def test_float64_is_computed_in_float64(name, shape):
    keras.utils.set_random_seed(0)  # for what `build` makes
    wide = Case(make(name, dtype="float64"), shape, weight=np.arange(examples(shape)))
    wide.dtype = "float64"
    loss, gradient = wide.gradient()
    assert wide.dtypes[0] == loss.dtype == "float64"
    assert all(part.dtype == "float64" for part in keras.tree.flatten(gradient))
    if not wide.loss.stateful:  # which draws other numbers
        close((loss, gradient), weighted_gradient(name, shape), 1e-4)


@every
def test_serialization_keeps_the_loss(name, shape):
    loss = make(name)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(loss) and again.name == loss.name
    assert again.get_config() == loss.get_config()
    case = usual(name, shape)
    keras.utils.set_random_seed(0)  # for what `build` makes
    close(Case(again, shape).values(), case.values(), tolerance_of(name))


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if "temperature" in inspect.signature(LOSSES[name]).parameters]
)
def test_a_temperature_may_be_a_schedule(name):
    shape = family(LOSSES[name]).shapes[0]
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 10, end_temperature := 2.0)
    config = keras.saving.serialize_keras_object(make(name, temperature=schedule))
    config = json.loads(json.dumps(config))
    for step, temperature in ((0, 4.0), (5, 3.0), (10, end_temperature)):
        again = keras.saving.deserialize_keras_object(config)
        for one in (make(name, temperature=schedule), again):  # new: a loss may remember
            with schedules.at(step):
                values = Case(one, shape).values()
            close(values, Case(make(name, temperature=temperature), shape).values())


@pytest.mark.parametrize("temperature", [0, -1.0])
@pytest.mark.parametrize(
    "name", [name for name in LOSSES if "temperature" in inspect.signature(LOSSES[name]).parameters]
)
def test_a_temperature_is_positive(name, temperature):
    with pytest.raises(ValueError, match=f"temperature.*positive.*{temperature}"):
        make(name, temperature=temperature)


@every_of_logits
def test_logits_count_up_to_a_constant(name, shape):
    case = usual(name, shape)
    loss, gradient = case.first
    shift = np.random.default_rng(2).normal(size=(*shape[:-1], 1)) * 3
    case.y_true, case.y_pred = case.y_true + shift, case.y_pred - shift
    shifted_loss, shifted_gradient = case.gradient()
    close(shifted_loss, loss, 1e-4)
    close(shifted_gradient, gradient, 1e-4)


@compiles
@every_of_logits
@pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "xla"])
def test_a_padded_vocabulary_may_hold_minus_infinity(name, shape, jit_compile):
    """Entries that neither side can choose change nothing."""
    loss, gradient = usual(name, shape).first
    if jit_compile:
        padded = compiled_gradient(with_padded_vocabulary, name, shape, True)
    else:
        padded = with_padded_vocabulary(name, shape).gradient()
    padded_loss, padded_gradient = padded
    assert np.isfinite(padded_loss) and np.isfinite(padded_gradient).all()
    if name == "KLDivergence":  # others may divide by the number of classes
        close(padded_loss, loss)
        close(padded_gradient[..., : shape[-1]], gradient)


@every_of_logits
def test_the_teacher_alone_may_rule_a_class_out(name, shape):
    case = usual(name, shape)
    case.y_true = np.where(np.arange(shape[-1]) == 0, -np.inf, case.y_true)
    loss, gradient = case.gradient()
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@every_of_logits
def test_huge_logits_are_finite(name, shape):
    case = usual(name, shape)
    case.y_true, case.y_pred = case.y_true * 1e4, case.y_pred * -1e4
    loss, gradient = case.gradient()
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@every
def test_equal_and_empty_features_are_finite(name, shape):
    """Rows of zeros, and rows that are alike, have no direction and no distance."""
    case = usual(name, shape)
    for filler in (0.0, 1.0):
        case.change(lambda array, filler=filler: np.full_like(array, filler))
        loss, gradient = case.gradient()
        assert np.isfinite(loss)
        assert all(np.isfinite(part).all() for part in keras.tree.flatten(gradient))


# Teachers

MODEL = keras.Sequential(
    [keras.Input((4,)), keras.layers.Dense(3, name="hint"), keras.layers.Dropout(0.5)]
)


def model_of(*_):
    return keras.models.clone_model(MODEL)


# How a teacher is made where its constructor takes arguments.
MAKERS = {
    "ModelTeacher": lambda kind: kind(model_of()),
    "EnsembleTeacher": lambda kind: kind([model_of(), model_of()]),
}

TEACHERS = exported(teachers, teachers.Teacher)
every_teacher = pytest.mark.parametrize("name", TEACHERS)


def teacher_named(name):
    teacher = MAKERS.get(name, lambda kind: kind())(TEACHERS[name])
    teacher.begin(model_of())
    return teacher


def targets_of(teacher, paths=("output", "hint")):
    x = ops.convert_to_tensor(np.arange(8, dtype="float32").reshape(2, 4) / 8)
    features = {path: x[:, :3] * (1.0 + index) for index, path in enumerate(paths)}
    cached = {path: ops.ones((2, 3)) for path in paths}
    found = {}

    def total(given):
        features, x = given
        batch = Batch(x=x, labels=ops.zeros(2), sample_weight=None, targets=cached)
        targets = teacher.targets(batch, features, list(paths))
        found.update(targets)
        return sum(ops.sum(target) for target in targets.values())

    gradients = of_structure(total, [features, x])[1]
    if BACKEND == "jax":  # what was found there are tracers
        total([features, x])
    return found, gradients


def test_there_are_teachers():
    assert {"ModelTeacher", "SelfTeacher", "CachedTeacher"} <= {*TEACHERS}


@every_teacher
def test_a_teacher_gives_what_is_asked(name):
    targets, _ = targets_of(teacher_named(name))
    assert {*targets} == {"output", "hint"}
    assert all(tuple(target.shape) == (2, 3) for target in targets.values())


@every_teacher
def test_a_teacher_does_not_learn(name):
    """No gradient reaches the student's features or the input through the targets."""
    gradients = keras.tree.flatten(targets_of(teacher_named(name))[1])
    assert not any(array(gradient).any() for gradient in gradients)


@every_teacher
def test_a_teacher_answers_twice_alike(name):
    """It runs as in inference: no dropout."""
    teacher = teacher_named(name)
    once, again = (keras.tree.map_structure(array, targets_of(teacher)[0]) for _ in range(2))
    keras.tree.map_structure(close, once, again)


@every_teacher
def test_keras_does_not_track_a_teacher(name):
    teacher = teacher_named(name)
    assert not isinstance(teacher, (keras.Layer, keras.Variable))
    assert isinstance(keras.tree.flatten(teacher.state), list)
    teacher.update(model_of())
