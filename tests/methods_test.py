"""`docs/methods.md` names every loss and recipe there is, with its defaults and its references."""

import inspect
import json
import pathlib
import re
import sys
import types

import pytest

from keras_distill import losses, recipes

TESTS = pathlib.Path(__file__).parent
sys.path.append(str(TESTS / "losses"))
import golden  # noqa: E402

TEXT = (TESTS.parent / "docs" / "methods.md").read_text(encoding="utf-8")
GOLDEN = json.loads((TESTS / "losses" / "golden_data" / "manifest.json").read_text())["methods"]
FINDS_LAYERS = {"embedding", "match_layers", "stages"}
RECIPES = {*recipes.__all__} - FINDS_LAYERS
LOSSES = {
    name: loss
    for name in losses.__all__
    if inspect.isclass(loss := getattr(losses, name)) and loss is not losses.DistillationLoss
}


def rows(title, columns):
    """The rows of the tables from a title up to the next one that has other columns, by name."""
    lines = TEXT[TEXT.index(title) :].splitlines()
    split = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {cells[0].split("`")[1]: cells for cells in split if len(cells) == columns}


METHODS = rows("## Outputs", 7)
SOURCES = rows("## Whose defaults", 3)
CASES = rows("## References", 6)
PARTS = {
    "CenteredKernelAlignment": {"cka"},
    "OverhaulMargin": {"OverhaulMargin", "overhaul_margin"},
}
# What an adapter names besides the loss that it compares: a wrapped one, an entropy to add.
BESIDES = {"logit_std_kd": "KLDivergence", "logit_std_dkd": "DecoupledKD"} | dict.fromkeys(
    ("distillm_reverse_kl", "distillm_symmetric_kl", "distillm_js", "distillm_tv",
     "distillm_skew_forward", "distillm_skew_reverse"), "SoftCrossEntropy")  # fmt: skip


def written(parameters):
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}"
                     for p in parameters)  # fmt: skip


def number(value):
    """Two digits, as 1.3e-4."""
    return re.sub(r"e-0?", "e-", f"{value:.1e}").replace(".0e", "e")


def loosest(methods):
    """The largest relative tolerances of the loss and of the gradient."""
    cases = [case["tolerance"] for method in methods for case in method["cases"]]
    return [number(max(each[key] for each in cases)) for key in ("loss_rtol", "grad_rel_to_max")]


def reached(function, seen):
    """All names that a function of `golden` uses, in other functions of it too."""
    codes, names = [function.__code__], set()
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    for name in names - seen:
        called = vars(golden).get(name)
        if isinstance(called, types.FunctionType):
            names |= reached(called, seen | names)
    return names


def losses_of(method):
    names = reached(golden.ADAPTERS[method], set()) & {*losses.__all__}
    return names - {BESIDES.get(method)}


def test_every_loss_has_a_row_and_every_row_a_loss():
    assert {*METHODS} == {*LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_is_true(name):
    loss, cells = LOSSES[name], METHODS.get(name, [""] * 7)
    assert f"(`{loss.__module__.rpartition('.')[2]}.py`)" in cells[0]
    parameters = inspect.signature(loss).parameters.values()
    own = [p for p in parameters if p.name not in ("name", "dtype", "kwargs")]
    assert cells[4].strip("`") == (written(own) or "-")
    parts = PARTS.get(name, {name})
    methods = [each for each in GOLDEN if losses_of(each["method"]) & parts]
    repositories = dict.fromkeys(each["source"]["repo"].partition("/")[2] for each in methods)
    assert cells[5] == (", ".join(repositories) or "-")
    assert cells[6] == (", ".join(loosest(methods)) if methods else "-")


def test_recipes_are_named_with_their_defaults():
    named = [each for cells in METHODS.values() for each in re.findall(r"`(\w+\(.*?\))`", cells[3])]
    expected = set()
    for name in RECIPES:
        parameters = inspect.signature(getattr(recipes, name)).parameters.values()
        shown = [p for p in parameters if p.default not in (p.empty, None) and p.name != "mask"]
        expected.add(f"{name}({written(shown)})")
    assert {*named} == expected


def test_of_every_recipe_it_is_said_whose_its_defaults_are():
    assert {*SOURCES} == RECIPES


def test_every_reference_is_listed():
    assert {*CASES} == {*golden.ADAPTERS} == {method["method"] for method in GOLDEN}


@pytest.mark.parametrize("method", GOLDEN, ids=lambda method: method["method"])
def test_a_reference_is_true(method):
    _, code, compared, runs, loss, gradient = CASES[method["method"]]
    source = method["source"]
    assert f"[{source['repo']}](" in code and f"/{source['commit'][:12]})" in code
    assert code.endswith(source["file"])
    assert {*re.findall(r"`(\w+)`", compared)} == losses_of(method["method"])
    assert int(runs) == len(method["cases"])
    assert [loss, gradient] == loosest([method])
