"""The example of one call from a teacher to a student, at its smallest size."""

import keras


def test_it_ends_with_a_student_and_a_sentence(example, tmp_path):
    found = example("compress").main(["--tiny", f"--out={tmp_path / 'run'}", "--max-flops=1e6"])
    assert found["students"][found["student"]]["flops"] <= 1e6
    assert found["answer"]["error"] is None and found["trainings_alone"] > 0
    assert "on the validation split over 1 seeds" in found["answer"]["verdict"]
    student = keras.saving.load_model(tmp_path / "run" / "student.keras")
    assert student.output_shape == (None, 10)
    names = {*found["students"]}
    assert {"1 of 2 blocks", "2 of 2 blocks, half as wide", "size 1"} <= names


def test_options_are_those_of_its_experiment(example):
    made = example("residual").experiment(limit=8, epochs=2, teacher_epochs=3)
    assert (made.epochs, made.teacher_epochs) == (2, 3)
    assert made.student(size=0.5).layers[0].filters == 6
    assert made.teacher().output_shape == (None, 10)
