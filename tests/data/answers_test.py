"""Answers of generative models: the teacher's in a file, the student's own as batches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_distill import Distiller, Term, data, losses
from keras_distill.data import answers as answers_file
from keras_distill.data import completions
from keras_distill.data.sampling import Sampler

hub = pytest.importorskip("keras_hub")
SIZES = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8, "dropout": 0.0}
END = 9
PROMPTS = ["ab", "c", "a b", "dc", "e"]


def vocabulary(*special):
    tokens = [*"abcde", "Ġ", "ab", "Ġa", "f", *special]
    return {token: index for index, token in enumerate(tokens)}


def random_weights(task, seed):
    draw = np.random.default_rng(seed)
    for weight in task.weights:
        weight.assign(draw.normal(size=weight.shape))
    task.run_eagerly = True  # no test here is about graphs
    return task


def language_model(seed, length=8, words=None, merges=("a b", "Ġ a")):
    words = words or vocabulary("<|endoftext|>")
    tokenizer = hub.tokenizers.GPT2Tokenizer(words, list(merges))
    backbone = hub.models.GPT2Backbone(
        len(words), num_layers=1, max_sequence_length=max(8, length), **SIZES
    )
    preprocessor = hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=length)
    return random_weights(hub.models.GPT2CausalLM(backbone, preprocessor), seed)


def summarizer(seed):
    words = vocabulary("<s>", "<pad>", "</s>", "<mask>")
    tokenizer = hub.tokenizers.BartTokenizer(words, ["a b", "Ġ a"])
    backbone = hub.models.BartBackbone(len(words), num_layers=1, max_sequence_length=8, **SIZES)
    preprocessor = hub.models.BartSeq2SeqLMPreprocessor(
        tokenizer, encoder_sequence_length=8, decoder_sequence_length=6
    )
    return random_weights(hub.models.BartSeq2SeqLM(backbone, preprocessor), seed)


def greedy(task, prompt):
    """Tokens of the answer by a plain loop, without a cache, and whether it ended."""
    ids = [END, *task.preprocessor.tokenizer([prompt])[0]]
    start = len(ids)
    while len(ids) < 8 and END not in ids[start:]:
        x = {"token_ids": np.array([ids]), "padding_mask": np.ones((1, len(ids)), bool)}
        ids.append(int(np.argmax(task(x)[0, -1])))
    return ids[start:]


@pytest.mark.parametrize("seed", [0, 2])
def test_the_likeliest_answers_are_those_of_a_plain_loop(tmp_path, seed):
    teacher = language_model(seed)
    kept = teacher.sampler
    said = data.generate(teacher, PROMPTS, tmp_path / "a.jsonl", batch_size=2, verbose=0)
    assert teacher.sampler is kept and said["prompt"] == PROMPTS
    tokens = [greedy(teacher, prompt) for prompt in PROMPTS]
    assert said["finished"] == [END in ids for ids in tokens]
    texts = [teacher.preprocessor.tokenizer.detokenize([i for i in ids if i != END])
             for ids in tokens]  # fmt: skip
    assert said["answer"] == [str(text) for text in texts]


def test_samples_follow_the_softened_probabilities():
    task = language_model(0)
    logits = task({"token_ids": np.array([[END, 6]]), "padding_mask": np.ones((1, 2), bool)})[0, -1]
    expected = np.asarray(keras.ops.softmax(logits / 2.0))
    first = [END, 6]  # the start token, "ab"

    def shares(**given):
        answers = Sampler(task, temperature=2.0, max_length=3, **given)(["ab"] * 1000, [1])
        assert (answers.tokens[:, :2] == first).all()
        return np.bincount(answers.tokens[:, 2], minlength=10) / 1000

    np.testing.assert_allclose(shares(), expected, atol=0.06)
    order = np.argsort(-expected)
    count = int(np.searchsorted(np.cumsum(expected[order]), 0.6)) + 1
    nucleus = np.isin(np.arange(10), order[:count])
    found = shares(top_p=0.6)
    assert (found[~nucleus] == 0).all() and (found[nucleus] > 0).all()


def test_a_stopped_run_goes_on_and_writes_the_same(tmp_path, monkeypatch):
    teacher, settings = language_model(1), {"temperature": 1.0, "batch_size": 2, "verbose": 0}
    whole = data.generate(teacher, PROMPTS, tmp_path / "whole.jsonl", **settings)
    asked = []

    class Stopped(Sampler):
        def __call__(self, prompts, seed):
            asked.append(prompts)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return super().__call__(prompts, seed)

    monkeypatch.setattr(answers_file, "Sampler", Stopped)
    path, part = tmp_path / "stopped.jsonl", tmp_path / "stopped.jsonl.unfinished"
    with pytest.raises(KeyboardInterrupt):
        data.generate(teacher, PROMPTS, path, **settings)
    assert not path.exists()
    part.write_text(part.read_text() + '{"prompt": "a b", "answer": "x", "finished": true}\n{"pr')
    with pytest.raises(ValueError, match=r"other settings \(seed was 0 and is 1 now"):
        data.generate(teacher, PROMPTS, path, seed=1, **settings)
    assert data.generate(teacher, PROMPTS, path, **settings) == whole
    assert asked[2:] == [PROMPTS[2:4], PROMPTS[4:]]
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert data.generate(teacher, PROMPTS, path, **settings) == whole and len(asked) == 4
    assert data.generate(teacher, PROMPTS, tmp_path / "b", seed=1, **settings) != whole
    with pytest.raises(ValueError, match=r"other settings \(teacher.weights"):
        data.generate(language_model(2), PROMPTS, path, **settings)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="damaged. It has 4 of 5 answers"):
        data.generate(teacher, PROMPTS, path, **settings)


@pytest.mark.parametrize("at_once", [1024, 2])
def test_a_prompt_counts_for_nothing(at_once, monkeypatch):
    monkeypatch.setattr(completions, "AT_ONCE", at_once)
    task = language_model(0, length=5)
    texts = ["ab", "", "c"], ["c", "d", "abcde"], [True, False, 1]
    x, y, weight = data.completion_only(task, *texts)
    np.testing.assert_array_equal(
        x["token_ids"], [[9, 6, 2, 9, 0], [9, 3, 0, 0, 0], [9, 2, 6, 2, 3]]
    )
    np.testing.assert_array_equal(x["padding_mask"].sum(1), [4, 2, 5])
    np.testing.assert_array_equal(y, [[6, 2, 9, 0, 0], [3, 0, 0, 0, 0], [2, 6, 2, 3, 4]])
    np.testing.assert_array_equal(
        weight, [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]]
    )  # the last is cut off, and does not end
    with pytest.raises(ValueError, match="1 prompts, 2 answers"):
        data.completion_only(task, ["a"], ["b", "c"])


def test_a_share_of_the_batches_are_the_students_own():
    student = language_model(0)
    prompts, answers = PROMPTS * 8, ["d e"] * 40
    batches = data.OnPolicy(student, prompts, answers, share=0.25, batch_size=5)
    assert len(batches) == 8
    shares, orders = [], set()
    for _ in range(3):
        shares.append(batches.own.sum())
        orders.add(tuple(batches.order))
        batches.on_epoch_end()
    assert shares == [2, 2, 2] and len(orders) == 3
    given = batches[int(np.argmin(batches.own))]
    np.testing.assert_array_equal(given[2].sum(1), [4] * 5)  # d, Ġ, e and the end
    own = int(np.argmax(batches.own))
    x, y, weight = batches[own]
    ids, mask = x["token_ids"], x["padding_mask"]
    np.testing.assert_array_equal(y[:, :-1], ids[:, 1:])
    asked = [prompts[row] for row in batches.order[5 * own : 5 * own + 5]]
    prompt = student.preprocessor.generate_preprocess(asked)["padding_mask"]
    np.testing.assert_array_equal(mask.sum(1) - weight.sum(1), np.sum(prompt, axis=1))
    assert not weight[~mask].any()
    again = data.OnPolicy(student, prompts, share=1, batch_size=5, temperature=0)[0][0]
    random_weights(student, 3)
    after = data.OnPolicy(student, prompts, share=1, batch_size=5, temperature=0)[0][0]
    assert (again["token_ids"] != after["token_ids"]).any()


def test_a_resumed_run_goes_on_with_its_epochs(tmp_path):
    drawn = []

    class Watched(data.OnPolicy):
        def __getitem__(self, index):
            drawn.append(self.epoch)
            return super().__getitem__(index)

    def fit(epochs, **given):
        student = language_model(0)
        batches = Watched(student, PROMPTS, PROMPTS, share=0, batch_size=5)
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda i, logs: batches.begin(i))
        backup = keras.callbacks.BackupAndRestore(tmp_path, delete_checkpoint=False)
        distiller = Distiller(student, teacher=language_model(1))
        distiller.compile("sgd", run_eagerly=True)
        drawn.clear()
        distiller.fit(batches, epochs=epochs, callbacks=[backup, begin], verbose=0)
        return drawn[-1]

    assert [fit(2), fit(3)] == [1, 2]


def test_the_teacher_scores_the_students_own_answers():
    student, teacher = language_model(0), language_model(1)
    batches = data.OnPolicy(student, PROMPTS[:4], share=1, batch_size=4, temperature=0)
    x, _, weight = batches[0]  # the likeliest answers are the same in whatever order
    variables = student.trainable_variables
    with tf.GradientTape() as tape:  # the samples are constants
        ours, theirs = (tf.nn.log_softmax(model(x)) for model in (student, teacher))
        values = tf.reduce_sum(tf.exp(ours) * (ours - theirs), -1)
        share = tf.cast(weight, "float32") / weight.sum()
        expected = tf.reduce_sum(values * share)
    gradients = tape.gradient(expected, [v.value for v in variables])
    moved = [v.numpy() - 0.1 * np.asarray(tf.convert_to_tensor(g))
             for v, g in zip(variables, gradients, strict=True)]  # fmt: skip
    distiller = Distiller(student, teacher=teacher, terms=[Term(losses.ReverseKL(1.0), name="kl")])
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    found = distiller.fit(batches, verbose=0).history["kl"]
    assert found[0] == pytest.approx(float(expected), rel=1e-4)
    for variable, value in zip(variables, moved, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=1e-4)


@pytest.mark.parametrize("at_once", [1024, 1])
def test_a_sequence_to_sequence_model_answers_and_is_trained(tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(completions, "AT_ONCE", at_once)
    task = summarizer(0)
    said = data.generate(task, ["ab c", "d"], tmp_path / "a.jsonl", verbose=0)
    task.compile(sampler="greedy", run_eagerly=True)
    assert said["answer"] == [str(text) for text in task.generate(["ab c", "d"])]
    end = task.preprocessor.tokenizer.end_token_id
    x, y, weight = data.completion_only(task, ["ab c", "d"], ["c", "c"], [True, False])
    assert weight.sum(1).tolist() == [3, 2] and y[0, 2] == end
    x, y, weight = data.completion_only(task, ["a", "a", "a"], ["cdcd", "cdcdc", ""])
    assert weight.sum(1).tolist() == [6, 5, 2]  # the second is cut off, and does not end
    assert y[:2, 5].tolist() == [end, end] and y[1, 4] == 3
    x, y, weight = data.OnPolicy(task, ["ab c", "d"], share=1, batch_size=2)[0]
    np.testing.assert_array_equal(y[:, :-1], x["decoder_token_ids"][:, 1:])
    assert not weight[:, 0].any() and weight[:, 1].all()  # [end, start] is the prompt
    assert task(x).shape[:2] == y.shape


def test_what_is_refused(tmp_path):
    task = language_model(0)
    plain = keras.Sequential([keras.layers.Dense(1)])
    with pytest.raises(TypeError, match="must be a KerasHub `CausalLM`.*Received: .*Sequential"):
        data.generate(plain, PROMPTS, tmp_path / "a")
    ends = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}
    ends = hub.tokenizers.GPT2Tokenizer(ends, ["a b"])
    padded = hub.models.GPT2CausalLMPreprocessor(ends, sequence_length=8)
    with pytest.raises(ValueError, match="must differ from its padding.*Received: 0 for both"):
        data.OnPolicy(hub.models.GPT2CausalLM(task.backbone, padded), ["a"], share=1)
    with pytest.raises(ValueError, match="`temperature` must be .*temperature=-1"):
        data.generate(task, PROMPTS, tmp_path / "a", temperature=-1)
    with pytest.raises(ValueError, match=r"`top_p` must be in \(0, 1\].*top_p=0"):
        data.generate(task, PROMPTS, tmp_path / "a", temperature=1, top_p=0)
    with pytest.raises(ValueError, match="Prompts must be strings"):
        data.generate(task, [1, 2], tmp_path / "a")
    for given, why in (
        ({"share": 2}, "`share` must be"),
        ({"share": 0.5}, "Without `answers`, `share` must be 1"),
        ({"answers": ["a"]}, "needs one answer"),
        ({"share": 1, "batch_size": 6}, "at least `batch_size` prompts"),
    ):
        with pytest.raises(ValueError, match=why):
            data.OnPolicy(task, PROMPTS, **given)
    assert not list(tmp_path.iterdir())


def test_a_student_with_another_tokenizer_learns_what_the_teacher_said(tmp_path):
    """Sequence-level distillation by strings; the student, saved, says the same again."""
    words = {token: index for index, token in enumerate([*"fedcbaĠ", "bb", "<|endoftext|>"])}
    teacher, student = language_model(5), language_model(1, 12, words, ["b b"])
    ours, theirs = (each.preprocessor.tokenizer for each in (student, teacher))
    assert list(ours("abb")) == [5, 7] and list(theirs("abb")) == [6, 1]
    said = data.generate(teacher, PROMPTS, tmp_path / "a.jsonl", max_length=6, verbose=0)
    assert {*said["finished"]} == {True, False}
    x, y, weight = data.completion_only(student, *said.values())
    distiller = Distiller(student)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    distiller.compile(keras.optimizers.Adam(0.03), loss)
    distiller.fit(x, y, batch_size=5, epochs=60, sample_weight=weight, verbose=0)
    student.compile(sampler="greedy")
    found = student.generate(PROMPTS)
    for text, prompt, answer, whole in zip(found, *said.values(), strict=True):
        learned = f"{prompt}{answer}"
        assert text == learned if whole else text.startswith(learned)
    distiller.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    again.compile(sampler="greedy")
    assert again.generate(PROMPTS) == found


def test_prompts_may_be_a_dataset():
    batched = tf.data.Dataset.from_tensor_slices((PROMPTS, [1] * 5)).batch(2)
    assert answers_file.strings(batched) == PROMPTS
    assert answers_file.strings(np.array(PROMPTS)) == PROMPTS
