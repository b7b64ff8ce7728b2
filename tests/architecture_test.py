"""The floors of the package: imports go down only, and the heavy ones stay where they belong."""

import ast
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import keras_distill

ROOT = pathlib.Path(keras_distill.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module or folder that is not in this table may not exist: put a new one on its floor here.
FLOORS = {
    0: ["_backend", "_keras", "_files", "_messages", "batch", "schedules", "taps"],
    1: ["text", "losses", "projectors"],
    2: ["teachers", "models", "fused", "metrics", "export"],
    3: ["training", "report"],
    4: ["callbacks", "data", "recipes"],
    5: ["experiments"],
    6: ["cli", "__main__"],
}
FLOOR = {module: floor for floor, modules in FLOORS.items() for module in modules}
# These may import each other.
ONE_SUBJECT = [{"cli", "__main__"}]
WITHOUT_TENSORFLOW = ["batch", "schedules", "losses", "projectors"]
OPTIONAL = ["keras_hub", "keras_nlp", "tensorflow_datasets", "matplotlib", "sklearn"]


def test_the_guide_for_contributors_has_the_same_floors():
    guide = (ROOT.parent / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in guide.splitlines() if re.match(r"\| \d+ \|", line)]
    told = {int(row[1]): {*re.findall(r"`(\w+)/?`", row[2])} for row in rows}
    assert told == {floor: {*modules} for floor, modules in FLOORS.items()}


def module_of(file):
    """The file or folder under the package's root that `file` belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file, top_level_only=False):
    """The dotted names that `file` imports: `a.b` for `import a.b` and for `from a import b`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = []
    for node in _top_level(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, [_package(file, node.level), node.module]))
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return names


def _package(file, level):
    if not level:
        return ""
    parts = ("keras_distill", *file.relative_to(ROOT).parts[:-1])
    return ".".join(parts[: len(parts) + 1 - level])


def _top_level(node):
    """The nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from _top_level(child)


def may_import(source, target):
    if source == target or any({source, target} <= subject for subject in ONE_SUBJECT):
        return True
    return FLOOR[target] < FLOOR[source]


def by_path(file):
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_a_file_stands_on_a_floor(file):
    assert module_of(file) in {*FLOOR, "__init__"}, "put it into the table of floors"


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_imports_go_down(file):
    source = module_of(file)
    if source == "__init__":
        return
    for name in imports(file):
        package, _, rest = name.partition(".")
        if package != "keras_distill":
            continue
        target = rest.split(".")[0]
        if target in FLOOR:
            assert may_import(source, target), f"{source} (floor {FLOOR[source]}) imports {name}"
        else:  # a name of the package's front door
            assert FLOOR.get(source, 0) >= 5 or target == "__version__", f"{source} imports {name}"


@pytest.mark.parametrize("module", ["report", "export"])
def test_reports_and_exports_take_any_keras_model(module):
    for file in FILES:
        if module_of(file) == module:
            names = imports(file)
            assert not [name for name in names if name.startswith("keras_distill.training")]


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_heavy_imports_stay_where_they_belong(file):
    module = module_of(file)
    if module in WITHOUT_TENSORFLOW:
        assert "tensorflow" not in {name.split(".")[0] for name in imports(file)}
    if FLOOR.get(module) != 6:
        assert not {name.split(".")[0] for name in imports(file, top_level_only=True)} & {*OPTIONAL}


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_a_file_is_short_and_raises(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert not {*file.relative_to(ROOT).with_suffix("").parts} & {
        "utils", "util", "common", "core", "base", "helpers", "helper", "misc",
    }  # fmt: skip


def test_the_distiller_can_be_read_aloud():
    text = (ROOT / "training" / "distiller.py").read_text(encoding="utf-8")
    lines = set(range(1, len(text.splitlines()) + 1))
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    assert len(lines) <= 220


def exported():
    """`(where, name, value)` of every public class and function that a user can reach."""
    modules = ["", *(f".{module}" for module in FLOOR if FLOOR[module] < 6)]
    for module in (f"keras_distill{module}" for module in modules):
        if importlib.util.find_spec(module) is None:
            continue
        module = importlib.import_module(module)
        for name in getattr(module, "__all__", dir(module)):
            value = getattr(module, name)
            ours = getattr(value, "__module__", "").startswith("keras_distill")
            kind = inspect.isclass(value) or inspect.isfunction(value)
            if not name.startswith("_") and ours and kind:
                yield module.__name__, name, value


def test_what_is_public_is_documented():
    bare = {f"{where}.{name}" for where, name, value in exported() if not _own_docstring(value)}
    assert not bare


def _own_docstring(value):
    return (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""


ON_ANOTHER_BACKEND = """
import builtins
import keras, numpy as np

find = builtins.__import__

def without_tensorflow(name, scope=None, *args):
    ours = (scope or {}).get("__name__", "").startswith("keras_distill")
    if ours and name.split(".")[0] == "tensorflow":
        raise ModuleNotFoundError("no tensorflow here")
    return find(name, scope, *args)

builtins.__import__ = without_tensorflow
keras.backend.backend = keras.config.backend = lambda: "jax"
from keras_distill import losses, projectors
value = losses.KLDivergence(temperature=2.0)(np.eye(3, dtype="float32"), np.ones((3, 3), "float32"))
print("loss", float(value))
try:
    from keras_distill import Distiller
except ImportError as error:
    print("refused:", " ".join(str(error).split()))
"""


def test_losses_and_projectors_import_on_another_backend():
    """There losses work, and what needs TensorFlow says so in one clear `ImportError`."""
    child = subprocess.run(
        [sys.executable, "-c", ON_ANOTHER_BACKEND],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    loss, refused = child.stdout.splitlines()[-2:]
    assert float(loss.split()[1]) > 0
    assert refused.startswith("refused:") and "backend" in refused and "jax" in refused
