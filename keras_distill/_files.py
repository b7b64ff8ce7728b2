"""Files that are there whole or not at all, on any file system, and the JSON in them.

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

UNFINISHED = ".unfinished-"  # begins the name of every file that is not whole yet
NAME = r"[^\W_][\w.-]*"


@contextlib.contextmanager
def whole(path):
    """Gives a name to write to; what is there at the end of the block gets the name `path`.

    The name holds the process's id and a random part, so that no two writers share one. It ends
    as `path` does, and lies in the same folder. If the block raises, what it wrote is removed.

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
            error.filename = path  # a full disk names none
        raise


def rename(before, after):
    """Gives a file another name in one step; a file of that name is replaced."""
    if _is_remote(after):
        _gfile().rename(before, after, overwrite=True)
    else:
        os.replace(before, after)


def exists(path):
    """Returns whether there is such a file or folder."""
    return _gfile().exists(_text(path)) if _is_remote(path) else os.path.exists(path)


def remove(path):
    """Removes a file, or a folder with all that is in it."""
    if _is_remote(path):
        files = _gfile()
        (files.rmtree if files.isdir(path) else files.remove)(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def make_folder(path):
    """Makes a folder and those above it, where they are missing."""
    if _is_remote(path):
        _gfile().makedirs(_text(path))
    else:
        os.makedirs(path, exist_ok=True)


def checked_name(argument, name):
    """Returns a name that can name one folder or file, and nothing else: no path, no spaces.

    Args:
        argument: what the name was given as, for the message.
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
    """Makes a folder and writes a file there, which goes again: for before long work.

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
    """Meanwhile no other process may do the same: the second is refused.

    The system holds the lock and frees it when the process ends, however that is. A path with a
    scheme has no locks: nothing is held there.

    Args:
        path: the path of a local file, which is made and stays.
        what: what is in use, for the message.

    Raises:
        RuntimeError: another process is there.
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
    """Locks an open file until it is closed, and returns whether that could be done."""
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
    """Returns the names in a folder, sorted; none where there is no such folder."""
    if not exists(folder):
        return []
    return sorted(_gfile().listdir(_text(folder)) if _is_remote(folder) else os.listdir(folder))


def size_of(path):
    """Returns the bytes of a file."""
    return _gfile().stat(path).length if _is_remote(path) else os.path.getsize(path)


def opened(path, mode="rb"):
    """Returns an open file."""
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
    """Returns what a JSON file holds, or `None` where there is no such file.

    Args:
        path: the path of the file.
        fields: `{name: type}` of what the file's object must hold. Defaults to `None`: the file
            may hold anything.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    if not exists(path):
        return None
    with opened(path) as file:
        found = parsed(path, file.read())
    if fields is not None:
        check_fields(path, found, fields)
    return found


def parsed(path, content):
    """What the JSON of a file holds, or of a line of it; raises `ValueError` with the `path`."""
    try:
        return json.loads(content if isinstance(content, str) else content.decode())
    except (ValueError, RecursionError) as error:  # the second: brackets without end
        raise ValueError(
            f"{path} is damaged. It is not valid JSON ({error}). Delete it."
        ) from error


def check_fields(path, found, fields):
    """Refuses what was `found` in a file, unless it is an object with the `fields` `{name: type}`.

    Raises:
        ValueError: the file is damaged; the message names its `path`.
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
    """Returns a value as it is read back from JSON: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def jsonable(value):
    """Returns what JSON can hold: plain numbers, and `None` for those that are not finite."""
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
    """Returns what differs between two values that JSON can hold, a line for each place.

    Args:
        before: the value that was written.
        now: the value to compare it with; dicts are compared key by key.
        where: the name of the place, which begins each line.

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
