"""Tells a user's mistake, which is said in one line, from a bug, whose traceback is shown."""

import dis
import os
import pathlib
import traceback

PACKAGE = pathlib.Path(__file__).parents[1].resolve()
MISTAKES = (ValueError, OSError, ImportError)  # what a bad input makes a library raise


def line(error, folder=None):
    """What to tell the user of an exception, or `None` if it is a bug.

    Who raised it decides. The deepest frame that is the package's or the user's is asked: an
    exception of the user's code is a mistake whatever its class; one of the package's is a
    mistake if it was raised by `raise`, or if a library refused an input by a `ValueError`, an
    `OSError` or an `ImportError`. Anything else, such as a `TypeError` of a wrong call, is a bug.

    Args:
        error: The exception, with its traceback.
        folder: Where the user's code is, `None` if there is none.
    """
    folder = None if folder is None else pathlib.Path(folder).resolve()
    if isinstance(error, SyntaxError) and _owner(error.filename or "", folder) == "user":
        return f"{_place(error.filename, error.lineno)}: {_said(error)}"
    frames = traceback.walk_tb(error.__traceback__)
    files = [(frame.f_code.co_filename, number) for frame, number in frames]
    owned = [(_owner(file, folder), file, number) for file, number in files]
    users = [_place(file, number) for owner, file, number in owned if owner == "user"]
    deepest = next((owner for owner, _, _ in reversed(owned) if owner), "package")
    if deepest == "package" and not (isinstance(error, MISTAKES) or _raised_on_purpose(error)):
        return None
    return f"{users[-1]}: {_said(error)}" if users else " ".join(str(error).split())


def _owner(file, folder):
    """Whose code a file is: "package", "user" or `None` for a library's."""
    path = pathlib.Path(os.path.abspath(file))
    if PACKAGE in path.resolve().parents:
        return "package"
    return "user" if folder is not None and path.resolve().parent == folder else None


def _raised_on_purpose(error):
    """Whether a `raise` of the package raised it."""
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    operation = dis.opname[code.co_code[last.tb_lasti]]
    return _owner(code.co_filename, None) == "package" and operation == "RAISE_VARARGS"


def _place(file, number):
    """A file and a line, as short as it can be said from here."""
    short = os.path.relpath(file)
    return f"{file if short.startswith('..') else short}:{number}"


def _said(error):
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"
