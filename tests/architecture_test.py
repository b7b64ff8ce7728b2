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
    0: ["_backend"],
    1: ["_keras", "_files", "_messages", "schedules"],
    2: ["batch", "taps"],
    3: ["text"],
    4: ["losses", "quantized_layers"],
    5: ["projectors", "teachers", "models", "fused", "metrics", "export"],
    6: ["training", "report"],
    7: ["callbacks", "data", "recipes"],
    8: ["experiments"],
    9: ["cli", "__main__"],
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
    if FLOOR.get(module) != 9:
        assert not {name.split(".")[0] for name in imports(file, top_level_only=True)} & {*OPTIONAL}


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_a_file_is_short_and_raises(file):
    text = file.read_text(encoding="utf-8")
    whole = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    longest = max((node.end_lineno - node.lineno for node in whole), default=0)
    assert len(text.splitlines()) - longest <= 300, "a class stays whole"
    assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert not {*file.relative_to(ROOT).with_suffix("").parts} & {
        "utils", "util", "common", "core", "base", "helpers", "helper", "misc",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_a_distiller_has_no_methods_in_exile(file):
    """No function outside of a class takes one, and nobody else names what is private to it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    takes = [f.name for f in functions if "distiller" in {each.arg for each in f.args.args}]
    assert not takes
    private = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_")
        and isinstance(node.value, ast.Name) and node.value.id == "distiller"
    ]  # fmt: skip
    assert not private


# The attributes of Keras that are not public, each of which has its place in `_keras/`.
PRIVATE = re.compile(
    r"(?:\.|def )_(inputs_struct|outputs_struct|functional|nodes_by_depth|inbound_nodes|"
    r"keras_history|flatten_layers|keras_logits|keras_mask|compute_attention|compile_loss|"
    r"compile_metrics|loss_tracker|distribute_strategy|symbolic_build|maybe_symbolic_build|"
    r"get_metrics_result_or_logs|aggregate_additional_loss|convert_input_args|distributed_dataset|"
    r"variant_tensor|call_has_training_arg|standardize_inputs|is_quantized|learning_rate|var_key|remat_mode)\b|keras\.src"
)


@pytest.mark.parametrize("file", FILES, ids=by_path)
def test_private_names_of_keras_stand_in_one_place(file):
    if module_of(file) != "_keras":
        assert not PRIVATE.search(file.read_text(encoding="utf-8"))


def exported():
    """`(where, name, value)` of every public class and function that a user can reach."""
    modules = ["", *(f".{module}" for module in FLOOR if FLOOR[module] < 9)]
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
import keras_distill
for name in ("losses", "metrics", "models", "projectors", "recipes", "schedules", "taps",
             "teachers", "training.objective"):
    __import__(f"keras_distill.{name}")
value = keras_distill.losses.KLDivergence(2.0)(np.eye(3, dtype="float32"), np.ones((3, 3)))
print("loss", float(value))
"""


def test_the_core_imports_without_tensorflow_on_another_backend():
    child = subprocess.run(
        [sys.executable, "-c", ON_ANOTHER_BACKEND],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT.parent)},
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout.split()[-1]) > 0


def test_every_option_of_a_program_has_a_help_text():
    without = []
    for folder in ("keras_distill", "examples", "benchmarks", "docs", "tests"):
        for file in (ROOT.parent / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument"):
                    if not any(keyword.arg == "help" for keyword in node.keywords):
                        without.append(f"{file.name}:{node.lineno}")
    assert not without
