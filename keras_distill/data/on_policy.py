"""Batches of prompts with the student's own answers, which it generates during training."""

from typing import Any

import keras
import numpy as np

from keras_distill import schedules
from keras_distill.data.answers import strings
from keras_distill.data.completions import completion_only
from keras_distill.data.sampling import Sampler


class OnPolicy(keras.utils.PyDataset):
    """Batches for on-policy distillation, with a share of the student's own answers.

    The teacher scores these answers token by token. Each epoch chooses these batches and the order
    of the prompts at random. The student answers with its current weights, or those of a step or
    two before, because `fit` fetches batches in advance. Use `alpha=1`, because the label loss
    would treat the student's own tokens as right. It works in one process on one device.

    A run that `keras.callbacks.BackupAndRestore` resumes would repeat the choices of the first
    epochs. To avoid this, also give `fit` the callback
    `LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.begin(epoch))`.

    Args:
        student: the KerasHub `CausalLM` or `Seq2SeqLM` that is trained.
        prompts: strings: a list, or a `tf.data.Dataset` of them.
        answers: strings, one for each prompt, for the other batches, written by people or by the
            teacher. May be left out if `share` is 1.
        share: in [0, 1]: the part of an epoch's batches, to the nearest batch, that are the
            student's own answers (lambda in the paper).
        batch_size: the number of prompts in a batch. An epoch leaves out an incomplete last batch.
        temperature: the temperature of the student's sampling. 0 takes the most probable token.
        top_p: in (0, 1]. Tokens are sampled from the fewest that have this probability together.
        seed: an integer, for the rows and the kind of each batch, and for the samples. Keras
            shuffles the order of an epoch's batches (`keras.utils.set_random_seed`).

    Attributes:
        own: booleans, one for each batch of this epoch: whether the student answers.

    Raises:
        TypeError: if the student does not generate from strings.
        ValueError: if the share is out of range, answers are missing, or there are fewer prompts
            than a batch holds.

    Example:

    ```python
    distiller = Distiller(student, teacher=teacher, terms=[Term(losses.JensenShannon())])
    distiller.compile("adam")
    distiller.fit(data.OnPolicy(student, questions, answers, share=0.5), epochs=2)
    ```

    Reference:
        - [Agarwal et al., 2024](https://arxiv.org/abs/2306.13649)
    """

    def __init__(
        self,
        student: keras.Model,
        prompts: Any,
        answers: Any = None,
        *,
        share: float = 0.5,
        batch_size: int = 32,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ):
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
                "Each prompt needs one answer. Received: "
                f"{len(self.prompts)} prompts, {len(self.answers)} answers"
            )
        if not len(self):
            raise ValueError(f"`prompts` must hold at least `batch_size` prompts. Received: "
                             f"{len(self.prompts)} prompts, batch_size={batch_size}")  # fmt: skip
        self.begin(0)

    def __len__(self):
        return len(self.prompts) // self.batch_size

    def __getitem__(self, index):
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        prompts = [self.prompts[row] for row in rows]
        if self.own[index]:
            return self._sample(prompts, [self.seed, self.epoch, index]).supervised()
        return completion_only(self.student, prompts, [self.answers[row] for row in rows])

    def on_epoch_end(self):
        self.begin(self.epoch + 1)

    def begin(self, epoch):
        """Draws an epoch's batches; the same number gives the same batches."""
        self.epoch, draw = epoch, np.random.default_rng([self.seed, epoch])
        self.order = draw.permutation(len(self.prompts))
        self.own = draw.permutation(len(self)) < round(self.share * len(self))
