"""What every exported loss and every teacher must do. A new one is tested by being exported."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import losses, schedules, teachers
from keras_distill.batch import Batch
from keras_distill.term import Term, global_mean

CLASSES = 5


def exported(module, base):
    names = getattr(module, "__all__", dir(module))
    found = {name: getattr(module, name) for name in names if not name.startswith("_")}
    return {
        name: value
        for name, value in found.items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
    }


# How a loss differs from the usual: one of logits (examples, classes), and (examples, tokens,
# classes) where it takes them, that is zero where teacher and student agree.
#   arguments: for its constructor         shapes: of its inputs
#   kind: "logits" or "features"           minimum: its value where both agree; None: no minimum
FAMILIES = {}

LOSSES = exported(losses, losses.DistillationLoss)


def family(name):
    accepted = inspect.signature(LOSSES[name]).parameters
    usual = {
        "arguments": {"temperature": 2.0} if "temperature" in accepted else {},
        "shapes": [(6, CLASSES), (4, 3, CLASSES)],
        "kind": "logits",
        "minimum": 0.0,
    }
    return {**usual, **FAMILIES.get(name, {})}


def make(name, **arguments):
    return LOSSES[name](**{**family(name)["arguments"], **arguments})


def cases(kind=None):
    """Every loss on every shape that it takes."""
    for name in LOSSES:
        if kind is not None and family(name)["kind"] != kind:
            continue
        for shape in family(name)["shapes"]:
            try:
                Case(make(name), shape).values()
            except (ValueError, tf.errors.InvalidArgumentError):
                if name in FAMILIES or len(shape) == 2:
                    raise
                continue
            yield pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")


class Case:
    """A term on the outputs of a batch: inputs, weights and what comes out."""

    def __init__(self, loss, shape=None, *, y_true=None, y_pred=None, weight=None, seed=0):
        random = np.random.default_rng(seed)
        self.loss = loss
        self.y_true = random.normal(size=shape) * 2 if y_true is None else y_true
        self.y_pred = random.normal(size=shape) * 2 if y_pred is None else y_pred
        self.weight = weight
        self.dtype = "float32"

    def unreduced(self, y_pred=None):
        y_pred = tf.constant(self.y_pred, self.dtype) if y_pred is None else y_pred
        y_true = tf.constant(self.y_true, self.dtype)
        leading = y_true.shape[:-1] if y_true.shape.rank < 4 else y_true.shape[:1]
        labels = tf.reshape(tf.range(np.prod(leading)) % CLASSES, leading)
        weight = None if self.weight is None else tf.constant(self.weight, "float32")
        batch = Batch(x=None, labels=labels, sample_weight=weight, targets=None)
        return Term(self.loss)({"output": y_pred}, {"output": y_true}, batch)

    def values(self):
        return self.unreduced()[0].numpy()

    def gradient(self, wrap=lambda f: f):
        """The mean over the batch and its gradient for the student's output."""

        def compute(y_pred):
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                loss = global_mean(*self.unreduced(y_pred))
            return loss, tape.gradient(loss, y_pred)

        loss, gradient = wrap(compute)(tf.constant(self.y_pred, self.dtype))
        return loss.numpy(), gradient.numpy()


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def half(array, dtype):
    return np.array(tf.cast(tf.constant(array, "float32"), dtype).numpy(), "float32")


every = pytest.mark.parametrize("name, shape", list(cases()))
every_of_logits = pytest.mark.parametrize("name, shape", list(cases("logits")))


# Losses


def test_there_are_losses():
    assert "KLDivergence" in LOSSES


@every
def test_values_have_the_leading_axes(name, shape):
    case = Case(make(name), shape)
    values, weights = case.unreduced()
    assert values.shape.rank >= 1 and values.shape == shape[: values.shape.rank]
    assert values.shape == weights.shape
    assert values.dtype == "float32" and np.isfinite(values.numpy()).all()


@every
def test_is_a_keras_loss(name, shape):
    """Called as Keras calls it, it is the mean of its values."""
    if {"mask", "labels"} & {*inspect.signature(make(name).call).parameters}:
        pytest.skip("asks for more than Keras gives")
    case = Case(make(name), shape)
    loss = case.loss(tf.constant(case.y_true, "float32"), tf.constant(case.y_pred, "float32"))
    close(loss, case.values().mean())


@every
def test_agreement_is_the_minimum(name, shape):
    minimum = family(name)["minimum"]
    if minimum is None:
        pytest.skip("has no minimum where both agree")
    case = Case(make(name), shape)
    loss = case.gradient()[0]
    case.y_pred = case.y_true
    agreed, gradient = case.gradient()
    close(agreed, minimum)
    close(gradient, np.zeros(shape))
    assert agreed < loss


