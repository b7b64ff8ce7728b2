"""Folders for unfinished exports, which no server reads and which a later export removes."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from keras_distill import _files

PREFIX = ".tmp_"  # begins their names: no number, so no server reads them
LOCK = ".in-use"  # a file in such a folder, which the writing process locks until it ends
TRIES = 9  # to get a lock, which another process may hold for a moment


@contextlib.contextmanager
def folder_in(parent):
    """Makes a folder for an unfinished export within the block, and removes it at the end.

    It first removes such folders in `parent` whose processes were killed. The system frees the
    locks of a process that ends, so a folder whose lock is free has no writer.

    Args:
        parent: the folder to make it in. It must exist.

    Yields:
        The path, a string.
    """
    for path in pathlib.Path(parent).glob(f"{PREFIX}*"):
        _remove_if_left(path)
    path, lock = _locked_folder(parent)
    try:
        with lock:
            yield path
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = os.fspath(parent)  # the error of a full disk names no file
        raise
    finally:
        shutil.rmtree(path)


def _locked_folder(parent):
    """Returns `(path, open lock)` of a new folder; tries again if another process removes it.

    Some file systems have no locks. There the folder has none, and nobody removes it.
    """
    for left in reversed(range(TRIES)):
        path = tempfile.mkdtemp(dir=parent, prefix=PREFIX)
        with contextlib.suppress(FileNotFoundError):
            lock = open(os.path.join(path, LOCK), "xb")
            if (_files.locked(lock) or not left) and os.path.exists(lock.name):
                return path, lock
            lock.close()
            shutil.rmtree(path)
    raise OSError(f"{parent} cannot be written, because its folders are removed at once.")


def _remove_if_left(path):
    """Removes a folder whose writer has ended."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            lock = open(path / LOCK, "r+b")
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                path.rmdir()  # killed before it locked; other folders stay
            return
        with lock:
            if not _files.locked(lock):
                return
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)  # Windows keeps open files
