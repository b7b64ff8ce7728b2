"""The review mechanism: every layer of the student learns from the teacher's earlier ones."""

from collections.abc import Sequence

import keras
from keras import layers, ops

from keras_distill.losses.arithmetic import nearest
from keras_distill.projectors.regressors import convolution, pair


@keras.saving.register_keras_serializable(package="keras_distill")
class AttentionFusion(layers.Layer):
    """Fuses a layer's feature maps with those of the deeper layers (ABF of ReviewKD).

    A 1x1 convolution and batch normalization bring the maps to `hidden` channels. A 1x1 convolution
    of these maps and of the residual of the deeper layers (resized to the nearest neighbour) gives
    two sigmoid attention maps, which weigh both. Their sum goes to the next fusion. A 3x3
    convolution and batch normalization of the sum are compared with the teacher. Only the
    convolution of the attention has a bias. Masked examples enter the batch statistics as zeros.

    Args:
        channels: the number of channels of the teacher's feature maps.
        hidden: channels of the maps that go to the next fusion, the same for all of a chain.
        size: the teacher's (height, width), or one number for a square. Defaults to `None`, the
            size of the student's maps.
        fuse: whether there is a residual; `False` for the deepest layer. Defaults to `True`.
        epsilon: the epsilon of the batch normalization. Defaults to `1e-5`.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: the student's feature maps, (batch, height, width, any channels).
        residual: what the deeper layers pass on, (batch, any height, any width, hidden).

    Returns:
        The feature maps to compare, (batch, *size, channels), and the maps for the next fusion,
        (batch, *size, hidden).

    Example:

    ```python
    fusion = projectors.AttentionFusion(channels=32, hidden=16, fuse=False)
    maps, handed_on = fusion(np.zeros((1, 4, 4, 8)))
    ```

    Reference:
        - [Chen et al., 2021](https://arxiv.org/abs/2104.09044)
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        size: int | tuple[int, int] | None = None,
        fuse: bool = True,
        epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.hidden, self.size = channels, hidden, pair(size)
        self.fuse, self.epsilon = fuse, epsilon
        common = {"use_bias": False, "kernel_initializer": "lecun_uniform"}
        self.reduce, self.expand = convolution(hidden, **common), convolution(channels, 3, **common)
        self.reduced = layers.BatchNormalization(epsilon=epsilon)
        self.expanded = layers.BatchNormalization(epsilon=epsilon)
        self.attention = convolution(2, activation="sigmoid") if fuse else None

    def build(self, features_shape, residual_shape=None):
        lead = features_shape[:-1]
        self.reduce.build(features_shape)
        self.reduced.build((*lead, self.hidden))
        if self.fuse:
            self.attention.build((*lead, 2 * self.hidden))
        self.expand.build((*lead, self.hidden))
        self.expanded.build((*lead, self.channels))

    def call(self, features, residual=None, training=None):
        fused = self.reduced(self.reduce(features), training=training)
        if self.fuse:
            residual = nearest(residual, fused.shape[1:3])
            attention = self.attention(ops.concatenate([fused, residual], axis=-1))
            fused = fused * attention[..., :1] + residual * attention[..., 1:]
        if self.size is not None:
            fused = nearest(fused, self.size)
        return self.expanded(self.expand(fused), training=training), fused

    def get_config(self):
        own = {"channels": self.channels, "hidden": self.hidden, "size": self.size}
        return {**super().get_config(), **own, "fuse": self.fuse, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_distill")
class ReviewMechanism(layers.Layer):
    """A chain of `AttentionFusion` over several layers, for `losses.HierarchicalContext`.

    The deepest layer comes first. Each passes its fused maps on to the one before it.

    Args:
        channels: the number of channels of the teacher's feature maps, one number for each, the
            shallowest first.
        hidden: channels of the maps that go from one fusion to the next. Defaults to `256`.
        sizes: the teacher's (height, width), or numbers for squares, one for each. Defaults to
            `None`, the sizes of the student's maps.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: a list of the student's feature maps, the shallowest first.

    Returns:
        A list of feature maps like the teacher's, the shallowest first.

    Raises:
        ValueError: if the numbers of sizes and channels differ; when called, if the number of
            feature maps differs from them.

    Example:

    ```python
    review = projectors.ReviewMechanism(channels=[64, 128, 256], sizes=[32, 16, 8], hidden=64)
    Term(losses.HierarchicalContext(), student=["block_1", "block_2", "block_3"],
         teacher=["stage_1", "stage_2", "stage_3"], projector=review)
    ```

    Reference:
        - [Chen et al., 2021](https://arxiv.org/abs/2104.09044)
    """

    def __init__(
        self,
        channels: Sequence[int],
        hidden: int = 256,
        sizes: Sequence[int | tuple[int, int]] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels, self.hidden = list(channels), hidden
        self.sizes = [None] * len(self.channels) if sizes is None else list(sizes)
        if len(self.sizes) != len(self.channels):
            raise ValueError(
                "`sizes` must have the length of `channels`. Received: "
                f"channels={self.channels}, sizes={self.sizes}"
            )
        last = len(self.channels) - 1
        self.fusions = [
            AttentionFusion(width, hidden, size, fuse=index < last)
            for index, (width, size) in enumerate(zip(self.channels, self.sizes))
        ]

    def build(self, input_shape):
        if len(input_shape) != len(self.fusions):
            raise ValueError(
                f"`{self.name}` takes {len(self.fusions)} feature maps. "
                f"Received: {len(input_shape)}"
            )
        for fusion, shape in zip(self.fusions, input_shape):
            fusion.build(shape)

    def call(self, features, training=None):
        found, residual = [], None
        for fusion, maps in zip(reversed(self.fusions), reversed(features)):
            out, residual = fusion(maps, residual, training=training)
            found.append(out)
        return found[::-1]

    def get_config(self):
        own = {"channels": self.channels, "hidden": self.hidden, "sizes": self.sizes}
        return {**super().get_config(), **own}