@every
def test_the_gradient_is_the_slope(name, shape):
    case = Case(make(name), shape)
    direction = np.random.default_rng(1).normal(size=shape)
    slope = np.sum(case.gradient()[1] * direction)
    step, middle = 1e-2, case.y_pred
    ends = []
    for sign in (1, -1):
        case.y_pred = middle + sign * step * direction
        ends.append(case.gradient()[0])
    close((ends[0] - ends[1]) / (2 * step), slope, 1e-2)


@every
def test_a_weight_of_two_is_the_example_twice(name, shape):
    loss = make(name)
    if loss.across_batch:
        pytest.skip("an example twice is another batch")
    once = Case(loss, shape, weight=[2.0] + [1.0] * (shape[0] - 1))
    twice = Case(loss, y_true=once.y_true[[0, *range(shape[0])]])
    twice.y_pred = once.y_pred[[0, *range(shape[0])]]
    (loss_once, gradient_once), (loss_twice, gradient_twice) = once.gradient(), twice.gradient()
    close(loss_once, loss_twice)
    close(gradient_once[1:], gradient_twice[2:])
    close(gradient_once[0], gradient_twice[0] + gradient_twice[1])


@every
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_masked_examples_may_hold_anything(name, shape, filler):
    whole = Case(make(name), shape)
    padded = Case(make(name), weight=[1.0] * shape[0] + [0.0] * 2)
    for side in ("y_true", "y_pred"):
        filling = np.full((2, *shape[1:]), filler)
        setattr(padded, side, np.concatenate([getattr(whole, side), filling]))
    (loss, gradient), (padded_loss, padded_gradient) = whole.gradient(), padded.gradient()
    close(padded_loss, loss)
    close(padded_gradient[: shape[0]], gradient)
    close(padded_gradient[shape[0] :], 0.0)


@pytest.mark.parametrize("name, shape", [case for case in cases() if len(case.values[1]) == 3])
def test_masked_tokens_may_hold_anything(name, shape):
    if Case(make(name), shape).values().ndim < 2:
        pytest.skip("has one value per example")
    batch, tokens, _ = shape
    whole = Case(make(name), shape)
    padded = Case(make(name), weight=np.repeat([[1.0] * tokens + [0.0] * 2], batch, axis=0))
    for side in ("y_true", "y_pred"):
        filling = np.full((batch, 2, shape[-1]), np.nan)
        setattr(padded, side, np.concatenate([getattr(whole, side), filling], axis=1))
    (loss, gradient), (padded_loss, padded_gradient) = whole.gradient(), padded.gradient()
    close(padded_loss, loss)
    close(padded_gradient[:, :tokens], gradient)
    close(padded_gradient[:, tokens:], 0.0)


@every
@pytest.mark.parametrize("filler", [0.0, np.nan])
def test_a_batch_of_padding_is_zero(name, shape, filler):
    nothing = np.full(shape, filler)
    case = Case(make(name), y_true=nothing, y_pred=nothing, weight=[0.0] * shape[0])
    loss, gradient = case.gradient()
    assert loss == 0 and not gradient.any()


@every
def test_the_scale_of_the_weights_does_not_matter(name, shape):
    weight = np.arange(1.0, shape[0] + 1)
    loss, gradient = Case(make(name), shape, weight=weight).gradient()
    scaled_loss, scaled_gradient = Case(make(name), shape, weight=weight / 8).gradient()
    close(scaled_loss, loss)
    close(scaled_gradient, gradient)


@every
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_graphs_compute_what_eager_computes(name, shape, jit_compile):
    case = Case(make(name), shape, weight=np.arange(shape[0]))
    compiled = case.gradient(lambda compute: tf.function(compute, jit_compile=jit_compile))
    for actual, expected in zip(compiled, case.gradient(), strict=True):
        close(actual, expected)


@every
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(name, shape, dtype):
    case = Case(make(name), shape)
    case.y_true, case.y_pred = half(case.y_true, dtype), half(case.y_pred, dtype)
    loss, gradient = case.gradient()
    case.dtype = dtype
    values, weights = case.unreduced()
    half_loss, half_gradient = case.gradient()
    assert values.dtype == weights.dtype == "float32"
    close(half_loss, loss)
    close(half_gradient.astype("float32"), gradient, 1e-2)


