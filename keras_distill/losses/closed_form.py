"""The forward Kullback-Leibler divergence of logits, with its gradient written out.

The gradient with respect to the student's logits is `(p_student - p_teacher) / T`: a quarter of
the operations that automatic differentiation would run, which counts where there are many classes.
"""

from keras import ops

from keras_distill.losses.softened import (
    forward_kl,
    log_probabilities,
    placed,
    with_rest,
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
    that of their sum in proportion to the student's own probabilities.
    """

    @ops.custom_gradient
    def divergence(y_pred):
        log_student = log_probabilities(y_pred / temperature)
        log_teacher, student = with_rest(top, log_student)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            scale = ops.expand_dims(upstream * factor / temperature, -1)
            too_much = student[..., -1:] - log_teacher[..., -1:]  # of the rest, as a logarithm
            slope = ops.exp(log_student) * (scale * (1 - ops.exp(-ops.maximum(too_much, -80.0))))
            kept = ops.exp(student[..., :-1]) - ops.exp(log_teacher[..., :-1])
            return placed(slope, ops.cast(top.ids, "int32"), scale * kept)

        return factor * forward_kl(log_teacher, student), gradient

    return divergence(y_pred)
