"""Draws answers to prompts, token by token, from a task that generates text."""

import keras
import numpy as np

from keras_distill import _backend, schedules


class Answers:
    """The answers of a task to a batch of prompts, as tokens.

    Args:
        x: the task's inputs, prompts with their answers.
        tokens: ids (batch, length) of prompts and answers. For a sequence-to-sequence task they are
            the decoder's.
        new: which tokens belong to the answers, with their end token, of the same shape.
        end: the id of the end token.
    """

    def __init__(self, x, tokens, new, end):
        self.x, self.tokens, self.new = x, tokens, new
        self.finished = np.any(new & (tokens == end), axis=-1)

    def supervised(self):
        """Returns `(x, y, sample_weight)`: each token's successor, with weight on the answers."""
        y, weight = (np.pad(a[:, 1:], [(0, 0), (0, 1)]) for a in (self.tokens, self.new))
        return self.x, y, weight


class Sampler:
    """Draws answers from a KerasHub `CausalLM` or `Seq2SeqLM`, which it leaves unchanged.

    Args:
        task: the model, with a preprocessor. Its `generate_step` draws the tokens, with its cache
            of keys and values.
        temperature: divides the logits. 0 takes the likeliest token.
        top_p: in (0, 1]. Tokens are drawn from the fewest that have this probability together.
        max_length: the number of tokens of prompt and answer, of the decoder in a
            sequence-to-sequence task. Defaults to `None`, the preprocessor's `sequence_length`.

    Raises:
        TypeError: if the model does not generate from strings.
        ValueError: if the temperature or `top_p` is out of range, or the tokenizer pads with its
            end token.
    """

    def __init__(self, task, temperature=0.0, top_p=1.0, max_length=None):
        if getattr(task, "preprocessor", None) is None or not hasattr(task, "generate_step"):
            raise TypeError(
                "A model that generates answers must be a KerasHub `CausalLM` or `Seq2SeqLM` with "
                f"a `preprocessor`. Received: {task!r} (of type {type(task).__name__})"
            )
        tokenizer = task.preprocessor.tokenizer
        if tokenizer.pad_token_id == tokenizer.end_token_id:
            raise ValueError(
                "The tokenizer's end token must differ from its padding token. Otherwise every "
                f"answer ends before it begins. Received: {tokenizer.end_token_id} for both"
            )
        self.task = task
        self.max_length = max_length or task.preprocessor.sequence_length
        self._sampler = _sampler(temperature, top_p)
        self._step = self._in_a_graph() if _backend.NAME == "tensorflow" else self._compiled_by_task
        self._function = None  # the task's own function, on other backends

    def __call__(self, prompts, seed):
        """Returns the `Answers` to a list of strings; the same `seed` gives the same answers."""
        preprocessor = self.task.preprocessor
        x = preprocessor.generate_preprocess(prompts, sequence_length=self.max_length)
        x = {name: np.asarray(value) for name, value in x.items()}
        self._seed(seed)
        drawn = self._step(keras.tree.map_structure(keras.ops.convert_to_tensor, x))
        found = {**x, **keras.tree.map_structure(keras.ops.convert_to_numpy, drawn)}
        side = "decoder_" if "decoder_token_ids" in x else ""
        ours, asked = (np.asarray(each[f"{side}padding_mask"], bool) for each in (found, x))
        return Answers(
            found, found[f"{side}token_ids"], ours & ~asked, preprocessor.tokenizer.end_token_id
        )

    def texts(self, answers):
        """Returns the strings of the answers alone."""
        mask = {name: answers.new for name in answers.x if name.endswith("padding_mask")}
        found = self.task.preprocessor.generate_postprocess({**answers.x, **mask})
        return [_text(each) for each in found]

    def _in_a_graph(self):
        if self.task.run_eagerly:
            return self._drawn
        return _backend.tensorflow("Generation").function(self._drawn)

    def _drawn(self, x):
        kept, self.task.sampler = self.task.sampler, self._sampler
        try:
            return self.task.generate_step(x, self._ends())
        finally:
            self.task.sampler = kept

    def _compiled_by_task(self, x):
        """Runs the task's `generate`: on JAX weights are arguments, on PyTorch gradients are off.

        The task remembers one such function, made for its own sampler, so this puts it aside.
        """
        kept = self.task.sampler, self.task.generate_function
        self.task.sampler, self.task.generate_function = self._sampler, self._function
        try:
            self._function = self.task.make_generate_function()
            return self._function(x, stop_token_ids=self._ends())
        finally:
            self.task.sampler, self.task.generate_function = kept

    def _ends(self):
        return [self.task.preprocessor.tokenizer.end_token_id]

    def _seed(self, seed):
        draw = np.random.default_rng(seed)
        for variable in self._sampler.variables:
            variable.assign(draw.integers(2**31, size=variable.shape))


def _sampler(temperature, top_p):
    """Returns KerasHub's own sampler, found by the name under which it is registered for saving."""
    schedules.check("temperature", temperature, low=0)
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must be in (0, 1]. Received: top_p={top_p}")
    if temperature == 0:
        return _registered("GreedySampler")()
    if top_p == 1:
        return _registered("RandomSampler")(temperature=temperature, seed=0)
    return _registered("TopPSampler")(p=top_p, temperature=temperature, seed=0)


def _registered(name):
    found = keras.saving.get_registered_object(f"keras_hub>{name}")
    if found is None:
        raise ImportError("A sampler of KerasHub draws the answers. Run `import keras_hub` first.")
    return found


def _text(value):
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
