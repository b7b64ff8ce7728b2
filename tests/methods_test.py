"""`docs/methods.md` names every loss, recipe and reference there is, as the code has them."""

import pathlib
import re
import sys

import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"
sys.path.append(str(DOCS))
import tables  # noqa: E402

TEXT = (DOCS / "methods.md").read_text(encoding="utf-8")


def rows(title, columns):
    """The rows of the tables from a title up to the next one that has other columns, by name."""
    lines = TEXT[TEXT.index(title) :].splitlines()
    split = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells for cells in split if len(cells) == columns}


METHODS = rows("## Outputs", 7)
SOURCES = rows("## Whose defaults", 3)
CASES = rows("## References", 6)


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_of_the_code(path):
    text = path.read_text(encoding="utf-8")
    assert text == tables.PAGES[path](text), "run `python docs/tables.py`"


def test_every_loss_has_a_row_and_every_row_a_loss():
    assert {*METHODS} == {*tables.LOSSES}


def test_every_recipe_stands_beside_a_loss():
    shown = {each for cells in METHODS.values() for each in re.findall(r"`(\w+)\(", cells[3])}
    assert shown == {*tables.RECIPES}


def test_of_every_recipe_it_is_said_whose_its_defaults_are():
    assert {*SOURCES} == {*tables.RECIPES}


def test_every_reference_is_listed():
    methods = {method["method"] for method in tables.GOLDEN}
    assert {*CASES} == {*tables.golden.ADAPTERS} == methods


@pytest.mark.parametrize("method", tables.GOLDEN, ids=lambda method: method["method"])
def test_a_reference_is_true(method):
    _, code, compared, runs, loss, gradient = CASES[method["method"]]
    source = method["source"]
    assert f"[{source['repo']}](" in code and f"/{source['commit'][:12]})" in code
    assert code.endswith(source["file"])
    assert {*re.findall(r"`(\w+)`", compared)} == tables.losses_of(method["method"])
    assert int(runs) == len(method["cases"])
    assert [loss, gradient] == tables.loosest([method])
