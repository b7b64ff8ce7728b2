"""Tells a refusal, which is said in one line, from a bug, whose traceback is shown.

The rule reads the traceback that Python would print, from its last line up:

- The code of the experiment's file, or of a module beside it, is the user's. If its frame is the
  deepest of the user's and ours, the user reads the file, the line and the error.
- If the traceback ends at a `raise` of this package, the package refused something. The user reads
  the message alone.
- So it is where TensorFlow says that the package refused something in a function of a pipeline.
- If the operating system refused something, to TensorFlow too, or a module is not installed, the
  user reads that.
- All else is a bug, ours or a library's, and keeps its traceback.

So an error that Python or a library raises in our code is never taken for a refusal, whatever its
class is, and no error needs a class of its own to be one.
"""

import errno
import os
import pathlib
import re
import sys
import traceback

PACKAGE = pathlib.Path(__file__).parents[1].resolve()
OF_THE_MACHINE = (OSError, ImportError)
# How TensorFlow names what files and folders refuse.
OF_FILES = ("AlreadyExistsError", "DataLossError", "FailedPreconditionError", "NotFoundError",
            "PermissionDeniedError", "ResourceExhaustedError")  # fmt: skip

# What a disk says in an error of another name: TensorFlow has OutOfRangeError for a large file.
SAID = [os.strerror(number) for number, name in errno.errorcode.items()
        if name in ("EDQUOT", "EFBIG", "EIO", "EMFILE", "ENOSPC", "EROFS", "ESTALE")]  # fmt: skip

# What TensorFlow puts around the message of an operation.
OF_AN_OPERATION = r"\{\{function_node \S+\}\} | \[Op:\w+\]( name:.*)?"


def line(error, folder=None):
    """Returns what to tell the user of an exception, or `None` if it is a bug.

    Args:
        error: the exception, with its traceback.
        folder: the folder of the user's code, or `None` if there is none.
    """
    folder = None if folder is None else pathlib.Path(folder).resolve()
    if isinstance(error, SyntaxError) and _owner(error.filename or "", folder) == "user":
        return f"{_place(error.filename, error.lineno)}: {_said(error)}"
    if said := _inside(error):
        return said
    frames = traceback.extract_tb(error.__traceback__)
    owners = [_owner(frame.filename, folder) for frame in frames]
    users = [frame for frame, owner in zip(frames, owners) if owner == "user"]
    deepest = next((owner for owner in reversed(owners) if owner), "package")
    refused = isinstance(error, OF_THE_MACHINE) or _is_of_files(error) or _is_refusal(frames)
    if deepest == "package" and not refused:
        return None
    if users:
        return f"{_place(users[-1].filename, users[-1].lineno)}: {_said(error)}"
    return " ".join(_text(error).split())


def _is_refusal(frames):
    """Returns whether the traceback ends at a line of the package that begins with `raise`."""
    last = frames[-1]
    return _owner(last.filename, None) == "package" and (last.line or "").startswith("raise ")


def _inside(error):
    """What the package refused in a function that TensorFlow called, `None` where it did not.

    TensorFlow has the traceback of such a function in its own message alone.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
        return None
    last = re.split(r'File "(.+)", line \d+, in .+\n\s*(.+)', str(error))[-3:]
    if len(last) < 3 or _owner(last[0], None) != "package" or not last[1].startswith("raise "):
        return None
    said = re.search(r"^\s*\w+: (.+)", last[2], re.MULTILINE)
    return said and " ".join(said[1].split())


def _is_of_files(error):
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return False
    kinds = tuple(getattr(tensorflow.errors, name) for name in OF_FILES)
    said = isinstance(error, tensorflow.errors.OpError) and any(each in str(error) for each in SAID)
    return isinstance(error, kinds) or said


def place_of_end(end, folder):
    """Returns where the user's code has ended the process, `None` where it was not the user's.

    Args:
        end: the `SystemExit`, with its traceback.
        folder: the folder of the user's code, or `None` if there is none.
    """
    folder = None if folder is None else pathlib.Path(folder).resolve()
    frames = traceback.extract_tb(end.__traceback__)
    users = [frame for frame in frames if _owner(frame.filename, folder) == "user"]
    return _place(users[-1].filename, users[-1].lineno) if users else None


def _owner(file, folder):
    """Whose code a file is: "package", "user" or `None` for a library's."""
    if file.startswith("<"):  # what is no file has no folder either
        return None
    path = pathlib.Path(os.path.abspath(file))
    if PACKAGE in path.resolve().parents:
        return "package"
    return "user" if folder is not None and path.resolve().parent == folder else None


def _place(file, number):
    """Returns a file and a line, as short as it can be said from here."""
    short = os.path.relpath(file)
    return f"{file if short.startswith('..') else short}:{number}"


def _said(error):
    message = error.msg if isinstance(error, SyntaxError) else _text(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"


def _text(error):
    """Returns what an error says of itself; a user's may fail even at that."""
    try:
        return re.sub(OF_AN_OPERATION, "", str(error))
    except Exception:  # of whatever kind
        return "(its text cannot be read)"
