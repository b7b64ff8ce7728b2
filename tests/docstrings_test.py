"""Docstrings of all that is public: what they must say, and that their examples run."""

import ast
import importlib
import inspect
import re
import textwrap

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_distill

MODULES = [f"keras_distill.{name}" for name in keras_distill._MODULES]
MODULES += ["keras_distill", "keras_distill.experiments.tuning"]
# What is missing still, by the module that owes it.
OWED = {}
# Examples that need what a test does not have.
NOT_RUN = {
    "data.beam.write_targets_with_beam": "a cluster",
    "experiments.compressing.compress.compress": "several minutes",
    "experiments.experiment.Experiment": "a minute",
    "experiments.tuning.search.tune": "several minutes",
    "experiments.tuning.settings.chosen": "the repository's examples",
    "export.exported.Exported": "half a minute; tests/export runs the same",
    "export.parity.Parity": "half a minute; tests/export runs the same",
    "export.reload.check_saved_model": "half a minute; tests/export runs the same",
    "export.saved_model.write_saved_model": "half a minute; tests/export runs the same",
    "export.write.write": "half a minute; tests/export runs the same",
    "losses.universal.AlignedSpans": "half a minute; tests/text runs the same",
    "models.quantization.aware.quantization_aware": "names that it does not define",
}
# Examples that read targets which another call has written.
ON_DISK = {
    "data.target_cache.read_targets", "data.targets_on_disk.TargetsOnDisk",
    "data.verification.verify_targets",
}  # fmt: skip


def public():
    """`{name: object}` of each class and function that a public module exports."""
    found = {}
    for module in MODULES:
        module = importlib.import_module(module)
        for name in getattr(module, "__all__", ()):
            each = getattr(module, name)
            if inspect.isclass(each) or inspect.isfunction(each):
                found[f"{each.__module__.removeprefix('keras_distill.')}.{name}"] = each
    return found


PUBLIC = public()


def parameters(each):
    """The names that a docstring must explain: those that the class or function itself declares."""
    if inspect.isclass(each) and issubclass(each, tuple):
        return list(each._fields)
    if inspect.isclass(each):
        if "__init__" not in vars(each):
            return []
        each = each.__init__
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    declared = inspect.signature(each).parameters.values()
    return [p.name for p in declared if p.name != "self" and p.kind not in kinds]


