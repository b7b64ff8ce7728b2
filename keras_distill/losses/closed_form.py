"""The forward Kullback-Leibler divergence of logits, with its gradient written out.

The gradient with respect to the student's logits is `(p_student - p_teacher) / T`: a quarter of
the operations that automatic differentiation would run, which counts where there are many classes.
"""

from keras import ops

from keras_distill.losses.softened import (
    LOWEST,
    forward_kl,
    log_probabilities,
    log_with_tail,
    placed,
)


def kl_of_logits(log_teacher, y_pred, temperature, factor):
    """`factor * KL(p_teacher || softmax(y_pred / T))`, one value per example or token.

    Args:
        log_teacher: the teacher's log-probabilities, (batch, ..., classes), taken as constants.
        y_pred: the student's logits, of the same shape.
        temperature: `T`, a number or a scalar.
        factor: a number or a scalar.
    """

    @ops.custom_gradient
    def divergence(y_pred):
        log_student = log_probabilities(y_pred / temperature)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = ops.exp(log_student) - ops.exp(log_teacher)
            return ops.expand_dims(upstream * factor / temperature, -1) * slope

        return factor * forward_kl(log_teacher, log_student), gradient

    return divergence(y_pred)


def kl_of_top_k(top, y_pred, temperature, factor):
    """The same between the teacher's `TopK` and the student; all other classes count as one.

    The gradient is `(p_student - p_teacher) / T` at the teacher's classes. The other classes share
    that of their sum in proportion to `q`, the student's probabilities among them, so that `q` is
    the only array over all classes that is kept.
    """
    log_teacher = ops.stop_gradient(log_with_tail(top))

    @ops.custom_gradient
    def divergence(y_pred):
        ids = ops.cast(top.ids, "int32")
        logits = y_pred / temperature
        kept = ops.maximum(ops.take_along_axis(logits, ids, axis=-1), LOWEST)
        # LOWEST is put in after the division, which XLA's rounding would not undo in the softmax.
        others = placed(logits, ids, ops.full_like(kept, LOWEST))
        q = ops.softmax(others, axis=-1)
        rest = ops.max(others, axis=-1, keepdims=True) - ops.log(ops.max(q, -1, keepdims=True))
        log_student = log_probabilities(ops.concatenate([kept, rest], axis=-1))

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = ops.exp(log_student) - ops.exp(log_teacher)
            slope = ops.expand_dims(upstream * factor / temperature, -1) * slope
            return placed(q * slope[..., -1:], ids, slope[..., :-1])

        return factor * forward_kl(log_teacher, log_student), gradient

    return divergence(y_pred)
