"""The comparisons of the examples run whole at their smallest, and go on where they were."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

ARMS = {
    "self_distillation": ["each depth alone", "exits, labels only", "exits, self-distilled"],
    "early_exit": ["exit_1, for all", "exit_2, for all", "final, for all", "early exit",
                   "never early"],
    "mutual_learning": ["two peers, alone", "two peers, mutual", "teacher and student, online",
                        "teacher and student, offline"],
    "feature_distillation": ["teacher", "labels", "outputs", "outputs and hint",
                             "outputs and attention", "outputs and similarity"],
    "born_again": ["generation 0", "generation 1", "generation 2", "all generations together",
                   "a fifth of the labels", "and hard answers for the rest",
                   "and soft answers for the rest"],
}  # fmt: skip


@pytest.fixture
def eagerly():
    """Two steps an arm are fewer than tracing costs."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though")
@pytest.mark.parametrize("name", ARMS)
def test_a_tiny_run_that_is_not_run_twice(name, example, eagerly, tmp_path, capsys, monkeypatch):
    module = example(name)
    module.main(["--tiny", f"--out={tmp_path}"])
    first = (tmp_path / "seed_0.json").read_text()
    rows = json.loads(first)["rows"]
    assert [*rows] == ARMS[name]
    assert all(np.isfinite(value) for row in rows.values() for value in row.values())
    assert all(f"| {arm} |" in capsys.readouterr().out for arm in ARMS[name][:1])

    def again(*arguments):
        raise RuntimeError("trained again")

    monkeypatch.setattr(module, "one_seed", again, raising=False)
    monkeypatch.setattr(example("arms"), "trained", again)
    module.main(["--tiny", f"--out={tmp_path}"])
    assert (tmp_path / "seed_0.json").read_text() == first
    with pytest.raises(SystemExit, match="other settings"):
        module.main(["--tiny", f"--out={tmp_path}", "--alpha=0.9"])
    for file in tmp_path.glob("*.keras"):
        assert keras.models.load_model(file).count_params()


def test_an_interrupted_run_goes_on_with_the_next_seed(example, tmp_path):
    arms, done, kills = example("arms"), [], [1]
    given = arms.options("", ["--seeds=3"], out=tmp_path)

    def one_seed(seed):
        if seed in kills:
            kills.remove(seed)
            raise RuntimeError("killed")
        done.append(seed)
        return {"a": {"accuracy": 90.0 + seed}, "b": {"loss": 1.0}}

    with pytest.raises(RuntimeError, match="killed"):
        arms.compared(given, one_seed)
    results = arms.compared(given, one_seed)
    assert done == [0, 1, 2]
    assert arms.table(results).splitlines()[2:] == [
        "| a | 91.00 ± 1.00 | - |",
        "| b | - | 1.00 ± 0.00 |",
    ]


def test_the_limit_is_the_training_images(example):
    arms = example("arms")
    splits, data = arms.images_of(arms.options("", ["--limit=50"], out="."))
    assert [len(splits[split][0]) for split in ("train", "valid", "test")] == [50, 400, 600]
    assert data("train").cardinality() == 1


def test_online_and_offline_cost_the_same(example):
    module, arms = example("mutual_learning"), example("arms")
    given = arms.options("", [], out=".")
    splits, _ = arms.images_of(given)
    costs = module.compute(given, splits)
    assert module.teacher_epochs(given) == 8
    online, offline = (costs[f"teacher and student, {how}"] for how in ("online", "offline"))
    assert online == pytest.approx(offline, rel=1e-9)
    big = module.network((8, 8, 1), module.BIG)
    one = module.models.operations(big, tf.TensorSpec((1, 8, 8, 1)))
    assert online > 12 * 3 * one * 797 / 1e12
