"""Tests each family of KerasHub: cut, fit, fused head, generate, and the recipes.

For every installed family it makes a small teacher of three blocks with random weights, and cuts it
to two by `models.shrink(depth=2)`. If that fails, a new model of two blocks is the student. Each
cell is one run:

- cut: the student exists, and answers. With `layers` for every block it returns the teacher's
  outputs.
- fit: one step of `Distiller(student, teacher=teacher)` with the default term. For a backbone
  without a head it is the mean squared error of each of its outputs.
- fused head: one step with `fused_head=True`, for a language model only.
- generate: the cut student's own `generate` from tokens.
- a recipe: one step with the recipe's defaults. Its terms must be finite.

A number refers to the reason below the table, the first sentence of the error.

    python benchmarks/families.py [--families=BERT,T5] [--write]

`--write` puts the rows into the table of `docs/methods.md`, and keeps the rows of other families.
"""

import argparse
import contextlib
import io
import os
import pathlib
import re
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hub_models
import keras
import numpy as np

from keras_distill import Distiller, Term, models, recipes

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "methods.md"
HEADING = "## Families of KerasHub"
END = "<!-- end of the families -->\n"
RECIPES = ("fitnets", "pkd", "tinybert", "minilm", "distilbert")
COLUMNS = ("cut", "fit", "fused head", "generate", *RECIPES)
YES, NONE = "yes", "-"
DEPTH = 3  # blocks of the teacher
# Families whose blocks differ need four: the first and the last are one of each kind.
DEPTHS = {"Gemma 2": 4, "Qwen 3.5": 4, "Qwen 3.5 MoE": 4}


def examined(family, columns=COLUMNS):
    """Returns `{column: "yes", "-" if it does not apply, or the error}` for a family."""
    keras.utils.set_random_seed(0)
    teacher = hub_models.FAMILIES[family](DEPTHS.get(family, DEPTH))
    student, said = _said(lambda: models.shrink(teacher, depth=2))
    found = {"cut": said if said != YES else _said(lambda: _same_where_whole(teacher))[1]}
    student = student or hub_models.FAMILIES[family](2)
    x, steps = hub_models.inputs(teacher), [name for name in columns if name in RECIPES]
    tries = {
        "fit": lambda: _fit(student, teacher, x, _default(student, teacher)),
        "fused head": lambda: _fit(student, teacher, x, None, fused_head=True),
        "generate": lambda: _generated(student, x, hub_models.PROMPTS.get(family, {})),
    }
    for name in tries.keys() & {*columns}:
        found[name] = _said(tries[name])[1] if _applies(name, student) else NONE
    found.update(_taught(steps, student, teacher, x))
    return {name: found[name] for name in columns}


def _taught(names, student, teacher, x):
    """Returns each recipe's result: one step with all of them, or with each alone if that fails."""
    made = {name: _said(lambda each=name: _terms(each, student, teacher)) for name in names}
    together = [term for terms, _ in made.values() for term in terms or ()]
    if _said(lambda: _fit(student, teacher, x, together))[1] == YES:
        return {name: said for name, (_, said) in made.items()}
    for name, (terms, said) in made.items():
        if said == YES:
            made[name] = _said(lambda each=terms: _fit(student, teacher, x, each))
    return {name: said for name, (_, said) in made.items()}


def _terms(name, student, teacher):
    """Returns a recipe's terms, named after it; without logits for a backbone."""
    terms = getattr(recipes, name)(student, teacher)
    if not _is_task(student):
        terms = [term for term in terms if term.student != "output"]
    for term in terms:
        term.name = f"{name}_{term.name}"
    return terms


def _said(run):
    """Returns the result of a run, and "yes" or the first sentence of its error."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return run(), YES
    except Exception as error:
        text = re.sub(r"\x1b\[\d+m", "", " ".join(str(error).split()))
        sentences = re.split(r"(?<=[.:])\s", text)
        ends = [i for i, sentence in enumerate(sentences) if not sentence.endswith(":")]
        said = " ".join(sentences[: ends[0] + 1 if ends else 1])
        return None, f"{type(error).__name__}: {said[:300]}"


def _is_task(model):
    """Returns whether a model has a head: D-FINE's backbone has a backbone, but no preprocessor."""
    return hasattr(model, "backbone") and hasattr(model, "preprocessor")


