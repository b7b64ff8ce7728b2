"""Width cut by importance: of a model in which half of all units are dead, the others are kept."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import models

hub = pytest.importorskip("keras_hub").models
WIDE, HEADS, INNER, TOKENS = 24, 4, 10, 30
SIZES = {"vocabulary_size": TOKENS, "num_layers": 2, "hidden_dim": WIDE, "intermediate_dim": INNER}
SHORT, QUERIES = {"max_sequence_length": 8}, {"num_query_heads": HEADS, "num_key_value_heads": 2}
BACKBONES = {
    "bert": lambda: hub.BertBackbone(**SIZES, **SHORT, num_heads=HEADS),
    "albert": lambda: hub.AlbertBackbone(**SIZES, **SHORT, num_heads=HEADS, embedding_dim=7),
    "gpt2": lambda: hub.GPT2Backbone(**SIZES, **SHORT, num_heads=HEADS),
    "llama": lambda: hub.LlamaBackbone(**SIZES, **QUERIES),
    "bart": lambda: hub.BartBackbone(**SIZES, **SHORT, num_heads=HEADS),
    "t5": lambda: hub.T5Backbone(**SIZES, num_heads=HEADS, key_value_dim=5),
    "vit": lambda: hub.ViTBackbone(
        image_shape=(8, 8, 3), patch_size=4, num_layers=2, num_heads=HEADS, hidden_dim=WIDE,
        mlp_dim=INNER,
    ),
}  # fmt: skip
as_array = keras.ops.convert_to_numpy


class Alive:
    """Which units of a planted model are alive; each block has hidden units and heads of its own.

    The channels of the stream come in pairs of opposite sign, so that their mean is zero with the
    dead ones and without them, as layer normalization needs it.
    """

    def __init__(self, seed=0):
        self.random, self.chosen = np.random.default_rng(seed), {}
        self.pairs = self.random.permutation(WIDE)[: WIDE // 2].reshape(-1, 2)
        self.stream = np.sort(self.pairs.ravel())

    def of(self, key, count):
        if key not in self.chosen:
            self.chosen[key] = np.sort(self.random.permutation(count)[: count // 2])
        return self.chosen[key]

    def along(self, path, size, shares):
        """The living entries of an axis, by its size and the path of its weight."""
        block = "".join(re.findall(r"(?:encoder|decoder)?_?(?:layer|block|group)_\d+", path)[:1])
        attention = block + ("cross" if "cross" in path else "")
        if shares and "cross" not in path:
            attention = "encoder" if "encoder" in path else "decoder"
        if size == WIDE:
            return self.stream
        if size == INNER:
            return self.of((block, "inner"), INNER)
        heads, each = {HEADS: (HEADS, 1), 2: (2, 1), HEADS * 5: (HEADS, 5)}.get(size, (0, 0))
        if not heads:
            return None
        if not shares and "llama" in path:  # two queries share a key
            heads, each = 2, size // 2
        units = self.of((attention, "heads"), heads)
        return (units[:, None] * each + np.arange(each)).ravel()


def planted(model, alive):
    """The model with random weights, dead but for the units that are alive."""
    shares = isinstance(model, hub.T5Backbone)
    for weight in model.weights:
        if "int" in weight.dtype:
            continue
        value = alive.random.normal(size=weight.shape) * 0.5
        if weight.shape[-1] == WIDE:
            gain = weight.name in ("gamma", "scale", "weight")
            value = np.abs(value) + 0.5 if gain else value
            value[..., alive.pairs[:, 1]] = value[..., alive.pairs[:, 0]] * (1 if gain else -1)
        for axis, size in enumerate(weight.shape):
            entries = alive.along(weight.path, size, shares)
            if entries is not None:
                dead = np.setdiff1d(np.arange(size), entries)
                value[(slice(None),) * axis + (dead,)] = 0
        weight.assign(value)
    return model


def batch(model, seed=0):
    random, inputs = np.random.default_rng(seed), model.input
    if not isinstance(inputs, dict):
        return random.normal(size=(4, *inputs.shape[1:])).astype("float32")
    return {name: random.integers(0, TOKENS, (4, 6)) if "token_ids" in name
            else np.zeros((4, 6), "int32") if "segment" in name else np.ones((4, 6), "int32")
            for name in inputs}  # fmt: skip


def check_alive(student, teacher, alive):
    x = batch(teacher, seed=1)
    for ours, theirs in zip(*(keras.tree.flatten(model(x)) for model in (student, teacher))):
        theirs = as_array(theirs)[..., alive.stream]
        assert np.abs(theirs).max() > 0.1
        # epsilons weigh otherwise among fewer channels
        np.testing.assert_allclose(as_array(ours), as_array(theirs), atol=5e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_alive_is_kept_and_computes_as_before(name):
    alive = Alive()
    teacher = planted(BACKBONES[name](), alive)
    before = [np.array(each) for each in teacher.get_weights()]
    student = models.shrink(teacher, width=0.5, importance=[batch(teacher)])
    check_alive(student, teacher, alive)
    sliced = models.shrink(teacher, width=0.5) if name != "t5" else student  # which is slow to make
    shapes = [[tuple(weight.shape) for weight in model.weights] for model in (student, sliced)]
    assert shapes[0] == shapes[1]
    for one, other in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_gradients_find_the_same(name):
    alive = Alive(1)
    teacher = planted(BACKBONES[name](), alive)
    x = batch(teacher)
    data = [(x, as_array(teacher(x)) + 1)]
    teacher.trainable = False
    student = models.shrink(teacher, width=0.5, importance=data, measure="taylor", loss="mse")
    check_alive(student, teacher, alive)
    assert not teacher.trainable_weights


def test_hidden_units_alone():
    alive = Alive(2)
    teacher = planted(BACKBONES["bert"](), alive)
    student = models.shrink(teacher, feed_forward=5, importance=[batch(teacher)], depth=2)
    assert (student.intermediate_dim, student.hidden_dim) == (5, WIDE)
    x = batch(teacher)
    for ours, theirs in zip(*(keras.tree.flatten(each(x)) for each in (student, teacher))):
        np.testing.assert_allclose(as_array(ours), as_array(theirs), atol=1e-5)
    for block in range(2):
        ours, theirs = (each.get_layer(f"transformer_layer_{block}")._feedforward_output_dense
                        for each in (student, teacher))  # fmt: skip
        kept = alive.chosen[f"_layer_{block}", "inner"]
        np.testing.assert_array_equal(as_array(ours.kernel), as_array(theirs.kernel)[kept])


def test_heads_alone_where_their_width_is_a_size_of_its_own():
    teacher = hub.GemmaBackbone(**SIZES, num_query_heads=4, num_key_value_heads=4, head_dim=6)
    x = batch(teacher)
    for index in range(2):
        attention = teacher.get_layer(f"decoder_block_{index}").attention
        for weight in attention.output_dense.weights + attention.value_dense.weights:
            value = np.copy(as_array(weight))
            value[[index, 3]] = 0
            weight.assign(value)
    student = models.shrink(teacher, heads=2, importance=[x])
    assert (student.num_query_heads, student.hidden_dim) == (2, WIDE)
    np.testing.assert_allclose(as_array(student(x)), as_array(teacher(x)), atol=1e-5)
    with pytest.raises(ValueError, match="by `heads`.* fewer heads would be wider"):
        models.shrink(BACKBONES["bert"](), heads=2)


def test_a_task_is_measured_on_its_loss():
    alive = Alive(3)
    teacher = hub.BertTextClassifier(planted(BACKBONES["bert"](), alive), 3)
    x = batch(teacher)
    data = [(x, np.array([0, 1, 2, 1]))] * 2
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    student = models.shrink(teacher, width=0.5, depth=2, importance=data, measure="taylor",
                            loss=loss)  # fmt: skip
    assert type(student) is type(teacher) and student.name == f"{teacher.name}_student"
    np.testing.assert_allclose(as_array(student(x)), as_array(teacher(x)), atol=2e-4)


def kill(layer, **dead):
    """Zeros some entries along an axis of some weights: `kernel_0=entries`."""
    for weight in layer.weights:
        value = np.copy(as_array(weight))
        for where, entries in dead.items():
            name, axis = where.rsplit("_", 1)
            if name == weight.name:
                value[(slice(None),) * (int(axis) % value.ndim) + (entries,)] = 0
        weight.assign(value)


def conv_net(end):
    """A stem, two residual blocks, a squeeze of the channels and a head."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for index in range(2):
        before = x
        x = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"block_{index}_in")(x)
        x = layers.BatchNormalization(name=f"block_{index}_norm")(x)
        x = layers.ReLU()(x)
        x = layers.DepthwiseConv2D(3, padding="same", name=f"block_{index}_depthwise")(x)
        x = layers.Conv2D(6, 1, name=f"block_{index}_out")(x)
        x = x + before if index else layers.Add()([x, before])
    gate = layers.Reshape((1, 1, 6))(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Dense(6, "sigmoid", name="gate")(gate)])
    if end == "concatenate":
        beside = layers.SeparableConv2D(4, 3, padding="same", name="beside")
        x = layers.Concatenate()([x, beside(x)])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    x = layers.Dense(10, "relu", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    random = np.random.default_rng(5)
    for weight in model.weights:
        value = random.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


DEAD = {"stream": [0, 2, 5], "block_0": [1, 2, 3, 6], "block_1": [0, 3, 4, 7], "beside": [0, 3],
        "hidden": [0, 1, 4, 8, 9]}  # fmt: skip


def half_dead(model):
    stream, hidden = DEAD["stream"], DEAD["hidden"]
    writers = ["stem", "block_0_out", "block_1_out"]
    for name in writers:
        kill(model.get_layer(name), kernel_3=stream, bias_0=stream)
    kill(model.get_layer("gate"), kernel_0=stream, kernel_1=stream, bias_0=stream)
    for name in ("block_0", "block_1"):
        dead = DEAD[name]
        kill(model.get_layer(f"{name}_in"), kernel_2=stream, kernel_3=dead)
        kill(model.get_layer(f"{name}_norm"), gamma_0=dead, beta_0=dead)
        kill(model.get_layer(f"{name}_depthwise"), kernel_2=dead, bias_0=dead)
        kill(model.get_layer(f"{name}_out"), kernel_2=dead)
    channels = stream
    if any(layer.name == "beside" for layer in model.layers):
        dead = DEAD["beside"]
        kill(model.get_layer("beside"), pointwise_kernel_3=dead, bias_0=dead,
             depthwise_kernel_2=stream, pointwise_kernel_2=stream)  # fmt: skip
        channels = [*stream, *(6 + entry for entry in dead)]
    wide = model.get_layer("hidden").kernel.shape[0] // 4
    flat = [place * wide + channel for place in range(4) for channel in channels]
    kill(model.get_layer("hidden"), kernel_0=flat, kernel_1=hidden, bias_0=hidden)
    kill(model.get_layer("head"), kernel_0=hidden)
    return model


@pytest.mark.parametrize("measure", ["activation", "taylor"])
@pytest.mark.parametrize("end", ["flatten", "concatenate"])
def test_channels_are_one_choice_along_a_skip(end, measure, tmp_path):
    teacher = half_dead(conv_net(end))
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 8, 8, 3)).astype("float32"), random.integers(0, 3, 8)
    asked = {} if measure == "activation" else {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}  # fmt: skip
    student = models.shrink(teacher, width=0.5, importance=[(x, y)], measure=measure, **asked)
    np.testing.assert_allclose(as_array(student(x)), as_array(teacher(x)), rtol=1e-3, atol=1e-3)
    assert student.get_layer("block_1_in").kernel.shape == (3, 3, 3, 4)
    assert student.get_layer("hidden").units == 5
    sliced = models.shrink(teacher, width=0.5)
    assert [w.shape for w in sliced.weights] == [w.shape for w in student.weights]
    np.testing.assert_array_equal(as_array(sliced.get_layer("stem").kernel),
                                  as_array(teacher.get_layer("stem").kernel)[..., :3])  # fmt: skip
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(as_array(again(x)), as_array(student(x)))
    both = models.shrink(teacher, width=0.5, importance=[x], layers=[0])
    assert both(x).shape == (8, 3) and not any("block_1" in each.name for each in both.layers)


