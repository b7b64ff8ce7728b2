"""Writes the tables of losses in `methods.md` and the counts in the README from the code.

    python docs/tables.py

A loss's row comes from its docstring, its constructor, the recipes that use it, and the reference
cases in `tests/losses/golden_data`. `tests/methods_test.py` says when this must be run again.
"""

import inspect
import json
import pathlib
import re
import sys
import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "losses")]

import golden  # noqa: E402

from keras_distill import losses  # noqa: E402
from keras_distill.recipes.recipe import FROZEN, TOGETHER  # noqa: E402

GOLDEN = json.loads((ROOT / "tests/losses/golden_data/manifest.json").read_text())["methods"]
SECTIONS = {
    "Outputs": (
        "response", "divergences", "skewed", "label_aware", "prediction_relations", "wrapped",
        "ranking", "regression", "peers", "universal",
    ),
    "Features": ("features", "maps", "activations", "projected"),
    "Relations between examples": (
        "relation", "similarity", "kernel_alignment", "contrastive",
    ),
    "Transformers": ("attention", "minilm", "hidden"),
    "Dense prediction": ("dense_prediction",),
}  # fmt: skip
HEAD = """| loss (file) | what it compares | paper | recipe, its defaults | defaults of the loss \
| equal to the code of | within: loss, gradient |
|---|---|---|---|---|---|---|
"""
RECIPES = {**FROZEN, **TOGETHER}
LOSSES = {
    name: loss
    for name in losses.__all__
    if inspect.isclass(loss := getattr(losses, name)) and loss is not losses.DistillationLoss
}
PARTS = {"CenteredKernelAlignment": {"cka"}}  # what an adapter calls where it is not the class
# What an adapter names besides the loss that it compares: a wrapped one, an entropy to add.
BESIDES = {"logit_std_kd": "KLDivergence", "logit_std_dkd": "DecoupledKD"} | dict.fromkeys(
    ("distillm_reverse_kl", "distillm_symmetric_kl", "distillm_js", "distillm_tv",
     "distillm_skew_forward", "distillm_skew_reverse"), "SoftCrossEntropy")  # fmt: skip


def module_of(loss):
    return loss.__module__.rpartition(".")[2]


def section_of(loss):
    """The table of a loss: its module's, or one by what it compares for a new module."""
    for title, modules in SECTIONS.items():
        if module_of(loss) in modules:
            return title
    return "Outputs" if loss.expects_logits else "Features"


def written(parameters):
    """Parameters with their defaults."""
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}"
                     for p in parameters)  # fmt: skip


def number(value):
    """Two digits, as 1.3e-4."""
    return re.sub(r"e-0?", "e-", f"{value:.1e}").replace(".0e", "e")


def loosest(methods):
    """The largest relative tolerances of the loss and of the gradient."""
    cases = [case["tolerance"] for method in methods for case in method["cases"]]
    return [number(max(each[key] for each in cases)) for key in ("loss_rtol", "grad_rel_to_max")]


def reached(function, seen=()):
    """All names that a function uses, and those of the functions of its file and folder."""
    codes, names = [inspect.unwrap(function).__code__], set()
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    folder = function.__module__.rpartition(".")[0]
    for name in names - {*seen}:
        called = function.__globals__.get(name)
        near = isinstance(called, types.FunctionType) and called is not function
        if near and called.__module__.startswith(folder or called.__module__):
            names |= reached(called, {*seen, *names})
    return names


def losses_of(method):
    """The losses, or parts of them, that a reference case compares."""
    known = {*losses.__all__}.union(*PARTS.values())
    names = reached(golden.ADAPTERS[method]) & known
    return names - {BESIDES.get(method)}


def recipe_of(name):
    """A recipe with its defaults; what defaults to `None`, and the mask, is left out."""
    parameters = inspect.signature(RECIPES[name]).parameters.values()
    shown = [p for p in parameters if p.default not in (p.empty, None) and p.name != "mask"]
    return f"`{name}({written(shown)})`"


def row(name):
    """The row of a loss."""
    loss = LOSSES[name]
    doc = inspect.getdoc(loss)
    papers = re.findall(r"^ *- (\[[^\]]*\]\(\S*\))", doc.partition("Reference:")[2], re.M)
    named = [recipe_of(each) for each in RECIPES if name in reached(RECIPES[each])]
    parameters = inspect.signature(loss).parameters.values()
    own = written([p for p in parameters if p.name not in ("name", "dtype", "kwargs")])
    methods = [m for m in GOLDEN if losses_of(m["method"]) & {name, *PARTS.get(name, ())}]
    repositories = dict.fromkeys(m["source"]["repo"].partition("/")[2] for m in methods)
    cells = (
        f"`{name}` (`{module_of(loss)}.py`)",
        doc.splitlines()[0].rstrip("."),
        ", ".join(papers) or "-",
        "; ".join(named) or "-",
        f"`{own}`" if own else "-",
        ", ".join(repositories) or "-",
        ", ".join(loosest(methods)) if methods else "-",
    )
    return f"| {' | '.join(cells)} |\n"


def methods_page(text):
    """`methods.md` with its tables of losses made anew."""
    for title in SECTIONS:
        mine = [name for name in LOSSES if section_of(LOSSES[name]) == title]
        order = {module: place for place, module in enumerate(SECTIONS[title])}
        mine.sort(key=lambda name: (order.get(module_of(LOSSES[name]), len(order)), name))
        start = text.index(f"## {title}\n") + len(f"## {title}\n")
        end = text.index("\n## ", start)
        text = f"{text[:start]}\n{HEAD}{''.join(map(row, mine))}{text[end:]}"
    return text


def readme(text):
    """The README with the counts of losses and recipes."""
    counts = f"{len(LOSSES)} losses, {len(RECIPES)} recipes"
    return re.sub(r"\d+ losses, \d+ recipes", counts, text)


PAGES = {ROOT / "docs" / "methods.md": methods_page, ROOT / "README.md": readme}


if __name__ == "__main__":
    for path, made in PAGES.items():
        path.write_text(made(path.read_text(encoding="utf-8")), encoding="utf-8")
