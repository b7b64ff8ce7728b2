"""Separates refusals, which become one line of output, from bugs, which show a traceback.

The rules read the traceback that Python would print, from its last line up:

- The code of the experiment's file, or of a module beside it, is the user's. If its frame is the
  deepest of the user's and ours, the user reads the file, the line and the error.
- If the traceback ends at a `raise` of this package, the package refused something. The user reads
  the message alone.
- The same holds if TensorFlow reports that the package refused something in a pipeline's function.
- If the operating system refused something, also to TensorFlow, or a module is not installed, the
  user reads that.
- Everything else is a bug, ours or a library's, and keeps its traceback.

So an error that Python or a library raises in our code is never taken for a refusal, whatever its
class, and a refusal needs no class of its own.
"""

import errno
import os
import pathlib
import re
import sys
import traceback

PACKAGE = pathlib.Path(__file__).parents[1].resolve()
OF_THE_MACHINE = (OSError, ImportError)
# TensorFlow's names for the errors of files and folders.
OF_FILES = ("AlreadyExistsError", "DataLossError", "FailedPreconditionError", "NotFoundError",
            "PermissionDeniedError", "ResourceExhaustedError")  # fmt: skip

# Messages of disk errors with another name: for a large file TensorFlow has OutOfRangeError.
SAID = [os.strerror(number) for number, name in errno.errorcode.items()
        if name in ("EDQUOT", "EFBIG", "EIO", "EMFILE", "ENOSPC", "EROFS", "ESTALE")]  # fmt: skip

# What TensorFlow puts around the message of an operation.
OF_AN_OPERATION = r"\{\{function_node \S+\}\} | \[Op:\w+\]( name:.*)?"


def line(error, folder=None):
    """Returns the line for the user about an exception, or `None` if it is a bug.

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
    """Returns the package's refusal in a function that TensorFlow called, or `None`.

    Only TensorFlow's own message holds the traceback of such a function.
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
    """Returns where the user's code has ended the process, or `None` if other code has.

    Args:
        end: the `SystemExit`, with its traceback.
        folder: the folder of the user's code, or `None` if there is none.
    """
    folder = None if folder is None else pathlib.Path(folder).resolve()
    frames = traceback.extract_tb(end.__traceback__)
    users = [frame for frame in frames if _owner(frame.filename, folder) == "user"]
    return _place(users[-1].filename, users[-1].lineno) if users else None


def _owner(file, folder):
    """Returns the owner of a file: "package", "user" or `None` for a library."""
    if file.startswith("<"):  # a name that is no file has no folder
        return None
    path = pathlib.Path(os.path.abspath(file))
    if PACKAGE in path.resolve().parents:
        return "package"
    return "user" if folder is not None and path.resolve().parent == folder else None


def _place(file, number):
    """Returns a file and a line, in the shortest form from the working directory."""
    short = os.path.relpath(file)
    return f"{file if short.startswith('..') else short}:{number}"


def _said(error):
    message = error.msg if isinstance(error, SyntaxError) else _text(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"


def _text(error):
    """Returns the message of an error, whose `__str__` may fail."""
    try:
        return re.sub(OF_AN_OPERATION, "", str(error))
    except Exception:  # of any class
        return "(its text cannot be read)"
