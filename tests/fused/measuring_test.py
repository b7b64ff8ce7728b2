"""Measuring by blocks gives the values and gradients of the plain losses."""

import derivatives
import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import losses
from keras_distill.batch import TopK
from keras_distill.fused import Head, measure, takes
from keras_distill.fused.head import block_size
from keras_distill.losses.softened import Divergence

TOKENS, WORDS, WIDTHS = 7, 53, (4, 6)
BACKEND = keras.backend.backend()
rng = np.random.default_rng(0)
tensor = ops.convert_to_tensor


def drawn(padded=False, dtype="float32"):
    """Hidden states, embeddings and biases of a student and a teacher."""
    found = []
    for width in WIDTHS:
        for shape in ((TOKENS, width), (WORDS, width), (WORDS,)):
            found.append(rng.normal(size=shape))
    if padded:  # the last words do not exist
        found[2][-3:] = found[5][-3:] = -np.inf
    return [tensor(one.astype(dtype)) for one in found]


LABELS = rng.integers(0, WORDS - 3, TOKENS)
UPSTREAM = rng.normal(size=(2, TOKENS)).astype("float32")


def logits(hidden, embeddings, bias, soft_cap=None):
    found = ops.matmul(hidden, ops.transpose(embeddings)) + bias
    return found if soft_cap is None else soft_cap * ops.tanh(found / soft_cap)


def cross_entropy(student):
    own = ops.take_along_axis(student, tensor(LABELS)[:, None], axis=-1)[:, 0]
    return ops.logsumexp(student, axis=-1) - own


def gradients(function, given, xla=False):
    return derivatives.values_and_gradients(function, given, UPSTREAM, xla)


def assert_alike(one, two, tolerance=2e-5):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def plain(loss, soft_cap=None, learns=False):
    def both(*given):
        student, teacher = logits(*given[:3], soft_cap), logits(*given[3:], soft_cap)
        if learns:
            return cross_entropy(student), Divergence.call(loss, teacher, student)
        return cross_entropy(student), loss.call(ops.stop_gradient(teacher), student)

    return both


def by_blocks(loss, soft_cap=None, block=8, learns=False):
    def both(*given):
        student, teacher = Head(*given[:3], soft_cap), Head(*given[3:], soft_cap)
        found = measure(student, labels=LABELS, teacher=teacher, loss=loss, block=block,
                        learns=learns)  # fmt: skip
        return found.cross_entropy, found.divergence

    return both


