"""What `setup.py` puts into the wheel: every folder of the package, its data and its metadata."""

import pathlib
import runpy

import pytest
import setuptools

import keras_distill

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_distill"


@pytest.fixture(scope="module")
def given():
    """The arguments that `setup.py` gives to setuptools."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_every_folder_is_a_package_of_the_wheel(given):
    folders = {file.parent.relative_to(ROOT) for file in PACKAGE.rglob("*.py")}
    assert {*given["packages"]} == {".".join(folder.parts) for folder in folders}


def test_every_other_file_is_in_the_wheel(given):
    files = {file for file in PACKAGE.rglob("*") if file.is_file()}
    others = {file for file in files if file.suffix != ".py" and "__pycache__" not in file.parts}
    told = {PACKAGE.parent.joinpath(*package.split("."), name)
            for package, names in given["package_data"].items() for name in names}  # fmt: skip
    assert others == told and PACKAGE / "py.typed" in told


def test_the_metadata_say_what_it_is(given):
    assert given["version"] == keras_distill.__version__
    assert given["long_description"].startswith("# keras_distill") and "keras" in given["keywords"]
    scripts = given["entry_points"]["console_scripts"]
    assert scripts == ["keras-distill = keras_distill.cli.main:main"]
