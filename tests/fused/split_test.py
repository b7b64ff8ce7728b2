"""A model is split into its body and its head, which together give its logits and gradients."""

import derivatives
import keras
import numpy as np
import pytest
from keras import ops

from keras_distill import losses
from keras_distill.fused import measure
from keras_distill.fused.split import SplitModel

WORDS, TOKENS, ROWS = 61, 6, 4
IDS = np.random.default_rng(0).integers(0, WORDS, (ROWS, TOKENS))
LABELS = np.random.default_rng(1).integers(0, WORDS, (ROWS, TOKENS))
LOSS = losses.KLDivergence(2.0)


def reversible(x, **kwargs):
    """Logits by the embedding that looked the words up, or by one of its own."""
    table = keras.layers.ReversibleEmbedding(WORDS, 8, name="table", **kwargs)
    hidden = keras.layers.Dense(8, "tanh")(table(x))
    return table(hidden, reverse=True)


def dense(x, **kwargs):
    hidden = keras.layers.Dense(8, "tanh")(keras.layers.Embedding(WORDS, 5)(x))
    return keras.layers.Dense(WORDS, bias_initializer="random_normal", **kwargs)(hidden)


HEADS = {
    "tied": (reversible, {}),
    "untied": (reversible, {"tie_weights": False}),
    "soft cap": (reversible, {"logit_soft_cap": 0.5}),
    "dense": (dense, {}),
    "without bias": (dense, {"use_bias": False}),
}
NEEDS = "this Keras has no `ReversibleEmbedding`"


def model(head, seed=0):
    made, kwargs = HEADS[head]
    if made is reversible and not hasattr(keras.layers, "ReversibleEmbedding"):
        pytest.skip(NEEDS)
    keras.utils.set_random_seed(seed)
    x = keras.Input((TOKENS,), dtype="int32")
    return keras.Model(x, made(x, **kwargs))


def losses_of(student, teacher, fused):
    """The sum of the cross-entropy and the divergence."""
    if fused:
        sides = [SplitModel(each) for each in (student, teacher)]
        heads = [side.head(side.body(IDS)) for side in sides]
        found = measure(heads[0], labels=LABELS, teacher=heads[1], loss=LOSS, block=8)
        return ops.sum(found.cross_entropy) + ops.sum(found.divergence)
    logits = student(IDS)
    own = ops.take_along_axis(logits, ops.convert_to_tensor(LABELS)[..., None], axis=-1)
    entropy = ops.sum(ops.logsumexp(logits, axis=-1)) - ops.sum(own)
    return entropy + ops.sum(LOSS.call(ops.stop_gradient(teacher(IDS)), logits))


@pytest.mark.parametrize("head", HEADS)
def test_the_parts_give_the_gradients_of_the_whole(head):
    student, teacher = model(head), model("dense", seed=1)
    plain, fused = (
        derivatives.of_variables(
            lambda fused=fused: losses_of(student, teacher, fused), student.trainable_variables
        )
        for fused in (False, True)
    )
    for one, two in zip(plain, fused, strict=True):
        assert np.any(one)
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_the_mask_of_the_logits():
    """A `Dense` layer hands it on, an embedding in reverse does not."""
    from keras_distill._keras.layers import mask_of

    x = keras.Input((TOKENS,), dtype="int32")
    body = keras.layers.Embedding(WORDS, 8, mask_zero=True)(x)
    split = SplitModel(keras.Model(x, keras.layers.Dense(WORDS)(body)))
    hidden = split.body(IDS)
    np.testing.assert_array_equal(derivatives.array(split.mask(hidden)), IDS != 0)
    split = SplitModel(model("tied"))
    assert split.mask(split.body(IDS)) is None
    assert mask_of(hidden) is not None


class KerasHubsEmbedding(keras.layers.Embedding):
    """As KerasHub has it where Keras has none."""

    tie_weights, reverse_dtype, logit_soft_cap = True, None, None

    def call(self, inputs, reverse=False):
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.embeddings))
        return super().call(inputs)

    def compute_output_spec(self, inputs, reverse=False):
        last = (self.input_dim,) if reverse else (*inputs.shape[-1:], self.output_dim)
        return keras.KerasTensor((*inputs.shape[:-1], *last), self.compute_dtype)


def test_a_head_is_known_by_its_call():
    x, table = keras.Input((TOKENS,), dtype="int32"), KerasHubsEmbedding(WORDS, 8)
    split = SplitModel(keras.Model(x, table(table(x), reverse=True)))
    found = split.head(split.body(IDS))
    np.testing.assert_array_equal(*map(derivatives.array, (found.embeddings, table.embeddings)))


def test_what_it_refuses():
    x = keras.Input((TOKENS,), dtype="int32")
    looked_up = keras.layers.Embedding(WORDS, 8)(x)
    softmax = keras.layers.Dense(WORDS, "softmax")(looked_up)
    reversed_not = KerasHubsEmbedding(WORDS, 8)(x)
    for output, said in (
        (reversed_not, "which ends in KerasHubsEmbedding"),
        (looked_up, "which ends in Embedding"),
        (softmax, "which ends in Dense"),
        ({"a": softmax, "b": looked_up}, "which ends in dict"),
    ):
        with pytest.raises(ValueError, match=said):
            SplitModel(keras.Model(x, output))

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="needs a functional model"):
        SplitModel(Subclassed())
