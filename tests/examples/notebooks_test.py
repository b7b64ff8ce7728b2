"""The examples as notebooks: their cells, and one notebook whose cells run."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import notebooks  # noqa: E402

# As a notebook's kernel runs cells: one namespace, whose `__doc__` and arguments are its own.
RUN = """
import json, pathlib, sys

import tensorflow as tf

tf.config.run_functions_eagerly(True)  # a few steps are fewer than tracing costs
path, sys.argv[1:] = sys.argv[1], ["-f", "kernel.json"]
space = {"__name__": "__main__", "__doc__": "Made by the kernel."}
sys.path.insert(0, "")
for cell in json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["cells"]:
    code = "".join(cell["source"])
    if cell["cell_type"] != "code" or code.startswith("%pip"):
        continue
    first, _, rest = code.partition("\\n")
    if first.startswith("%%writefile "):
        pathlib.Path(first.split()[1]).write_text(rest + "\\n", encoding="utf-8")
    else:
        exec(compile(code, "cell", "exec"), space)
"""


def sources(name):
    """`[(kind, text)]` of the cells of an example's notebook."""
    found = notebooks.notebook(notebooks.EXAMPLES / f"{name}.py")
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found["cells"]]


def test_every_example_is_a_notebook_and_no_module_is():
    names = {path.stem for path in notebooks.examples()}
    assert {"quickstart", "deit", "chatbot"} <= names
    assert not names & {"images", "networks", "training", "multi_worker"}


@pytest.mark.parametrize("path", notebooks.examples(), ids=lambda path: path.stem)
def test_cells_hold_all_of_an_example(path):
    cells = sources(path.stem)
    assert cells[0][0] == "markdown" and cells[0][1].startswith("# ")
    assert [text for kind, text in cells if text.startswith("%pip")] == [cells[2][1]]
    written = {text.split()[1]: text for _, text in cells if text.startswith("%%writefile")}
    code = [text for kind, text in cells if kind == "code" and text[0] != "%"]
    kept = {ast.unparse(node) for text in code for node in ast.parse(text).body}
    for node in ast.parse(path.read_text("utf-8")).body:
        if not (notebooks.is_text(node) or notebooks.is_guard(node)):
            assert ast.unparse(node) in kept
        if isinstance(node, ast.ImportFrom) and (path.parent / f"{node.module}.py").exists():
            assert f"{node.module}.py" in written
    assert "__main__" not in "".join(code) and "__doc__" not in "".join(code)
    assert cells[-1][0] == "code" and len(code[-1].splitlines()) == 1


def test_the_page_of_examples_names_each():
    page = (ROOT / "docs" / "examples.md").read_text("utf-8")
    assert {path.name for path in notebooks.examples()} <= {*re.findall(r"`(\w+\.py)`", page)}


def test_modules_come_after_what_they_import():
    early = notebooks.modules(notebooks.EXAMPLES / "early_exit.py")
    assert [path.stem for path in early] == ["settings", "images", "networks", "self_distillation"]


def test_a_program_gets_arguments_and_a_script_none():
    assert sources("file_types")[2][1].endswith(" magika")
    assert sources("deit")[-1][1] == 'main(["--tiny", "--out=runs/deit_tiny"])'
    assert sources("faults_of_keras_distillation")[-1][1] == "main()"
    assert sources("quickstart")[-1][1] == 'experiment().run("runs/quickstart")'
    assert "--tsv=texts.tsv" in sources("chatbot")[-1][1]


def test_a_notebook_runs_in_an_empty_folder(tmp_path):
    assert not notebooks.main([f"--out={tmp_path / 'made'}", "--install=a.whl"])
    path = tmp_path / "made" / "foundation_encoder.ipynb"
    assert '%pip install --quiet \\"a.whl\\"' in path.read_text("utf-8")
    found = json.loads(path.read_text("utf-8"))
    assert found["nbformat"] == 4 and len({cell["id"] for cell in found["cells"]}) > 8
    place = tmp_path / "empty"
    place.mkdir()
    given = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", RUN, str(path)], cwd=place, env=given,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| student, likeness |" in done.stdout
    assert (place / "runs/foundation_encoder_tiny/results.json").exists()
