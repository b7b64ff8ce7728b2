"""Makes the small convolutional networks of the examples, and trains and measures them."""

import keras
from keras import layers

from keras_distill import Distiller

LOSS = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight"
)


def network(shape, filters=(16, 32, 64), name="network"):
    """Returns a network with a block of two convolutions for each number of filters.

    A classifier of ten classes follows the blocks. Each block halves the image. Its last layer is
    named `"block_1"`, `"block_2"` and so on. The layer `"pool"` feeds the classifier. The output is
    logits, so that a temperature can soften it.
    """
    x = inputs = keras.Input(shape)
    for block, width in enumerate(filters, start=1):
        x = _convolution(x, width, strides=2)
        x = layers.ReLU(name=f"block_{block}")(_convolution(layers.ReLU()(x), width))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name=name)


def _convolution(x, width, strides=1):
    x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)  # short trainings need fast statistics


def made(seed, make, *args, **kwargs):
    """Returns what `make` returns. The same seed gives the same initial weights."""
    keras.utils.set_random_seed(seed)
    return make(*args, **kwargs)


def trained(title, model, data, epochs, seed, *, loss=LOSS, callbacks=(), **scheme):
    """Trains a model; returns `(model, record)`. The same seed gives the same order of the data.

    The learning rate of Adam decays from 0.003 along a cosine. `loss` is the loss of the labels,
    and `scheme` holds arguments of `Distiller`.
    """
    print(f"\nseed {seed}, {title}")
    keras.utils.set_random_seed(seed)
    train = data("train")
    steps = epochs * int(train.cardinality())
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps, alpha=0.01)
    distiller = Distiller(model, **scheme)
    distiller.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    logs = distiller.fit(train, epochs=epochs, verbose=2, callbacks=list(callbacks), shuffle=False)
    return model, {"history": {key: [float(v) for v in log] for key, log in logs.history.items()}}


def accuracy(model, dataset):
    """Returns the accuracy in percent. For a dict of outputs it returns `{output: accuracy}`."""
    distiller = Distiller(model)
    distiller.compile(loss=LOSS, metrics=["accuracy"])
    found = distiller.evaluate(dataset, verbose=0, return_dict=True)
    if "accuracy" in found:
        return 100 * found["accuracy"]
    ending = "_accuracy"
    return {
        name.removesuffix(ending): 100 * value
        for name, value in found.items()
        if name.endswith(ending)
    }
