"""A teacher's likeliest classes and their rest, in place of all logits."""

import keras
import numpy as np
import pytest
from backends import array, call, tensor, tensorflow_only, tf

from keras_distill.batch import Batch, TopK
from keras_distill.losses import (
    HingeRanking,
    JensenShannon,
    KLDivergence,
    LogisticRanking,
    ReverseKL,
    SkewedKL,
    TotalVariation,
)

RANDOM = np.random.default_rng(0)
TEACHER, STUDENT = RANDOM.normal(size=(2, 2, 3, 6)).astype("float32") * 2
LOSSES = [KLDivergence, JensenShannon, TotalVariation, ReverseKL, SkewedKL]


def top(logits, k, temperature):
    log_probs = logits / temperature - np.log(np.exp(logits / temperature).sum(-1, keepdims=True))
    ids = np.argsort(-logits, axis=-1)[..., :k]
    kept = np.take_along_axis(log_probs, ids, -1)
    rest = 1 - np.exp(kept.astype("float64")).sum(-1)
    log_tail = (
        np.log(np.maximum(rest, 1e-300)) if k < logits.shape[-1] else np.full_like(rest, -np.inf)
    )
    return TopK(tensor(ids), tensor(kept), tensor(log_tail, "float32"), temperature)


def merged(logits, ids, temperature):
    """Logits whose softmax has the classes of `ids` and, last, all others together."""
    p = np.exp(logits.astype("float64") / temperature)
    kept = np.take_along_axis(p, ids, -1)
    rest = p.sum(-1, keepdims=True) - kept.sum(-1, keepdims=True)
    return (temperature * np.log(np.concatenate([kept, rest], -1))).astype("float32")


@pytest.mark.parametrize("loss", LOSSES)
def test_the_rest_counts_as_one_class(loss):
    target = top(TEACHER, 3, 2.0)
    sides = [merged(side, array(target.ids), 2.0) for side in (TEACHER, STUDENT)]
    expected = call(loss(temperature=2.0), *sides)
    found = call(loss(temperature=2.0), target, tensor(STUDENT))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_all_classes_are_the_dense_loss(loss):
    found = call(loss(temperature=2.0), top(TEACHER, 6, 2.0), tensor(STUDENT))
    expected = call(loss(temperature=2.0), TEACHER, STUDENT)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_another_temperature_is_refused():
    with pytest.raises(ValueError, match="temperature=1.0, `TopK` at 2.0"):
        call(KLDivergence(), top(TEACHER, 3, 2.0), tensor(STUDENT))
    schedule = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 1.0)
    with pytest.raises(ValueError, match="`TopK` at 2.0"):
        call(KLDivergence(schedule), top(TEACHER, 3, 2.0), tensor(STUDENT))


@tensorflow_only
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("loss", [*LOSSES, LogisticRanking, HingeRanking])
def test_a_term_takes_it_and_masks_it(loss, jit_compile):
    """Masked tokens may hold anything; the value and gradient are those of the others."""
    from keras_distill.training.term import Term

    loss = loss() if loss in (LogisticRanking, HingeRanking) else loss(temperature=2.0)
    target, weight = top(TEACHER, 3, 2.0), np.array([[1, 1, 0], [1, 0, 0]], "float32")
    hidden = weight == 0
    target = target._replace(
        log_probs=tf.where(hidden[..., None], np.nan, target.log_probs),
        log_tail=tf.where(hidden, np.nan, target.log_tail),
    )

    @tf.function(jit_compile=jit_compile)
    def compute(student):
        with tf.GradientTape() as tape:
            tape.watch(student)
            batch = Batch(None, None, tensor(weight), None)
            value = Term(loss)({"output": student}, {"output": target}, batch).mean()
        return value, tape.gradient(value, student)

    value, gradient = compute(tensor(np.where(hidden[..., None], np.inf, STUDENT)))
    assert np.isfinite(value) and not gradient.numpy()[hidden].any()
    kept = [tf.boolean_mask(part, ~hidden)[:, None] for part in target[:3]]
    alone = loss.call(TopK(*kept, target.temperature), tensor(STUDENT[~hidden][:, None]))
    np.testing.assert_allclose(value, np.mean(alone), rtol=1e-4)


def test_a_temperature_may_have_been_rounded_to_float32():
    target = top(TEACHER, 2, 1.3)._replace(temperature=float(np.float32(1.3)))
    assert np.isfinite(call(KLDivergence(1.3), target, STUDENT)).all()
    with pytest.raises(ValueError, match="temperature=1.31, `TopK` at 1.29999"):
        KLDivergence(1.31).call(target, tensor(STUDENT))
