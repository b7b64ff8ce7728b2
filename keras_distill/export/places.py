"""Names for exports: the next version, and names for models that did not pass their check."""

import contextlib
import os
import re
import tempfile

PATTERN = re.compile(r"[][*?\\]")  # TensorFlow reads such a path as a pattern


def next_version(folder):
    """Returns the version after the highest one in a model's folder, or 1 if there is none.

    Args:
        folder: The folder `path/name` from which TF Serving reads versions.
    """
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return 1 + max((int(name) for name in names if re.fullmatch(r"\d+", name)), default=0)


def failed(path):
    """Returns a free name beside `path` that no server loads, for a model that did not pass."""
    count, name = 1, f"{path}.failed"
    while os.path.lexists(name):
        count += 1
        name = f"{path}.failed-{count}"
    return name


@contextlib.contextmanager
def plain(path):
    """Yields a path to the same folder or file that TensorFlow does not read as a pattern.

    Yields:
        The path itself, or a link to it if it holds one of the signs `[ ] * ? \\`.
    """
    if not PATTERN.search(os.path.abspath(path)):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "link" + os.path.splitext(path)[1])
        os.symlink(os.path.abspath(path), link)
        yield link
