"""Students cut from their teachers: their blocks and weights, and what is refused."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill import models
from keras_distill.models.shrinking import blocks, sizes
from keras_distill.models.shrinking.choice import Choice

hub = pytest.importorskip("keras_hub").models
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 4,
    "num_heads": 4,
    "hidden_dim": 16,
    "intermediate_dim": 24,
}
DECODER = {
    **{key: value for key, value in SIZES.items() if key != "num_heads"},
    "num_query_heads": 4,
    "num_key_value_heads": 2,
}
SHORT = {"max_sequence_length": 8}
IMAGES = {"image_shape": (8, 8, 3)}
BACKBONES = {
    "bert": lambda: hub.BertBackbone(**SIZES, **SHORT),
    "distil_bert": lambda: hub.DistilBertBackbone(**SIZES, **SHORT),
    "roberta": lambda: hub.RobertaBackbone(**SIZES, **SHORT),
    "albert": lambda: hub.AlbertBackbone(**SIZES, **SHORT, embedding_dim=8, num_groups=2),
    "gpt2": lambda: hub.GPT2Backbone(**SIZES, **SHORT),
    "llama": lambda: hub.LlamaBackbone(**DECODER),
    "tied_llama": lambda: hub.LlamaBackbone(**DECODER, tie_word_embeddings=True),
    "gemma": lambda: hub.GemmaBackbone(**DECODER, head_dim=4),
    "bart": lambda: hub.BartBackbone(**SIZES, **SHORT),
    "t5": lambda: hub.T5Backbone(**{**SIZES, "num_layers": 2}),
    "vit": lambda: hub.ViTBackbone(
        **IMAGES, patch_size=4, num_layers=4, num_heads=4, hidden_dim=16, mlp_dim=24
    ),
    "resnet": lambda: hub.ResNetBackbone(
        [64], [3], [64, 64], [3, 2], [1, 2], "basic_block", **IMAGES
    ),
}
FULL = {"resnet": {"depth": 3}}  # how all blocks are kept, where `every=1` would do too


def randomized(model):
    """The model with weights of which no two are alike."""
    random = np.random.default_rng(3)
    for weight in model.weights:
        value = random.normal(size=weight.shape) * 0.3
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def batch(model):
    """Inputs for any backbone."""
    random, inputs = np.random.default_rng(0), model.input
    if not isinstance(inputs, dict):
        return random.normal(size=(2, *inputs.shape[1:])).astype("float32")
    made = {name: np.ones((2, 6), "int32") for name in inputs}
    for name in inputs:
        if "token_ids" in name:
            made[name] = random.integers(0, 30, (2, 6))
    return made


def same(model, other, x):
    ours, theirs = keras.tree.flatten(model(x)), keras.tree.flatten(other(x))
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_whole_and_halved(name):
    teacher = randomized(BACKBONES[name]())
    x = batch(teacher)
    same(models.shrink(teacher, **FULL.get(name, {"every": 1})), teacher, x)
    student = models.shrink(teacher, every=2)
    assert type(student) is type(teacher)
    outputs = zip(keras.tree.flatten(student(x)), keras.tree.flatten(teacher(x)), strict=True)
    for ours, theirs in outputs:
        assert ours.shape == theirs.shape and not np.allclose(ours, theirs)


def test_blocks_bring_their_weights():
    teacher = randomized(BACKBONES["bert"]())
    student = models.shrink(teacher, layers=[1, 3])
    assert student.num_layers == 2 and student.name == f"{teacher.name}_student"
    for new, old in enumerate((1, 3)):
        ours, theirs = (m.get_layer(f"transformer_layer_{i}").get_weights()
                        for m, i in ((student, new), (teacher, old)))  # fmt: skip
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, two)
    for name in ("token_embedding", "pooled_dense"):
        np.testing.assert_array_equal(
            student.get_layer(name).get_weights()[0], teacher.get_layer(name).get_weights()[0]
        )


def test_a_cut_model_computes_with_the_kept_blocks_alone():
    teacher = randomized(BACKBONES["gpt2"]())
    x = batch(teacher)
    hidden = teacher.embeddings_add(
        (teacher.token_embedding(x["token_ids"]),
         teacher.position_embedding(teacher.token_embedding(x["token_ids"])))
    )  # fmt: skip
    for index in (0, 3):
        hidden = teacher.transformer_layers[index](hidden, decoder_padding_mask=x["padding_mask"])
    student = models.shrink(teacher, layers=[0, 3])
    np.testing.assert_allclose(student(x), teacher.layer_norm(hidden), atol=1e-5)


def test_t5_keeps_the_position_bias_of_its_first_block():
    teacher = randomized(BACKBONES["t5"]())
    student = models.shrink(teacher, layers=[1])
    ours, theirs = (m.encoder_transformer_layers for m in (student, teacher))
    bias = [each[0].self_attention.relative_attention_bias for each in (ours, theirs)]
    np.testing.assert_array_equal(*bias)
    kernel = [each.input_projector.kernel for each in (ours[0], theirs[1])]
    np.testing.assert_array_equal(*kernel)


def test_albert_keeps_groups_or_repeats_them_less():
    teacher = randomized(BACKBONES["albert"]())  # two groups of two
    fewer = models.shrink(teacher, every=2)
    assert (fewer.num_layers, fewer.num_groups) == (2, 2)
    second = models.shrink(teacher, layers=[2, 3])
    assert (second.num_layers, second.num_groups) == (2, 1)
    np.testing.assert_array_equal(
        second.get_layer("group_0_inner_layer_0").get_weights()[0],
        teacher.get_layer("group_1_inner_layer_0").get_weights()[0],
    )
    with pytest.raises(ValueError, match="same number of blocks in each group.*{0: 1, 1: 2}"):
        models.shrink(teacher, layers=[0, 2, 3])


def test_a_stack_may_choose_its_own_blocks():
    teacher = randomized(BACKBONES["bart"]())
    student = models.shrink(teacher, layers={"encoder": [0, 1], "decoder": [2, 3]})
    for kind, old in (("encoder", 1), ("decoder", 3)):
        np.testing.assert_array_equal(
            student.get_layer(f"transformer_{kind}_layer_1").get_weights()[0],
            teacher.get_layer(f"transformer_{kind}_layer_{old}").get_weights()[0],
        )
    with pytest.raises(ValueError, match="have the same depth"):
        models.shrink(teacher, layers={"encoder": [0, 1, 2], "decoder": [0]})
    with pytest.raises(ValueError, match="transformer_decoder_layer_` matches none"):
        models.shrink(teacher, layers={"encoder": [0, 1]})


def test_a_decoder_may_lose_blocks_alone():
    teacher = randomized(hub.MoonshineBackbone(
        vocabulary_size=30, filter_dim=16, encoder_num_layers=3, decoder_num_layers=4,
        hidden_dim=16, intermediate_dim=24, encoder_num_heads=4, decoder_num_heads=4,
    ))  # fmt: skip
    student = models.shrink(teacher, layers={"encoder": [0, 1, 2], "decoder": [1, 3]})
    assert (student.encoder_num_layers, student.decoder_num_layers) == (3, 2)
    for ours, theirs in (("encoder_block_2", "encoder_block_2"),
                         ("decoder_block_0", "decoder_block_1"),
                         ("decoder_block_1", "decoder_block_3")):  # fmt: skip
        pairs = zip(student.get_layer(ours).weights, teacher.get_layer(theirs).weights, strict=True)
        for one, two in pairs:
            np.testing.assert_array_equal(one, two)
    one = models.shrink(student, depth=1)
    assert (one.encoder_num_layers, one.decoder_num_layers) == (1, 1)
    with pytest.raises(ValueError, match="each side has one block"):
        models.shrink(one, depth=1)
    uneven = models.shrink(teacher, layers={"encoder": [0, 1, 2], "decoder": [2]})
    with pytest.raises(ValueError, match=r"\[0, 1\) of the blocks of `decoder`.*\[5\]"):
        models.shrink(uneven, layers={"encoder": [0, 1], "decoder": [5]})
    assert models.shrink(teacher, width=0.5).decoder_num_heads == 2


def test_what_a_config_lists_by_block_is_cut_with_the_blocks():
    """As T5Gemma lists the kinds of attention of each side."""
    config = {
        "encoder_num_layers": 4, "decoder_num_layers": 2,
        "encoder_layer_types": ["sliding", "full", "full", "sliding"],
        "decoder_layer_types": ["full", "sliding"], "encoder_layer_norms": [1, 2],
    }  # fmt: skip
    stacks = {"encoder_block_": [0, 1, 2, 3], "decoder_block_": [0, 1]}
    choice = Choice(layers={"encoder": [0, 2], "decoder": [1]})
    cut, _ = sizes.cut_depth(config, stacks, choice, "t5gemma")
    assert cut == {
        "encoder_num_layers": 2, "decoder_num_layers": 1,
        "encoder_layer_types": ["sliding", "full"], "decoder_layer_types": ["sliding"],
        "encoder_layer_norms": [1, 2],
    }  # fmt: skip


def test_what_a_constructor_hands_on_is_no_part_of_the_config():
    class Sized(hub.BertBackbone):
        def __init__(self, **sizes):
            super().__init__(**sizes)
            self.sizes = sizes

        def get_config(self):
            return {"num_layers": 1}

    assert sizes.config_of(Sized(**SIZES, **SHORT)) == {"num_layers": 1}


@pytest.mark.parametrize(("depth", "count", "kept"), [
    (6, 12, [0, 2, 4, 7, 9, 11]), (3, 12, [0, 6, 11]), (2, 6, [0, 5]), (1, 6, [0]),
    (4, 4, [0, 1, 2, 3]),
])  # fmt: skip
def test_a_depth_is_spread_from_the_first_block_to_the_last(depth, count, kept):
    assert Choice(depth=depth).of("block", count) == kept


def test_a_resnet_keeps_the_first_blocks_of_its_stages():
    teacher = BACKBONES["resnet"]()
    assert models.shrink(teacher, depth=2).stackwise_num_blocks == [2, 2]
    assert models.shrink(teacher, every=2).stackwise_num_blocks == [2, 1]
    with pytest.raises(ValueError, match="stack0_block` must keep its block 0"):
        models.shrink(teacher, layers=[1])


def test_alternating_attention_must_stay_in_step():
    teacher = hub.GemmaBackbone(**DECODER, head_dim=4, use_sliding_window_attention=True)
    assert models.shrink(teacher, layers=[0, 3]).num_layers == 2
    with pytest.raises(ValueError, match="decoder_block_2.*decoder_block_1.*sliding_window"):
        models.shrink(teacher, every=2)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "resnet"])
def test_a_narrower_student_keeps_the_first_rows_and_columns(name):
    teacher = randomized(BACKBONES[name]())
    student = models.shrink(teacher, width=0.5)
    assert student.hidden_dim == 8
    assert all(np.isfinite(out).all() for out in keras.tree.flatten(student(batch(teacher))))
    for ours, theirs in zip(student.weights, teacher.weights, strict=True):
        corner = tuple(slice(size) for size in ours.shape)
        np.testing.assert_array_equal(ours, np.asarray(theirs)[corner])
    assert models.shrink(teacher, width=8).count_params() == student.count_params()


def test_widths_that_do_not_come_out():
    teacher = BACKBONES["bert"]()
    with pytest.raises(ValueError, match="keep their width.*`num_heads` would be 1.5"):
        models.shrink(teacher, width=6)
    for wrong in (0, 17, 1.5, True):
        with pytest.raises(ValueError, match="`width` must be a share"):
            models.shrink(teacher, width=wrong)
    with pytest.raises(ValueError, match="`res_net.*cannot be cut by `width`"):
        models.shrink(BACKBONES["resnet"](), width=0.5)


def conv_net(residual=True, tail="named"):
    """Two stages of residual blocks; additions and activations have names that Keras gave."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for index in range(4):
        before = x
        x = layers.BatchNormalization(name=f"block_{index}_norm")(x)
        x = layers.Conv2D(4, 3, padding="same", name=f"block_{index}_conv")(x)
        x = layers.ReLU()(x)
        x = x + before if residual else x
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x), name="net")


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("kept", [[0, 2], [0, 1], [1, 3], [3], [0]])
def test_a_functional_model_of_named_blocks(kept, residual):
    teacher = randomized(conv_net(residual))
    x = batch(teacher)
    student = models.shrink(teacher, layers=kept)
    hidden = teacher.get_layer("stem")(x)
    for index in kept:
        after = teacher.get_layer(f"block_{index}_norm")(hidden)
        after = np.maximum(teacher.get_layer(f"block_{index}_conv")(after), 0)
        hidden = hidden + after if residual else after
    expected = teacher.get_layer("head")(np.mean(hidden, (1, 2)))
    np.testing.assert_allclose(student(x), expected, atol=1e-5)
    names = [layer.name for layer in student.layers]
    assert f"block_{len(kept) - 1}_conv" in names and f"block_{len(kept)}_conv" not in names
    same(models.shrink(teacher, every=1), teacher, x)


