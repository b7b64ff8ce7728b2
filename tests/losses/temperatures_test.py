"""Every loss with a temperature, from 0.1 to 1e5, in every precision, against NumPy's formulas.

Where a floor is given it is what rounding the softmax itself leaves: a log-probability is known to
some `EPSILON`, so a divergence that is multiplied by `T^2` to about `T * EPSILON * spread` of the
logits, a distance of probabilities to `T^2 * EPSILON`, and a slope, `T * (q - p)`, to
`T * EPSILON`. `KLDivergence` needs no floor.
"""

import keras
import numpy as np
import pytest
from backends import array, tensor, value_and_gradients

from keras_distill import losses

EPSILON = 1.2e-7
REAL = np.longdouble
LABELS = np.array([0, 3, 1])


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def kl(t, s):
    """Of log-probabilities."""
    return np.where(np.exp(t) > 0, np.exp(t) * (t - s), 0).sum(-1)


def log_mix(a, b, mix):
    highest = np.maximum(a, b)
    return highest + np.log(mix * np.exp(a - highest) + (1 - mix) * np.exp(b - highest))


def jensen_shannon(t, s, mix=0.5):
    middle = log_mix(t, s, mix)
    return mix * kl(t, middle) + (1 - mix) * kl(s, middle)


def decoupled(t, s, temperature):
    total = np.zeros(len(t), REAL)
    for row, label in enumerate(LABELS):
        sides = []
        for side in (t, s):
            log_p = log_softmax(side[row] / temperature)
            others = np.delete(side[row] / temperature, label)
            rest = np.delete(log_p, label)
            rest = rest.max() + np.log(np.exp(rest - rest.max()).sum())
            sides.append((np.array([log_p[label], rest]), log_softmax(others)))
        (target_t, others_t), (target_s, others_s) = sides
        total[row] = kl(target_t, target_s) + 8 * kl(others_t, others_s)
    return temperature**2 * total


def normalized(t, s, temperature):
    total = np.zeros(len(t), REAL)
    for row, label in enumerate(LABELS):
        p, q = log_softmax(t[row]), log_softmax(s[row])
        others = [log_softmax(np.delete(side[row], label) / temperature) for side in (t, s)]
        total[row] = -np.exp(p[label]) * q[label]
        total[row] -= 1.5 * temperature**2 * (np.exp(others[0]) * others[1]).sum()
    return total


def soft_cross_entropy(t, s, temperature):
    p = np.exp(log_softmax(t / temperature))
    return -(temperature**2) * (p * log_softmax(s / temperature)).sum(-1)


def weight_of(t, s):
    rows = np.arange(len(t))
    teacher, student = (-log_softmax(side)[rows, LABELS] for side in (t, s))
    return 1 - np.exp(-student / (teacher + 1e-7))


def weighted(t, s, temperature):
    return weight_of(t, s) * soft_cross_entropy(t, s, temperature)


def weight_held(t, s):
    """The same with the weight of these sides, since no gradient flows through it."""
    held = weight_of(t, s)
    return lambda t, s, temperature: held * soft_cross_entropy(t, s, temperature)


def pearson(one, other):
    one, other = one - one.mean(), other - other.mean()
    return (one * other).sum() / (np.sqrt((one**2).sum() * (other**2).sum()) + 1e-8)


