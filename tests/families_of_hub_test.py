"""The table of KerasHub's families: made as the documents say, and what it says holds."""

import pathlib
import sys

import pytest

pytest.importorskip("keras_hub")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import families  # noqa: E402
import hub_models  # noqa: E402

TEXT = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["BERT", "T5", "ViT"])
def test_a_row_is_what_a_run_says(family):
    columns = [name for name in families.COLUMNS if name not in ("fit", "generate")]
    found = families.examined(family, columns)
    row = families.known(TEXT)[family]
    assert found == {name: row[name] for name in columns}


def test_the_table_names_families_that_are_tried():
    rows = families.known(TEXT)
    assert rows and {*rows} <= {*hub_models.FAMILIES}


def test_a_table_is_read_as_it_is_written():
    cells = dict.fromkeys(families.COLUMNS, "yes")
    found = {"BERT": cells, "T5": {**cells, "cut": "ValueError: `x` | y."},
             "ViT": {**cells, "generate": "-", "cut": "ValueError: `x` | y."}}  # fmt: skip
    table = "What works.\n\n| family |\n|---|\n"
    text = f"before\n\n{families.HEADING}\n\n{table}{families.END}after\n"
    text = families.written(text, {"BERT": cells})
    text = families.written(text, found)
    assert families.known(text) == found
    assert text.startswith("before\n") and text.endswith(f"{families.END}after\n")
    assert text.count("1. ValueError") == 1 and "What works." in text
