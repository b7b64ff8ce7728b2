"""Folders of what is being written, beside its place: no server reads them, no kill leaves them."""

import contextlib
import os
import pathlib
import shutil
import tempfile

from keras_distill import _files

PREFIX = ".tmp_"  # begins the names of these folders: no number, so no server reads one
LOCK = ".in-use"  # in such a folder: the process that writes holds it until it ends
TRIES = 9  # of a lock, which another process may hold for a moment


@contextlib.contextmanager
def folder_in(parent):
    """Makes a new folder for what is not whole yet, removed at the end of the block.

    Those that were left in `parent` by processes that were killed are removed first. The system
    frees the lock of a process when it ends, so a folder whose lock is free has no writer.

    Args:
        parent: the folder to make it in, which exists.

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
            error.filename = os.fspath(parent)  # a full disk names none
        raise
    finally:
        shutil.rmtree(path)


def _locked_folder(parent):
    """Returns `(path, open lock)`, made anew where another process removes it before it is locked.

    Some file systems have no locks. There the folder is used without one, and nobody removes it.
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
                path.rmdir()  # killed before it locked; one that holds anything else stays
            return
        with lock:
            if not _files.locked(lock):
                return
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)  # Windows keeps a file that is open