def _applies(name, student):
    language = hasattr(student, "generate")
    return name == "fit" or language


def _same_where_whole(teacher):
    """Checks that a student with all blocks answers as the teacher does."""
    whole, x = models.shrink(teacher, every=1), hub_models.inputs(teacher)
    outputs = [keras.tree.flatten(model(x, training=False)) for model in (whole, teacher)]
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg="Other outputs.")


def _default(student, teacher):
    """Returns the default terms: `None` for a model with a head, which has a default term.

    For a backbone without a head they compare the outputs that have one shape on both sides. A
    deeper detector has more outputs of some kinds.
    """
    if _is_task(student):
        return None
    outputs = student.output
    names = (
        [f"output:{name}" for name, each in outputs.items() if not keras.tree.is_nested(each)
         and each.shape == teacher.output[name].shape]
        if isinstance(outputs, dict)
        else ["output"]
    )
    return [Term("mse", student=name, teacher=name, name=f"mse_{i}", mask=None)
            for i, name in enumerate(names)]  # fmt: skip


def _fit(student, teacher, x, terms, **options):
    """Runs one step; its loss must be a number."""
    given = {} if terms is None else {"terms": terms}
    distiller = Distiller(student, teacher=teacher, **given, **options)
    labels = None
    if _is_task(student):
        labels = np.zeros(_label_shape(student, x), "int32")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
    else:
        distiller.compile(keras.optimizers.SGD(1e-3), run_eagerly=True)
    logs = distiller.fit(x, labels, batch_size=2, verbose=0).history
    if not np.isfinite(logs["loss"][0]):
        raise ValueError(f"The loss is {logs['loss'][0]}.")


def _label_shape(student, x):
    return tuple(student(x, training=False).shape)[:-1]


def _generated(student, x, others):
    student.compile(run_eagerly=True)
    prompt = {name: value for name, value in x.items() if "position" not in name}
    student.generate({**prompt, **others}, stop_token_ids=None)


def table(found):
    """Returns the lines of the table and of its reasons, from `{family: {column: result}}`."""
    reasons, lines = {}, []
    for family, cells in found.items():
        row = [family]
        for said in cells.values():
            if said not in (YES, NONE):
                said = f"no ({reasons.setdefault(said, len(reasons) + 1)})"
            row.append(said)
        lines.append("| " + " | ".join(row) + " |")
    head = ["| family | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    why = [f"{number}. {said}" for said, number in reasons.items()]
    return "\n".join([*head, *lines, "", *why])


def known(text):
    """Returns the content of the document's table, in the form that `table` takes."""
    start = text.index(HEADING)
    lines = text[start : text.index(END, start)].splitlines()
    reasons = dict(line.split(". ", 1) for line in lines if re.match(r"\d+\. ", line))
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    return {family: dict(zip(COLUMNS, (_reason(cell, reasons) for cell in cells), strict=True))
            for family, *cells in rows}  # fmt: skip


def _reason(cell, reasons):
    return cell if cell in (YES, NONE) else reasons[re.fullmatch(r"no \((\d+)\)", cell)[1]]


def written(text, found):
    """Returns the document with these families' rows in its table. Other rows stay."""
    start = text.index(HEADING)
    end = text.index(END, start)
    both = {**known(text), **found}
    both = {family: both[family] for family in hub_models.FAMILIES if family in both}
    intro = text[start:end].partition("\n| family |")[0]
    return f"{text[:start]}{intro}\n{table(both)}\n{text[end:]}"


def main():
    """Tests the families, prints the table and, with `--write`, writes rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(hub_models.FAMILIES),
                        help="the families to try, joined by commas")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="write the table into docs/methods.md")
    given = parser.parse_args()
    found = {}
    for family in given.families.split(","):
        found[family] = examined(family)
        keras.backend.clear_session()
        if given.write:
            text = DOCS.read_text(encoding="utf-8")
            DOCS.write_text(written(text, {family: found[family]}), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
