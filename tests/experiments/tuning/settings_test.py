"""Which settings are tried, and what each makes of an experiment."""

import pytest
from tuned_experiment import FILE

from keras_distill import losses
from keras_distill.experiments.tuning import chosen, combinations
from keras_distill.experiments.tuning.settings import alone, known_recipes, shown


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(FILE)
    return path


def test_every_combination_once_and_a_temperature_only_where_one_is_taken():
    found = combinations({"recipe": ["hinton", "mlkd"], "temperature": [1, 2]})
    assert found == [
        {"recipe": "hinton", "temperature": 1},
        {"recipe": "hinton", "temperature": 2},
        {"recipe": "mlkd"},
    ]
    sweep = {"alpha": [0.1, 0.2, 0.3, 0.4], "units": [2, 3]}
    drawn = combinations(sweep, trials=3, seed=1)
    assert len(drawn) == 3 and drawn == combinations(sweep, trials=3, seed=1)
    assert any(combinations(sweep, trials=3, seed=s) != drawn for s in range(2, 6))
    assert alone({"recipe": "dist", "alpha": 0.5, "units": 2}) == {"units": 2}
    assert shown({"recipe": "dist", "alpha": 0.5}) == "dist, alpha 0.5"
    assert shown({"units": 2}, taught=False) == "alone, units 2"


def test_what_is_no_recipe_with_a_frozen_teacher_is_not_swept():
    found = known_recipes()
    assert {"hinton", "fitnets", "minilm"} <= {*found}
    assert not {"match_layers", "mutual", "online", "crd"} & {*found}
    with pytest.raises(ValueError, match="must be one of.*hinton.*Received: match_layers"):
        combinations({"recipe": ["match_layers"]})


def test_a_setting_becomes_an_experiment(file):
    experiment = chosen(file, {"recipe": "hinton", "temperature": 4.0, "weight": 0.5, "alpha": 0.9})
    (term,) = experiment.terms(None, None)
    assert isinstance(term.loss, losses.KLDivergence) and term.loss.temperature == 4.0
    assert (term.weight, experiment.alpha, experiment.epochs) == (0.5, 0.9, 4)
    assert len(chosen(file, {"units": 5, "epochs": 2}).student().get_weights()[1]) == 5
    assert chosen(file, {"epochs": 2}).epochs == 2
    assert chosen(file, {"epochs": 2}, epochs=7).epochs == 7  # what is given goes before
    for _ in range(2):  # the terms are the experiment's own, made anew each time
        (term,) = chosen(file, {"weight": 2.0}).terms(None, None)
        assert term.weight == 6.0


def test_what_cannot_be_swept_is_refused(file):
    for sweep, said in (
        ({"teacher_epochs": [1]}, "share the teacher"),
        ({"data": ["a"]}, "cannot be swept"),
        ({"alpha": []}, "needs a list of values"),
        ({"recipe": ["crd"]}, "must be one of.*hinton.*Received: crd"),
        ({"recipe": ["nonsense"]}, "must be one of"),
    ):
        with pytest.raises(ValueError, match=said):
            combinations(sweep)
    with pytest.raises(ValueError, match="at least 1. Received: trials=0"):
        combinations({"alpha": [0.1, 0.2]}, trials=0)
    for setting, said in (
        ({"depth": 2}, "no option `depth`. It has: units, epochs, seeds"),
        ({"alpha": 2.0}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"weight": -1.0}, "`weight` must be positive"),
    ):
        with pytest.raises(ValueError, match=said):
            chosen(file, setting)


def test_a_weight_counts_once_however_often_the_terms_are_made(file):
    experiment = chosen(file, {"weight": 10.0})
    assert [experiment.terms(None, None)[0].weight for _ in range(3)] == [30.0] * 3
    file.write_text(FILE.replace('terms=[Term("mse", weight=3.0)], ', ""))
    (term,) = chosen(file, {"weight": 10.0}).terms(None, None)  # Hinton's, as without a sweep
    assert isinstance(term.loss, losses.KLDivergence) and term.weight == 10.0
