"""Quiet TensorFlow, the same random numbers in every run, and how processes share the tests."""

import gc
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores: a thread each wastes less
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    gc.set_threshold(50_000, 20, 20)  # what tracing makes mostly stays: a tenth went into looking

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    """Where a test uses Keras: tests that read the files alone need not wait for it."""
    if keras := sys.modules.get("keras"):
        keras.utils.set_random_seed(0)
        if keras.backend.backend() == "tensorflow":
            from untuned import tune_nothing

            tune_nothing()


def _eagerly():
    """Keras runs what it would trace: that is quicker where a test trains for a few steps."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


eagerly = pytest.fixture(_eagerly)
all_eagerly = pytest.fixture(scope="module")(_eagerly)  # what the fixtures of a module do as well


@pytest.fixture(scope="module")
def saved_models_run_here():
    """Exported SavedModels are run in this process: another one imports TensorFlow for 4 s."""
    from keras_distill.export import reload, runtimes

    fresh = reload._run_fresh

    def run(kind, *arguments):
        (runtimes.main if kind == "serving" else fresh)(kind, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reload, "_run_fresh", run)
        yield


FIRST = ("replicas_test.py", "schemes_on_replicas_test.py", "multi_worker_test.py",
         "workers_test.py")  # the longest  # fmt: skip
SPREAD = "contract_test.py"  # over the processes; of another file one runs all, fixtures made once


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest file first, and last the many small tests that end all processes at once."""
    for item in items:
        if item.path.name != SPREAD and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.as_posix()))
    items.sort(key=_turn)


def _turn(item):
    alone = item.get_closest_marker("xdist_group") is None
    return item.path.name not in FIRST, alone, item.path.name != SPREAD


def pytest_collection_finish():
    """Full collections need not look at TensorFlow's and the tests' modules, which stay."""
    gc.collect()
    gc.freeze()
