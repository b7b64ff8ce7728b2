"""Contrastive distillation: an example's two representations against a memory of all others."""

import math

import keras
from keras import ops

from keras_distill.losses import masks
from keras_distill.losses.arithmetic import flat, unit
from keras_distill.losses.distillation_loss import DistillationLoss, check_variant
from keras_distill.losses.softened import LOWEST
from keras_distill.schedules import check, value_at

EPSILON = 1e-7


@keras.saving.register_keras_serializable(package="keras_distill")
class ContrastiveRepresentation(DistillationLoss):
    """Tells an example's own embedding from those of other examples (CRD).

    `loss = -log h(i) - sum_{k = 1..negatives} log(1 - h(k))`, with `h = p / (p + c)`,
    `p(k) = exp(<embedding, memory_k> / T) / Z` and `c = negatives / examples`. The loss adds two
    such values: the student's embedding against a memory of the teacher's embeddings, and the other
    way round. It trains both embeddings. Each memory has one row for every example of the data set,
    and moves towards the embeddings: `memory_i = unit(momentum * memory_i + (1 - momentum) *
    embedding)`.

    The paper has no `Z`. The authors' code computes it once, as the first batch's mean of
    `exp(...)` times `examples`, and so does `variant="code"`. The loss draws negatives evenly, with
    replacement, once a step for all examples of the batch. So it reads `negatives` rows of memory
    rather than `batch * negatives`. The memories hold `2 * examples * width` numbers. A call reads
    and moves only the rows that it needs. Over several replicas and on another backend than
    TensorFlow it copies all of them. A step of `Distiller` copies all of them too, so that it can
    undo the step.

    Args:
        examples: how many examples the data set has.
        width: the width of the embeddings. Defaults to `128`.
        negatives: how many negatives to draw for each step. Defaults to `16384`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `0.07`.
        momentum: how much of itself a memory keeps, in [0, 1]. Defaults to `0.5`.
        variant: `"code"` to take `Z` from the first batch, or `"paper"` for `Z = 1`, as the formula
            has it. Defaults to `"code"`.
        seed: the seed of embeddings, memories and draws: an integer or `None`. Defaults to `None`.
        name: the loss's name. Defaults to `"contrastive_representation"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: a dict of `"feature"`, the teacher's, (batch, ...), and `"index"`, each example's
            row in the memories, in [0, examples), (batch,). It may also hold `"negatives"`, rows of
            the memories, (batch, negatives), which are then not drawn.
        y_pred: the student's feature, (batch, ...), of any width.
        mask: the examples' weights, (batch,); the memories do not keep those with zero weight.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: for a count or a temperature that is not positive, or a momentum outside
            [0, 1].

    Example:

    ```python
    loss = losses.ContrastiveRepresentation(examples=50_000)
    index = {"feature": "hidden", "index": "input:index"}
    term = Term(loss, student="hidden", teacher=index, weight=0.8)
    ```

    Reference:
        - [Tian et al., 2020](https://arxiv.org/abs/1910.10699)
    """

    needs = ("mask",)
    config = ("examples", "width", "negatives", "temperature", "momentum", "variant", "seed")
    stateful = True
    same_shape = False
    across_batch = True

    def __init__(
        self,
        examples: int,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        variant: str = "code",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for key, count in (("examples", examples), ("width", width), ("negatives", negatives)):
            if count < 1:
                raise ValueError(f"`{key}` must be positive. Received: {key}={count}")
        self.examples, self.width, self.negatives = examples, width, negatives
        self.temperature = check("temperature", temperature, low=0, strict=True)
        self.momentum = check("momentum", momentum, low=0, high=1)
        self.variant, self.seed = check_variant(variant), seed

    def build(self, student_shape, teacher_shape):
        self.layer = _Memory(self.examples, self.width, self.seed, self.dtype)
        self.layer.build(student_shape, teacher_shape["feature"])

    def call(self, y_true, y_pred, mask=None):
        memory, present = self.layer, masks.examples(mask, y_pred)
        index = ops.cast(y_true["index"], "int32")
        negatives = y_true.get("negatives")
        negatives = memory.draw(self.negatives) if negatives is None else negatives
        student = unit(memory.student(flat(y_pred)))
        teacher = unit(memory.teacher(flat(y_true["feature"])))
        values = 0.0
        for embedding, bank, normalizer in (
            (student, memory.teachers, memory.student_normalizer),
            (teacher, memory.students, memory.teacher_normalizer),
        ):
            scores = self._scores(embedding, bank, index, ops.cast(negatives, "int32"))
            if self.variant == "code":
                scores = scores - _log_normalizer(normalizer, scores, present, self.examples)
            values = values + _noise_contrast(scores, self.examples)
        memory.remember(index, student, teacher, present, value_at(self.momentum))
        return values

    def _scores(self, embedding, bank, index, negatives):
        """Scores an embedding against its own memory and others: (batch, 1 + negatives)."""
        own = ops.sum(embedding * _rows(bank, index), axis=-1, keepdims=True)
        rows = _rows(bank, negatives)
        equation = "bd,kd->bk" if len(negatives.shape) == 1 else "bd,bkd->bk"
        others = ops.einsum(equation, embedding, rows)
        temperature = ops.cast(value_at(self.temperature), embedding.dtype)
        return ops.concatenate([own, others], axis=-1) / temperature


def _log_normalizer(known, scores, present, examples):
    """Returns the logarithm of `Z`: the known one, else this batch's, which it then keeps."""
    some = ops.sum(present) > 0
    counted = ops.where(ops.expand_dims(present, -1) > 0, scores, LOWEST)
    number = masks.at_least_one(ops.sum(present)) * scores.shape[-1]
    mean = ops.logsumexp(counted) - ops.log(number)
    found = ops.stop_gradient(ops.where(some, mean + math.log(examples), 0.0))
    before = ops.convert_to_tensor(known)
    value = ops.where(before > LOWEST, before, found)
    known.assign(ops.where(some, value, before))
    return value


def _noise_contrast(scores, examples):
    """Returns `-log h` of the first column, the example's own, and `-log(1 - h)` of all others."""
    noise = (scores.shape[-1] - 1) / examples
    above = scores - math.log(noise + EPSILON)
    own = ops.softplus(-above[:, 0])
    others = ops.softplus(above[:, 1:]) + math.log1p(EPSILON / noise)
    return own + ops.sum(others, axis=-1)


def _by_rows(bank):
    """Returns a memory's variable if its rows can be read and moved one by one, else `None`.

    TensorFlow's variables can, except copies over several replicas (which have `values`).
    """
    variable = bank.value
    alone = hasattr(variable, "sparse_read") and not hasattr(variable, "values")
    return variable if alone else None


def _rows(bank, index):
    """Returns rows of a memory."""
    variable = _by_rows(bank)
    return ops.take(bank, index, axis=0) if variable is None else variable.sparse_read(index)


def _add(bank, index, change):
    """Adds to rows of a memory."""
    variable, rows = _by_rows(bank), ops.expand_dims(index, -1)
    if variable is None:
        bank.assign_add(ops.scatter(rows, change, bank.shape))
    else:
        variable.scatter_nd_add(rows, change)


class _Memory(keras.layers.Layer):
    """What contrastive distillation trains and remembers: two embeddings and two memories.

    Replicas see the same gathered batch and draw from the same seed, so each of them moves its own
    copy of the memories in the same way.
    """

    def __init__(self, examples, width, seed, dtype):
        super().__init__(name="contrast", dtype=dtype)
        self.examples, self.width = examples, width
        self.student, self.teacher = (self._embedding(seed, side) for side in (0, 1))
        self.draws = keras.random.SeedGenerator(seed)
        self._seed = seed

    def _embedding(self, seed, side):
        seed = None if seed is None else seed + side
        initializer = keras.initializers.GlorotUniform(seed)
        return keras.layers.Dense(self.width, kernel_initializer=initializer, dtype=self.dtype)

    def build(self, student_shape, teacher_shape):
        for embedding, shape in ((self.student, student_shape), (self.teacher, teacher_shape)):
            embedding.build((None, math.prod(shape[1:])))
        self.students, self.teachers = (self._bank(side) for side in (2, 3))
        self.student_normalizer, self.teacher_normalizer = (
            self._state((), keras.initializers.Constant(LOWEST)) for _ in range(2)
        )
        self.built = True

    def _bank(self, side):
        limit = math.sqrt(3 / self.width)
        seed = None if self._seed is None else self._seed + side
        initializer = keras.initializers.RandomUniform(-limit, limit, seed)
        return self._state((self.examples, self.width), initializer)

    def _state(self, shape, initializer):
        return self.add_weight(
            shape=shape, initializer=initializer, trainable=False, aggregation="none"
        )

    def draw(self, number):
        return keras.random.randint((number,), 0, self.examples, seed=self.draws)

    def remember(self, index, student, teacher, present, momentum):
        """Moves the rows of the batch; if an example comes twice, its last embedding counts."""
        same = ops.expand_dims(index, 0) == ops.expand_dims(index, 1)
        counts = ops.cast(same, present.dtype) * present
        later = ops.sum(ops.triu(counts, 1), axis=-1) > 0
        moved = ops.expand_dims((present > 0) & ~later, -1)
        for bank, embedding in ((self.students, student), (self.teachers, teacher)):
            before = _rows(bank, index)
            after = unit(momentum * before + (1 - momentum) * embedding)
            _add(bank, index, ops.stop_gradient(ops.where(moved, after - before, 0.0)))
