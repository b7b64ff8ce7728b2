"""The table of KerasHub's families: made as the documents say, and what it says holds."""

import pathlib
import re
import sys

import pytest

keras_hub = pytest.importorskip("keras_hub")
ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import families  # noqa: E402
import hub_models  # noqa: E402

TEXT = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["BERT", "EdRec", "ViT"])
def test_a_row_is_what_a_run_says(family):
    columns = [name for name in families.COLUMNS if name not in ("fit", "generate")]
    found = families.examined(family, columns)
    row = families.known(TEXT)[family]
    assert found == {name: row[name] for name in columns}


def test_the_table_has_every_family():
    rows = families.known(TEXT)
    assert [*rows] == [*hub_models.FAMILIES]
    assert f": {len(rows)} rows." in TEXT


def test_every_backbone_is_tried():
    """Those of the version that the document names; another may have others."""
    if f"KerasHub {keras_hub.__version__} has" not in TEXT:
        pytest.skip("The table is of another KerasHub.")
    hub = vars(keras_hub.models)
    names = {each.__name__ for name, each in hub.items() if name.endswith("Backbone")}
    assert f"has {len(names)} classes" in TEXT
    made = "".join((ROOT / "benchmarks" / f"hub_{name}.py").read_text(encoding="utf-8")
                   for name in ("models", "images"))  # fmt: skip
    names -= {"Backbone", "FeaturePyramidBackbone"}  # bases
    stems = {name.removesuffix("Backbone") for name in names}
    assert not [stem for stem in stems if not re.search(rf'[."]{stem}(Backbone)?\b', made)]


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
