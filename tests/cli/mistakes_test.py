"""Whether an error is a refusal of the package, the user's, or a bug."""

import pytest

from keras_distill import schedules
from keras_distill.cli import mistakes


def line_of(function, folder=None):
    with pytest.raises(Exception) as caught:
        function()
    return mistakes.line(caught.value, folder)


def of_the_package(text, monkeypatch, tmp_path):
    """A function of a file that counts as the package's."""
    monkeypatch.setattr(mistakes, "PACKAGE", tmp_path.resolve())
    file = tmp_path / "ours.py"
    file.write_text(text)
    names = {}
    exec(compile(text, str(file), "exec"), names)
    return names["function"]


def test_a_raise_of_the_package_is_a_refusal():
    said = line_of(lambda: schedules.check("temperature", -1, low=0))
    assert said.startswith("`temperature` must be") and "Traceback" not in said


@pytest.mark.parametrize("raised", ["ValueError", "TypeError", "KeyError", "RuntimeError"])
def test_whatever_its_class_is(raised, monkeypatch, tmp_path):
    text = f"def function():\n    raise {raised}(\n        'said '\n        'in lines'\n    )\n"
    assert "said in lines" in line_of(of_the_package(text, monkeypatch, tmp_path))


@pytest.mark.parametrize("bug", [
    "len(None)", "a, b = [1]", "int('one')", "{}['a']", "None.shape", "[].pop()", "1 / 0",
    "list(zip([1], [], strict=True))", "raise_(ValueError('by a library'))",
])  # fmt: skip
def test_what_python_or_a_library_raises_in_the_packages_code_is_a_bug(bug, monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    library = {}
    exec(compile("def raise_(error):\n    raise error", "/lib/library.py", "exec"), library)
    function = of_the_package(f"def function():\n    {bug}\n", monkeypatch, tmp_path)
    function.__globals__.update(raise_=library["raise_"])
    assert line_of(function) is None


def test_an_error_of_the_machine_is_said():
    assert "No such file" in line_of(lambda: open("/nowhere/at/all"))
    assert "nowhere_at_all" in line_of(lambda: __import__("nowhere_at_all"))


def test_what_files_refuse_to_tensorflow_is_said():
    tf = pytest.importorskip("tensorflow")
    assert "nowhere/at/all" in line_of(lambda: tf.io.read_file("/nowhere/at/all"))

    def ends(said):
        raise tf.errors.OutOfRangeError(None, None, said)

    said = "{{function_node __wrapped__SaveV2}} out; File too large [Op:SaveV2] name: "
    assert line_of(lambda: ends(said), "/elsewhere") == "out; File too large"


def test_a_refusal_in_a_function_of_a_pipeline_is_said():
    tf = pytest.importorskip("tensorflow")

    def of(function):
        data = tf.data.Dataset.range(1)
        return data.map(lambda x: tf.numpy_function(function, [x], tf.int64))

    refused = of(lambda x: schedules.check("temperature", -1, low=0))
    assert line_of(lambda: list(refused)).startswith("`temperature` must be")
    assert line_of(lambda: list(of(lambda x: len(None)))) is None


def test_code_without_a_file_is_not_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile("def function():\n    return len(None)\n", "<string>", "exec"), names)
    assert line_of(names["function"], str(tmp_path)) is None


def test_the_users_errors_are_said_with_their_line(tmp_path):
    text = "def function():\n    return len(None)\n"
    file = tmp_path / "experiment.py"
    file.write_text(text)
    names = {}
    exec(compile(text, str(file), "exec"), names)
    assert f"{file}:2: TypeError: " in line_of(names["function"], str(tmp_path))


def test_a_refusal_below_the_users_code_names_the_users_line(tmp_path):
    file = tmp_path / "experiment.py"
    text = "def function(check):\n    check('alpha', 2, low=0, high=1)\n"
    file.write_text(text)
    names = {}
    exec(compile(text, str(file), "exec"), names)
    said = line_of(lambda: names["function"](schedules.check), str(tmp_path))
    assert said.startswith(f"{file}:2: ValueError: `alpha` must be")


def test_an_error_whose_text_fails_is_said(tmp_path):
    file = tmp_path / "experiment.py"
    text = "class Odd(Exception):\n    def __str__(self):\n        return 1\nraise Odd"
    file.write_text(text)
    said = line_of(lambda: exec(compile(text, str(file), "exec"), {}), tmp_path)
    assert "experiment.py:4: Odd: (its text cannot be read)" in said
