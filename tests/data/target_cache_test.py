"""Targets that are written once and read back for the right examples."""

import json
import os
import re
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from full_disk import full_disk
from keras import layers

from keras_distill import CachedTeacher, Distiller, EnsembleTeacher, ModelTeacher, Term, losses
from keras_distill.batch import Supervision
from keras_distill.data import (
    TargetsOnDisk,
    read_targets,
    records,
    targets_on_disk,
    verify_targets,
    write_targets,
)

N, CLASSES = 50, 7
X = np.random.default_rng(0).normal(size=(N, 6)).astype("float32")
Y = np.arange(N) % CLASSES
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


NAMED = {"teacher": "a function"}


def net(width=8, seed=0, classes=CLASSES):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    hidden = layers.Dense(width, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, layers.Dense(classes, name="head")(hidden))


TEACHER = net(32, seed=1)


def dataset(x=X, y=Y, batch=8):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def written(path, data=None, **arguments):
    arguments = {"dtype": "float32", "verbose": 0, "rows_per_shard": 16, **arguments}
    return write_targets(TEACHER, dataset() if data is None else data, path, **arguments)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "targets"
    written(path, paths=["output", "hidden"])
    return path


def right(data, atol=1e-5):
    """Each example has the target that the teacher gives it; returns how many there were."""
    count = 0
    for x, y in data:
        np.testing.assert_allclose(y.targets["output"], TEACHER(x), atol=atol)
        count += len(x)
    return count


def test_targets_come_back_with_labels(cache):
    read = read_targets(dataset(), cache)
    x, y = next(iter(read))
    assert isinstance(y, Supervision)
    np.testing.assert_array_equal(y.labels, Y[:8])
    np.testing.assert_array_equal(y.targets["output"], TEACHER(X[:8]))
    np.testing.assert_array_equal(y.targets["hidden"], TEACHER.get_layer("hidden")(X[:8]))
    assert y.targets["output"].dtype == "float32"


def test_any_order_subset_and_batch_size(cache):
    whole = tf.data.Dataset.from_tensor_slices((X, Y))
    data = whole.shuffle(N, seed=3).filter(lambda x, y: y < 5).repeat(3).batch(5)
    assert right(read_targets(data, cache)) == 3 * int((Y < 5).sum())


def test_sample_weights_and_bare_inputs_pass(cache):
    weighted = tf.data.Dataset.from_tensor_slices((X, Y, np.ones(N))).batch(8)
    x, y, sample_weight = next(iter(read_targets(weighted, cache)))
    assert sample_weight.shape == (8,)
    bare = tf.data.Dataset.from_tensor_slices(X).batch(8)
    x, y = next(iter(read_targets(bare, cache)))
    assert y.labels is None and y.targets["output"].shape == (8, CLASSES)


@pytest.mark.parametrize("terms", [
    [("output", "output", losses.KLDivergence(2.0))],
    [("output", "output", "mse"), ("hidden", "hidden", "mse")],
    [("hidden", "hidden", losses.SimilarityPreserving())],
])  # fmt: skip
def test_training_equals_the_live_teachers_bit_for_bit(cache, terms):
    def trained(teacher, data):
        made = [Term(loss, student=s, teacher=t, name=f"term{i}",
                     projector="auto" if (s, loss) == ("hidden", "mse") else None)
                for i, (s, t, loss) in enumerate(terms)]  # fmt: skip
        student = net(8, seed=2)
        distiller = Distiller(student, teacher=teacher, terms=made)
        distiller.compile(keras.optimizers.SGD(0.1), CE)
        keras.utils.set_random_seed(0)
        logs = distiller.fit(data, epochs=2, verbose=0, shuffle=False).history
        return logs, student.get_weights()

    live = trained(TEACHER, dataset())
    cached = trained(CachedTeacher(), read_targets(dataset(), cache, teacher=TEACHER))
    assert live[0] == cached[0]
    for one, other in zip(live[1], cached[1]):
        np.testing.assert_array_equal(one, other)


def test_float16_is_close(tmp_path):
    written(tmp_path, dtype="float16")
    assert right(read_targets(dataset(), tmp_path), atol=5e-3) == N


