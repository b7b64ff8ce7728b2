"""The verb `shrink`: what it writes, and what it refuses to write over."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill.cli.main import main


@pytest.fixture
def teacher(tmp_path):
    x = inputs = keras.Input((6,))
    for index in range(5):
        x = layers.Dense(6, "relu", name=f"block_{index}")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    model.save(tmp_path / "teacher.keras")
    return model


def test_cuts_a_saved_model(teacher, tmp_path, capsys):
    out = tmp_path / "student.keras"
    command = ["shrink", f"--model={tmp_path / 'teacher.keras'}", f"--out={out}"]
    assert main([*command, "--layers=0,2,4"]) == 0
    assert f"{out} has 147 of the teacher's 231 parameters (63.6%)." in capsys.readouterr().out
    student = keras.saving.load_model(out)
    for new, old in ((1, 2), (2, 4)):
        np.testing.assert_array_equal(
            student.get_layer(f"block_{new}").kernel, teacher.get_layer(f"block_{old}").kernel
        )
    written = out.read_bytes()
    assert main([*command, "--every=2"]) == 2
    assert "exists. Give another --out, or add --overwrite." in capsys.readouterr().err
    assert main([*command, "--depth=9", "--overwrite"]) == 2
    assert out.read_bytes() == written
    assert main([*command, "--depth=1", "--overwrite"]) == 0
    assert keras.saving.load_model(out).count_params() == 63
    assert sorted(file.name for file in tmp_path.iterdir()) == ["student.keras", "teacher.keras"]


def test_mistakes_are_said_before_a_model_is_read(tmp_path, capsys):
    nowhere = ["shrink", "--model=nowhere.keras", f"--out={tmp_path / 'student.keras'}"]
    for argv, said in (
        ([*nowhere, "--layers=0,a"], "--layers takes whole numbers, as in 0,2,4. Received: 0,a"),
        ([*nowhere, "--width=half"], "--width takes a number"),
        ([*nowhere, "--vocabulary=words.txt"], "No such file: words.txt"),
        ([*nowhere, "--every=2"], "No such model file: nowhere.keras"),
        (["shrink", "--model=a.keras", "--out=b"], "--out must end in .keras"),
    ):
        assert main(argv) == 2
        assert said in capsys.readouterr().err


def test_cuts_a_task_to_the_words_in_a_file(tmp_path, capsys):
    hub = pytest.importorskip("keras_hub")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog"]
    tokenizer = hub.tokenizers.BertTokenizer(vocabulary=words)
    hub.models.BertTextClassifier(
        backbone=hub.models.BertBackbone(
            vocabulary_size=8, num_layers=2, num_heads=2, hidden_dim=8, intermediate_dim=8
        ),
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8),
        num_classes=3,
    ).save(tmp_path / "teacher.keras")
    (tmp_path / "ids.txt").write_text("5\n7\n")
    out = tmp_path / "student.keras"
    command = ["shrink", f"--model={tmp_path / 'teacher.keras'}", f"--out={out}", "--every=2"]
    assert main([*command, f"--vocabulary={tmp_path / 'ids.txt'}", "--width=0.5"]) == 0
    student = keras.saving.load_model(out)
    assert student.backbone.vocabulary_size == 7
    assert student.predict(["the dog"], verbose=0).shape == (1, 3)
