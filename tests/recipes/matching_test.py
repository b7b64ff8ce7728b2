"""Layers matched by kind and depth."""

import keras
import pytest
from keras import layers

from keras_distill import recipes


def test_stages_of_a_convolutional_network(pair, capsys):
    student, teacher, _ = pair("cnn")
    pairs = recipes.matching.match_layers(student, teacher)
    assert pairs == [("stage_1_1", "stage_1_3"), ("stage_2_1", "stage_2_3")]
    printed = capsys.readouterr().out
    assert "stage_1_1 (None, 8, 8, 4) <- stage_1_3 (None, 8, 8, 6)" in printed


def test_blocks_of_a_transformer(pair, capsys):
    student, teacher, _ = pair("vit")
    pairs = recipes.matching.match_layers(student, teacher, verbose=False)
    assert pairs == [("block_0", "block_1"), ("block_1", "block_3")]
    assert recipes.matching.match_layers(student, teacher, count=1, verbose=False) == pairs[-1:]
    assert not capsys.readouterr().out


def test_blocks_of_a_keras_hub_task(pair):
    student, teacher, _ = pair("bert")
    pairs = recipes.matching.match_layers(student, teacher)
    ours, theirs = student.backbone.name, teacher.backbone.name
    assert pairs == [
        (f"{ours}/transformer_layer_0", f"{theirs}/transformer_layer_1"),
        (f"{ours}/transformer_layer_1", f"{theirs}/transformer_layer_3"),
    ]


def test_a_transformer_that_is_written_out_layer_by_layer():
    inputs = keras.Input((5, 4))
    x = layers.LayerNormalization(name="embedded")(inputs)
    for block in range(2):
        x = layers.LayerNormalization(name=f"a{block}")(x + layers.Dense(4)(x))
        x = layers.LayerNormalization(name=f"b{block}")(x + layers.Dense(4)(x))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    assert [path for path, _ in recipes.matching.stages(model)] == ["b0", "b1"]


def test_sizes_that_differ_are_matched_by_depth():
    def net(size, stages):
        inputs = x = keras.Input((size, size, 1))
        for stage in range(stages):
            x = layers.Conv2D(2, 3, strides=2, padding="same", name=f"stage_{stage}")(x)
        return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))

    pairs = recipes.matching.match_layers(net(24, 2), net(32, 4), verbose=False)
    assert pairs == [("stage_0", "stage_1"), ("stage_1", "stage_3")]


def test_padding_ends_no_stage():
    inputs = x = keras.Input((8, 8, 1))
    for stage in range(2):
        x = layers.ZeroPadding2D(1, name=f"pad_{stage}")(x)
        x = layers.Conv2D(2, 3, strides=2, name=f"stage_{stage}")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    assert [path for path, _ in recipes.matching.stages(model)] == ["stage_0", "stage_1"]


def test_the_embedding_is_the_last_vector(pair):
    for kind, name in (("cnn", "embedding"), ("vit", "embedding"), ("bert", "pooled_dense")):
        assert recipes.matching.embedding(pair(kind)[0]).split("/")[-1] == name


def test_models_of_different_kinds_are_refused(pair):
    with pytest.raises(ValueError, match="needs two models.*taps.shapes"):
        recipes.matching.match_layers(pair("cnn")[0], pair("vit")[1])
    headless = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="no single vector"):
        recipes.matching.embedding(headless)
