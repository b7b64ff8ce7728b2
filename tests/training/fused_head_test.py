"""`Distiller(fused_head=True)` trains and evaluates as the plain one does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import CachedTeacher, Distiller, ModelTeacher, Supervision, Term, TopK, losses
from keras_distill.fused import head

keras_hub = pytest.importorskip("keras_hub")

WORDS, TOKENS, ROWS = 61, 6, 4


def language_model(seed, width, dtype=None):
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=WORDS, num_layers=1, num_heads=2, hidden_dim=width,
        intermediate_dim=8, dropout=0.0, max_sequence_length=TOKENS, dtype=dtype,
    )  # fmt: skip
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, WORDS, (ROWS, TOKENS))
    mask = np.arange(TOKENS)[None] < np.array([6, 3, 5, 2])[:, None]
    x = {"token_ids": ids, "padding_mask": mask}
    return x, rng.integers(0, WORDS, (ROWS, TOKENS)), mask.astype("float32")


def entropy():
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )


def compiled(student, fused_head, loss=True, jit_compile="auto", **kwargs):
    terms = kwargs.pop("terms", None)
    distiller = Distiller(student, terms=terms, fused_head=fused_head, **kwargs)
    if not loss:
        distiller.compile(keras.optimizers.SGD(0.5))
        return distiller
    perplexity = keras_hub.metrics.Perplexity(from_logits=True, mask_token_id=3)
    distiller.compile(
        keras.optimizers.SGD(0.5), entropy(), weighted_metrics=["accuracy", perplexity],
        jit_compile=jit_compile,
    )  # fmt: skip
    return distiller


def fitted(student, data, fused_head, **kwargs):
    """The student's weights after two steps, with what `fit` and `evaluate` report."""
    distiller = compiled(student, fused_head, **kwargs)
    x, y, weights = data
    logs = distiller.fit(x, y, batch_size=ROWS, epochs=2, sample_weight=weights, shuffle=False,
                         verbose=0).history  # fmt: skip
    if kwargs.get("loss", True):
        logs["evaluated"] = distiller.evaluate(
            x, y, sample_weight=weights, verbose=0, return_dict=True
        )
    return student.get_weights(), logs


def trained(data, fused_head, dtype=None, **kwargs):
    """The same of a language model."""
    return fitted(language_model(1, 8, dtype), data, fused_head, **kwargs)


def assert_alike(one, two, tolerance=1e-5):
    keras.tree.assert_same_structure(one, two)
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(two)):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_it_trains_and_evaluates_as_the_plain_one(data):
    hint = dict(student="backbone/transformer_layer_0", teacher="backbone/transformer_layer_0")
    plain, fused = (
        trained(
            data,
            fused_head,
            teacher=language_model(2, 12),
            terms=[
                Term(losses.KLDivergence(2.0)),
                Term(losses.ReverseKL(), weight=0.5),
                Term("mse", projector=keras.layers.Dense(12, "tanh", name="to_teacher",
                     kernel_initializer="ones"), name="hint", **hint),
            ],
        )
        for fused_head in (False, True)
    )  # fmt: skip
    assert_alike(plain, fused)
    before = language_model(1, 8).get_weights()
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, fused[0]) if a.size > 8)


def test_it_trains_by_xla_as_the_plain_one_without(data):
    plain, fused = (
        trained(data, fused_head, teacher=language_model(2, 12), jit_compile=fused_head)
        for fused_head in (False, True)
    )
    assert_alike(plain, fused)


def test_a_teacher_in_low_precision_is_judged_by_its_hidden_states(data):
    teacher = ModelTeacher(language_model(2, 12), dtype="mixed_bfloat16")
    distiller = compiled(language_model(1, 8), True, teacher=teacher)
    x, y, weights = data
    distiller.fit(x, y, batch_size=ROWS, sample_weight=weights, verbose=0)
    measure, error, _ = distiller.teachers["teacher"].errors["output"]
    assert measure == "relative error" and 0 < error < 0.05


def test_without_labels_and_from_a_cached_top_k(data):
    x, labels, weights = data
    logits = language_model(2, 12)(x)
    log_probs, ids = tf.math.top_k(tf.nn.log_softmax(logits / 2), 5)
    tail = tf.math.log(1 - tf.reduce_sum(tf.exp(log_probs), -1))
    top = TopK(ids, log_probs, tail, tf.fill((ROWS,), 2.0))
    cached = tf.data.Dataset.from_tensors((x, Supervision(labels, {"output": top}), weights))
    one, two = {}, {}
    for fused_head, found in ((False, one), (True, two)):
        student = language_model(1, 8)
        distiller = compiled(student, fused_head, loss=False, teacher=CachedTeacher())
        found["logs"] = distiller.fit(cached, epochs=2, verbose=0).history
        found["weights"] = student.get_weights()
    assert_alike(one, two)


