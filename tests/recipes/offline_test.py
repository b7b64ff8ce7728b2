"""Every recipe trains a student on every kind of model that it is made for."""

import keras
import numpy as np
import pytest
from whole import WHOLE

from keras_distill import Distiller, recipes

OUTPUTS = {
    "hinton": lambda s, t: recipes.hinton(),
    "dkd": lambda s, t: recipes.dkd(),
    "dist": lambda s, t: recipes.dist(),
    "standardized": lambda s, t: recipes.standardized(),
    "mlkd": lambda s, t: recipes.mlkd(),
}
ANY = {
    **OUTPUTS,
    "fitnets": recipes.fitnets,
    "rkd": recipes.rkd,
    "sp": recipes.sp,
    "cc": recipes.cc,
    "pkt": recipes.pkt,
    "cka": recipes.cka,
}
MAPS = {
    "at": recipes.at,
    "nst": recipes.nst,
    "vid": recipes.vid,
    "mgd": recipes.mgd,
    "review_kd": recipes.review_kd,
    "semckd": recipes.semckd,
    "cwd": recipes.cwd,
}
BLOCKS = {
    "tinybert": recipes.tinybert,
    "pkd": recipes.pkd,
    "minilm": recipes.minilm,
    "minilm 1": lambda s, t, **options: recipes.minilm(s, t, version=1, **options),
    "distilbert": recipes.distilbert,
}
SAME_WIDTH = ("pkd", "distilbert")

CASES = [
    *((name, "cnn") for name in (*ANY, *MAPS)),
    *((name, "vit") for name in (*ANY, *BLOCKS) if name not in SAME_WIDTH),
    *((name, "bert") for name in (*ANY, *BLOCKS)),
]


def trained(student, teacher, terms, x, y):
    distiller = Distiller(student, teacher=teacher, terms=terms)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(1e-3), loss)
    before = student.get_weights()
    logs = distiller.fit(x, y, batch_size=4, epochs=1, verbose=0).history
    changed = any((b != a).any() for b, a in zip(before, student.get_weights(), strict=True))
    student.set_weights(before)
    return logs, changed


@pytest.mark.parametrize("name, kind", CASES)
def test_a_recipe_trains(name, kind, pair, request):
    if kind != "cnn" or not (WHOLE or name in OUTPUTS):  # others take long to trace
        request.getfixturevalue("eagerly")
    student, teacher, (x, y) = pair(kind)
    options = {"mask": "sample_weight"} if kind == "vit" and name in BLOCKS else {}
    terms = {**ANY, **MAPS, **BLOCKS}[name](student, teacher, **options)
    logs, changed = trained(student, teacher, terms, x, y)
    assert changed
    assert all(np.isfinite(logs[term.name]).all() for term in terms)
    assert any(logs[term.name][0] != 0 for term in terms)


def test_contrastive_takes_the_examples_numbers(pair):
    student, teacher, (x, y) = pair("cnn")

    def numbered(model):
        inputs = {"image": model.input, "index": keras.Input((), dtype="int32", name="index")}
        return keras.Model(inputs, model.output)

    terms = recipes.crd(student, teacher, examples=8, negatives=4, width=3, seed=0)
    x = {"image": x, "index": np.arange(8)}
    logs, changed = trained(numbered(student), numbered(teacher), terms, x, y)
    assert changed and np.isfinite(logs["contrastive_representation"]).all()


def test_weights_are_those_of_the_authors_means(pair):
    """Of a batch of bert, whose width is 4: mean over blocks and width; labels of weight 2."""
    student, teacher, _ = pair("bert")
    blocks = recipes.matching.match_layers(student, teacher, verbose=False)
    patient = recipes.pkd(student, teacher, pairs=blocks)
    assert [term.weight for term in patient] == [100 / (2 * 4)] * 2
    distilbert = recipes.distilbert(student, teacher)
    assert [2 * term.weight for term in distilbert] == [5, 1]


def test_recipes_add_up_and_weights_are_the_papers(pair):
    student, teacher, (x, y) = pair("cnn")
    terms = recipes.hinton() + recipes.rkd(student, teacher)
    assert [term.weight for term in terms] == [1.0, 25.0, 50.0]
    logs, _ = trained(student, teacher, terms, x, y)
    assert {"kl_divergence", "relational_distance", "relational_angle"} <= {*logs}


def test_pairs_may_be_given(pair):
    student, teacher, _ = pair("cnn")
    (term,) = recipes.fitnets(student, teacher, pairs=[("stage_1_0", "stage_1_0")])
    assert (term.student, term.teacher) == ("stage_1_0", "stage_1_0")


def test_bad_arguments(pair):
    student, teacher, _ = pair("vit")
    with pytest.raises(ValueError, match="`version` must be 1 or 2. Received: version=3"):
        recipes.minilm(student, teacher, version=3)
    with pytest.raises(ValueError, match="holds no attention layer"):
        recipes.tinybert(student, teacher, pairs=[("head", "head")])


def test_an_attention_without_scores_is_named():
    hub = pytest.importorskip("keras_hub").models
    sizes = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8, "num_layers": 2}
    net, block = hub.T5Backbone(vocabulary_size=20, **sizes), "transformer_encoder_layer_1"
    with pytest.raises(ValueError, match=f"`{block}.*T5MultiHead.*cannot be read. Compare"):
        recipes.tinybert(net, net, [(block, block)])
    (term,) = recipes.minilm(net, net, (block, block))  # takes projections alone
    attentions = {path.rpartition("/")[0] for path in term.student.values()}
    assert attentions == {f"{block}/self_attention"}
