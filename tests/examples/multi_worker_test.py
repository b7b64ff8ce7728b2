"""Two workers on this machine: they train, one is killed, and all go on where they were."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def start(out, workers=2):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    environment.pop("TF_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples/multi_worker.py"), f"--workers={workers}",
         f"--out={out}", "--epochs=3"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip


def sums(said):
    """What each worker says of the student's weights."""
    return re.findall(r"\[worker \d\] The student's weights sum to ([\d.]+)\.", said)


def test_a_worker_that_dies_ends_the_others_and_all_go_on(tmp_path):
    alone = start(tmp_path / "alone", workers=1)

    broken = start(tmp_path / "broken")
    said = ""
    for line in broken.stdout:
        said += line
        if "Epoch 2/3" in line:  # the second one dies
            os.kill(int(re.search(r"\[worker 1\] process (\d+)", said)[1]), signal.SIGKILL)
            break
    said += broken.communicate(timeout=180)[0]  # a minute, and what a busy machine adds
    assert broken.returncode != 0 and not sums(said)
    assert "Another worker has ended" in said

    resumed = start(tmp_path / "broken").communicate(timeout=600)[0]
    assert "Resuming from" in resumed and len(sums(resumed)) == 2, resumed[-4000:]
    assert len(set(sums(resumed))) == 1
    whole = alone.communicate(timeout=600)[0]
    assert float(sums(resumed)[0]) == pytest.approx(float(sums(whole)[0]), rel=1e-5), whole[-4000:]
    keras.saving.load_model(tmp_path / "broken/student.keras")
