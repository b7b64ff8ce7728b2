"""Experiments that are read from files: what Python cannot read is refused by the file's name."""

import pytest

from keras_distill.cli import mistakes
from keras_distill.experiments.file import load_experiment

UNREADABLE = {
    "another encoding": "größe = 1".encode("latin-1"),
    "zeros": b"x = 1\0",
    "brackets without end": b"[" * 100_000,
    "operators without end": b"x = " + b"-" * 100_000 + b"1",
    "nothing that is Python": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_python_cannot_read_is_named(tmp_path, content):
    file = tmp_path / "tiny.py"
    file.write_bytes(content)
    with pytest.raises((ValueError, SyntaxError)) as caught:
        load_experiment(file, {})
    assert "tiny.py" in mistakes.line(caught.value, tmp_path)


def test_a_file_without_an_experiment_is_refused(tmp_path):
    (tmp_path / "tiny.py").write_text("experiment = 3")
    with pytest.raises(ValueError, match="tiny.py must define a function `experiment"):
        load_experiment(tmp_path / "tiny.py", {})
