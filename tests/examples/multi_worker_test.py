"""Two workers on this machine: they train, one is killed, and all go on where they were."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]
FORKED = pathlib.Path(__file__).with_name("forked_workers.py")


@pytest.fixture
def runs():
    """The process that runs the example, once for each line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    process = subprocess.Popen([sys.executable, str(FORKED)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=environment)  # fmt: skip
    late = threading.Timer(900, process.kill)  # what is read then ends
    late.start()
    yield process
    late.cancel()
    process.stdin.close()
    process.wait(timeout=60)


def start(process, out, workers=2):
    words = [str(ROOT / "examples/multi_worker.py"), f"--workers={workers}", f"--out={out}",
             "--epochs=3"]  # fmt: skip
    process.stdin.write(json.dumps(words) + "\n")
    process.stdin.flush()


def said(process, until="ended with"):
    """What a run says, to the end or to a line that holds some words."""
    found = ""
    for line in process.stdout:
        found += line
        if until in line:
            break
    return found


def sums(said):
    """What each worker says of the student's weights."""
    return re.findall(r"\[worker \d\] The student's weights sum to ([\d.]+)\.", said)


def test_a_worker_that_dies_ends_the_others_and_all_go_on(runs, tmp_path):
    start(runs, tmp_path / "alone", workers=1)
    whole = said(runs)
    assert "ended with 0" in whole and len(sums(whole)) == 1, whole[-4000:]

    start(runs, tmp_path / "broken")
    broken = said(runs, until="Epoch 2/3")  # the second one dies
    os.kill(int(re.search(r"\[worker 1\] process (\d+)", broken)[1]), signal.SIGKILL)
    broken += said(runs)
    assert "ended with 0" not in broken and not sums(broken)
    assert "Another worker has ended" in broken

    start(runs, tmp_path / "broken")
    resumed = said(runs)
    assert "Resuming from" in resumed and len(sums(resumed)) == 2, resumed[-4000:]
    assert len(set(sums(resumed))) == 1 and "ended with 0" in resumed
    assert float(sums(resumed)[0]) == pytest.approx(float(sums(whole)[0]), rel=1e-5)
    keras.saving.load_model(tmp_path / "broken/student.keras")
