"""Prompts with answers as training data, of which the prompts count for nothing: given answers,
or the student's own."""

import keras
import numpy as np

from keras_distill import schedules, taps  # noqa: F401 (the check of the backend)
from keras_distill.data.generate import strings
from keras_distill.data.sampling import Sampler

AT_ONCE = 1024  # texts: a tokenizer of KerasHub holds some 300 kB for each while it works


def prompt_masked(task, prompts, answers, finished=None):
    """`(x, y, sample_weight)` of prompts with their answers, weighed on the answers alone.

    Prompt and answer are made tokens apart, as they are when the task generates. What is longer
    than the preprocessor's `sequence_length` is cut, and does not end there.

    Args:
        task: a KerasHub `CausalLM` or `Seq2SeqLM`, whose preprocessor makes the tokens.
        prompts: strings, N of them; a `Seq2SeqLM`'s encoder's.
        answers: strings, N of them.
        finished: N booleans: an answer that is not finished has no end token to be learned.
            Defaults to `None`: all are.

    Returns:
        Inputs, ids (N, length) of each token's successor, and booleans (N, length): the token
        mask, as KerasHub has it, without the prompts.

    Example:

    ```python
    x, y, sample_weight = data.prompt_masked(student, ["Who are you?\\n"], ["A program."])
    ```
    """
    finished = np.ones(len(prompts), bool) if finished is None else np.asarray(finished, bool)
    if not len(prompts) == len(answers) == len(finished):
        raise ValueError(
            "There must be an answer, and a value of `finished`, for each prompt. Received: "
            f"{len(prompts)} prompts, {len(answers)} answers, {len(finished)} values."
        )
    causal = not hasattr(task.preprocessor, "encoder_sequence_length")
    part_of = _of_causal if causal else _of_decoder
    parts = [
        part_of(task.preprocessor, *(values[at : at + AT_ONCE] for values in
                                     (prompts, answers, finished)))
        for at in range(0, max(1, len(prompts)), AT_ONCE)
    ]  # fmt: skip
    return keras.tree.map_structure(lambda *rows: np.concatenate(rows), *parts)


def _of_causal(preprocessor, prompts, answers, finished):
    length = preprocessor.sequence_length + 1  # the last token has no successor
    x = preprocessor.generate_preprocess(list(prompts), sequence_length=length)
    ids, mask = (np.array(x[name]) for name in ("token_ids", "padding_mask"))
    end, new = preprocessor.tokenizer.end_token_id, np.zeros(mask.shape, bool)
    for row, answer in enumerate(_tokens(preprocessor, answers)):
        start = int(mask[row].sum())
        said = [*(int(token) for token in answer), *([end] if finished[row] else [])]
        stop = min(length, start + len(said))
        ids[row, start:stop], new[row, start:stop] = said[: stop - start], True
    mask = mask.astype(bool) | new
    x = {"token_ids": ids[:, :-1], "padding_mask": mask[:, :-1]}
    return x, ids[:, 1:], new[:, 1:]


def _of_decoder(preprocessor, prompts, answers, finished):
    texts = {"encoder_text": [*prompts, ""], "decoder_text": [*answers, ""]}
    x, y, weight = keras.tree.map_structure(np.array, preprocessor(texts))
    special = weight[-1].sum()  # tokens of an answer without text
    x, y, weight = keras.tree.map_structure(lambda rows: rows[:-1], (x, y, weight))
    said = np.array([len(answer) for answer in _tokens(preprocessor, answers)], int)
    ends = finished & (weight.sum(1) == said + special)  # KerasHub ends what it cuts, too
    last = weight & ~np.pad(weight[:, 1:], [(0, 0), (0, 1)])
    return x, y, weight & ~(last & ~ends[:, None])


def _tokens(preprocessor, texts):
    tokens = preprocessor.tokenizer(list(texts))
    return tokens.to_list() if hasattr(tokens, "to_list") else tokens


