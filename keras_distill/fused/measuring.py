"""Losses of a large vocabulary from hidden states, without logits of all its words at once."""

from typing import Any, NamedTuple

from keras_distill.batch import TopK
from keras_distill.fused.head import (
    add_gradients,
    block_size,
    gradients,
    logits,
    no_gradients,
    over_blocks,
)
from keras_distill.fused.parts import Divergence, Labels, TopKDivergence
from keras_distill.losses import KLDivergence
from keras_distill.losses.softened import Divergence as DivergenceLoss
from keras_distill.schedules import is_number

import tensorflow as tf  # isort: skip


class Measured(NamedTuple):
    """One value a token, in the shape of the hidden states without their width; else `None`.

    Args:
        cross_entropy: of the labels.
        divergence: from the teacher.
        correct: 1 where the likeliest word is the label; it has no gradient.
    """

    cross_entropy: Any
    divergence: Any
    correct: Any


def measure(student, *, labels=None, teacher=None, loss=None, accuracy=False, learns=False,
            block=None):  # fmt: skip
    """Cross-entropy and a divergence, with their gradients, by blocks of the vocabulary.

    A block's logits are made, summed and dropped; the gradient makes them again. The values and
    gradients are those of the plain losses on `hidden @ embeddings^T`:

    `cross_entropy = log sum_c exp(s_c) - s_label`,
    `divergence = loss(t, s)` with the student's and teacher's logits `s` and `t`.

    Memory: a few blocks of (tokens, block), and the gradients of the embeddings. Products of
    matrices: two with the student's embeddings for the values and two more for the gradients (a
    plain loss: three in all), two with the teacher's (plain: one); a divergence other than
    `KLDivergence` takes one more of each.

    Args:
        student: the student's `Head`.
        labels: class ids, (...), integers; for an id that is no word the cross-entropy is NaN.
        teacher: the teacher's `Head`, or its `TopK`.
        loss: the divergence: `losses.KLDivergence`, `ReverseKL`, `JensenShannon` or another
            `Divergence` of this package.
        accuracy: whether to say where the likeliest word is the label.
        learns: whether a teacher's `Head` has gradients too, for a teacher that is trained.
        block: words a block. Defaults to about 2,048.

    Returns:
        `Measured`.

    Raises:
        ValueError: where the vocabularies differ, or a `TopK` was taken at another temperature.
        TypeError: for a loss that is no sum over the classes.

    Example:

    ```python
    student = Head(hidden, layer.embeddings)
    measured = measure(student, labels=labels, teacher=Head(other, its_embeddings),
                       loss=KLDivergence(2.0))
    ```

    Reference:
        - [Wijmans et al., 2024](https://arxiv.org/abs/2411.09009) (Cut Your Losses)
    """
    check(student, teacher, loss)
    shape = tf.shape(student.hidden)[:-1]
    student = student.flat()
    parts = _parts(labels, accuracy, teacher, loss, learns)
    values = _values(student, parts, block_size(student.vocabulary, block))
    values = {name: tf.reshape(value, shape) for name, value in values.items()}
    return Measured(*(values.get(name) for name in Measured._fields))


def check(student, teacher, loss):
    """Refuses what cannot be measured by blocks."""
    if teacher is None:
        return
    if not takes(loss):
        raise TypeError(
            "A fused head measures divergences that are sums over the classes, such as "
            f"`KLDivergence`, `ReverseKL` and `JensenShannon`. Received: {loss!r}"
        )
    if isinstance(teacher, TopK):
        loss._check_temperature(teacher)
    elif teacher.vocabulary != student.vocabulary:
        raise ValueError(
            "Student and teacher must have one vocabulary. Received: "
            f"{student.vocabulary} and {teacher.vocabulary} words."
        )


def takes(loss):
    """Whether a loss is a sum over the classes of what depends on log-probabilities alone."""
    plain = (DivergenceLoss.call, KLDivergence.call)
    return isinstance(loss, DivergenceLoss) and type(loss).call in plain


