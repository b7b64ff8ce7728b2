"""Projectors: what they compute, that they are serializable, and that a distiller trains them."""

import json

import keras
import numpy as np
import pytest
from backends import array, tensor, tensorflow_only, value_and_gradients

import keras_distill
from keras_distill import losses, projectors

RANDOM = np.random.default_rng(0)


def normal(*shape):
    return tensor(RANDOM.normal(size=shape), "float32")


def shapes_of(structure):
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), structure)


# name: the projector, its inputs and the shapes of its answer
CASES = {
    "VariationalProjector": (
        projectors.VariationalProjector(5, hidden=4, size=3),
        [normal(2, 6, 6, 3)],
        {"mean": (2, 3, 3, 5), "scale": (5,)},
    ),
    "ReusedClassifierProjector": (
        projectors.ReusedClassifierProjector(6, factor=3, size=(2, 2)),
        [normal(2, 4, 4, 3)],
        (2, 2, 2, 6),
    ),
    "MaskedGenerator": (
        projectors.MaskedGenerator(5, ratio=0.5, seed=1),
        [normal(2, 4, 4, 3)],
        (2, 4, 4, 5),
    ),
    "AttentionFusion": (
        projectors.AttentionFusion(5, 4, size=6),
        [normal(2, 3, 3, 2), normal(2, 2, 2, 4)],
        ((2, 6, 6, 5), (2, 6, 6, 4)),
    ),
    "ReviewMechanism": (
        projectors.ReviewMechanism([3, 5], hidden=4, sizes=[8, 2]),
        [[normal(2, 4, 4, 2), normal(2, 2, 2, 6)]],
        [(2, 8, 8, 3), (2, 2, 2, 5)],
    ),
    "Paraphraser": (projectors.Paraphraser(4), [normal(2, 3, 3, 4)], (2, 3, 3, 4)),
    "SemanticAttention": (
        projectors.SemanticAttention(4, factor=2),
        [[normal(4, 4, 4, 2)], [normal(4, 2, 2, 3), normal(4, 3, 3, 5)]],
        [(4, 1, 2), (4, 2, 2, 3), (4, 3, 3, 5)],
    ),
    "Translator": (projectors.Translator(5), [normal(2, 3, 3, 4)], (2, 3, 3, 5)),
}
every = pytest.mark.parametrize("name", CASES)


def test_every_projector_is_tested():
    exported = {name for name in projectors.__all__ if name[0].isupper()}
    assert {*CASES} == exported - {"TwoSided"}  # the base class of a kind


@every
def test_shapes(name):
    projector, inputs, expected = CASES[name]
    assert shapes_of(projector(*inputs)) == expected
    assert projector.trainable_variables


@every
def test_a_projector_is_serializable(name, tmp_path):
    projector, inputs, _ = CASES[name]
    expected = projector(*inputs)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(projector)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == projector.get_config()
    again(*inputs)
    assert len(again.weights) == len(projector.weights)
    again.set_weights(projector.get_weights())
    for one, other in zip(keras.tree.flatten(again(*inputs)), keras.tree.flatten(expected)):
        np.testing.assert_allclose(array(one), array(other), rtol=1e-5, atol=1e-6)


