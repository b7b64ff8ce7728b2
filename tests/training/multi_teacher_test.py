"""The guide to several teachers, as it stands but for the epochs."""

import pathlib
import re

import pytest

pytest.importorskip("sklearn")
GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "multi_teacher.md"


def test_the_guides_code_works_when_pasted(capsys):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    code, changed = re.subn(r"^EPOCHS = \d+$", "EPOCHS = 1", "\n".join(blocks), flags=re.MULTILINE)
    assert changed == 1
    names = {}
    exec(compile(code, "multi_teacher.md", "exec"), names)
    assert names["student"].get_layer("hidden").units == 16
    assert 0 <= names["through_assistants"] <= 1
    assert capsys.readouterr().out.startswith("through an assistant")
