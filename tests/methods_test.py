"""`docs/methods.md` names every loss and recipe there is, where it is and with its defaults."""

import inspect
import pathlib
import re

import pytest

from keras_distill import losses, recipes

TEXT = (pathlib.Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].split("`")[1]: cells
    for line in TEXT.splitlines()
    if line.startswith("| `") and len(cells := line.strip("| ").split(" | ")) == 6
}
LOSSES = {
    name: loss
    for name in losses.__all__
    if inspect.isclass(loss := getattr(losses, name)) and loss is not losses.DistillationLoss
}
FINDS_LAYERS = {"embedding", "match_layers", "stages"}


def test_every_loss_has_a_row_and_every_row_a_loss():
    assert {*ROWS} == {*LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_is_true(name):
    loss, cells = LOSSES[name], ROWS.get(name, [""] * 6)
    assert f"(`{loss.__module__.rpartition('.')[2]}.py`)" in cells[0]
    parameters = inspect.signature(loss).parameters.values()
    own = [p for p in parameters if p.name not in ("name", "kwargs")]
    written = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in own)
    assert cells[4].strip("`") == (written or "-")


def test_every_recipe_is_named_and_every_name_is_a_recipe():
    assert {name for name in recipes.__all__ if f"`{name}`" not in TEXT} <= FINDS_LAYERS
    named = {name for cells in ROWS.values() for name in re.findall(r"`(\w+)`", cells[3])}
    assert named <= {*recipes.__all__} - FINDS_LAYERS
