"""The results of a comparison, and their output as Markdown, JSON and a page."""

import json
import os
from collections.abc import Sequence
from os import PathLike

from keras_distill import _files
from keras_distill.report import comparison_page


class Comparison:
    """The result of `report.compare`.

    Args:
        results: a dict that JSON can hold, as in the attribute `results`. The JSON file lists it
            under "comparisons".

    Example:

    ```python
    found = report.compare(teacher, {"student": student}, [(x, y)], runs=1)
    print(found.results["rows"]["student"]["value"])
    ```
    """

    def __init__(self, results: dict):
        self.results = _files.jsonable(results)

    def headline(self) -> str:
        """Returns the result in a sentence."""
        return comparison_page.headline(self.results)

    def markdown(self) -> str:
        """Returns the tables in Markdown."""
        return markdown([self])

    def html(self) -> str:
        """Returns the page, one HTML file that includes its plots. It needs matplotlib."""
        return comparison_page.page([self.results], self.results["name"])

    def write(self, path: str | PathLike[str]) -> list[str]:
        """Writes the page to `path`, and the same in Markdown and JSON beside it.

        Args:
            path: the path of the page, which ends in `.html`. Neither this file nor those with the
                endings `.md` and `.json` may exist.

        Returns:
            The three paths.

        Raises:
            FileExistsError: if one of the files exists.
            ImportError: if matplotlib is not installed.
            ValueError: if `path` does not end in `.html`.
        """
        return write_together(path, [self])


def markdown(comparisons):
    """Returns the tables of some comparisons in Markdown."""
    lines = []
    for each in comparisons:
        results = each.results
        lines += [f"# {_cell(results['name'])}", "", comparison_page.headline(results), ""]
        for title, heads, rows, note in comparison_page.tables_of(results):
            lines += [f"## {title}", "", _row(heads), _row(["---"] * len(heads))]
            lines += [*map(_row, rows), "", *([note, ""] if note else [])]
    return "\n".join(lines)


def _row(cells):
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text):
    for sign in "\\|<>`*_[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def checked_paths(path):
    """Returns the three files of a report, if none of them exists.

    Raises:
        FileExistsError, ValueError: for the reasons of `Comparison.write`.
    """
    stem, ending = os.path.splitext(os.fspath(path))
    if ending != ".html":
        raise ValueError(f"The report's path must end in .html. Received: {os.fspath(path)}")
    paths = [stem + each for each in (".html", ".md", ".json")]
    for each in paths:
        if os.path.lexists(each):
            raise FileExistsError(
                f"This file exists, and a report never overwrites one. Delete it, or give another "
                f"name. Received: {each}"
            )
    return paths


def write_together(
    path: str | PathLike[str], comparisons: Sequence[Comparison], title: str | None = None
) -> list[str]:
    """Writes one page for several comparisons, with one plot of quality against cost for all.

    Args:
        path: as in `Comparison.write`.
        comparisons: a list of `Comparison`s, at least one.
        title: the title of the page. Defaults to the first comparison's name, or their number.

    Returns:
        The three paths: HTML, Markdown and JSON.

    Raises:
        FileExistsError, ImportError, ValueError: for the reasons of `Comparison.write`.

    Example:

    ```python
    first = report.compare(teacher, {"student": student}, [(x, y)], runs=1, name="first")
    report.write_together("both.html", [first, first])
    ```
    """
    paths = checked_paths(path)
    if not comparisons:
        raise ValueError("A report needs at least one comparison. Received: none")
    found = [each.results for each in comparisons]
    many = len(found) > 1
    title = title or (f"{len(found)} comparisons" if many else found[0]["name"])
    texts = [comparison_page.page(found, title), markdown(comparisons),
             json.dumps({"comparisons": found}, indent=1, allow_nan=False)]  # fmt: skip
    os.makedirs(os.path.dirname(paths[0]) or ".", exist_ok=True)
    for each, text in zip(paths, texts):
        _files.write(each, text)
    return paths
