"""
# Prepare the page with teacher and student

    python examples/browser/prepare.py --run=runs/quickstart

This program writes what the page shows into `models/` beside the page. It exports both models of a
run of `examples/quickstart.py` for LiteRT.js, which takes one image at a time, and for ONNX Runtime
Web. It also writes a few test images with the answers of Keras. The page compares its own answers
with them.
"""

import argparse
import json
import pathlib
import sys

import keras
import numpy as np

from keras_distill import export

FOLDER = pathlib.Path(__file__).parent
COUNT = 12  # the images that the page offers


def write(run, folder, images, count=COUNT):
    """Writes the models of a run and the images.

    Args:
        run: the folder of a run, with `student.keras` and `teacher.keras`.
        folder: the folder to write to.
        images: the images on which the models are tried, `(images, height, width, 1)`, from 0 to 1.
        count: how many of the images the page offers.
    """
    folder = pathlib.Path(folder)
    told = {"shape": [int(size) for size in images.shape[1:]], "models": {}}
    for name in ("teacher", "student"):
        model = keras.saving.load_model(pathlib.Path(run) / f"{name}.keras", compile=False)
        answers = model.predict(images[:count], verbose=0)
        for kind in ("litert", "onnx"):
            found, = export.write(model, folder, kind, name=name, inputs=images, batch=1)
            print(found)
            told["models"].setdefault(name, {"parameters": model.count_params()})
            told["models"][name][kind] = {"file": pathlib.Path(found.path).name,
                                          "bytes": found.size_bytes}  # fmt: skip
        told["models"][name]["answers"] = np.float64(answers).round(6).tolist()
    told["images"] = np.float64(images[:count]).reshape(count, -1).round(6).tolist()
    (folder / "page.json").write_text(json.dumps(told))


def main():
    parser = argparse.ArgumentParser(description="Writes the models and images of the page.")
    parser.add_argument("--run", required=True, help="a run of examples/quickstart.py")
    parser.add_argument("--out", default=str(FOLDER / "models"), help="the folder to write to")
    arguments = parser.parse_args()
    sys.path.insert(0, str(FOLDER.parent))
    from images import digits

    images, labels = digits()["test"]
    first = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    rest = [row for row in range(len(images)) if row not in first]
    write(arguments.run, arguments.out, images[(first + rest)[:100]])


if __name__ == "__main__":
    main()