def test_a_record_is_what_tensorflow_writes():
    keys, views = [0, 127, 128, -1], [2**63 - 1, -(2**63), 1, -300]
    data = {"output": np.arange(4 * 200, dtype="uint8").reshape(4, 200),
            "empty": np.zeros((4, 0), "uint8")}  # fmt: skip
    written = [row.tobytes() for row in records.serialize(keys, views, data)]
    for at, record in enumerate(written):
        found = tf.train.Example.FromString(record).features.feature
        assert {*found} == {"output", "empty", "//key", "//input"}
        assert all(found[name].bytes_list.value == [data[name][at].tobytes()] for name in data)
        assert [found[name].int64_list.value for name in ("//key", "//input")] == [
            [keys[at]], [views[at]]]  # fmt: skip
    spec = {"//key": tf.io.FixedLenFeature([], tf.int64)}
    np.testing.assert_array_equal(tf.io.parse_example(written, spec)["//key"], keys)


def test_more_shards_than_files_that_may_be_open(cache, monkeypatch):
    monkeypatch.setattr(targets_on_disk, "_open_files", lambda: 2)
    opened = TargetsOnDisk(cache)
    assert len(opened.shards) > 2
    assert right(read_targets(dataset().unbatch().shuffle(N).batch(8), opened)) == N
    assert opened._shard.cache_info().currsize == 2


def test_shards_of_another_machine_are_copied_once(cache, monkeypatch):
    copied = []
    copy = tf.io.gfile.copy
    monkeypatch.setattr(targets_on_disk, "_open_files", lambda: 2)
    monkeypatch.setattr(tf.io.gfile, "copy", lambda *a, **k: (copied.append(a[0]), copy(*a, **k)))
    opened = TargetsOnDisk(cache)
    monkeypatch.setattr(targets_on_disk.os.path, "exists", lambda path: False)
    for _ in range(2):
        opened.verify()
    assert len(copied) == len({*copied}) == len(opened.shards) > 2


def test_one_temporary_folder_is_made_however_many_threads_read(cache, monkeypatch):
    made = []

    def slowly(prefix):
        made.append(prefix)
        time.sleep(0.1)
        return str(cache.parent)

    opened = TargetsOnDisk(cache)
    monkeypatch.setattr(targets_on_disk.tempfile, "mkdtemp", slowly)
    monkeypatch.setattr(targets_on_disk.weakref, "finalize", lambda *a, **k: None)
    with ThreadPoolExecutor() as pool:
        for shard in opened.shards[:3]:
            pool.submit(opened._copied, str(cache / shard["name"]), shard["name"])
    assert len(made) == 1


def test_a_file_system_of_another_kind():
    path = "ram://somewhere/targets"
    cache = written(path)
    assert right(read_targets(dataset(), path, teacher=TEACHER)) == N
    cache.verify()
    tf.io.gfile.remove(f"{path}/{cache.shards[1]['name']}")
    assert written(path).rows == N
    assert right(read_targets(dataset().unbatch().shuffle(N).batch(8), path)) == N


def test_sample_of_a_key_column(tmp_path):
    x = {"features": X, "id": [f"row {i}" for i in range(N)]}

    def teacher(x):
        assert set(x) == {"features"}
        return TEACHER(x["features"])

    data = tf.data.Dataset.from_tensor_slices((x, Y)).batch(8)
    write_targets(teacher, data, tmp_path, key="id", dtype="float32", verbose=0, fingerprints=NAMED)
    for x, y in read_targets(data.unbatch().shuffle(N).batch(3), tmp_path):
        assert set(x) == {"features"}
        np.testing.assert_allclose(y.targets["output"], TEACHER(x["features"]), atol=1e-5)
    other = tf.data.Dataset.from_tensor_slices(({"features": X + 1, "id": data_ids()}, Y)).batch(8)
    with pytest.raises(tf.errors.OpError, match="differs from the one whose"):
        list(read_targets(other, tmp_path))


def data_ids():
    return [f"row {i}" for i in range(N)]


def test_one_key_for_two_inputs_is_refused(tmp_path):
    data = tf.data.Dataset.from_tensor_slices(({"x": X, "id": Y}, Y)).batch(8)
    with pytest.raises(ValueError, match="Two different inputs"):
        write_targets(lambda x: TEACHER(x["x"]), data, tmp_path, key="id", verbose=0,
                      fingerprints=NAMED)  # fmt: skip