@every
def test_every_weight_learns(name):
    projector, inputs, _ = CASES[name]
    projector(*inputs)  # builds it
    weights = {str(index): v for index, v in enumerate(projector.trainable_variables)}
    directions = [array(normal(*part.shape)) for part in keras.tree.flatten(projector(*inputs))]

    def compute(values):
        with keras.StatelessScope([(weights[name], value) for name, value in values.items()]):
            parts = keras.tree.flatten(projector(*inputs, training=True))
            return sum(keras.ops.sum(p * tensor(d)) for p, d in zip(parts, directions, strict=True))

    _, gradients = value_and_gradients(compute, {k: tensor(v.value) for k, v in weights.items()})
    for gradient in gradients.values():
        assert np.isfinite(array(gradient)).all() and array(gradient).any()


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: projectors.VariationalProjector(3, variance=0), "`variance` must be positive"),
        (lambda: projectors.ReusedClassifierProjector(4, factor=5), r"`factor`.*\[1, 4\].*5"),
        (lambda: projectors.MaskedGenerator(3, ratio=1.5), r"`ratio`.*\[0, 1\].*1.5"),
        (lambda: projectors.MaskedGenerator(3, masked="rows"), "`masked` must be.*'rows'"),
        (lambda: projectors.SemanticAttention(0), "`batch_size` must be positive.*batch_size=0"),
        (
            lambda: projectors.SemanticAttention(2)([normal(3, 1, 1, 1)], [normal(3, 1, 1, 1)]),
            "at most batch_size=2 examples. Received: 3",
        ),
        (lambda: projectors.Paraphraser(3, rate=0), "`rate` must be positive.*rate=0"),
        (lambda: projectors.ReviewMechanism([1, 2], sizes=[3]), "`sizes` must have the length"),
        (lambda: projectors.ReviewMechanism([1, 2])([normal(1, 2, 2, 1)]), "takes 2 feature maps"),
    ],
)
def test_wrong_arguments(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_the_variance_at_the_start():
    projector = projectors.VariationalProjector(2, variance=3.0)
    scale = array(projector(normal(1, 2, 2, 2))["scale"])
    np.testing.assert_allclose(np.log1p(np.exp(scale)), 3.0, rtol=1e-5)


def generated(ones, **options):
    """A generator that is the identity: what it masks is zero."""
    channels = ones.shape[-1]
    projector = projectors.MaskedGenerator(channels, ratio=0.25, seed=0, **options)
    projector(ones)
    identity = np.zeros((3, 3, channels, channels), "float32")
    identity[1, 1] = np.eye(channels)
    for layer in (projector.first, projector.second):
        layer.set_weights([identity, np.zeros(channels)])
    return projector


def test_the_generator_sees_part_of_the_channels():
    ones = tensor(np.ones((40, 2, 2, 16), "float32"))
    maps = array(generated(ones, masked="channels")(ones, training=True))
    np.testing.assert_array_equal(maps, np.broadcast_to(maps[:, :1, :1], maps.shape))
    assert {*np.unique(maps)} == {0.0, 1.0} and abs(maps.mean() - 0.75) < 0.05


def test_the_generator_sees_part_of_the_positions():
    """What is masked is zero, in training only."""
    ones = tensor(np.ones((4, 20, 20, 1), "float32"))
    projector = generated(ones)
    np.testing.assert_allclose(array(projector(ones)), array(ones))
    first, second = (array(projector(ones, training=True)) for _ in range(2))
    assert {*np.unique(first)} == {0.0, 1.0} and abs(first.mean() - 0.75) < 0.05
    assert (first != second).any() and (first[0] != first[1]).any()


def test_a_fusion_hands_on_a_weighed_sum():
    fusion = projectors.AttentionFusion(2, 3)
    maps, residual = normal(2, 4, 4, 5), normal(2, 2, 2, 3)
    _, fused = fusion(maps, residual)
    own = array(fusion.reduced(fusion.reduce(maps)))
    large = array(residual).repeat(2, 1).repeat(2, 2)
    kernel, bias = (array(v) for v in fusion.attention.weights)
    logits = np.concatenate([own, large], -1) @ kernel[0, 0] + bias
    weights = 1 / (1 + np.exp(-logits))
    expected = own * weights[..., :1] + large * weights[..., 1:]
    np.testing.assert_allclose(array(fused), expected, rtol=1e-4, atol=1e-5)


def test_attention_goes_where_examples_have_the_same_in_common():
    projector = projectors.SemanticAttention(5, factor=1)
    ours, theirs = [normal(3, 2, 2, 2)], [normal(3, 2, 2, 3), normal(3, 1, 1, 2)]
    found = array(projector(ours, theirs)[0])
    sides = []
    for maps, embeddings in ((ours, projector.queries), (theirs, projector.keys)):
        side = []
        for each, embedding in zip(maps, embeddings):
            rows = array(each).reshape(3, -1)
            rows = np.pad(rows @ rows.T, [(0, 0), (0, 2)])  # the batch is filled up
            w1, b1, w2, b2 = embedding.get_weights()
            rows = np.maximum(rows @ w1 + b1, 0) @ w2 + b2
            side.append(rows / np.linalg.norm(rows, axis=-1, keepdims=True))
        sides.append(side)
    for example in range(3):
        scores = np.exp([sides[0][0][example] @ key[example] for key in sides[1]])
        np.testing.assert_allclose(found[example, 0], scores / scores.sum(), rtol=1e-4)


def network(widths, classes=3):
    inputs = x = keras.Input((8, 8, 2))
    for index, width in enumerate(widths):
        x = keras.layers.Conv2D(width, 3, 2, "same", activation="relu", name=f"block_{index}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, name="classifier")(x))


def fitted(term, student, teacher):
    distiller = keras_distill.Distiller(student, teacher=teacher, terms=[term], alpha=1.0)
    distiller.compile("adam")
    x = RANDOM.normal(size=(8, 8, 8, 2)).astype("float32")
    distiller.fit(x, np.zeros(8), batch_size=4, epochs=0, verbose=0)
    before = distiller.projectors[term.name].get_weights()
    distiller.fit(x, np.zeros(8), batch_size=4, epochs=2, verbose=0)
    after = distiller.projectors[term.name].get_weights()
    return distiller, [not np.array_equal(a, b) for a, b in zip(before, after)]


TERMS = {
    "variational": lambda: keras_distill.Term(
        losses.VariationalInformation(), student="block_0", teacher="block_0",
        projector=projectors.VariationalProjector(6),
    ),
    "simkd": lambda: keras_distill.Term(
        losses.Hint(pool=True), student="block_1", teacher="block_1",
        projector=projectors.ReusedClassifierProjector(8),
    ),
    "masked": lambda: keras_distill.Term(
        losses.MaskedGeneration(), student="block_0", teacher="block_0",
        projector=projectors.MaskedGenerator(6),
    ),
    "review": lambda: keras_distill.Term(
        losses.HierarchicalContext(), student=["block_0", "block_1"],
        teacher=["block_0", "block_1"],
        projector=projectors.ReviewMechanism([6, 8], hidden=4, sizes=[4, 2]),
    ),
    "semantic": lambda: keras_distill.Term(
        losses.SemanticCalibration(), student=["block_0", "block_1"],
        teacher=["block_0", "block_1"], projector=projectors.SemanticAttention(),
    ),
}  # fmt: skip


@tensorflow_only
@pytest.mark.parametrize("name", TERMS)
def test_a_distiller_trains_a_projector(name):
    """Weights, batch statistics and the state of random masks all change."""
    _, changed = fitted(TERMS[name](), network([4, 5]), network([6, 8]))
    assert all(changed)


@tensorflow_only
def test_the_student_answers_with_the_reused_classifier():
    student, teacher = network([4, 5]), network([6, 8])
    distiller, _ = fitted(TERMS["simkd"](), student, teacher)
    projected = distiller.projectors["hint"](student.get_layer("block_1").output)
    pooled = keras.layers.GlobalAveragePooling2D()(projected)
    model = keras.Model(student.input, teacher.get_layer("classifier")(pooled))
    assert model(normal(2, 8, 8, 2)).shape == (2, 3)


@tensorflow_only
def test_factors_are_transferred():
    student, teacher = network([4, 5]), network([6, 8])
    maps = keras.Model(teacher.input, teacher.get_layer("block_0").output)
    features = array(maps(normal(8, 8, 8, 2)))
    paraphraser = projectors.Paraphraser(6, rate=0.5)
    paraphraser.compile("adam", "mse")
    history = paraphraser.fit(features, features, epochs=20, verbose=0).history["loss"]
    assert history[-1] < history[0]
    factor = paraphraser.encoder(maps.output)
    teacher = keras.Model(teacher.input, {"logits": teacher.output, "factor": factor})
    term = keras_distill.Term(
        losses.FactorTransfer(), student="block_0", teacher="output:factor",
        projector=projectors.Translator(channels=factor.shape[-1]),
    )  # fmt: skip
    _, changed = fitted(term, student, teacher)
    assert factor.shape[-1] == 3 and all(changed)


@pytest.mark.parametrize(
    "student, teacher, said",
    [
        ((2, 4), (2, 5, 4), r"Pool or flatten.*\(2, 4\) \(vector\).*\(2, 5, 4\) \(sequence\)"),
        ((2, 5, 4), (2, 5, 5, 4), "Pool or flatten.*sequence.*feature map"),
        ((2, 5, 4), (2, 6, 4), "the same length"),
        ((2, 3, 3, 3, 4), (2, 3, 3, 3, 5), "any Keras layer.*rank 5"),
    ],
)
def test_auto_refuses_what_it_cannot_join(student, teacher, said):
    with pytest.raises(ValueError, match=said):
        projectors.fitting(student, teacher)


@pytest.mark.parametrize(
    "student, teacher", [((2, 4), (2, 6)), ((2, 5, 4), (2, 5, 6)), ((2, 3, 3, 4), (2, 7, 5, 6))]
)
def test_auto_joins_one_kind(student, teacher):
    assert projectors.fitting(student, teacher)(np.ones(student)).shape == teacher


def test_auto_fits_maps_of_another_size_in_each_batch():
    def net(width, strides):
        convolution = keras.layers.Conv2D(width, 3, strides, padding="same", name="maps")
        pool, head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)
        return keras.Sequential([keras.Input((None, None, 3)), convolution, pool, head])

    teacher, student = net(5, 2), net(4, 1)
    batches = [(RANDOM.random((2, size, size, 3)).astype("float32"), np.zeros(2, "int32"))
               for size in (6, 8)]  # fmt: skip
    hint = keras_distill.Term("mse", student="maps", teacher="maps", projector="auto", name="hint")
    attention = keras_distill.Term(losses.AttentionTransfer(), student="maps", teacher="maps")
    distiller = keras_distill.Distiller(student, teacher=teacher, terms=[hint, attention])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(0.0), loss)
    found = distiller.fit((batch for batch in batches), verbose=0).history["hint"][0]
    errors = []
    for x, _ in batches:
        dense = distiller.projectors["hint"](student.get_layer("maps")(x))
        taught = teacher.get_layer("maps")(x)
        resized = keras.ops.image.resize(dense, taught.shape[1:3])
        errors.append(np.mean((array(resized) - array(taught)) ** 2, axis=-1).ravel())
    np.testing.assert_allclose(found, np.concatenate(errors).mean(), rtol=1e-4)
