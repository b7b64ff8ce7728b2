"""The examples whose teacher is a black box: trees, and a model behind ONNX Runtime."""

import json

import numpy as np
import pytest


def results(folder):
    return json.loads((folder / "results.json").read_text())["arms"]


def test_trees_teach_a_network(example, eagerly, tmp_path, capsys):
    trees = example("gradient_boosted_teacher")
    trees.main(["--tiny", f"--out={tmp_path}"])
    found = results(tmp_path)
    assert [*found] == ["trees", "labels", "labels and answers", "answers, more rows"]
    assert all(np.isfinite([*row.values()]).all() for (row,) in found.values())
    assert "| answers, more rows |" in capsys.readouterr().out


def test_a_made_up_table_is_the_same_for_a_seed_and_has_gaps(example):
    table = example("gradient_boosted_teacher").table
    first, again = table(50, 60, 70, seed=3), table(50, 60, 70, seed=3)
    assert {split: len(x) for split, (x, _) in first.items()} == {
        "labelled": 50, "unlabelled": 60, "test": 70
    }  # fmt: skip
    assert first["unlabelled"][1] is None and {*first["test"][1]} == {0, 1}
    for split, (x, _) in first.items():
        np.testing.assert_array_equal(x, again[split][0])
    assert np.isnan(first["test"][0]).any(0).tolist() == [column == 5 for column in range(12)]


def test_a_table_of_the_reader(example, tmp_path):
    trees = example("gradient_boosted_teacher")
    lines = ["size,kind,age", *(f"{i},{'ab'[i % 2]},{i / 2}" for i in range(10)), "7,,", "8,,1"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    splits = trees.from_csv(tmp_path / "a.csv", "kind", seed=0)
    assert [len(splits[split][0]) for split in splits] == [8, 2, 2]
    x, y = (np.concatenate([splits[s][part] for s in ("labelled", "test")]) for part in (0, 1))
    np.testing.assert_array_equal(x[:, 0] % 2, y)  # each row kept its label
    np.testing.assert_array_equal(x[:, 1], x[:, 0] / 2)
    assert sorted(splits["unlabelled"][0][:, 0]) == [7, 8]
    assert np.isnan(splits["unlabelled"][0]).sum() == 1
    with pytest.raises(ValueError, match="a column 'label'.*'size', 'kind', 'age'"):
        trees.from_csv(tmp_path / "a.csv", "label", seed=0)


def test_missing_cells_and_scales_are_the_models_business(example):
    trees = example("gradient_boosted_teacher")
    rows = np.array([[1, 1000], [3, np.nan], [5, 3000]], "float32")
    net = trees.network(rows, 2)
    shown = net.layers[2](net.layers[1](rows)).numpy()
    np.testing.assert_allclose(shown[:, 0], [-1.2247, 0, 1.2247], atol=1e-3)
    np.testing.assert_allclose(shown[:, 1], [-1, 0, 1], atol=1e-3)
    assert shown[:, 2:].tolist() == [[0, 0], [0, 1], [0, 0]]


class Guess:
    """In place of the black box: which byte a file begins with, of four."""

    begin, end, types, size = 8, 8, list("abcd"), 1000

    def probabilities(self, rows):
        shares = np.full((len(rows), 4), 0.1)
        shares[np.arange(len(rows)), rows[:, 0] % 4] = 0.7
        return shares


def test_files_teach_a_network(example, eagerly, tmp_path, capsys):
    types = example("file_types")
    for number in range(40):
        place = tmp_path / "files" / f"folder_{number % 9}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.txt").write_text("abcd"[number % 4] * 20)
    given = types.arguments(["--tiny", "--files=100", f"--out={tmp_path / 'run'}", "--bytes=8"])
    given.files = 100
    types.compare(given, Guess(), [tmp_path / "files"])
    found = results(tmp_path / "run")
    assert [*found] == ["magika", "decisions", "probabilities", "decisions and probabilities"]
    assert found["magika"][0]["agreement"] == 100
    assert found["magika"][0]["divergence"] == pytest.approx(0)
    assert all(np.isfinite([*row.values()]).all() for (row,) in found.values())
    assert "40 files of 4 types" in capsys.readouterr().out


def test_the_bytes_of_a_file(example, tmp_path):
    types = example("file_types")
    assert types.row(b"  abcdef\n", 4, 3).tolist() == [*b"abcd", *b"def"]
    short = types.row(b" ab ", 4, 4).tolist()
    assert short == [*b"ab ", 256, 256, *b" ab"]
    whole = bytes(range(256)) * 64
    (tmp_path / "long").write_bytes(whole)
    (tmp_path / "short.x").write_bytes(whole[:5000])
    assert types.read(tmp_path / "short.x") == whole[:5000]
    assert types.read(tmp_path / "long") == whole[:4096] + whole[-4096:]
    (tmp_path / "empty.x").write_bytes(b"")
    assert types.files([tmp_path], 1) == [tmp_path / "long", tmp_path / "short.x"]
    assert types.files([tmp_path], 0) == []


def test_the_black_box_itself(example):
    pytest.importorskip("magika")
    types = example("file_types")
    magika = types.Magika()
    content = b"import sys\n\n\ndef main():\n    print(sys.argv)\n" * 20
    shares = magika.probabilities(types.row(content, magika.begin, magika.end)[None])
    assert magika.types[shares[0].argmax()] == "python"
    assert shares.sum() == pytest.approx(1, abs=1e-4)
