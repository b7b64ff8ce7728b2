"""Marks of recipes, by which a method with a frozen teacher is told from online methods."""

FROZEN, TOGETHER = {}, {}
Pairs = list[tuple[str, str]]  # paths in the student and in the teacher


def recipe(function):
    """Marks a method with a frozen teacher, which `tune` may try, and adds it to `FROZEN`."""
    FROZEN[function.__name__] = function
    return function


def scheme(function):
    """Marks a method whose networks are trained together, and adds it to `TOGETHER`."""
    TOGETHER[function.__name__] = function
    return function
