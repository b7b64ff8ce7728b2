"""Turns the examples into notebooks.

    python docs/notebooks.py

writes a notebook for each example into `build/notebooks`, which `make notebooks` does, too. A text
in triple quotes at the top level of an example becomes a cell of Markdown, and the code between two
texts a cell of code. The modules that an example imports from its folder become cells that write
them, so that a notebook needs no other file. Where notebooks are hosted, the package must be
installed first: `--install=` names what pip installs, such as the path of a wheel.
"""

import argparse
import ast
import inspect
import json
import pathlib
import re
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
INSTALL = "keras-distill[examples,nlp]"
SETUP = """
## Setup

Install the package. The other cells of this section write modules that several examples share.
"""
TRY = """
## Run it

`--tiny` runs everything in under a minute, with numbers that mean nothing. Call `main([])` for the
real run.
"""
# Texts that are made up, for the examples whose data are files of the reader.
TEXTS = {
    "chatbot": ("question\tanswer", "What is {}?\tIt is a number."),
    "sentence_embeddings": ("long\tshort", "a program that draws number {}\tnumber {}"),
    "summarization": ("long\tshort", "It is number {}, and more of it.\tnumber {}"),
    "text_classification": ("label\ttext", "small\tonly {} of them\nlarge\tmore than {} thousand"),
}
TABLE = '''
import pathlib

ROWS = [{row!r}.replace("{{}}", str(number)) for number in range(200)]
pathlib.Path("texts.tsv").write_text("\\n".join([{head!r}, *ROWS]) + "\\n")
'''
TRY_TEXTS = """
## Run it

These rows are made up, so the numbers mean nothing. For a real run, give the path of your own table
and leave out `--tiny`.
"""


def examples():
    """The paths of all examples: files whose first text has a title."""
    return [path for path in sorted(EXAMPLES.glob("*.py")) if title(path).startswith("# ")]


def title(path):
    """The first line of a file's docstring, or an empty string."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]


def notebook(path, install=INSTALL):
    """The notebook of an example, as the dict that its JSON holds."""
    told = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    more = "".join(f" {each}" for each in re.findall(r"^ +pip install (.+)$", told, re.M))
    cells = [cell("markdown", SETUP), cell("code", f'%pip install --quiet "{install}"{more}')]
    for each in modules(path):
        cells.append(cell("code", f"%%writefile {each.name}\n{each.read_text('utf-8')}"))
    own = parts(path.read_text("utf-8"), path.stem)
    found = [cell(*own[0]), *cells, *(cell(*part) for part in own[1:])]
    for index, each in enumerate(found):
        each["id"] = f"cell-{index}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": found, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
            "nbformat": 4, "nbformat_minor": 5}  # fmt: skip


def cell(kind, text):
    """One cell, without its id."""
    found = {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(True)}
    return {**found, "outputs": [], "execution_count": None} if kind == "code" else found


def modules(path):
    """The files beside an example that it imports, those first that others import."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            beside = path.parent / f"{name}.py"
            if beside.exists():
                found |= dict.fromkeys([*modules(beside), beside])
    return list(found)


def parts(source, name):
    """`[(kind of cell, text)]` of an example's source, without the setup."""
    tree, lines = ast.parse(source), source.splitlines()
    found, begin = [], 0
    for node in tree.body:
        first, last = node.lineno - 1, node.end_lineno
        if is_text(node):
            found += [("code", "\n".join(lines[begin:first])),
                      ("markdown", inspect.cleandoc(node.value.value))]  # fmt: skip
            begin = last
        elif is_guard(node):
            body = textwrap.dedent("\n".join(lines[node.body[0].lineno - 1 : last]))
            found += [("code", "\n".join(lines[begin:first])), *run(tree, body, name)]
            begin = last
    found.append(("code", "\n".join(lines[begin:])))
    return [part for part in found if part[1].strip()]


def is_text(node):
    """Whether a statement is a text that stands for itself."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def is_guard(node):
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def run(tree, body, name):
    """The last cells: what a script runs, where a program's arguments become those of `main`."""
    takes = any(isinstance(node, ast.FunctionDef) and node.name == "main" and node.args.args
                for node in tree.body)  # fmt: skip
    if not takes:
        return [("markdown", "## Run it"), ("code", body)]
    flags = ["--tiny", f"--out=runs/{name}_tiny"]
    if name not in TEXTS:
        return [("markdown", TRY), ("code", f"main({json.dumps(flags)})")]
    head, row = TEXTS[name]
    flags += ["--tsv=texts.tsv", "--limit=64"]
    return [("markdown", TRY_TEXTS), ("code", TABLE.format(head=head, row=row)),
            ("code", f"main({json.dumps(flags)})")]  # fmt: skip


def main(arguments=None):
    """Writes all notebooks."""
    parser = argparse.ArgumentParser(description="Turns the examples into notebooks.")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build" / "notebooks",
                        help="where the run is written, and goes on")  # fmt: skip
    parser.add_argument("--install", default=INSTALL, help="what pip installs")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for path in examples():
        text = json.dumps(notebook(path, given.install), indent=1, ensure_ascii=False)
        (given.out / f"{path.stem}.ipynb").write_text(text + "\n", encoding="utf-8")
    print(f"{len(examples())} notebooks are in {given.out}.")


if __name__ == "__main__":
    main()