def test_unknown_examples_are_refused(cache):
    with pytest.raises(tf.errors.OpError, match="no targets for 8 of 8.*random augmentation"):
        list(read_targets(dataset(X + 1), cache))


def test_examples_that_occur_twice_are_kept_once(tmp_path):
    twice = dataset(np.concatenate([X, X[:20]]), np.concatenate([Y, Y[:20]]))
    assert written(tmp_path, twice).rows == N
    assert right(read_targets(dataset(), tmp_path)) == N


def augment(x, seed):
    return x + tf.random.stateless_normal(tf.shape(x), seed)


def test_views_are_the_same_for_teacher_and_student(tmp_path):
    named = {"augment": "normal noise, version 1"}
    cache = written(tmp_path, views=3, augment=augment, fingerprints=named)
    assert cache.rows == 3 * N
    data = read_targets(dataset(), tmp_path, augment=augment, seed=5, fingerprints=named)
    first, second = (np.concatenate([x for x, _ in data]) for _ in range(2))
    assert right(data) == N
    assert (first != second).any(axis=1).mean() == pytest.approx(2 / 3, abs=0.25)
    assert np.abs(first - X).max() > 1
    with pytest.raises(ValueError, match="augment"):
        read_targets(dataset(), tmp_path)
    with pytest.raises(ValueError, match="a `function`, which cannot be fingerprinted"):
        read_targets(dataset(), tmp_path, augment=augment)
    with pytest.raises(ValueError, match='augment was "normal noise, version 1" and is "none" now'):
        read_targets(dataset(), tmp_path, augment=augment, fingerprints={"augment": "none"})


# Refusals


def test_another_teacher_is_refused_and_named(cache, tmp_path):
    read_targets(dataset(), cache, teacher=ModelTeacher(TEACHER))
    with pytest.raises(ValueError, match="teacher.model.weights"):
        read_targets(dataset(), cache, teacher=net(32, seed=2))
    halved = ModelTeacher(TEACHER, preprocess=layers.Rescaling(0.5))
    with pytest.raises(ValueError, match="teacher.preprocess was null and"):
        read_targets(dataset(), cache, teacher=halved)
    named, halved = {"teacher.preprocess": "x / 2"}, ModelTeacher(TEACHER, preprocess=lambda x: x)
    with pytest.raises(ValueError, match='teacher.preprocess was null and is "x / 2" now'):
        read_targets(dataset(), cache, teacher=halved, fingerprints=named)
    with pytest.raises(ValueError, match="other settings.*teacher"):
        write_targets(net(32, seed=2), dataset(), cache, paths=["output", "hidden"],
                      dtype="float32", verbose=0)  # fmt: skip
    with pytest.raises(ValueError, match="other settings.*paths"):
        written(cache)


def test_a_name_stands_for_what_has_no_fingerprint(tmp_path):
    def box(x):
        return TEACHER(x)

    with pytest.raises(ValueError, match="`teacher.model` is a `function`.*`fingerprints="):
        write_targets(box, dataset(), tmp_path, verbose=0)
    told = {"teacher": "box 1"}
    write_targets(box, dataset(), tmp_path, fingerprints=told, dtype="float32", verbose=0)
    assert right(read_targets(dataset(), tmp_path, teacher=box, fingerprints=told)) == N
    assert verify_targets(box, dataset(), tmp_path, fingerprints=told)["output"]["rows"] == N
    with pytest.raises(ValueError, match='was "box 1" and is "box 2" now'):
        read_targets(dataset(), tmp_path, teacher=box, fingerprints={"teacher": "box 2"})


def test_the_weights_of_a_teacher_count_though_its_preprocessing_has_a_name(tmp_path):
    def teacher(model):
        return ModelTeacher(model, preprocess=lambda x: x / 2)

    named = {"teacher.preprocess": "halved, version 1"}
    write_targets(teacher(TEACHER), dataset(), tmp_path, verbose=0, fingerprints=named)
    read_targets(dataset(), tmp_path, teacher=teacher(TEACHER), fingerprints=named)
    with pytest.raises(ValueError, match="fingerprints.teacher.model.weights"):
        read_targets(dataset(), tmp_path, teacher=teacher(net(32, seed=2)), fingerprints=named)


