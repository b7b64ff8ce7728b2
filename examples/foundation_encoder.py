"""
# A small network that sees as a big encoder does, without a label

A foundation encoder turns images into vectors in which alike images are near each other. It was
trained without labels, and so can its student be: what is distilled is the vector of each image, by
its direction, and the likeness of the images in a batch. The student is then of use for any task,
with a few labels: here ten for each class, by nearest neighbours and by a linear probe.

    python examples/foundation_encoder.py --data=DIR --limit=5000

`DIR` holds the four idx `.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them;
without either, scikit-learn's 8 x 8 digits are taken. `--preset=NAME` takes an encoder of KerasHub,
`dinov2_small` for instance, which is fetched on first use, or a folder that `save_to_preset` wrote.
Without it, an encoder is trained here by contrast (SimCLR: Chen et al., 2020,
https://arxiv.org/abs/2002.05709), on the same images and without their labels: it stands in for a
pretrained one, and knows no more than these images show. `--tiny` tries it all out in under a
minute: its numbers mean nothing.
"""

import functools

import keras
import numpy as np
import tensorflow as tf
from images import compared, images_of, options
from keras import layers, ops
from networks import made, network
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from keras_distill import CachedTeacher, Distiller, Supervision, Term, losses
from keras_distill.experiments import Arm

SMALL, BIG = (4, 8, 16), (32, 64, 128)

"""
## Views

Images that are moved, turned and enlarged at random are still images of the same thing. Contrast
learns from that, and the encoder can be asked about as many views as one likes.
"""


def view_maker():
    """A model that makes random views of images."""
    return keras.Sequential(
        [
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.RandomRotation(0.04, fill_mode="constant"),
            layers.RandomZoom(0.15, fill_mode="constant"),
        ]
    )


def views_of(images, count):
    """The images, and so many random views of each behind them."""
    make = view_maker()
    batches = tf.data.Dataset.from_tensor_slices(images).batch(256)
    found = [images]
    for _ in range(count):
        found += [make(batch, training=True).numpy() for batch in batches]
    return np.concatenate(found)


"""
## The encoder

Contrast: in a batch of two views of each image, each view must find the other one of its image
among all. What stands behind the encoder while it is trained is thrown away afterwards.
"""


def contrast(_, vectors, temperature=0.2):
    """The cross-entropy of finding the other view, for each view of a batch."""
    vectors = ops.normalize(vectors, axis=-1)
    count = ops.shape(vectors)[0]
    alike = ops.matmul(vectors, ops.transpose(vectors)) / temperature
    alike = alike - 1e9 * ops.eye(count)  # itself
    other = (ops.arange(count) + count // 2) % count
    return ops.sparse_categorical_crossentropy(other, alike, from_logits=True)


def encoder_of(shape, filters, name):
    """A convolutional network whose output is a vector of the width of its last block."""
    net = network(shape, filters)
    return keras.Model(net.input, net.get_layer("pool").output, name=name)


def contrasted(filters, name, given, images, seed):
    """An encoder, trained by contrast on images without labels."""
    encoder = made(seed, encoder_of, images.shape[1:], filters, name)
    width = encoder.output.shape[-1]
    head = [layers.Dense(width, "relu"), layers.Dense(64)]
    model = keras.Sequential([encoder, *head])
    make = view_maker()

    def pair(batch):
        both = tf.concat([make(batch, training=True), make(batch, training=True)], 0)
        return both, tf.zeros(tf.shape(both)[0])

    rows = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images))
    batches = rows.batch(given.batch_size, drop_remainder=len(images) > given.batch_size).map(pair)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, given.encoder_epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), contrast)
    logs = model.fit(batches, epochs=given.encoder_epochs, verbose=2, shuffle=False)
    return encoder, {"loss": [float(value) for value in logs.history["loss"]]}


def pretrained(preset, images):
    """The vectors of an encoder of KerasHub: the mean over places or tokens of what it shows."""
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(preset)
    convert = keras_hub.layers.ImageConverter.from_preset(preset)
    found = []
    for start in range(0, len(images), 64):
        colored = np.repeat(255 * images[start : start + 64], 3, axis=-1)
        shown = backbone.predict_on_batch(convert(colored))
        found.append(shown.reshape(len(colored), -1, shown.shape[-1]).mean(1))
    return np.concatenate(found)


"""
## The students

The encoder sees each image and its views once, before the training: what it says rides in the
batches, so that an encoder of any size costs nothing more. The direction of a vector is compared
behind a dense layer that makes the student's vector as wide, trains with it and is left out
afterwards; the likeness of the images in a batch needs none. There are no labels, hence no loss in
`compile`, and `alpha` is 1.
"""


