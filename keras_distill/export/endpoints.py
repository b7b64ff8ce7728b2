"""Signatures of a SavedModel for clients' data: image files, examples, text, prompts."""

import keras
from keras import tree

from keras_distill import _backend

SIGNATURES = ("classify", "image_bytes", "examples", "text", "generate", "generate_sampled")


def image_bytes(student, answer, signature, value_range):
    """Returns a signature that answers the bytes of JPEG or PNG files, one string each.

    Args:
        student: A `keras.Model` whose only input is images, `(batch, height, width, channels)`.
        answer: A function from a batch of images to a dict of outputs.
        signature: The result of `signature_of(student)`, as tensor specifications.
        value_range: The least and the greatest value of a pixel in the student's training.

    Returns:
        `(function, its signature)`, or `None` if the student takes no such images.
    """
    tf = _backend.tensorflow("A SavedModel")
    shape = _image_shape(signature)
    if shape is None:
        return None
    height, width, channels = shape
    low, high = value_range
    converter = getattr(getattr(student, "preprocessor", None), "image_converter", None)

    def decoded(content):
        image = tf.io.decode_image(content, channels=channels, expand_animations=False)
        image = tf.image.resize(image, (height, width))  # bilinear, in floats from 0 to 255
        return tf.ensure_shape(image, (height, width, channels))

    def serve(images):
        pixels = tf.map_fn(decoded, images, fn_output_signature=tf.float32)
        if converter is not None:  # KerasHub's, as in the student's training
            return answer(converter(pixels))
        return answer(tf.cast(pixels * ((high - low) / 255.0) + low, signature[0].dtype))

    return serve, [tf.TensorSpec((None,), tf.string, name="images")]


def _image_shape(signature):
    """Returns the height, width and channels of the only input, or `None` if it is no image."""
    specs = tree.flatten(signature)
    if len(specs) != 1 or isinstance(signature[0], dict) or not specs[0].dtype.is_floating:
        return None
    shape = tuple(specs[0].shape[1:])
    return shape if len(shape) == 3 and None not in shape and shape[2] in (1, 3) else None


def examples(answer, signature):
    """Returns a signature that answers serialized `tf.train.Example`s with a feature per input.

    Args:
        answer: A function from the student's arguments to a dict of outputs.
        signature: The result of `signature_of(student)`, as tensor specifications.

    Returns:
        `(function, its signature)`, or `None` if the size of an input is not fixed.
    """
    tf = _backend.tensorflow("A SavedModel")
    specs = {spec.name: spec for spec in tree.flatten(signature)}
    if any(None in spec.shape[1:] for spec in specs.values()):
        return None
    wide = {n: tf.float32 if spec.dtype.is_floating else tf.int64 for n, spec in specs.items()}
    features = {n: tf.io.FixedLenFeature(spec.shape[1:], wide[n]) for n, spec in specs.items()}

    def serve(examples):
        found = tf.io.parse_example(examples, features)
        return answer(*tree.map_structure(lambda s: tf.cast(found[s.name], s.dtype), signature))

    return serve, [tf.TensorSpec((None,), tf.string, name="examples")]


def text(student, answer):
    """Returns a signature that answers strings, by the task's preprocessor.

    The server then needs the operations of tensorflow-text.

    Returns:
        `(function, its signature)`, or `None` if the student has no preprocessor.
    """
    tf = _backend.tensorflow("A SavedModel")
    preprocessor = getattr(student, "preprocessor", None)  # only KerasHub's tasks have one
    if preprocessor is None or getattr(preprocessor, "tokenizer", None) is None:
        return None

    def serve(text):
        made = preprocessor(text)
        return answer(made[0] if isinstance(made, tuple) else made)  # a causal LM's adds labels

    return serve, [tf.TensorSpec((None,), tf.string, name="text")]


def generate(student, sampled):
    """Returns a signature from token ids to token ids, with the cache of keys and values.

    Its inputs are `token_ids` and `padding_mask`, `(batch, tokens)`, with the padding on the right;
    `max_length`, the number of tokens with those of the prompt; and `end_token`, the id that ends
    an answer, or -1 for none. It returns `token_ids` and `padding_mask`, `(batch, max_length)`.

    Args:
        student: A causal language model of KerasHub.
        sampled: Whether to draw tokens (among those that make up 90% of the probability) or to take
            the likeliest.

    Returns:
        `(function, its signature)`, or `None` if the student generates no tokens.
    """
    tf = _backend.tensorflow("A SavedModel")
    if not _is_causal_lm(student):
        return None
    from keras_hub import samplers

    sampler = samplers.TopPSampler(p=0.9) if sampled else samplers.GreedySampler()

    def serve(token_ids, padding_mask, max_length, end_token):
        more = tf.maximum(max_length - tf.shape(token_ids)[1], 0)
        ends = [[0, 0], [0, more]]
        prompt = {"token_ids": tf.pad(token_ids, ends), "padding_mask": tf.pad(padding_mask, ends)}
        before, student.sampler = getattr(student, "sampler", None), sampler
        try:
            found = student.generate_step(prompt, stop_token_ids=[end_token])
        finally:
            student.sampler = before
        return {"token_ids": found["token_ids"], "padding_mask": found["padding_mask"]}

    signature = [
        tf.TensorSpec((None, None), tf.int32, name="token_ids"),
        tf.TensorSpec((None, None), tf.bool, name="padding_mask"),
        tf.TensorSpec((), tf.int32, name="max_length"),
        tf.TensorSpec((), tf.int32, name="end_token"),
    ]
    return serve, signature


def _is_causal_lm(student):
    names = {each.__name__ for each in type(student).__mro__}
    return {"CausalLM", "Task"} <= names and isinstance(student, keras.Model)