def test_other_versions_are_said_where_the_teacher_is_there(cache, monkeypatch):
    monkeypatch.setattr(tf, "__version__", "1.2.3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_targets(dataset(), cache)
    with pytest.warns(UserWarning, match='tensorflow was .* and is "1.2.3" now') as said:
        assert right(read_targets(dataset(), cache, teacher=TEACHER)) == N
    assert len([each for each in said if "other versions" in str(each.message)]) == 1


def test_other_preprocessing_and_inputs_are_refused(tmp_path):
    written(tmp_path, fingerprints={"tokenizer": "v1"})
    read_targets(dataset(), tmp_path, fingerprints={"tokenizer": "v1"})
    with pytest.raises(ValueError, match='fingerprints.tokenizer was "v1" and is "v2" now'):
        read_targets(dataset(), tmp_path, fingerprints={"tokenizer": "v2"})
    with pytest.raises(ValueError, match="inputs"):
        read_targets(dataset(X.astype("float64")), tmp_path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": "uint8"}, "with `top_k`"),
        ({"top_k": 7}, "from 1 to 6"),
        ({"top_k": 0}, "from 1 to 6"),
        ({"temperature": 0, "top_k": 2}, "positive"),
        ({"shard": "2/2"}, "i/n"),
        ({"views": 2}, "augment"),
        ({"paths": []}, "paths"),
        ({"paths": ["nowhere"]}, "nowhere.*hidden"),
        ({"data": dataset().repeat()}, "without end"),
        ({"data": dataset(X[:0], Y[:0])}, "empty"),
        ({"data": dataset(X * 1e6), "dtype": "float16"}, "which float16 cannot hold"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path / "cache", **arguments)
    assert not list(tmp_path.rglob("*.tfrecord"))


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`output` contains NaN"):
        write_targets(lambda x: x * np.nan, dataset(), tmp_path, verbose=0, fingerprints=NAMED)


def test_probabilities_are_refused_for_top_k_and_a_softmax_keeps_its_logits(tmp_path):
    head = layers.Dense(CLASSES, activation="softmax")
    soft = keras.Sequential([keras.Input((6,)), head])
    write_targets(soft, dataset(), tmp_path, dtype="float32", verbose=0)
    _, y = next(iter(read_targets(dataset(), tmp_path)))
    np.testing.assert_allclose(y.targets["output"], X[:8] @ head.kernel + head.bias, atol=1e-5)
    with pytest.raises(ValueError, match="gives probabilities"):
        write_targets(lambda x: tf.nn.softmax(x), dataset(), tmp_path / "b", top_k=2, verbose=0,
                      fingerprints=NAMED)  # fmt: skip


# Damage


@pytest.fixture
def damaged(tmp_path):
    written(tmp_path)
    return tmp_path, sorted(tmp_path.glob("*.tfrecord"))


def test_a_truncated_shard_is_named(damaged):
    path, files = damaged
    files[1].write_bytes(files[1].read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{files[1].name}.*truncated"):
        TargetsOnDisk(path)
    assert written(path).rows == N  # writes that shard again, and it alone
    assert right(read_targets(dataset(), path)) == N


def test_truncated_shards_leave_nothing_behind_however_large_the_new_ones_are(damaged):
    path, files = damaged
    for file in files[:3]:
        file.write_bytes(file.read_bytes()[:-5])
    assert written(path, rows_per_shard=1000).rows == N
    assert right(read_targets(dataset(), path)) == N


@pytest.mark.parametrize("name", ["header.json", "part-0-of-1.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff{}", "cut", "zeros"])
def test_a_damaged_description_is_named(damaged, name, content):
    file = damaged[0] / name
    whole = file.read_bytes()
    cut = {"cut": whole[: len(whole) // 2], "zeros": bytes(len(whole))}
    file.write_bytes(cut.get(content, content))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        TargetsOnDisk(damaged[0])


def test_any_byte_of_a_description_may_be_damaged(damaged):
    """Whatever byte is another one, the error names the file, or what it describes."""
    path, _ = damaged
    draw = np.random.default_rng(0)
    for name in ["header.json", "part-0-of-1.json"] * 20:
        whole = (path / name).read_bytes()
        changed = bytearray(whole)
        at = draw.integers(len(whole))
        changed[at] = (changed[at] + draw.integers(1, 256)) % 256
        (path / name).write_bytes(changed)
        try:
            TargetsOnDisk(path)
        except (FileNotFoundError, ValueError) as error:
            assert re.search("header.json|part-0|targets-|format", str(error)), error
        (path / name).write_bytes(whole)


@pytest.mark.parametrize("rows", [10**15, 10**30])
def test_no_memory_is_taken_for_rows_that_are_not_there(damaged, rows):
    path, files = damaged
    part = path / "part-0-of-1.json"
    whole, described = part.read_bytes(), json.loads(part.read_text())
    described["shards"][0]["rows"] = rows
    part.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="00000.index is damaged. It is cut off"):
        TargetsOnDisk(path)
    part.write_bytes(whole)
    index = files[0].with_suffix(".index")
    head, _, rest = index.read_bytes().partition(b"\n")
    index.write_bytes(json.dumps({**json.loads(head), "rows": rows}).encode() + b"\n" + rest)
    assert written(path).rows == N  # writes that shard again
    assert right(read_targets(dataset(), path)) == N


def test_a_shard_that_is_listed_twice_is_refused(damaged):
    part = damaged[0] / "part-0-of-1.json"
    described = json.loads(part.read_text())
    described["shards"].append(described["shards"][0])
    part.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="lists the shards targets-0-of-1-00000.tfrecord twice"):
        TargetsOnDisk(damaged[0])


@pytest.mark.parametrize("name", ["cache", "shards"])
def test_what_a_part_lacks_is_said(damaged, name):
    part = damaged[0] / "part-0-of-1.json"
    described = json.loads(part.read_text())
    del described[name]
    part.write_text(json.dumps(described))
    with pytest.raises(ValueError, match=f"part-0-of-1.json is damaged. It has no valid {name}"):
        TargetsOnDisk(damaged[0])


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 20_000])
@pytest.mark.parametrize("name", ["header.json", "part-0-of-1.json", "targets-0-of-1-00000.index"])
def test_brackets_without_end_are_damage(damaged, name, content):
    (damaged[0] / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged. It is not valid JSON"):
        TargetsOnDisk(damaged[0])


@pytest.mark.parametrize("at", [0, 9, -1])
def test_what_stands_around_records_is_verified(damaged, at):
    path, files = damaged
    content = bytearray(files[1].read_bytes())
    content[at] ^= 1
    files[1].write_bytes(content)
    assert right(read_targets(dataset(), path)) == N
    with pytest.raises(ValueError, match=f"{files[1].name}.*damaged. The bytes around"):
        TargetsOnDisk(path).verify()


def test_a_full_disk_costs_the_shard_that_was_being_written(tmp_path):
    arguments = {"paths": ["output", "hidden"], "rows_per_shard": N}
    with full_disk(5000), pytest.raises((OSError, tf.errors.OpError), match="targets-0-of-1-00000"):
        written(tmp_path, **arguments)
    assert written(tmp_path, **arguments).rows == N
    assert right(read_targets(dataset(), tmp_path)) == N


def test_a_shard_that_is_cut_off_while_it_is_read_is_an_error(damaged):
    path, files = damaged
    opened = TargetsOnDisk(path)
    opened.verify()
    os.truncate(files[0], 0)
    with pytest.raises(ValueError, match=f"{files[0].name}.*damaged"):
        opened.verify()


@pytest.mark.parametrize("content", [None, b"", b"[]\n", b"{}\n", b'{"rows": 16}\nxx', "cut"])
def test_a_shard_without_its_index_is_written_again(damaged, content):
    path, files = damaged
    index = files[1].with_suffix(".index")
    if content is None:
        index.unlink()
    else:
        index.write_bytes(index.read_bytes()[:-3] if content == "cut" else content)
        with pytest.raises(ValueError, match=f"{index.name} is damaged"):
            TargetsOnDisk(path)
    assert written(path).rows == N
    assert right(read_targets(dataset(), path)) == N


def test_names_of_folders_are_no_patterns_and_are_left_alone(tmp_path):
    path = tmp_path / "a.tfrecord[1]"
    written(path)
    files = sorted(path.glob("*.tfrecord"))
    before = files[0].stat().st_mtime_ns
    files[1].unlink()
    assert written(path).rows == N
    assert files[0].stat().st_mtime_ns == before  # it went on
    assert right(read_targets(dataset(), path)) == N


def test_a_missing_shard_is_named(damaged):
    path, files = damaged
    files[2].unlink()
    with pytest.raises(FileNotFoundError, match=files[2].name):
        TargetsOnDisk(path)
    assert written(path).rows == N


def test_foreign_and_damaged_shards_are_named(damaged, tmp_path_factory):
    path, files = damaged
    stranger = path / "targets-9-of-9-00000.tfrecord"
    stranger.write_bytes(b"")
    with pytest.raises(ValueError, match=f"shards of another cache.*{stranger.name}"):
        TargetsOnDisk(path)
    stranger.unlink()
    other = tmp_path_factory.mktemp("other")
    written(other, dataset(X + 1))
    files[0].write_bytes((other / files[0].name).read_bytes())
    with pytest.raises(ValueError, match=f"{files[0].name}.*another cache"):
        TargetsOnDisk(path).verify()


def test_a_damaged_record_is_named(damaged):
    path, files = damaged
    content = bytearray(files[3].read_bytes())
    content[20] ^= 1
    files[3].write_bytes(content)
    with pytest.raises(ValueError, match=f"{files[3].name}.*damaged"):
        TargetsOnDisk(path).verify()
    with pytest.raises(tf.errors.OpError, match=f"{files[3].name}.*damaged"):
        list(read_targets(dataset(), path))


def test_an_unfinished_cache_is_refused(damaged):
    path, _ = damaged
    (path / "part-0-of-1.json").unlink()
    with pytest.raises(FileNotFoundError, match="is incomplete. Part 0 of 1"):
        read_targets(dataset(), path)
    with pytest.raises(FileNotFoundError, match="holds no cache"):
        read_targets(dataset(), path / "nowhere")


# Resuming and parts


def test_parts_make_one_cache(tmp_path):
    assert written(tmp_path, shard="0/3") is None
    assert written(tmp_path, shard="2/3") is None
    with pytest.raises(FileNotFoundError, match="Part 1 of 3"):
        TargetsOnDisk(tmp_path)
    assert written(tmp_path, shard="1/3").rows == N
    assert right(read_targets(dataset(), tmp_path)) == N


def empty_but(full):
    def part(i, n):
        return dataset(X if i == full else X[:0], Y if i == full else Y[:0])

    return part


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_a_part_may_be_empty(tmp_path, order):
    found = [written(tmp_path, empty_but(1), shard=f"{part}/3") for part in order]
    assert found[:2] == [None, None] and found[2].rows == N
    assert right(read_targets(dataset(), tmp_path)) == N
    assert written(tmp_path, empty_but(1), shard="0/3").rows == N


def test_not_all_parts_may_be_empty(tmp_path):
    assert written(tmp_path, empty_but(None), shard="0/2") is None
    with pytest.raises(ValueError, match="empty in all parts"):
        written(tmp_path, empty_but(None), shard="1/2")
    with pytest.raises(ValueError, match="empty"):
        written(tmp_path / "whole", empty_but(None))
    with pytest.raises(ValueError, match="empty"):
        written(tmp_path / "part", dataset(X[:0], Y[:0]), shard="0/2")


@pytest.mark.parametrize("arguments", [{}, {"top_k": 3}, {"top_k": 3, "dtype": "uint8"}])
def test_what_it_will_take_is_said_with_all_that_a_row_takes(tmp_path, capsys, arguments):
    cache = written(tmp_path, rows_per_shard=1000, verbose=1, **arguments)
    said = re.search(r"At most ([\d,]+) rows of ([\d,]+) bytes", capsys.readouterr().out)
    rows, a_row = (int(number.replace(",", "")) for number in said.groups())
    files = [file.stat().st_size for file in tmp_path.glob("targets-*")]
    head = len((tmp_path / "targets-0-of-1-00000.index").open("rb").readline())
    assert rows == 7 * 8 and a_row * cache.rows == sum(files) - head


def test_top_k_of_a_member_of_an_ensemble(tmp_path):
    ensemble = EnsembleTeacher({"big": TEACHER, "small": net(8, seed=3)})
    paths = ["output", "big/output", "big/hidden"]
    cache = write_targets(ensemble, dataset(), tmp_path, paths=paths, top_k=3, verbose=0)
    assert {path: form.kind for path, form in cache.forms.items()} == {
        "output": "top_k", "big/output": "top_k", "big/hidden": "whole"}  # fmt: skip
