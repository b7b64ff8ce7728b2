"""The first code that a user pastes, as it stands in the README."""

import pathlib
import re

import keras

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_readmes_code_works_when_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    exec(compile(code, "README.md", "exec"), {})
    assert keras.saving.load_model("student.keras").output_shape == (None, 10)
