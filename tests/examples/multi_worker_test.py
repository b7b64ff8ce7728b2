"""Two workers on this machine: they train, one is killed, and all go on where they were."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import keras

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
    return re.findall(r"\[worker \d\] The student's weights sum to ([\d.]+)", said)


def test_a_worker_that_dies_ends_the_others_and_all_go_on(tmp_path):
    whole = start(tmp_path / "whole").communicate(timeout=600)[0]
    assert len(set(sums(whole))) == 1 and len(sums(whole)) == 2, whole[-4000:]
    keras.saving.load_model(tmp_path / "whole/student.keras")

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
    assert "Resuming from" in resumed and sums(resumed) == sums(whole), resumed[-4000:]
