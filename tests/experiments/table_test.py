"""The tables of measures over seeds."""

from keras_distill.experiments import markdown, over_seeds


def row(values):
    return markdown({"arm": {"column": values}}).splitlines()[2]


def test_counts_that_are_the_same_for_every_seed_have_no_decimals():
    assert row(1200) == row([1200, 1200]) == "| arm | 1,200 |"


def test_counts_that_differ_are_numbers_as_others():
    assert row([1, 2]) == row([1.0, 2.0]) == "| arm | 1.50 ± 0.71 |"


def test_a_seed_may_lack_a_column():
    rows = over_seeds({"arm": [{"a": 1, "b": 2}, {"b": 4, "c": 5}], "other": []})
    assert rows == {"arm": {"a": [1], "b": [2, 4], "c": [5]}, "other": {}}
