"""Losses of a large vocabulary from hidden states, without all logits in memory at once."""

from functools import reduce
from operator import add
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_distill.batch import TopK
from keras_distill.fused import primitives
from keras_distill.fused.flat import FLAT, FlatDivergence
from keras_distill.fused.head import (
    Head,
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


class Measured(NamedTuple):
    """Values for each token, in the shape of the hidden states without their width, or `None`.

    Args:
        cross_entropy: the cross-entropy of the labels.
        divergence: the divergence from the teacher.
        correct: 1 where the likeliest word is the label. It has no gradient.

    Example:

    ```python
    head = fused.Head(np.random.rand(6, 4), np.random.rand(50, 4))
    fused.measure(head, labels=np.arange(6)).cross_entropy.shape  # (6,)
    ```
    """

    cross_entropy: Any
    divergence: Any
    correct: Any


def measure(
    student: Head,
    *,
    labels: Any = None,
    teacher: Head | TopK | None = None,
    loss: keras.losses.Loss | None = None,
    accuracy: bool = False,
    learns: bool = False,
    block: int | None = None,
) -> Measured:
    """Computes cross-entropy and a divergence, with gradients, by blocks of the vocabulary.

    It computes a block's logits, adds them to sums and drops them. The gradient computes them
    again. The values and gradients are those of the plain losses on `hidden @ embeddings^T`:

    `cross_entropy = log sum_c exp(s_c) - s_label`,
    `divergence = loss(t, s)` with the student's and teacher's logits `s` and `t`.

    Memory holds a few blocks of (tokens, block), and the gradients of the embeddings. The values
    take two products with the student's embeddings and the gradients two more (a plain loss takes
    three in all). There are two products with the teacher's embeddings (plain: one). Another
    divergence than `KLDivergence`, or a temperature of 8 or more or one that may change, takes one
    more of each.

    Args:
        student: the student's `Head`.
        labels: class ids, (...), integers. If an id is no word, the cross-entropy is NaN.
        teacher: the teacher's `Head`, or its `TopK`.
        loss: the divergence: `losses.KLDivergence`, `ReverseKL`, `JensenShannon` or another
            `Divergence` of this package.
        accuracy: whether to return where the likeliest word is the label.
        learns: whether a teacher's `Head` gets gradients too, for a teacher that is trained.
        block: words per block. Defaults to about 2,048.

    Returns:
        A `Measured`.

    Raises:
        ValueError: if the vocabularies differ, or a `TopK` has another temperature.
        TypeError: if the loss is no sum over the classes.

    Example:

    ```python
    # 6 tokens, 50 words; the student is 4 wide, the teacher 8
    small = fused.Head(np.random.rand(6, 4), np.random.rand(50, 4))
    large = fused.Head(np.random.rand(6, 8), np.random.rand(50, 8))
    measured = fused.measure(
        small, labels=np.arange(6), teacher=large, loss=losses.KLDivergence(2.0))
    measured.cross_entropy.shape, measured.divergence.shape  # (6,) and (6,)
    ```

    Reference:
        - [Wijmans et al., 2024](https://arxiv.org/abs/2411.09009) (Cut Your Losses)
    """
    check(student, teacher, loss)
    shape = ops.shape(student.hidden)[:-1]
    student = student.flat()
    parts = _parts(student, labels, accuracy, teacher, loss, learns)
    values = _values(student, parts, block_size(student.vocabulary, block))
    if "correct" in values:
        values["correct"] = ops.stop_gradient(values["correct"])
    values = {name: ops.reshape(value, shape) for name, value in values.items()}
    return Measured(*(values.get(name) for name in Measured._fields))


def check(student, teacher, loss):
    """Raises an error for models and losses that cannot be measured by blocks."""
    if teacher is None:
        return
    if not _sums_over_classes(loss):
        raise TypeError(
            "A fused head needs a divergence that is a sum over the classes, such as "
            f"`KLDivergence`, `ReverseKL` or `JensenShannon`. Received: {loss!r}"
        )
    if not _is_one_number(loss.temperature):
        raise ValueError(
            f"With `fused_head=True` the temperature of `{loss.name}` must be the same for all "
            "examples (a number, a schedule or a scalar `keras.Variable`). For a temperature "
            "per example, leave `fused_head=True` out. Received: "
            f"temperature={loss.temperature!r}"
        )
    if isinstance(teacher, TopK):
        loss._check_temperature(teacher)
    elif teacher.vocabulary != student.vocabulary:
        raise ValueError(
            "Student and teacher must have the same vocabulary. Received: "
            f"{student.vocabulary} and {teacher.vocabulary} tokens"
        )


def takes(loss: keras.losses.Loss) -> bool:
    """Returns whether a loss is a sum over classes that depends on log-probabilities alone.

    The loss must also have one temperature for all examples.

    Args:
        loss: a loss.

    Returns:
        A boolean: whether `measure` takes the loss.

    Example:

    ```python
    fused.takes(losses.KLDivergence(2.0)), fused.takes(losses.DIST())  # (True, False)
    ```
    """
    return _sums_over_classes(loss) and _is_one_number(loss.temperature)


def _sums_over_classes(loss):
    plain = (DivergenceLoss.call, KLDivergence.call)
    return isinstance(loss, DivergenceLoss) and type(loss).call in plain


def _is_one_number(temperature):
    if isinstance(temperature, keras.Variable) or ops.is_tensor(temperature):
        return len(temperature.shape) == 0
    return is_number(temperature) or callable(temperature)  # a schedule


def _parts(student, labels, accuracy, teacher, loss, learns):
    parts = {}
    if labels is not None:
        labels = ops.reshape(primitives.tensor(labels), (-1,))
        parts["cross_entropy"] = Labels(ops.cast(labels, "int32"), accuracy)
    if teacher is None:
        return parts
    temperature = loss.temperature
    if not is_number(temperature):
        temperature = loss.temperature_now(student.zeros())
    if isinstance(teacher, TopK):
        part = TopKDivergence(loss, _flat(teacher, student.precision), temperature)
    else:
        part = _dense(loss, teacher.flat(), temperature, learns)
    return {**parts, "divergence": part}


def _dense(loss, teacher, temperature, learns):
    """Returns the part for a teacher's `Head`. A temperature that may change may become high."""
    high = not is_number(temperature) or temperature >= FLAT
    if high and type(loss) is KLDivergence and not learns:
        return FlatDivergence(loss, teacher, temperature)
    return Divergence(loss, teacher, temperature, learns)


def _flat(top, precision):
    k = top.ids.shape[-1]
    return TopK(
        ops.cast(ops.reshape(primitives.tensor(top.ids), (-1, k)), "int32"),
        ops.cast(ops.reshape(primitives.tensor(top.log_probs), (-1, k)), precision),
        ops.cast(ops.reshape(primitives.tensor(top.log_tail), (-1,)), precision),
        top.temperature,
    )


def _values(student, parts, size):
    """Returns `{name: (tokens,)}` with a custom gradient."""
    heads, given = [student], dict(parts)
    divergence = parts.get("divergence")
    if isinstance(divergence, Divergence) and divergence.learns:
        heads.append(divergence.teacher)
        given["divergence"] = divergence._replace(teacher=None)
    names = [*parts, *(["correct"] if _wants_accuracy(parts) else [])]

    def filled(arrays, parts):
        """Returns the heads with these arrays, and the parts with a teacher that learns."""
        own = len(student.arrays())
        found = [h.having(a) for h, a in zip(heads, (arrays[:own], arrays[own:]))]
        if len(found) > 1:
            learner = parts["divergence"]._replace(teacher=found[1])
            parts = {**parts, "divergence": learner}
        return found, parts

    def forward(arrays, parts):
        heads, parts = filled(arrays, parts)
        states = _passes(heads[0], parts, size)
        values = [part.factor * part.value(states[name]) for name, part in parts.items()]
        if _wants_accuracy(parts):
            values.append(parts["cross_entropy"].correct(states["cross_entropy"]))
        return values, states

    def backward(arrays, parts, states, upstream):
        heads, parts = filled(arrays, parts)
        upstream = dict(zip(names, upstream, strict=True))
        scaled = {name: part.factor * upstream[name] for name, part in parts.items()}
        return _gradients(heads, parts, states, scaled, size)

    arrays = [array for head in heads for array in head.arrays()]
    return dict(zip(names, primitives.with_gradient(forward, backward, arrays, given), strict=True))


def _wants_accuracy(parts):
    return "cross_entropy" in parts and parts["cross_entropy"].accuracy


def _passes(student, parts, size):
    """Returns the state of each part after all blocks."""
    zeros = student.zeros()

    def first(states, index, start, size):
        found = logits(student, start, size)
        return {name: parts[name].first(state, found, start, size)
                for name, state in states.items()}  # fmt: skip

    states = {name: part.empty(zeros) for name, part in parts.items()}
    states = over_blocks(student.vocabulary, size, first, states)
    for name, part in parts.items():
        if part.two_passes:

            def second(sums, index, start, size, part=part, state=states[name]):
                return part.second(sums, state, logits(student, start, size), start, size)

            sums = over_blocks(student.vocabulary, size, second, part.nothing(zeros))
            states[name] = {**states[name], "sums": sums}
    return states


def _gradients(heads, parts, states, upstream, size):
    """Returns the gradients of all heads' arrays as one list."""

    def step(sums, index, start, size):
        found = logits(heads[0], start, size)
        slopes, others = [], None
        for name, part in parts.items():
            slope = part.slopes(states[name], upstream[name], found, start, size)
            if isinstance(slope, tuple):
                slope, *others = slope
            slopes.append(slope)
        added = [add_gradients(sums[0], heads[0], index, start, found, reduce(add, slopes))]
        if len(heads) > 1:
            added.append(add_gradients(sums[1], heads[1], index, start, others[1], others[0]))
        return added

    sums = [no_gradients(head, size) for head in heads]
    sums = over_blocks(heads[0].vocabulary, size, step, sums)
    return [one for head, each in zip(heads, sums) for one in gradients(each, head)]