def test_low_precision(data):
    """bfloat16 rounds logits to 3 digits; both ways stay near float32's."""
    exact = trained(data, False, teacher=language_model(2, 12))
    fused = trained(data, True, "mixed_bfloat16", teacher=language_model(2, 12, "mixed_bfloat16"))
    assert fused[1]["loss"] == pytest.approx(exact[1]["loss"], rel=2e-2)
    for a, b in zip(exact[0], fused[0]):
        np.testing.assert_allclose(a, b, atol=2e-2)


@pytest.mark.parametrize("fused_head", [True, False])
def test_no_tensor_of_a_step_has_an_axis_of_words_beside_one_of_tokens(fused_head, monkeypatch):
    monkeypatch.setattr(head, "BLOCK", 8)
    distiller = compiled(language_model(1, 8), fused_head, teacher=language_model(2, 12))
    ids = tf.zeros((ROWS, TOKENS), tf.int32)
    x = {"token_ids": ids, "padding_mask": tf.ones((ROWS, TOKENS), tf.bool)}
    distiller.optimizer.build(distiller.trainable_variables)
    graph = tf.function(distiller.train_step).get_concrete_function((x, ids)).graph
    graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    tensors = [t for each in graphs for op in each.get_operations() for t in op.outputs]
    dense = [t.name for t in tensors if t.shape.rank in (2, 3) and t.shape[-1] == WORDS]
    assert bool(dense) != fused_head, dense


@pytest.mark.parametrize(
    "arguments, said",
    [
        (dict(loss="sparse_categorical_crossentropy"), "takes one loss"),
        (dict(loss=keras.losses.CategoricalCrossentropy(from_logits=True)), "takes one loss"),
        (dict(loss=entropy(), metrics=["top_k_categorical_accuracy"]), "a metric must be"),
        (dict(loss=entropy(), metrics={"output": "accuracy"}), "must be a list"),
        (dict(loss=entropy(), loss_weights=[1.0]), "Leave `loss_weights` out"),
    ],
)
def test_what_compile_refuses(arguments, said):
    distiller = Distiller(language_model(1, 8), teacher=language_model(2, 12), fused_head=True)
    with pytest.raises(ValueError, match=said):
        distiller.compile("sgd", **arguments)


def test_which_terms_and_models_it_refuses():
    student, teacher = language_model(1, 8), language_model(2, 12)
    with pytest.raises(ValueError, match="a sum over the classes"):
        Distiller(student, teacher=teacher, terms=[Term(losses.LogitsMSE())], fused_head=True)
    with pytest.raises(ValueError, match="an output head"):
        term = Term(losses.KLDivergence(), source="self")
        Distiller(student, terms=[term], fused_head=True)
    softmax = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    with pytest.raises(ValueError, match="with one output"):
        Distiller(softmax, teacher=teacher, fused_head=True)
    with pytest.raises(ValueError, match="with one output"):
        Distiller(student, teacher=softmax, fused_head=True)


def test_labels_out_of_range(data):
    x, labels, weights = data
    distiller = compiled(language_model(1, 8), True, teacher=language_model(2, 12))
    with pytest.raises(ValueError, match="class ids"):
        distiller.fit(x, labels + WORDS, sample_weight=weights, verbose=0)


# Heads of other kinds, and hidden states that hold NaN where nothing counts


def functional(seed, width, head, spoiled=None):
    """Embeddings and a `head`; where `mask` is false, hidden states are `spoiled`."""
    keras.utils.set_random_seed(seed)
    ids, mask = keras.Input((TOKENS,), name="token_ids"), keras.Input((TOKENS,), name="mask")
    x = keras.layers.Dense(width, "tanh")(keras.layers.Embedding(WORDS, width)(ids))
    if spoiled is not None:
        x = keras.ops.where(keras.ops.expand_dims(mask, -1) > 0, x, spoiled)
    return keras.Model({"token_ids": ids, "mask": mask}, head()(x))


def dense_head():
    """With a bias that is not all zeros."""
    return keras.layers.Dense(WORDS, bias_initializer=keras.initializers.RandomNormal(seed=3))


def test_a_dense_head_with_a_bias_in_a_functional_model(data):
    x, y, weights = data
    given = {"token_ids": x["token_ids"], "mask": weights}, y, weights
    plain, fused = (
        fitted(functional(1, 8, dense_head), given, fused_head,
               teacher=functional(2, 12, dense_head))
        for fused_head in (False, True)
    )  # fmt: skip
    assert_alike(plain, fused)
    assert np.abs(fused[0][-1] - functional(1, 8, dense_head).get_weights()[-1]).max() > 1e-3


