"""
# Compress: from a teacher to a small student in one call

You have a teacher, and you want a model that is smaller and faster and just as accurate. `compress`
searches for it. It proposes students and drops those that cost too much before it trains any. It
chooses how to distill and searches over the settings. Then it trains the best student over several
seeds, with and without the teacher. It returns the better of the two and says which one it is.

    python examples/compress.py --keep=0.99 --out=runs/compress

This command finds the smallest student that keeps 99% of the teacher's validation accuracy.
`--max-flops=100000` finds the best student within that budget instead.

The default data are scikit-learn's 8 x 8 digits. `--data=DIR` reads the four idx `.gz` files of
Fashion-MNIST from the folder `DIR`, and `--tfds=fashion_mnist` downloads Fashion-MNIST. `--tiny`
runs everything in under a minute, with numbers that mean nothing.
"""

import argparse
import inspect

from residual import experiment

from keras_distill import compress

"""
## The experiment

The file `residual.py` defines an experiment, with the data, a teacher, a student, the loss, the
optimizer and the number of epochs. `compress` reads that file. The command
`keras-distill compress --experiment=FILE` does the same.

The teacher is a residual network. The names of its layers number its blocks, as in `block_0_...`
and `block_1_...`. `models.shrink` finds the blocks by these names and can leave some of them out.
It can also make the network narrower. It then keeps the channels that matter most for the loss on
the training data, and the same channels at both ends of every skip connection.

A student cut from the teacher is not always the best one. The student of the experiment halves the
image first, which saves three quarters of the operations. Its function takes a `size`, so that
`compress` can try several sizes.

Soft targets need more epochs than labels, and a learning rate that decays to zero.
"""

"""
## The search

`compress` writes each finished part to disk. To resume a killed search, add `--resume`. The teacher
answers the training split once, and all students learn from these answers.
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Finds a small student of a teacher.")
    parser.add_argument("--data", help="the folder of the idx files of Fashion-MNIST")
    parser.add_argument("--tfds", help="a data set of TensorFlow Datasets to download")
    parser.add_argument("--limit", type=int, help="use only the first training images")
    parser.add_argument("--epochs", type=int, default=60, help="the epochs of each student")
    parser.add_argument("--teacher-epochs", type=int, default=40, help="the teacher's epochs")
    parser.add_argument("--repeats", type=int, default=3, help="the seeds of the last comparison")
    parser.add_argument("--keep", type=float, help="the share of the teacher's accuracy to keep")
    parser.add_argument("--max-flops", type=float, help="the most operations for one prediction")
    parser.add_argument("--out", default="runs/compress", help="the folder of the results")
    parser.add_argument("--resume", action="store_true", help="resume the run in --out")
    parser.add_argument("--tiny", action="store_true", help="one epoch on few images")
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
## What it prints

The last lines are a table and a verdict. The table compares the teacher, the student alone and the
distilled student, and lists the cost of each. The verdict says whether the teacher helped, by how
much over pairs of seeds, and how certain that is. If the teacher did not help, `compress` exports
the student alone, and the verdict says what to try next.

`student.keras` holds the student. `pareto.png` shows all students that were trained to the end.
`final/report.html` compares the models on the test split, which played no part in any choice.
"""

if __name__ == "__main__":
    main()
