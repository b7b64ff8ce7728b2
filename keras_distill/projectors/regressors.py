"""Convolutions that map the student's feature maps to the teacher's."""

import math

import keras
from keras import layers, ops

from keras_distill.losses.arithmetic import adaptive_average_pool


def pooled(maps, size):
    """Averages maps that are larger than `size` (height, width) down to it; `None` means never."""
    if size is None or maps.shape[1] <= size[0]:
        return maps
    return adaptive_average_pool(maps, size)


def pair(size):
    """Returns a size as (height, width); a number means a square."""
    return size if size is None else tuple(size) if hasattr(size, "__len__") else (size, size)


def convolution(filters, size=1, **kwargs):
    """Returns a convolution that keeps height and width."""
    return layers.Conv2D(filters, size, padding="same", **kwargs)


@keras.saving.register_keras_serializable(package="keras_distill")
class VariationalProjector(layers.Layer):
    """Computes mean and scale of the teacher's features, for `losses.VariationalInformation`.

    Three 1x1 convolutions without bias compute the mean, with a ReLU after the first two. The scale
    is a weight for each channel. Its softplus is the variance.

    Args:
        channels: the number of channels of the teacher's feature maps.
        hidden: channels of the first two convolutions. Defaults to `channels`.
        size: the teacher's (height, width), or one number for a square: larger maps of the
            student are averaged down to it first. Defaults to `None`: as they are.
        variance: the variance at the start, positive. Defaults to `5.0`.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: the student's feature maps, (batch, height, width, any channels).

    Returns:
        A dict: `"mean"` (batch, height, width, channels) and `"scale"` (channels,).

    Raises:
        ValueError: if `variance` is not positive.

    Example:

    ```python
    projector = projectors.VariationalProjector(channels=32)
    found = projector(ops.ones((2, 4, 4, 8)))
    print(found["mean"].shape, found["scale"].shape)  # (2, 4, 4, 32) (32,)
    ```

    Reference:
        - [Ahn et al., 2019](https://arxiv.org/abs/1904.05835)
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        size: int | tuple[int, int] | None = None,
        variance: float = 5.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not variance > 0:
            raise ValueError(f"`variance` must be positive. Received: variance={variance}")
        self.channels, self.hidden, self.size = channels, hidden or channels, pair(size)
        self.variance = variance
        widths = (self.hidden, self.hidden, channels)
        self.convolutions = [convolution(width, use_bias=False) for width in widths]

    def build(self, input_shape):
        for layer in self.convolutions:
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        start = keras.initializers.Constant(math.log(math.expm1(self.variance)))
        self.scale = self.add_weight(shape=(self.channels,), initializer=start, name="scale")

    def call(self, features):
        first, second, last = self.convolutions
        hidden = ops.relu(second(ops.relu(first(pooled(features, self.size)))))
        return {"mean": last(hidden), "scale": self.scale * 1.0}

    def get_config(self):
        own = {"channels": self.channels, "hidden": self.hidden, "size": self.size}
        return {**super().get_config(), **own, "variance": self.variance}


@keras.saving.register_keras_serializable(package="keras_distill")
class ReusedClassifierProjector(layers.Layer):
    """Brings the student's last feature maps to the teacher's classifier (SimKD).

    A 1x1, a 3x3 and a 1x1 convolution without bias, each followed by batch normalization and a
    ReLU. It is trained only with `losses.Hint(pool=True)`, with `alpha=1` and no labels. The
    student then predicts with the teacher's classifier on top of it, so unlike other projectors
    it is kept. Take it from `distiller.projectors[name of the term]` after `fit`.

    Masked examples enter the batch statistics as zeros.

    Args:
        channels: the number of channels of the teacher's feature maps.
        factor: the inner convolutions have `channels // factor` channels. Defaults to `2`.
        size: the teacher's (height, width), or one number for a square: larger maps of the
            student are averaged down to it first. Defaults to `None`: as they are.
        epsilon: the epsilon of the batch normalization. Defaults to `1e-5`.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: the student's feature maps, (batch, height, width, any channels).

    Returns:
        (batch, height, width, channels).

    Raises:
        ValueError: if `factor` is not in [1, channels].

    Example:

    ```python
    projector = projectors.ReusedClassifierProjector(channels=32)
    hint = Term(losses.Hint(pool=True), student="block_1", teacher="block_2",
                projector=projector, name="hint")
    distiller = Distiller(student, teacher=teacher, terms=[hint], alpha=1)
    distiller.compile("adam")
    distiller.fit(x)

    projected = distiller.projectors["hint"](student.get_layer("block_1").output)
    pooled = layers.GlobalAveragePooling2D()(projected)
    answer = teacher.get_layer("logits")(teacher.get_layer("hidden")(pooled))
    deployed = keras.Model(student.input, answer)
    ```

    Reference:
        - [Chen et al., 2022](https://arxiv.org/abs/2203.14001)
    """

    def __init__(
        self,
        channels: int,
        factor: int = 2,
        size: int | tuple[int, int] | None = None,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 1 <= factor <= channels:
            raise ValueError(f"`factor` must be in [1, {channels}]. Received: factor={factor}")
        self.channels, self.factor, self.size = channels, factor, pair(size)
        self.epsilon = epsilon
        inner = channels // factor
        self.convolutions = [
            convolution(filters, width, use_bias=False)
            for filters, width in ((inner, 1), (inner, 3), (channels, 1))
        ]
        self.normalizations = [layers.BatchNormalization(epsilon=epsilon) for _ in range(3)]

    def build(self, input_shape):
        for layer, normalization in zip(self.convolutions, self.normalizations):
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
            normalization.build(input_shape)

    def call(self, features, training=None):
        features = pooled(features, self.size)
        for layer, normalization in zip(self.convolutions, self.normalizations):
            features = ops.relu(normalization(layer(features), training=training))
        return features

    def get_config(self):
        own = {"channels": self.channels, "factor": self.factor, "size": self.size}
        return {**super().get_config(), **own, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_distill")
class MaskedGenerator(layers.Layer):
    """Generates the teacher's feature maps from the student's, randomly masked (MGD).

    It has a 1x1 convolution if the channels differ. Then it sets a random part of the positions or
    of the channels to zero, a new one for every example and step. Then it has two 3x3 convolutions
    with a ReLU between them. It masks nothing outside of training.

    Args:
        channels: the number of channels of the teacher's feature maps.
        ratio: the part that is masked, in [0, 1]. Defaults to `0.65`, the authors' code's for
            detection in one stage; it has 0.45 for two stages, 0.75 for segmentation and 0.15 for
            classification.
        masked: `"positions"`, or `"channels"` as in the authors' code for classification.
            Defaults to `"positions"`.
        seed: the seed of the masks. Defaults to `None`.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: the student's feature maps, (batch, height, width, any channels).

    Returns:
        (batch, height, width, channels).

    Raises:
        ValueError: if `ratio` is not in [0, 1], or for an unknown `masked`.

    Example:

    ```python
    generator = projectors.MaskedGenerator(channels=32, ratio=0.5)
    Term(losses.MaskedGeneration(), student="block_2", teacher="block_2", projector=generator)
    ```

    Reference:
        - [Yang et al., 2022](https://arxiv.org/abs/2205.01529)
    """

    def __init__(
        self,
        channels: int,
        ratio: float = 0.65,
        masked: str = "positions",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= ratio <= 1:
            raise ValueError(f"`ratio` must be in [0, 1]. Received: ratio={ratio}")
        if masked not in ("positions", "channels"):
            raise ValueError(
                f'`masked` must be "positions" or "channels". Received: masked={masked!r}'
            )
        self.channels, self.ratio, self.masked, self.seed = channels, ratio, masked, seed
        self.random = keras.random.SeedGenerator(seed)
        self.align = None
        self.first, self.second = (
            convolution(channels, 3, activation="relu"),
            convolution(channels, 3),
        )

    def build(self, input_shape):
        aligned = (*input_shape[:-1], self.channels)
        if input_shape[-1] != self.channels:
            self.align = convolution(self.channels)
            self.align.build(input_shape)
        self.first.build(aligned)
        self.second.build(aligned)

    def call(self, features, training=None):
        if self.align is not None:
            features = self.align(features)
        if training:
            batch, height, width, channels = ops.shape(features)
            positions = self.masked == "positions"
            shape = (batch, height, width, 1) if positions else (batch, 1, 1, channels)
            kept = keras.random.uniform(shape, seed=self.random) >= self.ratio
            features = features * ops.cast(kept, features.dtype)
        return self.second(self.first(features))

    def get_config(self):
        own = {"channels": self.channels, "ratio": self.ratio, "masked": self.masked}
        return {**super().get_config(), **own, "seed": self.seed}