def on_policy(student, prompts, answers=None, *, share=0.5, batch_size=32, temperature=1.0,
              top_p=1.0, seed=0):  # fmt: skip
    """On-policy distillation: a share of the batches are the student's own answers, which the
    teacher then scores, token by token.

    Each epoch draws anew which batches these are, and in which order the prompts come. The student
    answers with the weights that it has then, or had a step or two before, since `fit` fetches
    batches in advance. `fit` with `alpha=1`: the label loss would take the student's own tokens
    for right. For one process and one device.

    A run that `keras.callbacks.BackupAndRestore` resumes would draw what the first epochs drew:
    give `fit` also `LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.begin(epoch))`.

    Args:
        student: the KerasHub `CausalLM` or `Seq2SeqLM` that is trained.
        prompts: strings: a list, or a `tf.data.Dataset` of them.
        answers: strings, one for each prompt, for the other batches: people's or the teacher's
            own. May be left out where `share` is 1.
        share: in [0, 1]: the part of an epoch's batches, to the nearest batch, that are the
            student's own answers (lambda in the paper).
        batch_size: prompts a batch. Those beyond the last whole batch wait for another epoch.
        temperature: of the student's sampling; 0 takes the likeliest token.
        top_p: in (0, 1]: tokens are drawn from the fewest that have this probability together.
        seed: an integer, for the rows and the kind of each batch, and for the samples. In which
            order the batches of an epoch come, Keras shuffles (`keras.utils.set_random_seed`).

    Returns:
        A `keras.utils.PyDataset` of `(x, y, sample_weight)`, as `prompt_masked` makes them.

    Raises:
        TypeError: for a student that does not generate from strings.
        ValueError: for a share out of range, missing answers, fewer prompts than a batch.

    Example:

    ```python
    distiller = Distiller(student, teacher=teacher, terms=[Term(losses.JensenShannon())])
    distiller.compile("adam")
    distiller.fit(data.on_policy(student, questions, answers, share=0.5), epochs=2)
    ```

    Reference:
        - [Agarwal et al., 2024](https://arxiv.org/abs/2306.13649)
    """
    return OnPolicy(student, prompts, answers, share, batch_size, temperature, top_p, seed)


class OnPolicy(keras.utils.PyDataset):
    """The batches that `on_policy` describes; `own` says which are the student's answers."""

    def __init__(self, student, prompts, answers, share, batch_size, temperature, top_p, seed):
        super().__init__()
        schedules.check("share", share, low=0, high=1)
        self.student, self.prompts = student, strings(prompts)
        self.answers = None if answers is None else strings(answers)
        self._sample = Sampler(student, temperature, top_p)
        self.share, self.batch_size, self.seed = share, batch_size, seed
        if self.answers is None and share < 1:
            raise ValueError(f"Without `answers`, `share` must be 1. Received: share={share}")
        if self.answers is not None and len(self.answers) != len(self.prompts):
            raise ValueError(
                "There must be one answer for each prompt. Received: "
                f"{len(self.prompts)} prompts, {len(self.answers)} answers."
            )
        if not len(self):
            raise ValueError(f"A batch of {batch_size} needs that many prompts. Received: "
                             f"{len(self.prompts)}")  # fmt: skip
        self.begin(0)

    def __len__(self):
        return len(self.prompts) // self.batch_size

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        prompts = [self.prompts[row] for row in rows]
        if self.own[index]:
            return self._sample(prompts, [self.seed, self.epoch, index]).supervised()
        return prompt_masked(self.student, prompts, [self.answers[row] for row in rows])

    def on_epoch_end(self):
        self.begin(self.epoch + 1)

    def begin(self, epoch):
        """Draws what an epoch is made of: the same for the same number."""
        self.epoch, draw = epoch, np.random.default_rng([self.seed, epoch])
        self.order = draw.permutation(len(self.prompts))
        self.own = draw.permutation(len(self)) < round(self.share * len(self))
