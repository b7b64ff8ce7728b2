"""Attention over all pairs of layers, by similarities between the examples of a batch."""

import keras
from keras import layers, ops

from keras_distill.losses.arithmetic import flat, unit
from keras_distill.projectors.regressors import convolution, pooled


class TwoSided(layers.Layer):
    """A projector that also gets the teacher's features, and may compare examples.

    A `Term` calls it with `(features, targets)`. On replicas it gets the whole batch.

    Example:

    ```python
    class Centred(projectors.TwoSided):
        def call(self, features, targets):
            return features - ops.mean(features, 0) + ops.mean(targets, 0)

    Term("mse", student="hidden", teacher="hidden", projector=Centred())
    ```
    """


@keras.saving.register_keras_serializable(package="keras_distill")
class SemanticAttention(TwoSided):
    """Computes how much each of the student's layers should learn from each teacher layer (SemCKD).

    A layer is described by the similarities between the examples of a batch, `F F^T`, with its
    maps as the rows of `F`. For each example `i` and each pair of layers, `attention_st` is the
    softmax over `t` of `<query_s(row i of F_s F_s^T), key_t(row i of F_t F_t^T)>`, where queries
    and keys are two dense layers to unit length. A map of the student is brought to the channels
    of each of the teacher's by three convolutions (1x1, 3x3, 1x1) with batch normalization. Masked
    examples enter the batch statistics as zeros.

    Args:
        batch_size: the number of similarities in a row. Smaller batches are padded with zeros. By
            default it is the size of the first batch.
        factor: a query has `batch_size / factor` numbers, at least two. Defaults to `4`.
        **kwargs: as in `keras.layers.Layer`.

    Call arguments:
        features: a list of the student's S feature maps, each (batch, height, width, channels).
        targets: a list of the teacher's T feature maps, each (batch, height, width, channels).

    Returns:
        What `losses.SemanticCalibration` takes: a list of the attention (batch, S, T) and of
        S * T feature maps with the teacher's channels.

    Raises:
        ValueError: for a count that is not positive, and when it is called with more examples
            than `batch_size`.

    Example:

    ```python
    maps = ["block_1", "block_2"]
    Term(losses.SemanticCalibration(), student=maps, teacher=maps, weight=400.0,
         projector=projectors.SemanticAttention(batch_size=64))
    ```

    Reference:
        - [Chen et al., 2020](https://arxiv.org/abs/2012.03236)
    """

    def __init__(self, batch_size: int | None = None, factor: int = 4, **kwargs):
        super().__init__(**kwargs)
        for name, count in (("batch_size", batch_size), ("factor", factor)):
            if count is not None and count < 1:
                raise ValueError(f"`{name}` must be positive. Received: {name}={count}")
        self.batch_size, self.factor = batch_size, factor

    def build(self, features_shape, targets_shape):
        self.batch_size = self.batch_size or features_shape[0][0]
        if self.batch_size is None:
            raise ValueError(
                "`SemanticAttention` needs the number of examples in a batch. Give `batch_size`."
            )
        self.queries = [self._embedding() for _ in features_shape]
        self.keys = [self._embedding() for _ in targets_shape]
        self.regressors = [[_regressor(there[-1]) for there in targets_shape]
                           for _ in features_shape]  # fmt: skip
        for embedding in (*self.queries, *self.keys):
            embedding.build((None, self.batch_size))
        for here, row in zip(features_shape, self.regressors):
            for regressor in row:
                regressor.build((None, None, None, here[-1]))

    def _embedding(self):
        width = max(2, self.batch_size // self.factor)  # one number of unit length learns nothing
        return keras.Sequential([layers.Dense(2 * width, "relu"), layers.Dense(width)])

    def call(self, features, targets, training=None):
        queries = self._described(features, self.queries)
        attention = ops.softmax(queries @ ops.swapaxes(self._described(targets, self.keys), 1, 2))
        projected = [
            regressor(pooled(maps, there.shape[1:3]), training=training)
            for maps, row in zip(features, self.regressors)
            for there, regressor in zip(targets, row)
        ]
        return [attention, *projected]

    def _described(self, maps, embeddings):
        """Returns the layers of one side for each example: (batch, layers, width)."""
        rows = [self._similarities(flat(each)) for each in maps]
        found = [unit(embedding(row)) for embedding, row in zip(embeddings, rows)]
        return ops.stack(found, axis=1)

    def _similarities(self, rows):
        """Returns similarities of each example with all of the batch: (batch, `batch_size`)."""
        short = self.batch_size - ops.shape(rows)[0]
        if isinstance(short, int) and short < 0:
            raise ValueError(
                f"`SemanticAttention` takes at most batch_size={self.batch_size} examples. "
                f"Received: {rows.shape[0]}"
            )
        return ops.pad(rows @ ops.transpose(rows), [[0, 0], [0, short]])

    def get_config(self):
        own = {"batch_size": self.batch_size, "factor": self.factor}
        return {**super().get_config(), **own}


def _regressor(channels):
    """Returns three convolutions to so many channels, with twice as many between them."""
    parts = []
    for filters, size in ((2 * channels, 1), (2 * channels, 3)):
        parts += [convolution(filters, size, use_bias=False), layers.BatchNormalization(),
                  layers.ReLU()]  # fmt: skip
    return keras.Sequential([*parts, convolution(channels)])