def _parts(labels, accuracy, teacher, loss, learns):
    parts = {}
    if labels is not None:
        parts["cross_entropy"] = Labels(tf.cast(tf.reshape(labels, [-1]), tf.int32), accuracy)
    if teacher is None:
        return parts
    temperature = loss.temperature
    if not is_number(temperature):
        temperature = tf.convert_to_tensor(loss.temperature_now(tf.zeros(())))
    if isinstance(teacher, TopK):
        part = TopKDivergence(loss, _flat(teacher), temperature)
    else:
        part = Divergence(loss, teacher.flat(), temperature, learns)
    return {**parts, "divergence": part}


def _flat(top):
    k = top.ids.shape[-1]
    return TopK(
        tf.cast(tf.reshape(top.ids, (-1, k)), tf.int32),
        tf.cast(tf.reshape(top.log_probs, (-1, k)), tf.float32),
        tf.cast(tf.reshape(top.log_tail, [-1]), tf.float32),
        top.temperature,
    )


def _values(student, parts, size):
    """`{name: (tokens,)}` with a gradient of our own."""
    divergence = parts.get("divergence")
    teacher = divergence.teacher if isinstance(divergence, Divergence) else None
    learns = teacher is not None and divergence.learns
    own = len(student.arrays())

    @tf.custom_gradient
    def run(*arrays):
        heads = [student.having(arrays[:own])]
        current = dict(parts)
        if learns:
            heads.append(teacher.having(arrays[own:]))
            current["divergence"] = divergence._replace(teacher=heads[1])
        states = _passes(heads[0], current, size)
        values = {name: _factor(part) * part.value(states[name]) for name, part in current.items()}
        if _wants_accuracy(parts):
            values["correct"] = parts["cross_entropy"].correct(states["cross_entropy"])

        def gradient(*upstream):
            given = dict(zip(sorted(values), upstream, strict=True))
            scaled = {name: _factor(part) * given[name] for name, part in current.items()}
            return _gradients(heads, current, states, scaled, size)

        return [values[name] for name in sorted(values)], gradient

    names = sorted([*parts, *(["correct"] if _wants_accuracy(parts) else [])])
    given = run(*student.arrays(), *(teacher.arrays() if learns else []))
    return dict(zip(names, given, strict=True))


def _wants_accuracy(parts):
    return "cross_entropy" in parts and parts["cross_entropy"].accuracy


def _factor(part):
    """`T^2` where the loss has it."""
    compensates = getattr(getattr(part, "loss", None), "compensate", False)
    return part.temperature**2 if compensates else 1.0


def _passes(student, parts, size):
    """What each part knows after it has seen all blocks."""
    tokens = tf.shape(student.hidden)[0]

    def first(states, start, size):
        found = logits(student, start, size)
        return {name: parts[name].first(state, found, start, size)
                for name, state in states.items()}  # fmt: skip

    states = {name: part.empty(tokens) for name, part in parts.items()}
    states = over_blocks(student.vocabulary, size, first, states)
    for name, part in parts.items():
        if part.two_passes:

            def second(sums, start, size, part=part, state=states[name]):
                return part.second(sums, state, logits(student, start, size), start, size)

            sums = over_blocks(student.vocabulary, size, second, part.nothing(tokens))
            states[name]["sums"] = sums
    return states


def _gradients(heads, parts, states, upstream, size):
    """The gradients of all heads' arrays, one list."""

    def step(sums, start, size):
        found = logits(heads[0], start, size)
        slopes, others = [], None
        for name, part in parts.items():
            slope = part.slopes(states[name], upstream[name], found, start, size)
            if isinstance(slope, tuple):
                slope, *others = slope
            slopes.append(slope)
        added = [add_gradients(sums[0], heads[0], start, size, found, tf.add_n(slopes))]
        if len(heads) > 1:
            added.append(add_gradients(sums[1], heads[1], start, size, others[1], others[0]))
        return added

    sums = [no_gradients(head, size) for head in heads]
    sums = over_blocks(heads[0].vocabulary, size, step, sums)
    return [one for head, each in zip(heads, sums) for one in gradients(each, head)]
