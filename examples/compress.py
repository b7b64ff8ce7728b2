"""
# Compress: from a teacher to a small student by one call

People want a model that is small and fast enough and has lost nothing. `compress` looks for it: it
proposes students, drops those that cost too much before any training, chooses how to distill,
searches, and trains the leader over seeds beside the same student without a teacher. It returns the
better of the two and says which it was.

    python examples/compress.py --keep=0.99 --out=runs/compress

finds the smallest student that keeps 99% of the teacher's validation accuracy.
`--max-flops=100000` finds the best one within a budget instead. `--data=DIR` takes the four idx
`.gz` files of Fashion-MNIST, `--tfds=fashion_mnist` fetches them; without either, scikit-learn's
8 x 8 digits are taken. `--tiny` tries it all out in under a minute: its numbers mean nothing.
"""

import argparse
import inspect

from residual import experiment

from keras_distill import compress

"""
## The experiment

`residual.py` holds an experiment: the data, a teacher and a student, the loss, the optimizer and
for how long is trained. `compress` reads the file, as `keras-distill compress --experiment=FILE`
does.

The teacher is a residual network. Its blocks are named by number, `block_0_...` and `block_1_...`:
by these names `models.shrink` finds them, and can leave some out. It can also make the network
narrower: every skip then keeps one choice of channels at both ends, those that matter most for the
loss on the training data.

What is cut from the teacher is not always best. The student of the experiment halves the image
first, which saves three quarters of the operations. Its function takes a `size`, so that `compress`
tries it large and small.

Soft targets take more epochs than labels, and a rate that comes to rest.
"""

"""
## The search

Everything that is whole is on disk: after a kill, `--resume` goes on. The teacher answers the
training split once, and all students learn from these answers.
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description="From a teacher to a small student by one call")
    parser.add_argument("--data", help="the folder of the idx files")
    parser.add_argument("--tfds", help="a name in TensorFlow Datasets")
    parser.add_argument("--limit", type=int, help="only the first training images")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3, help="seeds of the last comparison")
    parser.add_argument("--keep", type=float, help="the share of the teacher's accuracy to keep")
    parser.add_argument("--max-flops", type=float, help="the most operations of a prediction")
    parser.add_argument("--out", default="runs/compress", help="where everything is written")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--tiny", action="store_true", help="one epoch on few examples")
    given = parser.parse_args(arguments)
    if given.tiny:
        given.limit, given.epochs, given.teacher_epochs, given.repeats = 64, 1, 1, 1
    named = ("data", "tfds", "limit", "epochs", "teacher_epochs")
    options = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    return compress(
        inspect.getfile(experiment),
        given.out,
        options=options,
        keep=given.keep,
        max_flops=given.max_flops,
        repeats=given.repeats,
        sizes=[1.0] if given.tiny else [1.0, 0.7, 0.5],
        resume=given.resume,
    )


"""
## What it says

The last lines are a table of teacher, student alone and student distilled, with what each costs,
and a sentence: whether the teacher helped, by how much over pairs of seeds, and how sure that is.
If it did not help, the student alone is exported, and the sentence says what to try next.

`student.keras` is the student, `pareto.png` the picture of all that were trained to their end, and
`final/report.html` the comparison on the test split, which nothing was chosen by.
"""

if __name__ == "__main__":
    main()