def test_a_sequential_model_and_a_model_inside_a_model(tmp_path):
    inner = keras.Sequential(
        [keras.Input((6,)),
         *(layers.Dense(6, "relu", name=f"enc{index}") for index in (1, 2, 3))], name="inner"
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 6)).astype("float32")
    student = models.shrink(inner, layers=[0, 2])
    assert isinstance(student, keras.Sequential)
    assert [layer.name for layer in student.layers] == ["enc1", "enc2"]
    expected = inner.get_layer("enc3")(inner.get_layer("enc1")(x))
    np.testing.assert_allclose(student(x), expected, atol=1e-6)
    inputs = keras.Input((6,))
    outer = keras.Model(inputs, layers.Dense(2, name="head")(inner(inputs)))
    student = models.shrink(outer, layers=[0, 2])
    np.testing.assert_allclose(student(x), outer.get_layer("head")(expected), atol=1e-6)
    student.save(tmp_path / "student.keras")
    same(keras.saving.load_model(tmp_path / "student.keras"), student, x)


def test_masks_and_several_outputs_go_on():
    tokens, mask = keras.Input((5, 4), name="tokens"), keras.Input((5,), name="mask")
    x, seen = tokens, {}
    for index in range(3):
        attend = layers.MultiHeadAttention(2, 2, name=f"layer_{index}_attention")
        x = layers.Add(name=f"layer_{index}_add")([x, attend(x, x, attention_mask=mask[:, None])])
        seen[f"hidden_{index}"] = x
    teacher = randomized(keras.Model({"tokens": tokens, "mask": mask}, seen))
    x = {"tokens": np.ones((2, 5, 4), "float32") * np.arange(5)[:, None], "mask": np.eye(5)[:2] + 1}
    student = models.shrink(teacher, layers=[0, 1])
    ours, theirs = student(x), teacher(x)
    np.testing.assert_array_equal(ours["hidden_1"], theirs["hidden_1"])
    np.testing.assert_array_equal(ours["hidden_2"], theirs["hidden_1"])


