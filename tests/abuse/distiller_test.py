"""Any student with any teachers, terms, weights and masks keeps what every distillation keeps.

`ABUSE_CASES` says how many cases are drawn (100 with `WHOLE`, else 40) and `ABUSE_SEED` where the
seeds begin. A case that fails prints whole: `contracts.check(Case(...))` runs it again.
"""

import os
import traceback

import keras
import pytest

pytest.importorskip("hypothesis")

import hypothesis
from children import result, start
from contracts import check
from drawing import cases, unknown_recipes
from whole import WHOLE

CASES = int(os.environ.get("ABUSE_CASES", 100 if WHOLE else 40))
SEED = int(os.environ.get("ABUSE_SEED", 0))
CHUNK = 100


def drawn(function, count, seed):
    """Calls a function of a case with so many cases; what it raises is collected."""
    failed = []

    def one(case):
        try:
            function(case)
        except Exception:
            failed.append(f"{case!r}\n{traceback.format_exc(limit=-4)}")
        if len(failed) > 9:
            raise AssertionError("\n".join(failed))

    options = hypothesis.settings(
        max_examples=count, database=None, deadline=None, derandomize=False,
        phases=[hypothesis.Phase.generate], suppress_health_check=[*hypothesis.HealthCheck],
    )  # fmt: skip
    hypothesis.seed(seed)(options(hypothesis.given(cases())(one)))()
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("chunk", range(-(-CASES // CHUNK)))
def test_every_case_keeps_the_contracts(chunk):
    keras.backend.clear_session()
    drawn(check, min(CHUNK, CASES), SEED + chunk)


def test_every_recipe_is_drawn():
    assert not unknown_recipes()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.distribute")
def test_replicas_train_as_one_device():
    count = max(3, CASES // 50)
    found = result(start("abuse/replicas_child.py", str(count), str(SEED)), 600 + 60 * count)
    assert not found["failed"], "\n".join(found["failed"])
