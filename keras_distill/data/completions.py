"""Makes training data from prompts and answers, with weights on the answers alone."""

from typing import Any

import keras
import numpy as np

AT_ONCE = 1024  # texts: while it works, a tokenizer of KerasHub holds some 300 kB for each


def completion_only(task: keras.Model, prompts: Any, answers: Any, finished: Any = None) -> tuple:
    """Makes `(x, y, sample_weight)` of prompts and answers, with weights only on the answers.

    The prompt and the answer are tokenized separately, as when the task generates. Texts that are
    longer than the preprocessor's `sequence_length` are cut and get no end token.

    Args:
        task: a KerasHub `CausalLM` or `Seq2SeqLM`, whose preprocessor makes the tokens.
        prompts: N strings. For a `Seq2SeqLM` they are the encoder's texts.
        answers: N strings.
        finished: N booleans. An answer that is not finished gets no end token. Defaults to `None`:
            all are finished.

    Returns:
        Inputs; ids (N, length) of the token that follows each token; and booleans (N, length) that
        are true if this next token belongs to an answer.

    Raises:
        ValueError: if the lists differ in length.

    Example:

    ```python
    x, y, sample_weight = data.completion_only(student, ["Who are you?\\n"], ["A program."])
    ```
    """
    finished = np.ones(len(prompts), bool) if finished is None else np.asarray(finished, bool)
    if not len(prompts) == len(answers) == len(finished):
        raise ValueError(
            "Each prompt needs one answer and one value of `finished`. Received: "
            f"{len(prompts)} prompts, {len(answers)} answers, {len(finished)} values"
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
    special = weight[-1].sum()  # the tokens of an answer without text
    x, y, weight = keras.tree.map_structure(lambda rows: rows[:-1], (x, y, weight))
    said = np.array([len(answer) for answer in _tokens(preprocessor, answers)], int)
    ends = finished & (weight.sum(1) == said + special)  # KerasHub also ends texts that it cuts
    last = weight & ~np.pad(weight[:, 1:], [(0, 0), (0, 1)])
    return x, y, weight & ~(last & ~ends[:, None])


def _tokens(preprocessor, texts):
    tokens = preprocessor.tokenizer(list(texts))
    return tokens.to_list() if hasattr(tokens, "to_list") else tokens