@pytest.mark.parametrize("loss", [True, False], ids=["labels", "no labels"])
def test_masked_hidden_states_may_hold_anything(data, loss):
    x, y, weights = data
    given = {"token_ids": x["token_ids"], "mask": weights}, y, weights
    anything = np.resize(np.array([np.nan, np.inf, -np.inf], "float32"), (TOKENS, 1))
    wanted, found = (
        fitted(functional(1, 8, dense_head, value), given, True, loss=loss,
               teacher=functional(2, 12, dense_head, value),
               terms=[Term(losses.KLDivergence(2.0)), Term(losses.ReverseKL())])
        for value in (0.0, anything)
    )  # fmt: skip
    assert all(np.isfinite(value).all() for value in keras.tree.flatten(found))
    assert_alike(wanted, found)


def llama(seed, width):
    """Its head is not tied to its embeddings."""
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=WORDS, num_layers=1, num_query_heads=2, hidden_dim=width,
        intermediate_dim=8, num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    return keras_hub.models.LlamaCausalLM(backbone=backbone, preprocessor=None)


def bart(seed, width):
    keras.utils.set_random_seed(seed)
    backbone = keras_hub.models.BartBackbone(
        vocabulary_size=WORDS, num_layers=1, num_heads=2, hidden_dim=width, intermediate_dim=8,
        dropout=0.0, max_sequence_length=TOKENS,
    )  # fmt: skip
    return keras_hub.models.BartSeq2SeqLM(backbone=backbone, preprocessor=None)


def prefixed(seed, width):
    """Its tokens come after others, of which there are no logits, as PaliGemma's image."""
    keras.utils.set_random_seed(seed)
    inputs = {name: keras.Input((TOKENS,), dtype="int32", name=name)
              for name in ("token_ids", "padding_mask")}  # fmt: skip
    embedding = keras.layers.ReversibleEmbedding(WORDS, width)
    hidden = embedding(inputs["token_ids"])
    hidden = keras.ops.concatenate([hidden[:, :2], hidden], axis=1)
    hidden = keras.layers.Dense(width, activation="tanh")(hidden)
    return keras.Model(inputs, embedding(hidden, reverse=True)[:, 2:, :])


@pytest.mark.parametrize(
    "model", [llama, bart, prefixed], ids=["untied head", "Seq2SeqLM", "tokens after others"]
)
def test_language_models_of_other_kinds(data, model):
    x, y, weights = data
    if model is bart:
        x = {f"{side}_{name}": value for side in ("encoder", "decoder")
             for name, value in x.items()}  # fmt: skip
    plain, fused = (
        fitted(model(1, 8), (x, y, weights), fused_head, teacher=model(2, 12))
        for fused_head in (False, True)
    )
    assert_alike(plain, fused)
    before = model(1, 8).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(before, fused[0])) > 1e-3


def recurrent(seed, width):
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Embedding(WORDS, width, mask_zero=True)(inputs := keras.Input((TOKENS,)))
    hidden = keras.layers.LSTM(width, return_sequences=True)(hidden)
    return keras.Model(inputs, keras.layers.Dense(WORDS)(hidden))


def test_a_dense_head_hands_on_keras_mask():
    """Padding of an embedding with `mask_zero` counts for nothing, as without a fused head."""
    rng = np.random.default_rng(0)
    kept = np.arange(TOKENS) < np.array([6, 3, 5, 2])[:, None]
    x = np.where(kept, rng.integers(1, WORDS, (ROWS, TOKENS)), 0)
    y, found = rng.integers(0, WORDS, (ROWS, TOKENS)), []
    for fused_head in (False, True):
        distiller = Distiller(recurrent(0, 4), teacher=recurrent(1, 8), fused_head=fused_head)
        distiller.compile(keras.optimizers.SGD(0.5), entropy(), weighted_metrics=["accuracy"])
        logs = [distiller.train_on_batch(x, y, return_dict=True) for _ in range(2)]
        found.append([*logs, distiller.evaluate(x, y, verbose=0, return_dict=True)])
    for plain, fused_logs in zip(*found, strict=True):
        assert plain == pytest.approx(fused_logs, rel=1e-4, abs=1e-6)


def test_metrics_without_a_loss_are_of_the_labels(data):
    x, y, _ = data
    found = []
    for fused_head in (False, True):
        teacher = language_model(1, 8)
        distiller = Distiller(language_model(0, 4), teacher=teacher, fused_head=fused_head)
        distiller.compile(keras.optimizers.SGD(0.0), metrics=["accuracy"])
        found.append(distiller.train_on_batch(x, y, return_dict=True)["accuracy"])
    assert found[0] == pytest.approx(found[1])
