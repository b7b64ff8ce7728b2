"""How these tests run what they export."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _exports_run_here(saved_models_run_here):
    """`tests/export` runs what is exported in a fresh process, which takes seconds."""
