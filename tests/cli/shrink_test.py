"""The verb `shrink`: what it writes, and what it refuses to write over."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_distill.cli.main import main
from keras_distill.cli.shrink import _batches


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
        ([*nowhere, "--heads=0"], "--heads takes a number such as 384 or 0.5. Received: 0"),
        ([*nowhere, "--feed-forward=nan"], "--feed-forward takes a number"),
        ([*nowhere, "--width=0.5", "--measure=size"], "--measure takes activation or taylor"),
        ([*nowhere, "--width=0.5", "--measure=taylor"], "Add --importance=FILE."),
        ([*nowhere, "--depth=2", "--importance=x.npz"], "needs a width. Add --width"),
        ([*nowhere, "--width=0.5", "--importance=x.csv"], "an .npz file or an experiment's .py"),
        ([*nowhere, "--width=0.5", "--importance=x.npz", "--measure=taylor"], "only an experiment"),
        ([*nowhere, "--vocabulary=words.txt"], "No such file: words.txt"),
        ([*nowhere, "--every=2"], "No such model file: nowhere.keras"),
        (["shrink", "--model=a.keras", "--out=b"], "--out must end in .keras"),
    ):
        assert main(argv) == 2
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1


EXPERIMENT = """
import keras, numpy as np, tensorflow as tf
from keras_distill import Experiment

def experiment(sign=1.0):
    x = sign * np.eye(6, dtype="float32")
    batches = tf.data.Dataset.from_tensor_slices((x, np.arange(6) % 3)).batch(4)
    return Experiment("tiny", student=lambda: None, teacher=lambda: None, epochs=1,
        data=lambda split: batches, optimizer=lambda: keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
"""


@pytest.fixture
def narrow(tmp_path):
    """A teacher of which units 1 and 3 alone hand on something, where the inputs are positive."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(3)])
    kernel = np.tile([-1.0, 2.0, -1.0, 3.0], (6, 1))
    model.layers[0].set_weights([kernel, np.zeros(4)])
    model.save(tmp_path / "teacher.keras")
    return ["shrink", f"--model={tmp_path / 'teacher.keras'}", f"--out={tmp_path / 'out.keras'}",
            "--width=0.5", "--overwrite"]  # fmt: skip


def test_keeps_what_matters_on_data(narrow, tmp_path, capsys):
    def kept():
        kernel = keras.saving.load_model(tmp_path / "out.keras").layers[0].kernel
        return np.asarray(kernel[0]).tolist()

    np.savez(tmp_path / "x.npz", inputs=np.ones((70, 6), "float32"), targets=np.zeros(70))
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    assert main(narrow) == 0 and kept() == [-1, 2]
    assert main([*narrow, f"--importance={tmp_path / 'x.npz'}"]) == 0 and kept() == [2, 3]
    by_experiment = [*narrow, f"--importance={tmp_path / 'tiny.py'}"]
    assert main([*by_experiment, "--measure=taylor"]) == 0 and kept() == [2, 3]
    assert main([*by_experiment, "--set=sign=-1.0"]) == 0 and kept() == [-1, -1]
    capsys.readouterr()
    pair = _batches((np.arange(40), -np.arange(40)))
    assert [(len(a), *b[:1]) for a, b in pair] == [(32, 0), (8, -32)]
    np.savez(tmp_path / "x.npz", a=np.ones((3, 6)), b=np.ones((4, 6)))
    (tmp_path / "wrong.py").write_text("import nothing_of_this_name")
    for given, said in (("x.npz", "the same number of rows"), ("none.npz", "No such file"),
                        ("wrong.py", "wrong.py:1: ModuleNotFoundError")):  # fmt: skip
        assert main([*narrow, f"--importance={tmp_path / given}"]) == 2
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1


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
    sizes = ["--width=0.5", "--feed-forward=3"]
    assert main([*command, f"--vocabulary={tmp_path / 'ids.txt'}", *sizes]) == 0
    student = keras.saving.load_model(out)
    assert student.backbone.vocabulary_size == 7
    assert student.backbone.intermediate_dim == 3
    assert student.predict(["the dog"], verbose=0).shape == (1, 3)
    same = [f"--vocabulary={tmp_path / 'ids.txt'}", "--same-ids", "--overwrite"]
    assert main([*command, *same]) == 0
    assert keras.saving.load_model(out).layers[-1].backbone.vocabulary_size == 8  # and the others'
