"""The primitives of TensorFlow; `keras_distill.fused.primitives` says what each does."""

import tensorflow as tf

ZERO = tf.UnconnectedGradients.ZERO

tensor = tf.convert_to_tensor


def loop(count, body, state):
    """Runs one iteration at a time; parallel ones would hold the logits of several blocks."""
    return tf.while_loop(
        lambda index, _: index < count,
        lambda index, state: (index + 1, body(index, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
        maximum_iterations=count,
    )[1]


def product(left, right):
    return tf.matmul(left, right, transpose_b=True)


def argmax(block):
    """Works in one pass; `keras.ops.argmax` takes three more passes to tell -0 from 0."""
    return tf.argmax(block, axis=1, output_type=tf.int32)


def add(block, columns, values):
    return tf.tensor_scatter_nd_add(block, _indices(columns), values)


def lower(block, columns, values):
    return tf.tensor_scatter_nd_min(block, _indices(columns), values)


def _indices(columns):
    shape = tf.shape(columns)
    rows = tf.broadcast_to(tf.range(shape[0])[:, None], shape)
    return tf.stack([rows, columns], axis=-1)


def write(blocks, index, rows):
    return tf.tensor_scatter_nd_update(blocks, [[index]], rows[None])


def with_gradient(forward, backward, learned, given):
    @tf.custom_gradient
    def run(*learned):
        values, state = forward(learned, given)
        return values, lambda *upstream: backward(learned, given, state, upstream)

    return run(*learned)


def derivative(function, *sources):
    with tf.GradientTape() as tape:
        tape.watch(sources)
        value = function(*sources)
    return value, tape.gradient(value, sources, unconnected_gradients=ZERO)
