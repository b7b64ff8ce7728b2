"""The script that runs `keras.distillation` beside this package."""

import keras
import pytest

if not hasattr(keras, "distillation"):
    pytest.skip("this Keras has no distiller of its own", allow_module_level=True)
if keras.backend.backend() != "tensorflow":
    pytest.skip("the numbers of the docs are TensorFlow's", allow_module_level=True)


def test_ours_is_what_is_expected_and_the_default_loss_of_keras_is_not(example, capsys):
    found = example("faults_of_keras_distillation").main()
    assert {name: ours for name, (expected, _, ours) in found.items() if ours != expected} == {}
    assert "expected" in capsys.readouterr().out
