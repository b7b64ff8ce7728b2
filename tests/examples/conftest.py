"""How the tests of the examples import them: as scripts do, from their own folder."""

import importlib
import pathlib
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """A function that imports a module of the examples; it is forgotten when the test ends."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = {*sys.modules}
    yield importlib.import_module
    for name in {*sys.modules} - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and pathlib.Path(file).parent == EXAMPLES:
            del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def _exports_run_here(saved_models_run_here):
    """`tests/export` runs what is exported in a fresh process, which takes seconds."""
