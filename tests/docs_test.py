"""The documentation: Python blocks run, links lead somewhere, pictures are those of their script.

The blocks of a page share one namespace. A block that begins with
```python no-run is not executed; the text around it says why.
"""

import importlib
import pathlib
import re
import sys
import textwrap

import keras
import numpy as np
import pytest
from keras import layers

import keras_distill

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path[:0] = [str(DOCS), str(DOCS / "site")]
import hooks  # noqa: E402
import pictures  # noqa: E402

PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md"))}
# Pages whose code has a test of its own, beside what the page is about.
ELSEWHERE = {
    "experiments.md": "experiments/runner_test.py",
    "extend.md": "extend_test.py",
    "multi_teacher.md": "training/multi_teacher_test.py",
    "text.md": "text/pipeline_test.py",
    "vocabularies.md": "text/pipeline_test.py",
}
# Pages that the navigation names already.
TO_COME = {"compress.md", "distributed.md"}
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "python no-run"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def code_of(text):
    """The Python blocks of a page that are to be run, as one program with the page's lines."""
    lines = [""] * len(text.splitlines())
    for block in FENCE.finditer(text):
        if block[2] != "python":
            continue
        first = text[: block.start()].count("\n") + 1
        body = textwrap.dedent(block[3]).splitlines()
        lines[first : first + len(body)] = body
    return "\n".join(lines)


def image_network(width):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(width, 3, activation="relu", name="layer3"),
         layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )  # fmt: skip


def network(width):
    return keras.Sequential(
        [keras.Input((8,)), layers.Dense(width, "relu", name="hidden"), layers.Dense(3)]
    )


def plain_names():
    """Two classifiers of vectors, and data for them."""
    random = np.random.default_rng(0)
    return {
        "keras": keras, "teacher": network(8), "student": network(8),
        "x": random.normal(size=(32, 8)).astype("float32"), "y": random.integers(0, 3, 32),
    }  # fmt: skip


def names_of_moving():
    hub = pytest.importorskip("keras_hub")

    def classifier(depth):
        backbone = hub.models.BertBackbone(20, depth, 2, 8, 8, max_sequence_length=6)
        return hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)

    return plain_names() | {
        "images_teacher": image_network(8), "images_student": image_network(4),
        "text_teacher": classifier(4), "text_student": classifier(2),
    }  # fmt: skip


def names_of_cached_targets():
    import tensorflow as tf

    from keras_distill import Term, losses

    names = plain_names()
    names["dataset"] = tf.data.Dataset.from_tensor_slices((names["x"], names["y"])).batch(8)
    names["terms"] = [Term(losses.KLDivergence(2.0))]
    names["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return names


# What the code of a page takes as given; all others begin with nothing.
GIVEN = {
    "moving.md": names_of_moving,
    "cached_targets.md": names_of_cached_targets,
    "methods.md": plain_names,
    "report.md": lambda: {**plain_names(), "alone": network(8)},
}
# Long trainings of a page are cut, so that the whole takes less than a minute.
SHORTER = {
    "get_started.md": [(r"^EPOCHS = \d+$", "EPOCHS = 2")],
    "cached_targets.md": [("epochs=20", "epochs=2")],
}


@pytest.mark.parametrize("name", [*PAGES])
def test_the_code_of_a_page_runs(name, request, tmp_path, monkeypatch):
    text = PAGES[name].read_text(encoding="utf-8")
    if name in ELSEWHERE:
        assert name in (ROOT / "tests" / ELSEWHERE[name]).read_text(encoding="utf-8")
        return
    code = code_of(text)
    for old, new in SHORTER.get(name, ()):
        code, changed = re.subn(old, new, code, flags=re.MULTILINE)
        assert changed, old
    if not code.strip():
        return
    for module in ("sklearn", "keras_hub", "ai_edge_litert"):
        if module in code:
            pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    names = GIVEN.get(name, dict)()
    if "keras_hub" in code:  # tracing costs more than all the arithmetic of these models
        request.getfixturevalue("eagerly")
    exec(compile(code, str(PAGES[name]), "exec"), names)
    check = AFTERWARDS.get(name)
    if check:
        check(names)


def learned_by_heart(names):
    assert names["values"][-1] < 0.2 * names["values"][0]


def saved(names):
    assert names["student"].output_shape[-1] in (3, 10)
    assert pathlib.Path("student.keras").exists()


def hint_is_logged(names):
    assert "hint" in names["history"]


AFTERWARDS = {
    "guides/not_learning.md": learned_by_heart,
    "guides/image_classifier.md": hint_is_logged,
    "get_started.md": saved,
    "index.md": saved,
}


def test_a_block_is_found_and_one_that_is_not_to_run_is_left_out():
    page = "a\n```python\nx = 1\n```\n=== \"b\"\n\n    ```python\n    y = 2\n    ```\n\n    ```python no-run\n    z\n    ```\n"  # fmt: skip  # noqa: E501
    assert code_of(page).split() == ["x", "=", "1", "y", "=", "2"]
    assert code_of(page).splitlines()[2] == "x = 1"


def test_few_blocks_are_left_out():
    kinds = [block[2] for path in PAGES.values() for block in FENCE.finditer(path.read_text())]
    assert {kind for kind in kinds if "py" in kind} <= {"python", NOT_RUN}
    assert kinds.count(NOT_RUN) < 0.15 * kinds.count("python")


@pytest.mark.parametrize("name", [*PAGES])
def test_links_lead_to_pages_that_are_there(name):
    for target in LINK.findall(PAGES[name].read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            path = (PAGES[name].parent / target.partition("#")[0]).resolve()
            assert path.exists(), f"{name}: {target}"


def test_the_pages_of_the_site_are_there():
    settings = (DOCS / "site" / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", settings, re.MULTILINE))
    assert named == {*PAGES}, "name each page in the navigation of docs/site/mkdocs.yml"


API = {
    each: name
    for name, path in PAGES.items()
    for each in hooks.NAMES.findall(path.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("module", API)
def test_a_page_of_the_api_names_all_that_is_public(module):
    assert [*hooks.places(module)] == [*importlib.import_module(module).__all__]


def test_every_public_module_has_a_page_of_the_api():
    modules = {f"keras_distill.{name}" for name in keras_distill._MODULES}
    assert modules - {*API} == {"keras_distill.schedules"}  # which has a page by hand


def test_the_names_of_the_package_itself_are_in_the_api():
    said = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    known = {name for module in API for name in hooks.places(module)}
    by_hand = set(re.findall(r"^::: \S+\.(\w+)$", said, re.MULTILINE))
    assert {*keras_distill._NAMES} <= known | by_hand


@pytest.mark.parametrize("theme", [*pictures.THEMES])
@pytest.mark.parametrize("name", [*pictures.PICTURES])
def test_the_pictures_are_those_of_their_script(name, theme):
    file = pictures.IMAGES / f"{name}-{theme}.svg"
    assert file.read_text(encoding="utf-8") == pictures.drawn(name, theme), (
        "run `python docs/pictures.py`"
    )
