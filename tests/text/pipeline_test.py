"""Datasets of strings: the student's preprocessor, a teacher's own view, and what is refused."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_distill import (
    CachedTeacher,
    Distiller,
    EnsembleTeacher,
    ModelTeacher,
    Supervision,
    Term,
    losses,
    recipes,
)
from keras_distill.text.pipeline import is_text

hub = pytest.importorskip("keras_hub")
WORDS = ["the", "cat", "dog", "sat", "ran", "mat"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
TEXTS = ["the cat sat", "the dog ran", "cat", "the mat", "dog dog", "ran", "the cat", "sat"]
LABELS = np.arange(8) % 3
WEIGHTS = np.linspace(0.5, 2, 8).astype("float32")
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(autouse=True)
def _eagerly(request):
    """Of few steps. Where a graph is made, its test asks for another fixture."""
    if not {"in_graphs", "eager_steps"} & {*request.fixturenames}:
        request.getfixturevalue("eagerly")


@pytest.fixture
def in_graphs():
    """Steps are traced, as users have them."""


@pytest.fixture
def eager_steps(monkeypatch):
    """Steps are not traced, but the tokenizer of GPT-2 is, which needs AutoGraph."""
    compiled = Distiller.compile
    monkeypatch.setattr(
        Distiller,
        "compile",
        lambda self, *args, **others: compiled(self, *args, **{**others, "run_eagerly": True}),
    )


def classifier(words=WORDS, length=8, depth=1, kind="Bert"):
    models = vars(hub.models)
    tokens = [*SPECIAL, *words]
    tokenizer = models[f"{kind}Tokenizer"](vocabulary=tokens, lowercase=True)
    preprocess = models[f"{kind}TextClassifierPreprocessor"](tokenizer, sequence_length=length)
    backbone = models[f"{kind}Backbone"](
        vocabulary_size=len(tokens), num_layers=depth, max_sequence_length=16, **SIZES, dropout=0.0
    )
    task = models[f"{kind}TextClassifier"](backbone, 3, preprocess, dropout=0.0)
    for weight in task.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape) * 0.3)
    return task


def language_model(depth, seed, alphabet="abcde"):
    merges = ["a b", "Ġ a"]
    tokens = [*alphabet, "Ġ", "ab", "Ġa", "<|endoftext|>"]
    tokenizer = hub.tokenizers.GPT2Tokenizer(
        vocabulary={token: index for index, token in enumerate(tokens)}, merges=merges
    )
    keras.utils.set_random_seed(seed)
    return hub.models.GPT2CausalLM(
        hub.models.GPT2Backbone(
            vocabulary_size=len(tokens), num_layers=depth, max_sequence_length=8, **SIZES,
            dropout=0.0,
        ),
        hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=8),
    )  # fmt: skip


def distilled(student, teacher, terms=None, alpha=0.5, loss=CE):
    distiller = Distiller(student, teacher=teacher, terms=terms, alpha=alpha)
    distiller.compile(keras.optimizers.SGD(0.1), loss)
    return distiller


def same_weights(one, two):
    for ours, theirs in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_strings_train_as_what_the_preprocessor_makes_of_them(in_graphs):
    teacher = classifier(depth=2)
    data = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS, WEIGHTS)).batch(4)
    raw, mapped, arrays = (classifier() for _ in range(3))
    distilled(raw, teacher).fit(data, verbose=0)
    distilled(mapped, teacher).fit(data.map(mapped.preprocessor), verbose=0)
    same_weights(raw, mapped)
    distilled(arrays, teacher).fit(
        TEXTS, LABELS, 4, sample_weight=WEIGHTS, shuffle=False, verbose=0
    )
    same_weights(raw, arrays)


def test_weights_without_labels_stay_weights():
    student, zeros = classifier(), Supervision(None, np.zeros((8, 3), "float32"))
    values = np.mean(student.predict(TEXTS, verbose=0) ** 2, axis=-1)
    distiller = distilled(student, CachedTeacher(), [Term("mse", name="mse")], None, None)
    found = distiller.fit(TEXTS, zeros, 8, sample_weight=WEIGHTS, verbose=0).history["mse"]
    assert found == pytest.approx([np.average(values, weights=WEIGHTS)], rel=1e-4)


def test_it_validates_evaluates_predicts_and_exports_from_strings(tmp_path):
    student = classifier()
    distiller = distilled(student, classifier(depth=2))
    history = distiller.fit(TEXTS, LABELS, validation_split=0.25, verbose=0).history
    expected = distiller.evaluate(TEXTS[6:], LABELS[6:], verbose=0)
    assert history["val_loss"] == pytest.approx(expected[:1], rel=1e-5)
    pair = tf.data.Dataset.from_tensor_slices((TEXTS[6:], LABELS[6:])).batch(2)
    assert distiller.evaluate(pair, verbose=0) == pytest.approx(expected, rel=1e-5)
    history = distiller.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS), verbose=0).history
    assert np.isfinite(history["val_loss"]).all()
    found = student.predict(TEXTS, verbose=0)
    np.testing.assert_allclose(distiller.predict(TEXTS, verbose=0), found, atol=1e-6)
    distiller.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(again.predict(TEXTS, verbose=0), found, atol=1e-6)
    distiller.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    served_as_they_are = served.serve(student.preprocessor(tf.constant(TEXTS)))
    np.testing.assert_allclose(served_as_they_are, found, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [{"words": WORDS[::-1]}, {"length": 6}, {"kind": "DistilBert"}],
    ids=["another tokenizer", "another length", "other inputs"],
)
def test_a_teacher_with_its_own_view_of_the_text(other):
    teacher, student = classifier(depth=2, **other), classifier()
    seen = []

    class Watched(losses.DistillationLoss):
        def call(self, y_true, y_pred):
            seen.append(None) if tf.is_symbolic_tensor(y_true) else seen.append(y_true.numpy())
            return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    data = tf.data.Dataset.from_tensor_slices((TEXTS, LABELS)).batch(8)
    distilled(student, teacher, [Term(Watched())]).fit(data, verbose=0)
    np.testing.assert_allclose(seen[0], teacher.predict(TEXTS, verbose=0), atol=1e-5)


def test_views_reach_the_members_of_an_ensemble_and_leave_cached_targets_alone():
    teacher, student = classifier(words=WORDS[::-1]), classifier()
    ensemble = EnsembleTeacher([teacher, classifier(depth=2)])
    cached = np.zeros((8, 3), "float32")
    data = tf.data.Dataset.from_tensor_slices((TEXTS, Supervision(LABELS, cached))).batch(8)
    terms = [Term("mse", source="live", name="live"), Term("mse", source="cache", name="cache")]
    distiller = distilled(student, {"live": ensemble, "cache": CachedTeacher()}, terms)
    expected = np.mean(student.predict(TEXTS, verbose=0) ** 2)
    history = distiller.fit(data, verbose=0).history
    assert history["cache"] == pytest.approx([expected], rel=1e-4)
    assert np.isfinite(history["live"]).all()


def test_terms_on_tokens_need_one_tokenizer():
    student = classifier()
    hidden = "backbone/transformer_layer_0"
    hint = [Term("mse", student=hidden, teacher=hidden, name="hint")]
    for teacher, why in (
        (classifier(words=WORDS[:5]), "the tokenizers differ.*teacher 10 tokens, student 11"),
        (classifier(length=6), "`sequence_length` differs.*teacher 6, student 8"),
    ):
        with pytest.raises(ValueError, match=f"(?s)has values for every token.*{why}"):
            distilled(student, teacher, hint).fit(TEXTS, LABELS, verbose=0)
    same_weights(student, classifier())
    alike = classifier(kind="DistilBert")  # other inputs, the same tokens
    distilled(student, alike, hint).fit(TEXTS, LABELS, verbose=0)


def test_tokens_of_another_tokenizer_are_not_taken_for_ones_own():
    student, teacher = classifier(), classifier(words=WORDS[::-1])
    mapped = student.preprocessor(tf.constant(TEXTS))
    with pytest.raises(ValueError, match="tokenize text differently.*Pass strings to `fit`"):
        distilled(student, teacher).fit(mapped, LABELS, verbose=0)
    given = ModelTeacher(teacher, preprocess=lambda x: x)  # the user's own word
    distilled(student, given).fit(mapped, LABELS, verbose=0)


def test_a_language_model_learns_from_strings_and_generates_after_it(in_graphs):
    student, teacher = language_model(1, 0), language_model(2, 1)
    for weight in teacher.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    texts = ["ab ab c", "abc ab", "d e a b", "ab"] * 2
    x, _, weight = student.preprocessor(texts)  # the mean over tokens that are no padding, by hand
    ours, theirs = (tf.nn.log_softmax(model(x)) for model in (student, teacher))
    weight = tf.cast(weight, tf.float32)
    values = tf.reduce_sum(tf.exp(theirs) * (theirs - ours), -1)
    expected = float(tf.reduce_sum(values * weight) / tf.reduce_sum(weight))
    terms = [Term(losses.KLDivergence(1.0), name="kl"),
             Term("mse", student="backbone/layer_norm", teacher="backbone/layer_norm")]  # fmt: skip
    distiller = distilled(student, teacher, terms, alpha=None, loss=None)
    data = tf.data.Dataset.from_tensor_slices(texts).batch(8)
    found = distiller.fit(data, epochs=3, verbose=0).history["kl"]
    assert found[0] == pytest.approx(expected, rel=1e-4) and found[-1] < found[0]
    assert student.generate("ab", max_length=6).startswith("ab")


def test_a_small_student_of_words_has_a_teacher_with_tokens():
    words = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=5)
    inputs = keras.Input((), dtype="string")
    pooled = layers.GlobalAveragePooling1D()(layers.Embedding(8, 4)(words(inputs)))
    student = keras.Model(inputs, layers.Dense(3)(pooled))
    teacher = classifier()
    distiller = distilled(student, teacher)
    history = distiller.fit(TEXTS, LABELS, epochs=3, verbose=0).history
    assert history["kl_divergence"][-1] < history["kl_divergence"][0]
    assert distiller.predict(tf.constant(TEXTS), verbose=0).shape == (8, 3)


@pytest.mark.parametrize(
    "data, text",
    [
        (TEXTS, True),
        (np.array(TEXTS), True),
        (np.array(TEXTS, object), True),
        ({"encoder_text": TEXTS, "decoder_text": TEXTS}, True),
        ((TEXTS, TEXTS), True),
        (tf.constant(TEXTS), True),
        (tf.data.Dataset.from_tensor_slices(({"a": TEXTS}, LABELS)), True),
        (tf.data.Dataset.from_tensor_slices((LABELS, TEXTS)), False),
        (LABELS, False),
        ([], False),
        (None, False),
        ([[1.0, 2.0]], False),
    ],
)
def test_what_is_text(data, text):
    assert is_text(data) is text


def test_a_dataset_brings_its_labels():
    distiller = distilled(classifier(), classifier(depth=2))
    data = tf.data.Dataset.from_tensor_slices(TEXTS).batch(8)
    with pytest.raises(ValueError, match="A dataset holds its own labels"):
        distiller.fit(data, LABELS, verbose=0)
    with pytest.raises(ValueError, match="`validation_split` needs arrays or lists"):
        distiller.fit(data, validation_split=0.5, verbose=0)


def test_a_language_model_learns_from_one_with_another_tokenizer(eager_steps):
    """The pipeline's spans are those of the text, and the terms see both sides' tokens."""
    student, teacher = language_model(1, 0), language_model(2, 1, alphabet="edcba")
    teacher.preprocessor.tokenizer.set_vocabulary_and_merges(
        {token: i for i, token in enumerate([*"edcba", "Ġ", "cd", "x", "<|endoftext|>"])}, ["c d"]
    )
    seen = {}
    aligned = ModelTeacher(teacher, aligned=True)
    served = aligned.targets

    def targets(batch, features, paths):
        found = served(batch, features, paths)
        if not tf.is_symbolic_tensor(found["output"]):
            seen.update(found)
        return found

    aligned.targets = targets
    tokenizers = student.preprocessor.tokenizer, teacher.preprocessor.tokenizer
    with pytest.warns(UserWarning, match="not in the other vocabulary"):
        shared = losses.ClassSubset.from_tokenizers(losses.KLDivergence(), *tokenizers)
    terms = [
        *recipes.uld(),
        Term(losses.AlignedSpans(shared), teacher=losses.AlignedSpans.PATHS, name="shared"),
    ]
    distiller = Distiller(student, teacher=aligned, terms=terms, alpha=0.5)
    distiller.compile(keras.optimizers.SGD(0.1), CE)
    logs = distiller.fit(["abcd ab"], batch_size=1, verbose=0, shuffle=False).history
    assert all(np.isfinite(logs[term.name]).all() and logs[term.name][0] > 0 for term in terms)
    # what each predicts: "ab c d ␣ab end" and "a b cd ␣ a b end"; the student knows "Ġa", not "Ġab"
    assert seen["spans:student"].numpy().tolist()[0][:3] == [1, 2, 2]
    assert seen["spans:teacher"].numpy().tolist()[0][:3] == [1, 1, 2]
    with pytest.raises(ValueError, match="Give strings to `fit`"):
        distiller.fit(student.preprocessor(["abcd ab"])[0], np.zeros((1, 8)), verbose=0)
    with pytest.warns(UserWarning, match="not in the other vocabulary"):
        names = run_page("vocabularies.md", student=student, teacher=teacher)
    assert np.isfinite(names["distiller"].history.history["shared"]).all()


def run_page(name, **models):
    """What the code of a page of the documentation makes of some models."""
    page = pathlib.Path(__file__).parents[2] / "docs" / name
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names = {**models, "cross_entropy": CE, "texts": ["abcd ab", "dab"]}
    exec(compile("\n".join(blocks), page.name, "exec"), names)
    return names


def test_the_page_on_text(eager_steps):
    student = language_model(1, 0)
    student.run_eagerly = True
    names = run_page(
        "text.md", classifier=classifier(), large_classifier=classifier(WORDS[::-1], depth=2),
        student=student, teacher=language_model(2, 1), labels=np.array([0, 1]),
        questions=["ab", "c"], answers=["d", "abcdeab"],
    )  # fmt: skip
    assert names["weight"].sum(1).tolist() == [2, 6]  # the second is cut, and does not end
    logs = names["distiller"].history.history
    assert all(np.isfinite(logs[term]).all() for term in ("attention_divergence", "kl_divergence"))


def test_spans_need_two_language_models():
    aligned = ModelTeacher(classifier(), aligned=True)
    with pytest.raises(ValueError, match="language models.*label for each token"):
        distilled(classifier(length=6), aligned).fit(TEXTS, LABELS, verbose=0)
    with pytest.raises(ValueError, match="tokenizers"):
        Distiller(keras.Sequential([layers.Dense(3)]), teacher=aligned)
    with pytest.raises(ValueError, match="preprocess"):
        ModelTeacher(classifier(), preprocess=lambda x: x, aligned=True)