def section(doc, title):
    """The lines of a section, without their indent."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)*)", f"{doc}\n", re.MULTILINE)
    return textwrap.dedent(found[1]) if found else ""


def nodes(each):
    """The syntax of what runs when the class is made or the function called, nothing inside it."""
    source = each.__init__ if inspect.isclass(each) and "__init__" in vars(each) else each
    if inspect.isclass(source) or source.__code__.co_filename == "<string>":  # a dataclass's
        return []
    body = ast.parse(textwrap.dedent(inspect.getsource(source))).body[0].body
    found = []
    while body:
        node = body.pop()
        if not isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            found.append(node)
            body.extend(ast.iter_child_nodes(node))
    return found


def lacks(name, each):
    """What the docstring should say and does not."""
    doc, missing = inspect.getdoc(each) or "", set()
    first, _, rest = doc.partition("\n")
    if not first.endswith(".") or (rest and not rest.startswith("\n")):
        missing.add("a summary of one line")
    said = re.findall(r"^\*{0,2}(\w+(?:, \w+)*):", section(doc, "Args"), re.MULTILINE)
    said = {each for names in said for each in names.split(", ")}
    missing |= {f"Args: {each}" for each in parameters(each) if each not in said}
    found = nodes(each)
    returns = any(isinstance(node, ast.Return) and node.value for node in found)
    if inspect.isfunction(each) and returns and not section(doc, "Returns"):
        missing.add("Returns")
    if any(isinstance(node, ast.Raise) for node in found) and not section(doc, "Raises"):
        missing.add("Raises")
    if not example_of(each):
        missing.add("an example")
    published = name.startswith(("losses.", "recipes.")) and name not in NO_PAPER
    if published and "](http" not in doc:
        missing.add("a reference")
    return missing


# Losses and helpers that no paper describes.
NO_PAPER = {
    "losses.distillation_loss.DistillationLoss", "losses.plain.as_distillation_loss",
    "losses.wrapped.ClassSubset", "recipes.defaults.Default", "recipes.defaults.Signs",
    "recipes.defaults.default",
}  # fmt: skip


def example_of(each):
    """The code in a docstring."""
    return "\n".join(re.findall(r"```python\n(.*?)```", inspect.getdoc(each) or "", re.DOTALL))


def test_what_is_owed_names_what_is_public():
    assert {name for each in OWED.values() for name in each} | {*NOT_RUN} <= {*PUBLIC}


@pytest.mark.parametrize("name", [*PUBLIC])
def test_a_public_signature_has_types(name):
    each = PUBLIC[name]
    if inspect.isclass(each) and (issubclass(each, tuple) or "__init__" not in vars(each)):
        return
    signature = inspect.signature(each.__init__ if inspect.isclass(each) else each)
    declared = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    bare = [p.name for p in declared if p.annotation is p.empty and p.name != "self"]
    assert bare == []
    assert inspect.isclass(each) or signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", [*PUBLIC])
def test_a_docstring_says_all(name):
    owed = OWED.get(name.partition(".")[0], {}).get(name, set())
    assert lacks(name, PUBLIC[name]) <= owed


def images(width, name):
    x = keras.Input((8, 8, 3), name="x")
    z = layers.Conv2D(width, 3, padding="same", activation="relu", name="block_1")(x)
    z = layers.Conv2D(2 * width, 3, strides=2, padding="same", name="block_2_conv")(z)
    z = layers.BatchNormalization(name="block_2_bn")(z)
    z = layers.ReLU(name="block_2")(z)
    z = layers.GlobalAveragePooling2D(name="avg_pool")(z)
    z = layers.Dense(2 * width, activation="relu", name="hidden")(z)
    return keras.Model(x, layers.Dense(10, name="logits")(z), name=name)


def own_names():
    """What every example may use: Keras, NumPy and this package."""
    import tensorflow as tf

    names = {name: getattr(keras_distill, name) for name in keras_distill.__all__}
    return {**names, "keras": keras, "np": np, "ops": ops, "layers": layers, "tf": tf}


@pytest.fixture(scope="module")
def pictures():
    """A student and teachers of images, with data for them."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    x = random.random((16, 8, 8, 3)).astype("float32")
    y = random.integers(0, 10, 16)
    exits = keras_distill.models.add_exits(images(4, "exits"), {"exit_1": "block_1"})
    return own_names() | {
        "x": x, "y": y, "dataset": tf.data.Dataset.from_tensor_slices((x, y)).batch(8),
        "validation_data": (x, y), "net": exits,
        "student": images(4, "student"), "teacher": images(16, "teacher"),
        "wide": images(16, "wide"), "deep": images(12, "deep"),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }  # fmt: skip


@pytest.fixture(scope="module")
def language():
    """A student and a teacher that write text, with texts for them."""
    hub = pytest.importorskip("keras_hub")
    tokens = [*"abcde", "Ġ", "ab", "Ġa", "<|endoftext|>"]
    tokenizer = hub.tokenizers.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)}, merges=["a b", "Ġ a"]
    )
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    backbone = hub.models.GPT2Backbone(len(tokens), 4, 2, 8, 8, max_sequence_length=8)
    teacher = hub.models.GPT2CausalLM(backbone, preprocessor)
    return own_names() | {
        "teacher": teacher, "student": keras_distill.models.shrink(teacher, every=2),
        "texts": ["ab cd", "dea b"] * 2,
        "questions": ["ab", "ca"] * 16, "answers": ["d", "ee"] * 16,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }  # fmt: skip


ON_TEXT = ("recipes.transformers.", "models.shrinking.", "losses.universal.AlignedSpans",
           "data.answers.", "data.completions.", "data.on_policy.")  # fmt: skip


@pytest.mark.parametrize("name", [name for name in PUBLIC if example_of(PUBLIC[name])])
def test_the_example_of_a_docstring_runs(name, request, tmp_path, monkeypatch):
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    monkeypatch.chdir(tmp_path)
    names = dict(request.getfixturevalue("language" if name.startswith(ON_TEXT) else "pictures"))
    if "aligned" not in example_of(PUBLIC[name]):
        request.getfixturevalue("eagerly")
    if name in ON_DISK:
        keras_distill.data.write_targets(names["teacher"], names["dataset"], "targets", verbose=0)
    exec(compile(example_of(PUBLIC[name]), name, "exec"), names)