@pytest.mark.parametrize(
    "loss, soft_cap, learns",
    [
        (losses.KLDivergence(2.0), None, False),
        (losses.KLDivergence(1.0), 2.0, False),
        (losses.KLDivergence(2.0, compensate=False), None, True),
        (losses.KLDivergence(8.0), 2.0, False),
        (losses.ReverseKL(2.0), 2.0, False),
        (losses.JensenShannon(0.3, temperature=1.5), None, True),
        (losses.TotalVariation(), 2.0, True),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_values_and_gradients(loss, soft_cap, learns):
    given = drawn()
    expected = gradients(plain(loss, soft_cap, learns), given)
    assert_alike(expected, gradients(by_blocks(loss, soft_cap, 8, learns), given))


@pytest.mark.parametrize("xla", [False, True], ids=["graph", "xla"])
def test_blocks_of_any_size_in_graphs_and_xla(xla):
    given, loss = drawn(), losses.KLDivergence(2.0)
    expected = gradients(plain(loss), given)
    for block in (10,) if xla else (10, 100):
        assert_alike(expected, gradients(by_blocks(loss, block=block), given, xla))


@pytest.mark.parametrize("loss", [losses.KLDivergence(9.0), losses.ReverseKL(2.0)],
                         ids=lambda loss: loss.name)  # fmt: skip
def test_two_passes_and_a_soft_cap_by_xla(loss):
    given = drawn()
    assert_alike(gradients(plain(loss, 2.0), given),
                 gradients(by_blocks(loss, 2.0, 10), given, xla=True))  # fmt: skip


@pytest.mark.parametrize("loss", [losses.KLDivergence(2.0), losses.KLDivergence(10.0),
                                  losses.ReverseKL(2.0)],
                         ids=["kl", "flat_kl", "reverse_kl"])  # fmt: skip
def test_words_that_do_not_exist(loss):
    given = drawn(padded=True)
    assert_alike(gradients(plain(loss), given), gradients(by_blocks(loss), given))


def expected_kl(given, temperature):
    """The divergence times `T^2` and its gradient for the student's logits, in float64."""
    arrays = [derivatives.array(one).astype("float64") for one in given]
    values, slopes = [], []
    for student, teacher in zip(*(h @ e.T + b for h, e, b in (arrays[:3], arrays[3:]))):
        q, p = (np.exp(side / temperature - np.logaddexp.reduce(side / temperature))
                for side in (student, teacher))  # fmt: skip
        values.append(temperature**2 * sum(a * np.log(a / b) for a, b in zip(p, q)))
        slopes.append(temperature * (q - p))
    return np.array(values), np.array(slopes)


@pytest.mark.parametrize(
    "temperature, may_change",
    [(0.5, True), (7.9, False), (8.0, False), (30.0, True), (1e3, False), (1e5, False)],
)
def test_the_divergence_at_any_temperature(temperature, may_change):
    """At a high one the normalizers' rounding, times `T^2`, would be more than the value."""
    given = drawn()
    value, slope = expected_kl(given, temperature)
    loss = losses.KLDivergence(keras.Variable(temperature) if may_change else temperature)
    found = gradients(by_blocks(loss), given)
    np.testing.assert_allclose(found[1], value, rtol=1e-4)
    only = derivatives.values_and_gradients(lambda *g: by_blocks(loss)(*g)[1:], given, UPSTREAM[:1])
    embeddings = derivatives.array(given[1])
    wanted = (UPSTREAM[0][:, None] * slope) @ embeddings
    np.testing.assert_allclose(only[1], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def top_of(given, k, temperature=2.0):
    """The teacher's `k` likeliest words; no tail where these are all words."""
    probabilities = ops.softmax(logits(*given[3:]) / temperature)
    kept, ids = ops.top_k(probabilities, k)
    tail = ops.log(1 - ops.sum(kept, -1)) if k < WORDS else ops.full((TOKENS,), -np.inf)
    return TopK(ids, ops.log(kept), tail, temperature)


def from_top(loss, top):
    def both(*given):
        found = measure(Head(*given[:3]), labels=LABELS, teacher=top, loss=loss, block=8)
        return found.cross_entropy, found.divergence

    return both


@pytest.mark.parametrize(
    "loss, xla",
    [(losses.KLDivergence(2.0), False), (losses.KLDivergence(2.0), True),
     (losses.JensenShannon(0.5, 2.0), False)],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_a_top_k(loss, xla):
    given = drawn()
    top = top_of(given, 5)

    def dense(*given):
        student = logits(*given[:3])
        return cross_entropy(student), loss.call(top, student)

    assert_alike(gradients(dense, given), gradients(from_top(loss, top), given, xla))
    with pytest.raises(ValueError, match="temperature"):
        measure(Head(*given[:3]), teacher=top, loss=losses.KLDivergence(3.0))


def test_a_top_k_of_all_words():
    """Nothing is left for the rest."""
    given, loss = drawn(), losses.KLDivergence(2.0)
    assert_alike(gradients(plain(loss), given),
                 gradients(from_top(loss, top_of(given, WORDS)), given))  # fmt: skip


def test_a_label_that_is_no_word_is_not_a_number():
    head = Head(ops.ones((4, 1)), tensor([[0.0], [2.0], [1.0]]))
    found = measure(head, labels=tensor([0, 3, -1, 2]), block=2).cross_entropy
    np.testing.assert_array_equal(np.isnan(derivatives.array(found)), [0, 1, 1, 0])


def test_accuracy_counts_the_first_of_equals():
    head = Head(ops.ones((2, 1)), tensor([[0.0], [2.0], [1.0], [2.0]]))
    measured = measure(head, labels=[1, 3], accuracy=True, block=2)
    np.testing.assert_array_equal(derivatives.array(measured.correct), [1.0, 0.0])


def test_values_have_the_shape_of_the_tokens():
    head = Head(ops.ones((2, 3, 4)), ops.ones((5, 4)))
    measured = measure(head, labels=np.zeros((2, 3), int), accuracy=True, block=2)
    assert tuple(measured.cross_entropy.shape) == tuple(measured.correct.shape) == (2, 3)
    assert measured.divergence is None


@pytest.mark.parametrize("dtype, tolerance",
                         [("float32", 2e-5), ("bfloat16", 5e-2), ("float16", 5e-3)])  # fmt: skip
def test_tied_weights_and_low_precision(dtype, tolerance):
    """The embeddings are looked up too; products of low precision are summed in float32."""
    _, embeddings, _, hidden, others, _ = drawn()
    loss = losses.KLDivergence(2.0)

    def fused(table):
        head = Head(ops.cast(ops.take(table, LABELS, axis=0), dtype), table)
        teacher = Head(ops.cast(hidden, dtype), others)
        found = measure(head, teacher=teacher, loss=loss, block=8).divergence
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        return (found,)

    def dense(table):
        student = ops.matmul(ops.take(table, LABELS, axis=0), ops.transpose(table))
        return (loss.call(ops.matmul(hidden, ops.transpose(others)), student),)

    ones = np.ones((1, TOKENS), "float32")
    _, exact = derivatives.values_and_gradients(dense, [embeddings], ones)
    _, close = derivatives.values_and_gradients(fused, [embeddings], ones)
    assert close.dtype == "float32"
    np.testing.assert_allclose(exact, close, atol=tolerance * np.abs(exact).max())


@pytest.fixture
def float64():
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.mark.skipif(BACKEND == "jax", reason="JAX has float64 only where its x64 mode is on")
@pytest.mark.parametrize("loss", [losses.KLDivergence(2.0), losses.ReverseKL(2.0)],
                         ids=lambda loss: loss.name)  # fmt: skip
def test_float64_is_summed_in_float64(float64, loss):
    given = drawn(dtype="float64")
    found = gradients(by_blocks(loss), given)
    assert {one.dtype for one in found} == {np.dtype("float64")}
    exact = BACKEND == "tensorflow"  # on PyTorch, Keras multiplies float64 in float32
    assert_alike(gradients(plain(loss), given), found, 1e-10 if exact else 2e-5)


def test_a_temperature_may_change():
    given = drawn()
    one = gradients(by_blocks(losses.KLDivergence(keras.Variable(2.0))), given)
    assert_alike(gradients(plain(losses.KLDivergence(2.0)), given), one)


def test_an_untaught_teacher_has_no_gradient():
    given = drawn()
    found = gradients(by_blocks(losses.ReverseKL(2.0)), given)
    assert [bool(np.any(one)) for one in found[2:]] == [True] * 3 + [False] * 3


def test_what_it_refuses():
    given = drawn()
    student, teacher = Head(*given[:3]), Head(*given[3:])
    with pytest.raises(TypeError, match="a sum over the classes"):
        measure(student, teacher=teacher, loss=losses.LogitsMSE())
    with pytest.raises(ValueError, match="same vocabulary. Received: 53 and 50"):
        other = Head(given[3], given[4][:50])
        measure(student, teacher=other, loss=losses.KLDivergence())


def test_a_temperature_per_example_is_refused():
    given = drawn()
    loss = losses.KLDivergence(keras.Variable(np.full(TOKENS, 2.0, "float32")))
    assert not takes(loss) and takes(losses.KLDivergence(keras.Variable(2.0)))
    with pytest.raises(ValueError, match="must be the same for all examples"):
        measure(Head(*given[:3]), teacher=Head(*given[3:]), loss=loss)


def test_a_path_to_a_temperature_is_refused():
    given, loss = drawn(), losses.KLDivergence("input:temperature")
    assert not takes(loss)
    with pytest.raises(ValueError, match="must be the same for all examples.*input:temperature"):
        measure(Head(*given[:3]), teacher=Head(*given[3:]), loss=loss)


def test_block_sizes():
    assert block_size(131072) == 2048 and block_size(50) == 50
    assert block_size(151936) == 2374 and block_size(97, 10) == 10
