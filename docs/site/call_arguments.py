"""Shows the "Call arguments" of a docstring as a list; griffe knows no such section."""

import re

import griffe

BLOCK = re.compile(r"^Call arguments:\n((?: {4}.*\n|\n)+)", re.MULTILINE)
NAME = re.compile(r"^ {4}(\w+(?:, \w+)*): ", re.MULTILINE)


class CallArguments(griffe.Extension):
    """Changes docstrings before they are read."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = BLOCK.sub(as_list, obj.docstring.value)


def as_list(found):
    """The block with a point for each argument."""
    return "Call arguments:\n" + NAME.sub(r"    - **`\1`**: ", found[1])
