"""Files that are whole or not there, and JSON that says which file is damaged."""

import errno
import os
import re

import keras
import pytest
from children import start

from keras_distill import _backend, _files, _messages


@pytest.fixture(params=["local", "ram"])
def folder(request, tmp_path):
    """A folder of each kind of file system."""
    if request.param == "local":
        return str(tmp_path)
    if _backend.NAME != "tensorflow":
        pytest.importorskip("tensorflow")
    path = f"ram://{tmp_path.name}"
    _files.make_folder(path)
    return path


def test_a_file_gets_its_name_when_it_is_whole(folder):
    path = f"{folder}/a.keras"
    with _files.whole(path) as part:
        assert part.endswith("a.keras") and os.path.dirname(part) == folder
        with _files.opened(part, "wb") as file:
            file.write(b"new")
        assert not _files.exists(path)
    assert _files.names_in(folder) == ["a.keras"]
    assert _files.opened(path).read() == b"new" and _files.size_of(path) == 3


def test_what_was_not_finished_is_removed_and_the_old_file_stays(folder):
    path = f"{folder}/a.json"
    _files.write(path, "old")
    with pytest.raises(RuntimeError, match="stopped"), _files.whole(path) as part:
        with _files.opened(part, "wb") as file:
            file.write(b"half")
        raise RuntimeError("stopped")
    assert _files.names_in(folder) == ["a.json"]
    assert _files.opened(path).read() == b"old"


def test_a_full_disk_is_said_with_the_files_name(tmp_path):
    with pytest.raises(OSError, match="No space.*a.json"), _files.whole(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_is_renamed_or_removed_with_all_in_it(tmp_path):
    folder = str(tmp_path)
    for stops in (True, False):
        try:
            with _files.whole(f"{folder}/1") as part:
                _files.make_folder(f"{part}/inside")
                _files.write(f"{part}/inside/a", b"1")
                if stops:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert _files.names_in(folder) == []
    assert _files.opened(f"{folder}/1/inside/a").read() == b"1"


def test_no_two_writers_share_a_name(tmp_path):
    path = tmp_path / "a"
    with _files.whole(path) as one, _files.whole(path) as two:
        assert one != two and f"-{os.getpid()}-" in one
        for part in (one, two):
            with open(part, "w") as file:
                file.write(part)
    assert path.read_text() == one  # the outer block ended last
    assert os.listdir(tmp_path) == ["a"]


WRITER = """
import sys
from keras_distill import _files
for number in range(200):
    _files.write_json(sys.argv[1], {"of": sys.argv[2], "numbers": [number] * 1000})
"""


def test_two_processes_may_write_one_file(tmp_path):
    script, folder = tmp_path / "writer.py", tmp_path / "folder"
    script.write_text(WRITER)
    folder.mkdir()
    writers = [start(script, folder / "a.json", each) for each in "ab"]
    while any(writer.returncode is None for writer in writers):
        found = _files.read_json(folder / "a.json")
        assert found is None or len({*found["numbers"]}) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(folder) == ["a.json"]


def test_json_comes_back(folder):
    path = f"{folder}/a.json"
    assert _files.read_json(path) is None
    _files.write_json(path, {"a": (1, 2), "é": None})
    assert _files.read_json(path, {"a": list}) == {"a": [1, 2], "é": None}
    assert _files.plain({1: (2,)}) == {"1": [2]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff{}", b"\0\0", b"null", b"[]", b"{}",
                                     b'{"rows": "1"}'])  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "a [1].json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged.*Delete it"):
        _files.read_json(path, {"rows": int})


def test_what_differs_is_said_by_its_place():
    before, now = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": None}
    assert _files.differences(before, now) == ["a.b was 1 and is 2 now", "d was 1 and is null now"]
    assert _files.differences(before, before) == []


def test_a_message_is_printed_unless_keras_is_told_not_to(capsys):
    _messages.say("one")
    keras.config.disable_interactive_logging()
    try:
        _messages.say("two")
    finally:
        keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == "one\n"


@pytest.mark.parametrize("name", ["a", "Digits-1.2_b", "1", "é"])
def test_names_that_a_folder_can_have(name):
    assert _files.checked_name("name", name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/a", "a b", "a\\b", "<b>", "_a", None, "a\n"]
)
def test_names_that_it_cannot(name):
    with pytest.raises(ValueError, match="`name` names a folder"):
        _files.checked_name("name", name)