def dist(t, s, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    rows = np.array([pearson(p[i], q[i]) for i in range(len(p))])
    columns = np.mean([pearson(p[:, c], q[:, c]) for c in range(p.shape[1])])
    return temperature**2 * ((1 - rows) + (1 - columns))


def binary(t, s, temperature):
    def logs(z):
        return -np.logaddexp(0, -z / temperature), -np.logaddexp(0, z / temperature)

    (yes_t, no_t), (yes_s, no_s) = logs(t), logs(s)
    parts = np.exp(yes_t) * (yes_t - yes_s) + np.exp(no_t) * (no_t - no_s)
    return temperature**2 * parts.sum(-1)


def multi_level(t, s, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    values = temperature**2 * kl(log_softmax(t / temperature), log_softmax(s / temperature))
    values = values + ((p @ p.T - q @ q.T) ** 2).sum(-1)
    return values + ((p.T @ p - q.T @ q) ** 2).sum() / t.shape[-1]


def standardized(t, s, temperature):
    t, s = ((z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=1, keepdims=True) + 1e-7)
            for z in (t, s))  # fmt: skip
    return of_logs(kl)(t, s, temperature)


def of_logs(function):
    """`T^2` times a function of both sides' log-probabilities."""
    return lambda t, s, temperature: temperature**2 * function(
        log_softmax(t / temperature), log_softmax(s / temperature)
    )


def universal(t, s, temperature):
    p, q = (np.sort(softmax(side / temperature), -1) for side in (t, s))
    return np.abs(p - q).sum(-1)


# name: how it is made, its formula, its value's floor by (T, spread), its gradient's by the same
def divergence_slope(T, spread):
    return 8 * EPSILON * T * max(1.0, 0.05 * spread / T)


DIVERGENCE = (lambda T, spread: 4 * EPSILON * T * spread, divergence_slope)
EXACT = (lambda T, spread: 0.0, lambda T, spread: 1e-6)
FORMULAS = {
    "KLDivergence": (losses.KLDivergence, of_logs(kl), *EXACT),
    "ReverseKL": (losses.ReverseKL, of_logs(lambda t, s: kl(s, t)), *DIVERGENCE),
    "SymmetricKL": (
        lambda T: losses.SymmetricKL(0.3, T),
        of_logs(lambda t, s: 0.7 * kl(t, s) + 0.3 * kl(s, t)),
        *DIVERGENCE,
    ),
    "JensenShannon": (
        lambda T: losses.JensenShannon(0.5, T), of_logs(jensen_shannon), *DIVERGENCE
    ),
    "SkewedKL": (
        lambda T: losses.SkewedKL(0.1, T),
        of_logs(lambda t, s: kl(t, log_mix(t, s, 0.1))),
        *DIVERGENCE,
    ),
    "SkewedReverseKL": (
        lambda T: losses.SkewedReverseKL(0.1, T),
        of_logs(lambda t, s: kl(s, log_mix(s, t, 0.1))),
        *DIVERGENCE,
    ),
    "TotalVariation": (
        losses.TotalVariation,
        of_logs(lambda t, s: 0.5 * np.abs(np.exp(t) - np.exp(s)).sum(-1)),
        lambda T, spread: 4 * EPSILON * T**2,
        divergence_slope,
    ),
    "SoftCrossEntropy": (losses.SoftCrossEntropy, soft_cross_entropy, *DIVERGENCE),
    "BinaryKLDivergence": (losses.BinaryKLDivergence, binary, *DIVERGENCE),
    "LogitsMSE": (
        losses.LogitsMSE, lambda t, s, T: (((s - t) / T) ** 2).mean(-1), *EXACT
    ),
    "DecoupledKD": (
        lambda T: losses.DecoupledKD(temperature=T),
        decoupled,
        lambda T, spread: 40 * EPSILON * T * spread,
        lambda T, spread: 80 * EPSILON * T,
    ),
    "NormalizedKD": (lambda T: losses.NormalizedKD(temperature=T), normalized, *DIVERGENCE),
    "WeightedSoftLabels": (losses.WeightedSoftLabels, weighted, *DIVERGENCE),
    "DIST": (
        lambda T: losses.DIST(temperature=T),
        dist,
        lambda T, spread: 8 * EPSILON * max(T, 1.0) ** 3,  # a correlation, to T * EPSILON
        lambda T, spread: 8 * EPSILON * max(T, 1.0) ** 2,
    ),
    "MultiLevelLogits": (lambda T: losses.MultiLevelLogits([T]), multi_level, *DIVERGENCE),
    "UniversalLogits": (
        losses.UniversalLogits, universal, lambda T, spread: 8 * EPSILON, lambda T, spread: EPSILON
    ),
    "PixelWise": (losses.PixelWise, of_logs(kl), *DIVERGENCE),
    "Standardized": (
        lambda T: losses.Standardized(losses.KLDivergence(T)), standardized, *EXACT
    ),
    "CollaborativeKL": (lambda T: losses.CollaborativeKL("mean", T), of_logs(kl), *DIVERGENCE),
}
CASES = [
    *((T, "float32", 2.0) for T in (0.1, 1.0, 7.9, 8.0, 100.0, 1e4, 1e5)),
    *((T, "float64", 2.0) for T in (0.1, 1e5)),
    *((4.0, dtype, 2.0) for dtype in ("float16", "bfloat16")),
    *((T, "float32", 1e4) for T in (0.1, 1.0, 1e5)),
    *((1.0, dtype, 1e4) for dtype in ("float16", "bfloat16", "float64")),
]


def sides(scale, dtype):
    """Logits of teacher and student, rounded to a dtype, as tensors and in full."""
    rounded = [
        keras.ops.cast(tensor(scale * np.random.default_rng(seed).normal(size=(3, 5))), dtype)
        for seed in (0, 1)
    ]
    return rounded, [array(keras.ops.cast(side, "float64")).astype(REAL) for side in rounded]


def slopes(formula, teacher, student, temperature, scale):
    """The gradient of the sum of a formula by central differences."""
    step, found = 2e-4 * min(temperature, scale), np.zeros(student.shape)
    for place in np.ndindex(*student.shape):
        ends = []
        for sign in (1, -1):
            moved = student.copy()
            moved[place] += sign * step
            ends.append(formula(teacher, moved, temperature).sum())
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def computed(loss, teacher, student, **extras):
    """Values and the gradient of their sum, as a term asks for them."""
    if isinstance(loss, losses.CollaborativeKL):
        teacher = [teacher, teacher]
    extras |= {"labels": tensor(LABELS)} if "labels" in loss.needs else {}
    teacher, student = keras.tree.map_structure(
        lambda side: keras.ops.cast(side, loss.dtype), (teacher, student)
    )
    values = array(loss.call(teacher, student, **extras))
    _, gradients = value_and_gradients(
        lambda inputs: keras.ops.sum(loss.call(teacher, inputs["student"], **extras)),
        {"student": student},
    )
    return values, array(gradients["student"])


def test_every_loss_of_logits_with_a_temperature_is_here():
    exported = [getattr(losses, name) for name in losses.__all__]
    softened = {
        kind.__name__
        for kind in exported
        if isinstance(kind, type) and issubclass(kind, losses.DistillationLoss)
        and {"temperature", "temperatures"} & {*vars(kind).get("config", ()), *inherited(kind)}
    }  # fmt: skip
    # `ChannelWise` is `PixelWise` along another axis; contrast has no logits.
    assert softened - {"ChannelWise", "ContrastiveRepresentation"} <= {*FORMULAS}


def inherited(kind):
    return [name for one in kind.__mro__ for name in vars(one).get("config", ())]


@pytest.mark.parametrize("temperature, dtype, scale", CASES)
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_those_of_numpy(name, temperature, dtype, scale):
    if dtype == "float64" and keras.backend.backend() != "tensorflow":
        pytest.skip("Keras promotes float64 to float32 there")
    make, formula, floor, slope_floor = FORMULAS[name]
    rounded, (teacher, student) = sides(scale, dtype)
    loss = make(temperature)
    if dtype == "float64":
        config = loss.get_config()
        loss = type(loss).from_config({**config, "dtype": "float64"})
        if name == "Standardized":
            loss.loss = losses.KLDivergence(temperature, dtype="float64")
    values, gradient = computed(loss, *rounded)
    assert values.dtype == gradient.dtype == ("float64" if dtype == "float64" else "float32")
    expected = formula(teacher, student, temperature)
    spread = float(np.abs(teacher - student).max())
    one = 1e-9 if dtype == "float64" else 1.0  # float64 has a floor of its own
    np.testing.assert_allclose(
        values.astype("float64"), expected.astype("float64"), rtol=1e-4,
        atol=max(one * floor(temperature, spread), 1e-30),
    )  # fmt: skip
    if dtype in ("float32", "float64"):
        varying = weight_held(teacher, student) if formula is weighted else formula
        slope = slopes(varying, teacher, student, temperature, scale)
        limit = 1e-3 * np.abs(slope).max() + slope_floor(temperature, spread)
        np.testing.assert_allclose(gradient, slope, atol=limit)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0, 1e7])
@pytest.mark.parametrize("far", [0.0, 1e-6, 1e-3])
def test_a_divergence_is_not_negative(temperature, far):
    """Of sides that are the same, or nearly: what is left of the difference is not lost."""
    teacher = np.random.default_rng(0).normal(size=(64, 1000)).astype("float32")
    student = (teacher * (1 + far)).astype("float32")
    values = array(losses.KLDivergence(temperature).call(tensor(teacher), tensor(student)))
    assert (values >= 0).all()


@pytest.mark.parametrize("kind", ["schedule", "variable"])
@pytest.mark.parametrize("temperature", [2.0, 1e4])
def test_a_temperature_that_changes_is_as_exact(kind, temperature):
    (teacher, student), _ = sides(2.0, "float32")
    kinds = {"schedule": lambda: (lambda step: temperature),
             "variable": lambda: keras.Variable(temperature, trainable=False)}  # fmt: skip
    found = computed(losses.KLDivergence(kinds[kind]()), teacher, student)
    expected = computed(losses.KLDivergence(temperature), teacher, student)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
