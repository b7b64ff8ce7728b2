"""The example runs whole at its smallest, and goes on where it was."""

import pathlib
import sys

import keras
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import self_distillation

    yield self_distillation
    sys.modules.pop("self_distillation")
    sys.modules.pop("images")


def test_a_tiny_run_that_is_not_run_twice(example, tmp_path, capsys, monkeypatch):
    example.main(["--tiny", f"--out={tmp_path}"])
    printed = capsys.readouterr().out
    assert "self-distilled" in printed and "early exit at" in printed
    shallow = keras.models.load_model(tmp_path / "exit_1.keras")
    assert shallow.output_shape == (None, 10)
    first = (tmp_path / "seed_0.json").read_text()

    def again(*arguments):
        raise RuntimeError("trained again")

    monkeypatch.setattr(example, "one_seed", again)
    example.main(["--tiny", f"--out={tmp_path}"])
    assert (tmp_path / "seed_0.json").read_text() == first
    with pytest.raises(SystemExit):
        example.main(["--tiny", f"--out={tmp_path}", "--alpha=0.9"])
    assert "other settings" in capsys.readouterr().err
