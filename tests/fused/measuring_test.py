"""Measuring by blocks gives the values and gradients of the plain losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import TopK, losses
from keras_distill.fused import Head, measure
from keras_distill.fused.head import block_size
from keras_distill.losses.softened import Divergence

TOKENS, WORDS, WIDTHS = 7, 53, (4, 6)
rng = np.random.default_rng(0)


def arrays(padded=False):
    """Hidden states, embeddings and biases of a student and a teacher."""
    found = []
    for width in WIDTHS:
        for shape in ((TOKENS, width), (WORDS, width), (WORDS,)):
            found.append(tf.constant(rng.normal(size=shape), tf.float32))
    if padded:  # the last words do not exist
        found[2], found[5] = (tf.concat([b[:-3], [-np.inf] * 3], 0) for b in (found[2], found[5]))
    return found


LABELS = rng.integers(0, WORDS - 3, TOKENS)
UPSTREAM = rng.normal(size=(2, TOKENS)).astype("float32")


def logits(hidden, embeddings, bias, soft_cap):
    found = tf.matmul(hidden, embeddings, transpose_b=True) + bias
    return found if soft_cap is None else soft_cap * tf.tanh(found / soft_cap)


def gradients(function, given, **options):
    """Both values and all gradients of a weighted sum of them."""

    def run(*given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            values = function(*given)
            total = sum(tf.reduce_sum(v * u) for v, u in zip(values, UPSTREAM))
        return [*values, *tape.gradient(total, given, unconnected_gradients="zero")]

    return tf.function(run, autograph=False, **options)(*given)


def assert_alike(one, two, tolerance=2e-5):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def plain(loss, soft_cap=None, learns=False):
    def both(*given):
        student, teacher = logits(*given[:3], soft_cap), logits(*given[3:], soft_cap)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, student)
        if learns:
            return entropy, Divergence.call(loss, teacher, student)
        return entropy, loss.call(tf.stop_gradient(teacher), student)

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
        (losses.ReverseKL(2.0), 2.0, False),
        (losses.JensenShannon(0.3, temperature=1.5), None, True),
        (losses.TotalVariation(), 2.0, True),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_values_and_gradients(loss, soft_cap, learns):
    given = arrays()
    expected = gradients(plain(loss, soft_cap, learns), given)
    assert_alike(expected, gradients(by_blocks(loss, soft_cap, 8, learns), given))


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}], ids=["graph", "xla"])
def test_blocks_of_any_size_in_graphs_and_xla(options):
    given, loss = arrays(), losses.KLDivergence(2.0)
    expected = gradients(plain(loss), given)
    for block in (10, 100) if not options else (10,):
        assert_alike(expected, gradients(by_blocks(loss, block=block), given, **options))


def test_two_passes_and_a_soft_cap_by_xla():
    given, loss = arrays(), losses.ReverseKL(2.0)
    found = gradients(by_blocks(loss, 2.0, 10), given, jit_compile=True)
    assert_alike(gradients(plain(loss, 2.0), given), found)


@pytest.mark.parametrize("loss", [losses.KLDivergence(2.0), losses.ReverseKL(2.0)],
                         ids=lambda loss: loss.name)  # fmt: skip
def test_words_that_do_not_exist(loss):
    given = arrays(padded=True)
    assert_alike(gradients(plain(loss), given), gradients(by_blocks(loss), given))


@pytest.mark.parametrize(
    "loss, xla",
    [(losses.KLDivergence(2.0), False), (losses.KLDivergence(2.0), True),
     (losses.JensenShannon(0.5, 2.0), False)],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_a_top_k(loss, xla):
    given = arrays()
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(logits(*given[3:], None) / 2), 5)
    top = TopK(ids, log_probs, tf.math.log(1 - tf.reduce_sum(tf.exp(log_probs), -1)), 2.0)

    def dense(*given):
        student = logits(*given[:3], None)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, student)
        return entropy, loss.call(top, student)

    def fused(*given):
        head = Head(*given[:3])
        found = measure(head, labels=LABELS, teacher=top, loss=loss, block=8)
        return found.cross_entropy, found.divergence

    assert_alike(gradients(dense, given), gradients(fused, given, jit_compile=xla))
    with pytest.raises(ValueError, match="temperature"):
        measure(Head(*given[:3]), teacher=top, loss=losses.KLDivergence(3.0))


def test_a_top_k_of_all_words():
    """Nothing is left for the rest."""
    given, loss = arrays(), losses.KLDivergence(2.0)
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(logits(*given[3:], None) / 2), WORDS)
    top = TopK(ids, log_probs, tf.fill((TOKENS,), -np.inf), 2.0)

    def fused(*given):
        found = measure(Head(*given[:3]), labels=LABELS, teacher=top, loss=loss, block=8)
        return found.cross_entropy, found.divergence

    assert_alike(gradients(plain(loss), given), gradients(fused, given))


def test_a_label_that_is_no_word_is_not_a_number():
    head = Head(tf.ones((4, 1)), tf.constant([[0.0], [2.0], [1.0]]))
    run = tf.function(lambda labels: measure(head, labels=labels, block=2).cross_entropy)
    np.testing.assert_array_equal(np.isnan(run(tf.constant([0, 3, -1, 2]))), [0, 1, 1, 0])


def test_accuracy_counts_the_first_of_equals():
    head = Head(tf.ones((2, 1)), tf.constant([[0.0], [2.0], [1.0], [2.0]]))
    measured = measure(head, labels=[1, 3], accuracy=True, block=2)
    np.testing.assert_array_equal(measured.correct, [1.0, 0.0])


def test_tied_weights_and_low_precision():
    """The embeddings are looked up too; bfloat16 products are summed in float32."""
    _, embeddings, _, hidden, others, _ = arrays()
    table, loss = tf.Variable(embeddings), losses.KLDivergence(2.0)

    def gradient(dtype, fused):
        with tf.GradientTape() as tape:
            looked_up = tf.cast(tf.gather(table, LABELS), dtype)
            teacher = tf.cast(hidden, dtype)
            if fused:
                head = Head(looked_up, table)
                found = measure(head, teacher=Head(teacher, others), loss=loss, block=8).divergence
                assert found.dtype == tf.float32
            else:
                student = tf.matmul(looked_up, table, transpose_b=True)
                found = loss.call(tf.matmul(teacher, others, transpose_b=True), student)
            total = tf.reduce_sum(found)
        return tf.convert_to_tensor(tape.gradient(total, table))

    exact = gradient(tf.float32, fused=False)
    assert_alike([exact], [gradient(tf.float32, fused=True)])
    for dtype, tolerance in ((tf.bfloat16, 5e-2), (tf.float16, 5e-3)):
        close = gradient(dtype, fused=True)
        assert close.dtype == tf.float32
        np.testing.assert_allclose(exact, close, atol=tolerance * np.abs(exact).max())


def test_a_temperature_may_change():
    given = arrays()
    one = gradients(by_blocks(losses.KLDivergence(keras.Variable(2.0))), given)
    assert_alike(gradients(plain(losses.KLDivergence(2.0)), given), one)


def test_what_it_refuses():
    given = arrays()
    student = Head(*given[:3])
    with pytest.raises(TypeError, match="sums over the classes"):
        measure(student, teacher=Head(*given[3:]), loss=losses.LogitsMSE())
    with pytest.raises(ValueError, match="one vocabulary. Received: 53 and 50"):
        other = Head(given[3], given[4][:50])
        measure(student, teacher=other, loss=losses.KLDivergence())


def test_block_sizes():
    assert block_size(131072) == 2048 and block_size(50) == 50
    assert block_size(151936) == 2374 and block_size(97, 10) == 10
