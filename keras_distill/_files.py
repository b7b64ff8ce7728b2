"""Writes files whole or not at all, on any file system, and reads and writes JSON.

A path with a scheme, such as "gs://bucket/run", goes through `tf.io.gfile` and so needs
TensorFlow. A local path needs Python alone.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile

from keras_distill._backend import tensorflow

UNFINISHED = ".unfinished-"  # the names of unfinished files begin with it
NAME = r"[^\W_][\w.-]*"


@contextlib.contextmanager
def whole(path):
    """Yields a temporary path, and renames it to `path` at the end of the block.

    The temporary name holds the process's id and a random part, so that no two writers share one.
    It has the ending of `path`, and lies in the same folder. If the block raises, the file is
    removed.

    Args:
        path: the path of a file, or of a local folder that does not exist yet.

    Yields:
        The temporary path, a string.

    Example:

    ```python
    with whole("student.keras") as part:
        model.save(part)
    ```
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    part = os.path.join(folder, f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}-{name}")
    try:
        yield part
        rename(part, path)
    except BaseException as error:
        if exists(part):
            remove(part)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = path  # the error of a full disk names no file
        raise


def rename(before, after):
    """Renames a file in one step; a file that has the new name is replaced."""
    if _is_remote(after):
        _gfile().rename(before, after, overwrite=True)
    else:
        os.replace(before, after)


def exists(path):
    """Returns whether a file or folder exists."""
    return _gfile().exists(_text(path)) if _is_remote(path) else os.path.exists(path)


def remove(path):
    """Removes a file, or a folder with everything in it."""
    if _is_remote(path):
        files = _gfile()
        (files.rmtree if files.isdir(path) else files.remove)(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def make_folder(path):
    """Makes a folder and the missing folders above it."""
    if _is_remote(path):
        _gfile().makedirs(_text(path))
    else:
        os.makedirs(path, exist_ok=True)


def checked_name(argument, name):
    """Returns `name` if it can name one file or folder: it must hold no path and no spaces.

    Args:
        argument: the argument that got the name, for the error message.
        name: the name.

    Raises:
        ValueError: for any other name.
    """
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(
            f"`{argument}` names a folder. It must begin with a letter or a digit and hold only "
            f"letters, digits, `_`, `-` and `.`. Received: {argument}={name!r}"
        )
    return name


def check_writable(folder):
    """Makes a folder and writes a file there, then removes it. Call it before long work.

    Raises:
        OSError: the folder cannot be made or written; the message names it.
    """
    try:
        make_folder(folder)
        if not _is_remote(folder):
            with tempfile.NamedTemporaryFile(dir=folder, prefix=UNFINISHED) as file:
                file.write(bytes(4096))
                file.flush()
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} is a file, or a path inside a file. Give a folder."
        ) from error
    except OSError as error:
        raise type(error)(f"{folder} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def alone(path, what):
    """Locks a file within the block; a second process that tries it gets an error.

    The system frees the lock when the process ends, for whatever reason. Paths with a scheme have
    no locks, so nothing is locked there.

    Args:
        path: the path of a local file. It is made, and stays.
        what: what the process uses, for the error message.

    Raises:
        RuntimeError: if another process holds the lock.
    """
    if _is_remote(path):
        yield
        return
    make_folder(os.path.dirname(path) or ".")
    with open(path, "a+b") as file:
        if not locked(file):
            raise RuntimeError(
                f"{what} is in use by another process. Wait until it ends, or choose another "
                "folder."
            )
        yield


def locked(file):
    """Locks an open file until it is closed; returns whether that worked."""
    try:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def names_in(folder):
    """Returns the sorted names in a folder, or none if the folder does not exist."""
    if not exists(folder):
        return []
    return sorted(_gfile().listdir(_text(folder)) if _is_remote(folder) else os.listdir(folder))


def size_of(path):
    """Returns the size of a file in bytes."""
    return _gfile().stat(path).length if _is_remote(path) else os.path.getsize(path)


def opened(path, mode="rb"):
    """Opens a file."""
    if _is_remote(path):
        return _gfile().GFile(_text(path), mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def write(path, content):
    """Writes text or bytes, whole or not at all."""
    with whole(path) as part, opened(part, "wb") as file:
        if isinstance(content, str):  # a path in it may hold bytes that the locale cannot read
            content = content.encode(errors="surrogateescape")
        file.write(content)


def write_json(path, value):
    """Writes what JSON can hold, whole or not at all."""
    write(path, json.dumps(value, indent=1))


def read_json(path, fields=None):
    """Returns what a JSON file holds, or `None` if there is no such file.

    Args:
        path: the path of the file.
        fields: `{name: type}` that the file's object must hold. Defaults to `None`: the file may
            hold anything.

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    if not exists(path):
        return None
    with opened(path) as file:
        found = parsed(path, file.read())
    if fields is not None:
        check_fields(path, found, fields)
    return found


def parsed(path, content):
    """Returns what the JSON text of a file, or of one of its lines, holds."""
    try:
        return json.loads(content if isinstance(content, str) else content.decode())
    except (ValueError, RecursionError) as error:  # a RecursionError comes of brackets without end
        raise ValueError(
            f"{path} is damaged. It is not valid JSON ({error}). Delete it."
        ) from error


def check_fields(path, found, fields):
    """Raises an error unless `found` is an object with the `fields` `{name: type}`.

    Raises:
        ValueError: if the file is damaged; the message names its `path`.
    """
    names = found if isinstance(found, dict) else {}
    wrong = [name for name, kind in fields.items()
             if name not in names or not isinstance(names[name], kind)]  # fmt: skip
    if wrong:
        raise ValueError(
            f"{path} is damaged. It has no valid {', '.join(wrong)}. Delete it. "
            f"Received: {_short(found)}"
        )


def plain(value):
    """Returns a value as JSON gives it back: tuples become lists, keys become strings."""
    return json.loads(json.dumps(value))


def jsonable(value):
    """Returns plain numbers for JSON, with `None` for those that are not finite."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def differences(before, now, where=""):
    """Returns the differences between two JSON values, with a line for each place.

    Args:
        before: the value that was written.
        where: the name of the place; each line begins with it.

    Returns:
        A list of strings, such as `["a.b: 1 there, 2 here"]`.
    """
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [f"{where} was {_short(before)} and is {_short(now)} now"]
    found = []
    for key in dict.fromkeys([*before, *now]):
        place = f"{where}.{key}" if where else str(key)
        found += differences(before.get(key), now.get(key), place)
    return found


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def _is_remote(path):
    return "://" in _text(path)


def _text(path):
    return os.fspath(path)


def _gfile():
    return tensorflow('A path with a scheme, such as "gs://bucket/run",').io.gfile
