"""What a compression says of the arm that won."""

import numpy as np
import pytest

from keras_distill.experiments.compressing.answer import paired, verdict
from keras_distill.report import sign_flips
from keras_distill.report.tasks import Numbers

ARMS = ("alone", "distilled")


def told(gain, p, confidence=0.9, alone=(90.0, 91.0), task="classes"):
    judged = {"gain": gain, "error": 0.1, "p": p, "alone": list(alone)}
    found = {"default": {"signs": {"confidence": confidence}}, "teacher": {"score": 0.95},
             "task": task}  # fmt: skip
    return verdict(judged, found)


def test_the_verdict_says_which_how_sure_and_what_to_try():
    assert told(0.6, 0.01).startswith("The teacher helps (+0.60 ± 0.10 points")
    assert "--repeats" in told(0.6, 0.3)
    worse = told(-0.2, 0.3)
    assert worse.startswith("The teacher does not help here (-0.20") and "student alone" in worse
    assert "unlabeled" in told(-0.2, 0.3, confidence=0.999)
    assert "better teacher" in told(-0.2, 0.3, alone=(96.0, 95.0))
    numbers = told(-0.2, 0.3, confidence=None, alone=(0.9, 0.98), task="numbers")
    assert "(-0.2000 ± 0.1000 in R² on the validation split" in numbers
    assert "more epochs" in numbers


class Trained:
    """The folder of a run whose models say what they are."""

    def __init__(self, outputs):
        self.outputs = outputs

    def model(self, key):
        return lambda x: self.outputs[key]


def test_numbers_are_compared_by_their_squared_errors():
    random = np.random.default_rng(0)
    y = random.normal(size=(30, 2)) * (1, 5)
    outputs = {f"{arm}-{seed}": y + random.normal(size=y.shape) * spread
               for arm, spread in (("alone", 0.9), ("distilled", 0.3)) for seed in (1, 2)}
    found = paired(Trained(outputs), [(np.zeros((30, 1)), y)], [1, 2], Numbers)
    differences = np.zeros(30)
    for seed in (1, 2):
        for i in range(30):
            for j in range(2):
                wrong = [(y[i, j] - outputs[f"{arm}-{seed}"][i, j]) ** 2 for arm in ARMS]
                differences[i] += (wrong[0] - wrong[1]) / y[:, j].var() / 4
    assert found["gain"] == pytest.approx(differences.mean())
    assert found["p"] == sign_flips(differences) < 0.01
    assert found["won"] + found["lost"] == 60 and found["won"] > found["lost"]
    outputs["distilled-1"][:] = np.nan
    lost = paired(Trained(outputs), [(np.zeros((30, 1)), y)], [1, 2], Numbers)
    assert lost["distilled"][0] == pytest.approx(0)