def test_layers_that_are_called_twice_and_norms_over_channels():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 8, name="words")(inputs)
    shared = layers.Dense(8, "relu", name="shared")
    x = shared(shared(x))
    x = layers.LayerNormalization(name="norm", epsilon=1e-9)(x)
    teacher = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    kept = np.array([1, 3, 4, 6])
    dead = np.setdiff1d(np.arange(8), kept)
    kill(teacher.get_layer("words"), embeddings_1=dead)
    kill(shared, kernel_0=dead, kernel_1=dead, bias_0=dead)
    kill(teacher.get_layer("norm"), gamma_0=dead, beta_0=dead)
    tokens = np.random.default_rng(0).integers(0, 11, (6, 5))
    student = models.shrink(teacher, width=0.5, importance=[tokens])
    np.testing.assert_array_equal(as_array(student.get_layer("shared").kernel),
                                  as_array(shared.kernel)[np.ix_(kept, kept)])  # fmt: skip
    x = as_array(shared(shared(teacher.get_layer("words")(tokens))))
    factor = np.sqrt(x[..., kept].var(-1).mean() / x.var(-1).mean())
    gamma = as_array(student.get_layer("norm").gamma)
    np.testing.assert_allclose(gamma, np.full(4, factor), rtol=1e-4)


def test_what_is_not_known_stays_whole():
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, name="before")(inputs)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.Dense(8, "relu", name="after")(x)
    x = layers.Dense(8, "softmax", name="mixed")(x)
    teacher = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="no layer was found whose channels can be fewer"):
        models.shrink(teacher, width=0.5)
    student = models.shrink(keras.Model(inputs, layers.Dense(2)(x)), width=0.25)
    assert [student.get_layer(name).units for name in ("before", "after", "mixed")] == [8, 2, 8]


def test_mistakes():
    bert, x = BACKBONES["bert"](), [np.zeros((1, 4), "float32")]
    net = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(2)], name="net")
    for model, asked, said in (
        (net, {"width": 0.5, "importance": []}, "at least one batch"),
        (net, {"width": 0.5, "importance": [*x, x[0][:0]]}, "is not finite. Give `importance`"),
        (net, {"width": 0.5, "importance": x, "measure": "size"}, "one of activation, taylor"),
        (net, {"width": 0.5, "importance": x, "measure": "taylor"}, "Give `loss`"),
        (net, {"width": 0.5, "importance": x, "measure": "taylor", "loss": "mse"}, "`x` alone"),
        (net, {"width": 0.5, "loss": "mse"}, "need `importance`"),
        (net, {"width": 2}, "must be a share"),
        (net, {"heads": 2}, "cannot be cut by `heads`"),
        (bert, {"depth": 1, "importance": x}, "Give `width`, `heads` or `feed_forward`"),
        (bert, {"feed_forward": 11}, "`feed_forward` must be a share .* whole number up to 10"),
    ):
        with pytest.raises(ValueError, match=said):
            models.shrink(model, **asked)
