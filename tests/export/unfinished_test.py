"""What a killed export leaves is removed by the next one; what a live one writes stays."""

import os

import pytest
from full_disk import full_disk

from keras_distill.export import unfinished


def test_a_folder_goes_with_its_block(tmp_path):
    with unfinished.folder_in(tmp_path) as folder:
        assert os.path.dirname(folder) == str(tmp_path)
        assert os.path.basename(folder).startswith(".")
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    left = tmp_path / ".tmp_killed"
    (left / "half").mkdir(parents=True)
    (left / unfinished.LOCK).touch()  # free: the system frees it when the process ends
    with unfinished.folder_in(tmp_path) as alive:
        open(f"{alive}/half", "w").close()
        with unfinished.folder_in(tmp_path):
            assert os.path.exists(f"{alive}/half") and not left.exists()
    assert not os.listdir(tmp_path)


def test_a_folder_without_a_lock_is_removed_if_it_is_empty(tmp_path):
    """A process may be killed before it locks; a folder of another kind is not touched."""
    (tmp_path / ".tmp_killed").mkdir()
    (tmp_path / ".tmp_of_others").mkdir()
    (tmp_path / ".tmp_of_others/theirs").touch()
    (tmp_path / ".tmp_file").touch()
    with unfinished.folder_in(tmp_path):
        pass
    assert {*os.listdir(tmp_path)} == {".tmp_of_others", ".tmp_file"}


def test_a_folder_that_was_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    made, make = [], unfinished.tempfile.mkdtemp

    def removed_at_once(**arguments):
        made.append(make(**arguments))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(unfinished.tempfile, "mkdtemp", removed_at_once)
    with unfinished.folder_in(tmp_path) as folder:
        assert folder == made[1]


def test_a_full_disk_is_said_with_the_folders_name(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)), unfinished.folder_in(tmp_path) as folder:
        with full_disk(), open(f"{folder}/half", "wb") as file:
            file.write(bytes(4096))
    assert not os.listdir(tmp_path)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished._files, "locked", lambda file: False)
    (tmp_path / ".tmp_of_whom").mkdir()
    (tmp_path / ".tmp_of_whom" / unfinished.LOCK).touch()
    with unfinished.folder_in(tmp_path) as folder:
        assert os.path.isdir(folder)
    assert os.listdir(tmp_path) == [".tmp_of_whom"]
