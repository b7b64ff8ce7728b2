"""Times a `fit` step on JAX and PyTorch, relative to a hand-written step with the same work.

"student" is a student alone. "logits" adds a teacher and the divergence of outputs at temperature
2. "features" adds three mean squared errors of layers of one shape. "relation" adds a
`SimilarityPreserving` term to the logits. Each is trained by `fit`, by a hand-written step for the
backend (on JAX jitted, with donated buffers), and by `keras.distillation` if it can. A ratio is the
median over rounds of the CPU times within a round. Keras's share is the cost of `fit` with a plain
student, relative to its own hand-written step. Ours should be at most 0.05 above it.

    KERAS_BACKEND=jax python benchmarks/step_backends.py [--rounds=7] [--batch=256] [--json=FILE]
"""

import argparse
import functools
import statistics
import sys

import keras
import numpy as np
from keras import layers, ops
from measuring import now, write_json

from keras_distill import Distiller, Term, losses

BACKEND = keras.backend.backend()
BLOCKS = ("block_0", "block_1", "block_2")
WORKS = {"student": None, "logits": (), "features": BLOCKS, "relation": ("relation",)}
ENTROPY = functools.partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)


def net(convolutions, seed):
    """Returns blocks of one width, so that features of both sides have one shape."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((28, 28, 1))
    for index, name in enumerate(BLOCKS):
        for inner in range(convolutions):
            strides = 2 if index and not inner else 1
            x = layers.Conv2D(16 * 2**index, 3, strides, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization()(x)
            last = inner + 1 == convolutions
            x = layers.ReLU(name=name)(x) if last else layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def tapped(model, work):
    paths = ("block_2",) if work == ("relation",) else work
    return keras.Model(model.input, [model.output, *(model.get_layer(p).output for p in paths)])


def total(work, ours, theirs, cross_entropy):
    """Returns the hand-written loss; `ours` and `theirs` are `[logits, *features]`."""
    a, b = ops.log_softmax(theirs[0] / 2), ops.log_softmax(ours[0] / 2)
    loss = 4 * ops.mean(ops.sum(ops.exp(a) * (a - b), -1))
    if work == ("relation",):
        rows = [ops.reshape(side[1], (ops.shape(side[1])[0], -1)) for side in (theirs, ours)]
        rows = [ops.normalize(ops.matmul(row, ops.transpose(row)), axis=1) for row in rows]
        loss += ops.mean(ops.square(rows[0] - rows[1]))
    else:
        loss += sum(ops.mean(ops.square(t - s)) for t, s in zip(theirs[1:], ours[1:]))
    return 0.5 * cross_entropy + 0.5 * loss


def by_hand_jax(work):
    import jax
    import jax.numpy as jnp

    student = tapped(net(1, 1), work or ())
    teacher = tapped(net(2, 2), work or ())
    adam = keras.optimizers.Adam()
    adam.build(student.trainable_variables)

    def loss(trained, moving, frozen, x, y):
        ours, moving = student.stateless_call(trained, moving, x, training=True)
        ours = ours if isinstance(ours, list) else [ours]
        log_p = jax.nn.log_softmax(ours[0])
        entropy = -jnp.take_along_axis(log_p, y[:, None], -1).mean()
        if work is None:
            return entropy, moving
        theirs, _ = teacher.stateless_call(*frozen, x, training=False)
        theirs = jax.lax.stop_gradient(theirs if isinstance(theirs, list) else [theirs])
        return total(work, ours, theirs, entropy), moving

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, frozen, x, y):
        trained, moving, optimizer = state
        gradients, moving = jax.grad(loss, has_aux=True)(trained, moving, frozen, x, y)
        trained, optimizer = adam.stateless_apply(optimizer, gradients, trained)
        return trained, moving, optimizer

    groups = student.trainable_variables, student.non_trainable_variables, adam.variables
    held = [tuple([jnp.array(v.value) for v in group] for group in groups)]
    theirs = teacher.trainable_variables, teacher.non_trainable_variables
    frozen = [[jnp.array(v.value) for v in group] for group in theirs]

    def run(x, y, size):
        for i in range(0, len(x), size):
            held[0] = step(held[0], frozen, x[i : i + size], y[i : i + size])
        jax.block_until_ready(held[0])

    return run


def by_hand_torch(work):
    import torch

    student, teacher = tapped(net(1, 1), work or ()), tapped(net(2, 2), work or ())
    adam = torch.optim.Adam([v.value for v in student.trainable_variables])

    def run(x, y, size):
        for i in range(0, len(x), size):
            images, labels = torch.from_numpy(x[i : i + size]), torch.from_numpy(y[i : i + size])
            adam.zero_grad()
            ours = keras.tree.flatten(student(images, training=True))
            loss = torch.nn.functional.cross_entropy(ours[0], labels)
            if work is not None:
                with torch.no_grad():
                    theirs = keras.tree.flatten(teacher(images, training=False))
                loss = total(work, ours, theirs, loss)
            loss.backward()
            adam.step()

    return run


def fitted(model):
    model.compile("adam", ENTROPY())
    return lambda x, y, size: model.fit(x, y, batch_size=size, shuffle=False, verbose=0)


def by_ours(work):
    if work is None:
        return fitted(net(1, 1))
    terms = [Term(losses.KLDivergence(2.0), name="kd")]
    if work == ("relation",):
        terms.append(Term(losses.SimilarityPreserving(), student="block_2", teacher="block_2"))
    else:
        terms += [Term("mse", student=path, teacher=path, name=path) for path in work]
    return fitted(Distiller(net(1, 1), teacher=net(2, 2), terms=terms, alpha=0.5))


def by_keras(work):
    from keras import distillation

    given = [distillation.LogitsDistillation(2.0, loss=keras.losses.KLDivergence())]
    given += [distillation.FeatureDistillation(keras.losses.MeanSquaredError(),
              student_layer_name=path, teacher_layer_name=path) for path in work]  # fmt: skip
    return fitted(distillation.Distiller(net(2, 2), net(1, 1), given, student_loss_weight=0.5))


def arms():
    hand = {"jax": by_hand_jax, "torch": by_hand_torch}[BACKEND]
    found = {}
    for name, work in WORKS.items():
        found[name, "hand"], found[name, "fit"] = hand(work), by_ours(work)
        if work is not None and work != ("relation",) and hasattr(keras, "distillation"):
            found[name, "keras.distillation"] = by_keras(work)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="how many rounds to measure")
    parser.add_argument("--batch", type=int, default=256, help="the examples of a batch")
    parser.add_argument("--steps", type=int, default=8, help="the steps of a round")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    x = random.normal(size=(given.batch * given.steps, 28, 28, 1)).astype("float32")
    y = random.integers(0, 10, len(x))
    runs = arms()
    times = {key: [] for key in runs}
    for turn in range(given.rounds + 1):  # the first traces
        for key in list(runs) if turn % 2 else reversed(runs):
            begin = now()
            runs[key](x, y, given.batch)
            if turn:
                times[key].append((now() - begin)[0])
        print(".", end="", file=sys.stderr, flush=True)
    print(f"\n{BACKEND}, batch {given.batch}, CPU time over the hand-written step")
    rows = {}
    for (work, arm), taken in times.items():
        over = statistics.median(a / b for a, b in zip(taken, times[work, "hand"]))
        ms = 1e3 * statistics.median(taken) / given.steps
        rows[f"{work}, {arm}"] = {"cpu_ms": ms, "ratio": over}
        print(f"  {work:10} {arm:20} {ms:8.2f} ms  {over:.3f}")
    if given.json:
        write_json(given.json, rounds=given.rounds, batch=given.batch, results=rows)


if __name__ == "__main__":
    main()
