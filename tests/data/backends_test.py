"""Caches and answers on whatever backend runs: also `KERAS_BACKEND=jax` or `torch`."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_distill import Distiller, EnsembleTeacher
from keras_distill.data import (
    OnPolicy,
    completion_only,
    generate,
    read_targets,
    verify_targets,
    write_targets,
)

X = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")


def net(seed, **head):
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(5, "tanh", name="hidden")
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(9, **head)])


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture
def data():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(X).batch(8)


def test_whole_targets_are_what_the_teacher_says(tmp_path, data):
    teacher = net(1)
    write_targets(teacher, data, tmp_path, paths=["output", "hidden"], dtype="float32", verbose=0)
    found = [y.targets for _, y in read_targets(data, tmp_path, teacher=teacher)]
    for path, expected in (("output", teacher(X)), ("hidden", teacher.layers[0](X))):
        served = np.concatenate([targets[path] for targets in found])
        np.testing.assert_allclose(served, array(expected), atol=1e-5)
    measured = verify_targets(teacher, data, tmp_path)
    assert measured["output"]["rows"] == 20 and measured["output"]["largest_error"] < 1e-5
    with pytest.raises(ValueError, match="teacher.model.weights"):
        read_targets(data, tmp_path, teacher=net(2))


def test_the_likeliest_classes_and_the_mass_of_the_rest(tmp_path, data):
    teacher = net(1)
    write_targets(teacher, data, tmp_path, top_k=3, temperature=2.0, dtype="float32", verbose=0)
    logits = array(teacher(X)).astype("float64") / 2
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    at = 0
    for _, y in read_targets(data, tmp_path):
        top = y.targets["output"]
        for ids, log_probs, tail in zip(top.ids, top.log_probs, top.log_tail):
            order = np.argsort(-probs[at])[:3]
            assert {*np.asarray(ids)} == {*order}
            np.testing.assert_allclose(np.exp(log_probs), probs[at][np.asarray(ids)], rtol=1e-4)
            assert np.exp(tail) == pytest.approx(1 - probs[at][order].sum(), rel=1e-4)
            at += 1
    assert at == 20
    assert abs(verify_targets(teacher, data, tmp_path)["output"]["divergence"]) < 1e-6


def test_a_softmax_keeps_its_logits_and_an_ensemble_its_members(tmp_path, data):
    soft = net(1, activation="softmax")
    write_targets(soft, data, tmp_path / "soft", dtype="float32", verbose=0)
    _, y = next(iter(read_targets(data, tmp_path / "soft")))
    hidden = array(soft.layers[0](X[:8]))
    kernel, bias = soft.layers[1].get_weights()
    np.testing.assert_allclose(y.targets["output"], hidden @ kernel + bias, atol=1e-5)
    both = EnsembleTeacher({"a": net(1), "b": net(2)})
    cache = write_targets(both, data, tmp_path / "both", paths=["a/output", "b/output"], verbose=0)
    assert {*cache.forms} == {"a/output", "b/output"}


def language_model(seed):
    hub = pytest.importorskip("keras_hub")
    words = [*"abcde", "Ġ", "ab", "Ġa", "f", "<|endoftext|>"]
    words = {token: at for at, token in enumerate(words)}
    tokenizer = hub.tokenizers.GPT2Tokenizer(words, ["a b", "Ġ a"])
    backbone = hub.models.GPT2Backbone(
        10, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8, dropout=0.0,
        max_sequence_length=8,
    )  # fmt: skip
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8)
    task = hub.models.GPT2CausalLM(backbone, preprocessor)
    draw = np.random.default_rng(seed)
    for weight in task.weights:
        weight.assign(draw.normal(size=weight.shape))
    return task


def greedy(task, prompt):
    """The likeliest tokens by a plain loop, without a cache of keys and values."""
    ids = [9, *(int(token) for token in np.asarray(task.preprocessor.tokenizer(prompt)))]
    start = len(ids)
    while len(ids) < 8 and 9 not in ids[start:]:
        x = {"token_ids": np.array([ids]), "padding_mask": np.ones((1, len(ids)), bool)}
        ids.append(int(np.argmax(array(task(x))[0, -1])))
    return ids[start:]


def test_answers_are_those_of_a_plain_loop(tmp_path):
    task, prompts = language_model(0), ["ab", "c", "a b"]
    kept = task.sampler, task.generate_function
    said = generate(task, prompts, tmp_path / "a.jsonl", batch_size=2, verbose=0)
    assert (task.sampler, task.generate_function) == kept
    tokens = [greedy(task, prompt) for prompt in prompts]
    assert said["finished"] == [9 in ids for ids in tokens]
    x, y, weight = completion_only(task, prompts, said["answer"], said["finished"])
    for row, expected in zip(range(3), tokens):
        assert y[row][weight[row]].tolist() == expected[: weight[row].sum()]


def test_samples_follow_the_weights_and_the_seed(tmp_path):
    task, settings = language_model(0), {"temperature": 1.0, "verbose": 0}
    one, again, other = (
        generate(task, ["ab"] * 8, tmp_path / name, seed=seed, **settings)["answer"]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == again != other
    before, after = (OnPolicy(task, ["ab", "c"], share=1, batch_size=2, temperature=0)[0][0]
                     for task in (language_model(0), language_model(3)))  # fmt: skip
    assert (before["token_ids"] != after["token_ids"]).any()


def test_a_student_learns_from_what_it_says_while_it_learns():
    student, teacher, seen = language_model(0), language_model(3), []

    class Watched(OnPolicy):
        def __getitem__(self, index):
            batch = super().__getitem__(index)
            seen.append((index, np.asarray(batch[0]["token_ids"])))
            return batch

    batches = Watched(student, ["ab", "c", "a b", "b"], share=1, batch_size=2, temperature=0)
    distiller = Distiller(student, teacher=teacher, alpha=1.0)
    distiller.compile(keras.optimizers.Adam(0.01))
    before = [np.asarray(array(weight)) for weight in student.weights]
    logs = distiller.fit(batches, epochs=3, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["loss"][-1] < logs["loss"][0]
    assert any((array(w) != old).any() for w, old in zip(student.weights, before, strict=True))
    assert {index for index, _ in seen} == {0, 1}


WITHOUT_TENSORFLOW = """
import sys
import keras
sys.modules["tensorflow"] = None  # importing it fails from here on
from keras_distill import data
print(sorted(data.__all__) == dir(data), data.without_autotune(3))
data.generate, data.OnPolicy, data.completion_only
for name in ("write_targets", "read_targets", "verify_targets", "TargetsOnDisk"):
    try:
        getattr(data, name)
    except ImportError as error:
        print(error)
"""


def test_without_tensorflow_a_cache_is_refused_in_one_line():
    root = pathlib.Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path}, timeout=120,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    first, *refusals = child.stdout.splitlines()
    assert first == "True 3" and len(refusals) == 4
    assert all("needs TensorFlow" in line and "pip install" in line for line in refusals)
