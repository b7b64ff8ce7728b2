"""Makes an environment for each leg of the matrix, runs the tests in it, and prints a table.

    python tests/matrix.py [--legs=oldest,newest] [--folder=.matrix] [TEST ...]

The table is Markdown, as `docs/contributing.md` shows it. A leg is kept between runs. One that may
fail, or whose Python is not here, does not fail the whole. `make matrix` runs all of them.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TESTS = ("tests/keras_border_test.py", "tests/training/distiller_test.py",
         "tests/training/drop_in_test.py", "tests/taps/taps_test.py", "tests/teachers",
         "tests/losses/response_test.py", "tests/callbacks/feature_hook_test.py",
         "tests/training/accumulation_test.py")  # fmt: skip
# `{leg: (Python, what is installed, whether it may fail)}`. Pairs that pip itself allows.
LEGS = {
    "oldest": ("3.10", ["keras==3.12.0", "tensorflow==2.19.0"], False),
    "3.12 on 3.11": ("3.11", ["keras==3.12.0", "tensorflow==2.19.1"], False),
    "hosted": ("3.12", ["keras==3.13.2", "tensorflow==2.20.0"], False),
    "3.14": ("3.11", ["keras==3.14.0", "tensorflow==2.20.0"], False),
    "newest": ("3.13", ["keras", "tensorflow"], False),
    "nightly": ("3.12", ["tensorflow"], True),
}
IN_PLACE_OF_KERAS = {"nightly": "keras-nightly"}  # both would write into one folder


def python_of(version):
    """An interpreter of this version, or `None`."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    return None


def made(folder, python, packages, keras=None):
    """The interpreter of an environment with the packages, and a `keras` other than theirs."""
    inside = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(inside), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *packages, "keras-hub", "absl-py", "h5py", "pytest>=8,<9.2",
                        "matplotlib", "scikit-learn", "tensorboard"], check=True)  # fmt: skip
        if keras:
            subprocess.run([*install[:-2], "uninstall", "--quiet", "--yes", "keras"], check=True)
            subprocess.run([*install, "--no-deps", keras], check=True)
        (folder / "ready").touch()
    return inside


def installed(python):
    """The versions of Keras, TensorFlow and keras-hub that an environment has."""
    names = ["keras", "tensorflow", "keras-hub"]
    ask = ("from importlib.metadata import version as v; import keras, sys; "
           "print(keras.__version__, *map(v, sys.argv[2:]))")  # fmt: skip
    found = subprocess.run([str(python), "-c", ask, *names], capture_output=True, text=True)
    return found.stdout.split() if found.returncode == 0 else ["-"] * len(names)


def counted(output):
    """`passed, failed, skipped` of what pytest printed last."""
    last = output.strip().splitlines()[-1] if output.strip() else ""
    return tuple(int(found[1]) if (found := re.search(rf"(\d+) {word}", last)) else 0
                 for word in ("passed", r"(?:failed|error)", "skipped"))  # fmt: skip


def run(name, folder, tests):
    """The row of one leg."""
    version, packages, may_fail = LEGS[name]
    python = python_of(version)
    if python is None:
        return [name, version, *["-"] * 6, f"no Python {version} here"]
    try:
        inside = made(folder, python, packages, IN_PLACE_OF_KERAS.get(name))
    except subprocess.CalledProcessError:
        why = f"{' '.join(packages)} cannot be installed"
        return [name, version, *["-"] * 4, "all", "-", why]
    done = subprocess.run([str(inside), "-m", "pytest", "-q", "--disable-warnings", *tests],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    passed, failed, skipped = counted(done.stdout)
    why = "" if not failed else f"see {folder / 'log.txt'}" + (" (may fail)" if may_fail else "")
    return [name, version, *installed(inside), passed, failed, skipped, why]


def show(row):
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--legs", default=",".join(LEGS), help="the legs to run, joined by commas")
    parser.add_argument("--folder", default=str(ROOT / ".matrix"),
                        help="where the environments are made")  # fmt: skip
    parser.add_argument("tests", nargs="*", default=TESTS, help="the tests to run")
    given = parser.parse_args()
    head = ["leg", "Python", "Keras", "TensorFlow", "keras-hub", "passed", "failed", "skipped",
            "why"]  # fmt: skip
    show(head)
    show(["---"] * len(head))
    wrong = False
    for name in given.legs.split(","):
        row = run(name, pathlib.Path(given.folder) / name.replace(" ", "_"), given.tests)
        wrong |= row[6] not in (0, "-") and not LEGS[name][2]
        show(row)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
