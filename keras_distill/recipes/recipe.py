"""The marks of recipes: what is a published method, and which of them have a frozen teacher."""

FROZEN, TOGETHER = {}, {}
Pairs = list[tuple[str, str]]  # paths in the student and in the teacher


def recipe(function):
    """Marks a method with a frozen teacher, which `tune` may sweep; it stands in `FROZEN`."""
    FROZEN[function.__name__] = function
    return function


def scheme(function):
    """Marks a method whose networks are trained together; it stands in `TOGETHER`."""
    TOGETHER[function.__name__] = function
    return function
