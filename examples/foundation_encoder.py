"""
# A small encoder from a foundation encoder, without labels

A foundation encoder turns each image into a vector, so that similar images get similar vectors. It
was trained without labels, and its student can be trained without labels, too. The student learns
the direction of each vector and the similarities between the images of a batch. You can then use
the student for any task with a few labels. This example uses ten labels for each class, with the
nearest neighbor and with a linear probe.

    python examples/foundation_encoder.py --seeds=1

It took 69 seconds of CPU time on the default data. The accuracy on the 600 test images of one seed,
in percent:

| | nearest neighbor | linear probe | parameters |
|---|---|---|---|
| pixels | 91.17 | 89.83 | - |
| encoder | 86.00 | 89.83 | 287,776 |
| student, untrained | 34.33 | 36.83 | 4,724 |
| student, by contrast | 68.67 | 75.83 | 4,724 |
| student, direction | 78.33 | 82.50 | 4,724 |
| student, likeness | 78.50 | 80.33 | 4,724 |
| student, direction and likeness | 76.83 | 81.67 | 4,724 |

The small student learns four to ten points more from the encoder than by contrast alone. The pixels
of digits are hard to beat, and this encoder does not beat them. Larger images and a pretrained
encoder are what the example is made for. `--data=DIR --limit=5000` was not run to its end.

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.

`--preset=NAME` loads an encoder of KerasHub, such as `dinov2_small`, which is downloaded on first
use. `NAME` may also be a folder that `save_to_preset` wrote. Without a preset, the example trains
an encoder by contrast (SimCLR: Chen et al., 2020, https://arxiv.org/abs/2002.05709), on the same
images and without their labels. This encoder stands in for a pretrained one, but it has seen only
these images.
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

A view is an image that is moved, turned and enlarged at random. It still shows the same thing.
Contrastive training relies on this. For distillation, the encoder can answer for as many views as
you like.
"""


def view_maker():
    """Returns a model that makes random views of images."""
    return keras.Sequential(
        [
            layers.RandomTranslation(0.1, 0.1, fill_mode="constant"),
            layers.RandomRotation(0.04, fill_mode="constant"),
            layers.RandomZoom(0.15, fill_mode="constant"),
        ]
    )


def views_of(images, count):
    """Returns the images, followed by `count` random views of each."""
    make = view_maker()
    batches = tf.data.Dataset.from_tensor_slices(images).batch(256)
    found = [images]
    for _ in range(count):
        found += [make(batch, training=True).numpy() for batch in batches]
    return np.concatenate(found)


"""
## The encoder

A batch of contrastive training holds two views of each image. For each view, the loss asks which
other view in the batch shows the same image. Two dense layers follow the encoder during this
training. They are removed afterwards.
"""


def contrast(_, vectors, temperature=0.2):
    """Returns for each view the cross-entropy of finding the other view of its image."""
    vectors = ops.normalize(vectors, axis=-1)
    count = ops.shape(vectors)[0]
    alike = ops.matmul(vectors, ops.transpose(vectors)) / temperature
    alike = alike - 1e9 * ops.eye(count)  # no view finds itself
    other = (ops.arange(count) + count // 2) % count
    return ops.sparse_categorical_crossentropy(other, alike, from_logits=True)


def encoder_of(shape, filters, name):
    """Returns a convolutional network whose output is a vector as wide as its last block."""
    net = network(shape, filters)
    return keras.Model(net.input, net.get_layer("pool").output, name=name)


def contrasted(filters, name, given, images, seed):
    """Trains an encoder by contrast on images without labels."""
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
    """Returns the vectors of a KerasHub encoder, as means over its positions or tokens."""
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

The encoder sees each image and its views once, before the training of the students. The batches
then carry its vectors, so an encoder of any size adds no cost to a step. One term compares the
directions of the vectors. It adds a dense layer to the student, which makes both vectors equally
wide. The distiller trains this layer and leaves it out afterwards. The other term compares the
similarities between the images of a batch and needs no such layer. There are no labels, so
`compile` gets no loss and `alpha` is 1.
"""


def terms(kind):
    """Returns the terms for `"direction"`, `"likeness"` or both."""
    found = {
        "direction": Term(losses.Cosine(), projector="auto"),
        "likeness": Term(losses.SimilarityPreserving(), weight=30.0),
    }
    return [found[name] for name in kind.split(" and ")]


def student(kind, vectors_of, given, images, seed, model_of):
    """Trains a student on the encoder's vectors."""
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

The table shows how many test images get the right class, in percent, from a few labelled images.
"nearest" uses the class of the nearest neighbor by angle, and "linear" uses a logistic regression.
The row "pixels" uses the images themselves as vectors. The row "student, by contrast" is the small
network, trained in the same way as the encoder.
"""


def few(labels, each):
    """Returns the indices of the first `each` examples of each class."""
    return np.concatenate([np.flatnonzero(labels == c)[:each] for c in np.unique(labels)])


def probed(known, labels, vectors, expected):
    """Returns the row of the table for vectors of labelled images and of test images."""
    mean = known.mean(0)
    known, vectors = ((x - mean) / (np.linalg.norm(x - mean, axis=1, keepdims=True) + 1e-9)
                      for x in (known, vectors))  # fmt: skip
    near = KNeighborsClassifier(1).fit(known, labels)
    linear = LogisticRegression(C=10.0, max_iter=1000).fit(known, labels)
    return {"nearest": 100 * near.score(vectors, expected),
            "linear": 100 * linear.score(vectors, expected)}  # fmt: skip


def arms(given, splits):
    """Returns `{name: Arm}`. Every arm is measured with a few labels."""
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
    given = options("Distills an encoder without labels.", arguments, epochs=20,
                    out="runs/foundation_encoder", encoder_epochs=60, batch_size=64, views=4,
                    each=10, preset="")  # fmt: skip
    given.encoder_epochs = min(given.encoder_epochs, 1) if given.tiny else given.encoder_epochs
    given.views = 1 if given.tiny else given.views
    splits, _ = images_of(given)
    compared(given, arms(given, splits), measured=("each",))


if __name__ == "__main__":
    main()
