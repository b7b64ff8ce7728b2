"""Makes an environment for each leg of the matrix, runs the tests in it, and prints a table.

    python tests/matrix.py [--legs=oldest,newest] [--folder=.matrix] [TEST ...]

A leg is kept between runs; a leg that may fail does not fail the whole. `make matrix` runs all.
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
         "tests/losses/response_test.py", "tests/callbacks/feature_hook_test.py")  # fmt: skip
# `{leg: (Python, what is installed, whether it may fail)}`. Pairs that pip itself allows.
LEGS = {
    "oldest": ("3.10", ["keras==3.12.0", "tensorflow==2.19.0"], False),
    "3.12 on 3.11": ("3.11", ["keras==3.12.0", "tensorflow==2.19.1"], False),
    "hosted": ("3.12", ["keras==3.13.2", "tensorflow==2.20.0"], False),
    "3.14": ("3.11", ["keras==3.14.0", "tensorflow==2.20.0"], False),
    "newest": ("3.13", ["keras", "tensorflow"], False),
    "nightly": ("3.12", ["keras-nightly", "tensorflow"], True),
}


def python_of(version):
    """An interpreter of this version, or `None`."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    return None


def made(folder, python, packages):
    """The interpreter of a leg's environment, with the packages in it."""
    inside = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(inside), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *packages, "absl-py", "h5py", "pytest>=8,<9.2", "matplotlib",
                        "scikit-learn"], check=True)  # fmt: skip
        (folder / "ready").touch()
    return inside


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
        return [name, version, " ".join(packages), "-", "-", "-", f"no Python {version} here"]
    try:
        inside = made(folder, python, packages)
    except subprocess.CalledProcessError:
        return [name, version, " ".join(packages), "-", "-", "-", "cannot be installed"]
    done = subprocess.run([str(inside), "-m", "pytest", "-q", "--disable-warnings", *tests],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    passed, failed, skipped = counted(done.stdout)
    why = "" if not failed else f"see {folder / 'log.txt'}" + (" (may fail)" if may_fail else "")
    return [name, version, " ".join(packages), passed, failed, skipped, why]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--legs", default=",".join(LEGS))
    parser.add_argument("--folder", default=str(ROOT / ".matrix"))
    parser.add_argument("tests", nargs="*", default=TESTS)
    given = parser.parse_args()
    head = ["leg", "Python", "packages", "passed", "failed", "skipped", "why"]
    print(" | ".join(head), flush=True)
    wrong = False
    for name in given.legs.split(","):
        row = run(name, pathlib.Path(given.folder) / name.replace(" ", "_"), given.tests)
        wrong |= row[4] not in (0,) and not LEGS[name][2]
        print(" | ".join(map(str, row)), flush=True)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
