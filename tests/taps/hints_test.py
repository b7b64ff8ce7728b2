"""Terms on tapped layers train what lies below them."""

import keras
import numpy as np
import pytest
from kinds import MODELS, X, nested
from tiny_bert import SENTENCES, make_bert

from keras_distill import Distiller, Term


@pytest.mark.parametrize(
    "case, compile",
    [
        ("nested", {"run_eagerly": True}),
        ("stacked", {}),
        ("subclassed", {"jit_compile": True}),
        ("attribute", {} if keras.backend.backend() == "torch" else {"steps_per_execution": 2}),
    ],
)
def test_hints_train_what_lies_below_them(case, compile):
    make, path, layer = MODELS[case]
    student, teacher = make(), make()
    term = Term(keras.losses.MeanSquaredError(), student=path, teacher=path, name="hint")
    distiller = Distiller(student, teacher=teacher, terms=[term], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None, **compile)
    below = layer(student).trainable_variables
    before = [keras.ops.convert_to_numpy(variable) for variable in below]
    logs = distiller.fit(X, batch_size=2, epochs=3, verbose=0).history["hint"]
    assert logs[-1] < logs[0]
    for start, variable in zip(before, below, strict=True):
        assert not np.array_equal(start, keras.ops.convert_to_numpy(variable))


def test_a_student_of_half_precision_learns_from_a_teacher_of_full():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student = nested()
    finally:
        keras.config.set_dtype_policy("float32")
    path = "encoder/inner/deep"
    term = Term(keras.losses.MeanSquaredError(), student=path, teacher=path, name="hint")
    distiller = Distiller(student, teacher=nested(), terms=[term], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None)
    logs = distiller.fit(X, epochs=3, verbose=0).history["hint"]
    assert np.isfinite(logs).all() and logs[-1] < logs[0]


def test_a_keras_hub_task_teaches_its_layers():
    student, bert = make_bert(), make_bert()
    path = "backbone/transformer_layer_0"
    hint = Term(
        keras.losses.MeanSquaredError(), student=path, teacher=path, mask="input:padding_mask",
        name="hint",
    )  # fmt: skip
    distiller = Distiller(student, teacher=bert, terms=[hint], alpha=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), loss=None)
    logs = distiller.fit(SENTENCES, epochs=2, verbose=0).history["hint"]
    assert np.isfinite(logs).all() and 0 < logs[-1] < logs[0]
