"""A tiny experiment's file, for the tests of tuning."""

FILE = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment, Term

def model(width):
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(3)])

def data(split):
    x = np.random.default_rng(len(split)).normal(size=(24, 4)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(-1)))
    return (batches.shuffle(24) if split == "train" else batches).batch(8)

def experiment(units=2, epochs=4, seeds=1):
    return Experiment("tiny", student=lambda: model(units), teacher=lambda: model(8), data=data,
        terms=[Term("mse", weight=3.0)], epochs=epochs, seeds=seeds,
        optimizer=lambda: keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""
