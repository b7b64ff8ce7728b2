"""Sequence-level distillation: a teacher's answers, written once, as data for any student."""

import json
import pathlib
import time
from os import PathLike
from typing import Any

import keras
import numpy as np

from keras_distill import _files
from keras_distill.data.fingerprints import digest, fingerprints_of
from keras_distill.data.sampling import Sampler

UNFINISHED = ".unfinished"  # ends the name of a file that a later run continues
ROW = {"prompt": str, "answer": str, "finished": bool}


def generate(
    teacher: keras.Model,
    prompts: Any,
    file: str | PathLike[str],
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_length: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    verbose: int = 1,
) -> dict[str, list]:
    """Writes a teacher's answers to prompts into a file, and returns them.

    A student learns from them as from any text. The first line of the file is JSON with the
    settings. One line for each prompt follows. An interrupted run continues after its last
    complete batch, and writes the same answers, because each batch has its own seed. The file gets
    its name when it is complete. If the file exists, it is only read.

    Args:
        teacher: a KerasHub `CausalLM` or `Seq2SeqLM` with a preprocessor.
        prompts: strings: a list, an array, a pandas column, or a `tf.data.Dataset` of them or of
            tuples that begin with them. They are the encoder's text for a `Seq2SeqLM`.
        file: the path of the file to write.
        temperature: divides the logits before a token is sampled. Defaults to 0, which takes the
            most probable token.
        top_p: in (0, 1]. Tokens are sampled from the fewest that have this probability together.
        max_length: the number of tokens of a prompt with its answer (of the decoder, for a
            `Seq2SeqLM`). Defaults to `None`, which is the preprocessor's `sequence_length`.
        batch_size: the number of prompts in a batch.
        seed: an integer. The same seed gives the same answers.
        verbose: 1 shows progress and tokens per second, 0 shows nothing.

    Returns:
        `{"prompt": strings, "answer": strings, "finished": booleans}`, each a list. An answer is
        not finished if it was cut at `max_length`.

    Raises:
        TypeError: if the teacher does not generate from strings.
        ValueError: if the file belongs to another teacher, other prompts or other settings, or if a
            setting is out of range.

    Example:

    ```python
    said = data.generate(teacher, questions, "answers.jsonl", temperature=0.7, top_p=0.9)
    x, y, weight = data.completion_only(student, said["prompt"], said["answer"], said["finished"])
    distiller = Distiller(student)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(x, y, sample_weight=weight)
    ```

    Reference:
        - [Kim and Rush, 2016](https://arxiv.org/abs/1606.07947)
    """
    file, prompts = pathlib.Path(file), strings(prompts)
    sampler = Sampler(teacher, temperature, top_p, max_length)
    header = {
        "teacher": fingerprints_of(teacher), "tokenizer": digest(json.dumps(_words(teacher))),
        "prompts": digest(json.dumps(prompts)), "count": len(prompts), "temperature": temperature,
        "top_p": top_p, "max_length": sampler.max_length, "batch_size": batch_size, "seed": seed,
    }  # fmt: skip
    header = _files.plain(header)
    if not file.exists():
        _write(sampler, prompts, file, header, verbose)
    return _columns(_read(file, header))


def strings(texts):
    """Returns a list of the strings in a list, an array or a dataset (first entries)."""
    if hasattr(texts, "as_numpy_iterator"):
        rows = texts.as_numpy_iterator()
        texts = [each for row in rows for each in np.ravel(row[0] if type(row) is tuple else row)]
    found = [each.decode() if isinstance(each, bytes) else each for each in texts]
    if not found or not all(isinstance(each, str) for each in found):
        raise ValueError(f"Prompts must be strings, and at least one. Received: {found[:1]}")
    return [str(each) for each in found]


def _write(sampler, prompts, file, header, verbose):
    part = file.with_name(file.name + UNFINISHED)
    file.parent.mkdir(parents=True, exist_ok=True)
    size, done = header["batch_size"], _resumed(part, header)
    bar = keras.utils.Progbar(len(prompts), stateful_metrics=["tokens_a_second"], verbose=verbose)
    with open(part, "a", encoding="utf-8") as lines:
        for start in range(done, len(prompts), size):
            began, batch = time.perf_counter(), prompts[start : start + size]
            answers = sampler(batch, [header["seed"], start])
            rows = zip(batch, sampler.texts(answers), answers.finished, strict=True)
            lines.writelines(_line({"prompt": prompt, "answer": answer, "finished": bool(whole)})
                             for prompt, answer, whole in rows)  # fmt: skip
            lines.flush()
            rate = answers.new.sum() / (time.perf_counter() - began)
            bar.update(start + len(batch), [("tokens_a_second", rate)])
    part.replace(file)


def _resumed(part, header):
    """Returns how many prompts an earlier run has answered in whole batches; cuts off the rest."""
    lines = _whole_lines(part) if part.exists() else []
    if not lines:
        _files.write(part, _line(header))
        return 0
    _refuse_another(part, _row(part, lines[0]), header)
    done = len(lines) - 1
    if done < header["count"]:
        done -= done % header["batch_size"]
    _files.write(part, "".join(lines[: 1 + done]))
    return done


def _whole_lines(path):
    return [line for line in path.read_bytes().decode(errors="replace").splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip


def _read(file, header):
    lines = _whole_lines(file)
    _refuse_another(file, _row(file, lines[0]) if lines else {}, header)
    rows = [_row(file, line, ROW) for line in lines[1:]]
    if len(rows) != header["count"]:
        raise ValueError(
            f"{file} is damaged. It has {len(rows)} of {header['count']} answers. Delete it."
        )
    return rows


def _refuse_another(path, there, header):
    if found := _files.differences(there, header):
        raise ValueError(
            f"{path} holds answers made with other settings ({'; '.join(found)}). Give another "
            "file, or delete it."
        )


def _columns(rows):
    return {name: [row[name] for row in rows] for name in ("prompt", "answer", "finished")}


def _row(file, line, fields=None):
    """Returns the content of one line of a file."""
    row = _files.parsed(file, line)
    _files.check_fields(file, row, fields or {})
    return row


def _line(row):
    return json.dumps(row) + "\n"  # in ASCII, an answer holds no line break


def _words(task):
    tokenizer = task.preprocessor.tokenizer
    return [*tokenizer.get_vocabulary()] if hasattr(tokenizer, "get_vocabulary") else None