def test_blocks_by_name():
    def found(*names):
        return blocks.stacks_of([layers.Identity(name=name) for name in names])

    assert found("stage_0_block_1_a", "stage_0_block_2_a") == {"stage_0_block_": [1, 2]}
    assert found("conv2_block1_1_conv", "conv2_block2_1_conv") == {"conv2_block": [1, 2]}
    assert found("enc1_a2", "enc1_b3", "enc2_a2", "enc2_b3") == {"enc": [1, 2]}
    assert found("identity_1", "identity_2") == {}  # Keras's own numbers
    assert found("block", "block_1", "block_2") == {}  # the first has no number
    assert found("head") == {}


def test_what_cannot_be_cut():
    teacher = conv_net()
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)], name="plain")
    x = inputs = keras.Input((8, 8, 3))
    for index in range(3):
        x = layers.Conv2D(4 * (index + 1), 3, name=f"block_{index}")(x)
    narrowing = keras.Model(inputs, x)
    for cut, asked, said in (
        (teacher, {}, "nothing to cut"),
        (teacher, {"every": 2, "depth": 1}, "one of `layers`, `every` and `depth`"),
        (teacher, {"every": 0}, "`every` must be a positive integer"),
        (teacher, {"depth": 5}, r"`depth` must be in \[1, 4\]. Received: depth=5"),
        (teacher, {"layers": [2, 0]}, r"ascending positions in \[0, 4\) of the blocks of `block_`"),
        (teacher, {"layers": [0, 4]}, r"ascending positions in \[0, 4\)"),
        (teacher, {"layers": [0.5]}, "must be whole numbers"),
        (teacher, {"feed_forward": 0.5}, "`net` cannot be cut by `feed_forward`"),
        (teacher, {"vocabulary": 5}, "`net` has no vocabulary to cut"),
        (plain, {"every": 2}, "`plain` must have blocks with numbered names"),
        (narrowing, {"layers": [0, 2]}, "`block_1` cannot be dropped, because it changes"),
        (BACKBONES["vit"](), {"vocabulary": 5}, "has no vocabulary"),
    ):
        with pytest.raises(ValueError, match=said):
            models.shrink(cut, **asked)
    plain.quantize("int8")
    with pytest.raises(ValueError, match="`plain` is quantized"):
        models.shrink(plain, every=2)


def test_an_adapted_normalization_stays_adapted():
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32") * 9 + 5
    scale = keras.layers.Normalization()
    scale.adapt(x)
    hidden = scale(inputs := keras.Input((4,)))
    for index in range(4):
        hidden = keras.layers.Dense(4, name=f"block_{index}")(hidden)
    student = models.shrink(keras.Model(inputs, hidden), every=2)
    kept = next(each for each in student.layers if isinstance(each, keras.layers.Normalization))
    np.testing.assert_array_equal(kept(x), scale(x))