@every
def test_serialization_keeps_the_loss(name, shape):
    loss = make(name)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(loss) and again.name == loss.name
    assert again.get_config() == loss.get_config()
    close(Case(again, shape).values(), Case(loss, shape).values())


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if "temperature" in inspect.signature(LOSSES[name]).parameters]
)
def test_a_temperature_may_be_a_schedule(name):
    shape = family(name)["shapes"][0]
    schedule = keras.optimizers.schedules.PolynomialDecay(4.0, 10, end_temperature := 2.0)
    loss = make(name, temperature=schedule)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(loss)))
    for one in (loss, keras.saving.deserialize_keras_object(config)):
        for step, temperature in ((0, 4.0), (5, 3.0), (10, end_temperature)):
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
    case = Case(make(name), shape)
    loss, gradient = case.gradient()
    shift = np.random.default_rng(2).normal(size=(*shape[:-1], 1)) * 3
    case.y_true, case.y_pred = case.y_true + shift, case.y_pred - shift
    shifted_loss, shifted_gradient = case.gradient()
    close(shifted_loss, loss, 1e-4)
    close(shifted_gradient, gradient, 1e-4)


@every_of_logits
@pytest.mark.parametrize("jit_compile", [False, True], ids=["eager", "xla"])
def test_a_padded_vocabulary_may_hold_minus_infinity(name, shape, jit_compile):
    """Entries that neither side can choose change nothing."""
    case = Case(make(name), shape)
    loss, gradient = case.gradient()
    padding = np.full((*shape[:-1], 3), -np.inf)
    for side in ("y_true", "y_pred"):
        setattr(case, side, np.concatenate([getattr(case, side), padding], axis=-1))
    wrap = tf.function(jit_compile=True) if jit_compile else lambda compute: compute
    padded_loss, padded_gradient = case.gradient(wrap)
    assert np.isfinite(padded_loss) and np.isfinite(padded_gradient).all()
    if case.loss.name == "kl_divergence":  # others may divide by the number of classes
        close(padded_loss, loss)
        close(padded_gradient[..., : shape[-1]], gradient)


@every_of_logits
def test_the_teacher_alone_may_rule_a_class_out(name, shape):
    case = Case(make(name), shape)
    case.y_true = np.where(np.arange(shape[-1]) == 0, -np.inf, case.y_true)
    loss, gradient = case.gradient()
    assert np.isfinite(loss) and np.isfinite(gradient).all()


@every_of_logits
def test_huge_logits_are_finite(name, shape):
    case = Case(make(name), shape)
    case.y_true, case.y_pred = case.y_true * 1e4, case.y_pred * -1e4
    loss, gradient = case.gradient()
    assert np.isfinite(loss) and np.isfinite(gradient).all()


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
    return MAKERS.get(name, lambda kind: kind())(TEACHERS[name])


def targets_of(teacher, paths=("output", "hint")):
    x = tf.reshape(tf.range(8, dtype="float32"), (2, 4)) / 8
    features = {path: x[:, :3] * (1.0 + index) for index, path in enumerate(paths)}
    cached = {path: tf.ones((2, 3)) for path in paths}
    batch = Batch(x=x, labels=tf.zeros(2), sample_weight=None, targets=cached)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        tape.watch(batch.x)
        targets = teacher.targets(batch, features, list(paths))
    return targets, tape.gradient(targets, [features, batch.x])


def test_there_are_teachers():
    assert {"ModelTeacher", "SelfTeacher", "CachedTeacher"} <= {*TEACHERS}


@every_teacher
def test_a_teacher_gives_what_is_asked(name):
    targets, _ = targets_of(teacher_named(name))
    assert {*targets} == {"output", "hint"}
    assert all(target.shape == (2, 3) for target in targets.values())


@every_teacher
def test_a_teacher_does_not_learn(name):
    """No gradient reaches the student's features or the input through the targets."""
    gradients = keras.tree.flatten(targets_of(teacher_named(name))[1])
    assert all(gradient is None or not tf.reduce_any(gradient != 0) for gradient in gradients)


@every_teacher
def test_a_teacher_answers_twice_alike(name):
    """It runs as in inference: no dropout."""
    teacher = teacher_named(name)
    keras.tree.map_structure(close, targets_of(teacher)[0], targets_of(teacher)[0])


@every_teacher
def test_keras_does_not_track_a_teacher(name):
    teacher = teacher_named(name)
    assert not isinstance(teacher, (keras.Layer, keras.Variable, tf.Module))
    assert isinstance(keras.tree.flatten(teacher.state), list)
    teacher.update(model_of())
