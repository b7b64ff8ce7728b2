"""What a compression says of the arm that won."""

from keras_distill.experiments.compressing.answer import verdict


def told(gain, p, confidence=0.9, alone=(90.0, 91.0)):
    judged = {"gain": gain, "error": 0.1, "p": p, "alone": list(alone)}
    found = {"default": {"signs": {"confidence": confidence}}, "teacher": {"score": 0.95},
             "task": "classes"}  # fmt: skip
    return verdict(judged, found)


def test_the_verdict_says_which_how_sure_and_what_to_try():
    assert told(0.6, 0.01).startswith("The teacher helps (+0.60 ± 0.10 points")
    assert "--repeats" in told(0.6, 0.3)
    worse = told(-0.2, 0.3)
    assert worse.startswith("The teacher does not help here (-0.20") and "student alone" in worse
    assert "unlabeled" in told(-0.2, 0.3, confidence=0.999)
    assert "better teacher" in told(-0.2, 0.3, alone=(96.0, 95.0))