def terms(kind):
    """What is compared: `"direction"`, `"likeness"` or both."""
    found = {
        "direction": Term(losses.Cosine(), projector="auto"),
        "likeness": Term(losses.SimilarityPreserving(), weight=30.0),
    }
    return [found[name] for name in kind.split(" and ")]


def student(kind, vectors_of, given, images, seed, model_of):
    """A student of the encoder's vectors, as an arm is trained."""
    print(f"\nseed {seed}, {kind}")
    views, vectors = vectors_of(seed, model_of)
    net = made(seed, encoder_of, images.shape[1:], SMALL, "student")
    steps = given.epochs * -(-len(views) // given.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    distiller = Distiller(net, teacher=CachedTeacher(), terms=terms(kind))
    distiller.compile(keras.optimizers.Adam(rate))
    logs = distiller.fit(views, Supervision(None, {"output": vectors}), epochs=given.epochs,
                         batch_size=given.batch_size, verbose=2)  # fmt: skip
    return net, {"loss": [float(value) for value in logs.history["loss"]]}


"""
## The result

Vectors of a few labelled images, and of the test images: how many of these get the class of their
nearest neighbour, by the angle, and the class of a logistic regression, in percent. The arm
"student, by contrast" is the small network, trained as the encoder was. "pixels" are the images
themselves.
"""


def few(labels, each):
    """The places of the first so many examples of each class."""
    return np.concatenate([np.flatnonzero(labels == c)[:each] for c in np.unique(labels)])


def probed(known, labels, vectors, expected):
    """The row of the table for the vectors of labelled and of test images."""
    mean = known.mean(0)
    known, vectors = ((x - mean) / (np.linalg.norm(x - mean, axis=1, keepdims=True) + 1e-9)
                      for x in (known, vectors))  # fmt: skip
    near = KNeighborsClassifier(1).fit(known, labels)
    linear = LogisticRegression(C=10.0, max_iter=1000).fit(known, labels)
    return {"nearest": 100 * near.score(vectors, expected),
            "linear": 100 * linear.score(vectors, expected)}  # fmt: skip


def arms(given, splits):
    """`{name: Arm}`, measured with a few labels."""
    images, labels = splits["train"]
    test, expected = splits[given.on]
    place = few(labels, given.each)

    def encoded(model, x):
        return model.predict(x, batch_size=256, verbose=0)

    kept = {}

    def vectors_of(seed, model_of):
        if seed not in kept:
            keras.utils.set_random_seed(seed)
            views = views_of(images, given.views)
            shown = pretrained(given.preset, views) if given.preset else None
            kept.clear()
            kept[seed] = views, encoded(model_of("encoder"), views) if shown is None else shown
        return kept[seed]

    def of_pixels(seed, model, model_of):
        flat = [x.reshape(len(x), -1) for x in (images[place], test)]
        return probed(flat[0], labels[place], flat[1], expected)

    def of_preset(seed, model, model_of):
        known, shown = (pretrained(given.preset, x) for x in (images[place], test))
        return probed(known, labels[place], shown, expected)

    def of_model(seed, model, model_of):
        found = probed(encoded(model, images[place]), labels[place], encoded(model, test), expected)
        return {**found, "parameters": model.count_params()}

    def by_contrast(filters, name, seed, model_of):
        return contrasted(filters, name, given, images, seed)

    encoder = Arm(functools.partial(by_contrast, BIG, "encoder"), of_model)
    found = {
        "pixels": Arm(None, of_pixels),
        "encoder": Arm(None, of_preset) if given.preset else encoder,
        "student, untrained": Arm(
            lambda seed, _: (made(seed, encoder_of, images.shape[1:], SMALL, "student"), {}),
            of_model,
        ),
        "student, by contrast": Arm(functools.partial(by_contrast, SMALL, "student"), of_model),
    }
    for kind in ("direction", "likeness", "direction and likeness"):
        train = functools.partial(student, kind, vectors_of, given, images)
        found[f"student, {kind}"] = Arm(train, of_model)
    return found


def main(arguments=None):
    given = options("A small network that sees as an encoder does.", arguments, epochs=20,
                    out="runs/foundation_encoder", encoder_epochs=60, batch_size=64, views=4,
                    each=10, preset="")  # fmt: skip
    given.encoder_epochs = min(given.encoder_epochs, 1) if given.tiny else given.encoder_epochs
    given.views = 1 if given.tiny else given.views
    splits, _ = images_of(given)
    compared(given, arms(given, splits), measured=("each",))


if __name__ == "__main__":
    main()
