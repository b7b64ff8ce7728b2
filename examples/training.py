"""Trains a model of an example so that a killed run goes on from the last epoch's end."""

import functools
import json
import shutil
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_distill.data import without_autotune

MEASURED = (  # what says how models are measured, or which, and not how they are trained
    "out", "students", "arms", "seeds", "chat", "temperature", "split", "test", "documents",
    "words", "write", "runs",
)  # fmt: skip


def open_folder(given):
    """Makes the folder `given.out`; refuses one whose models were trained with other flags."""
    settings = {name: str(value) for name, value in vars(given).items() if name not in MEASURED}
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "settings.json"
    kept = json.loads(file.read_text()) if file.exists() else settings
    if kept != settings:
        other = {name: kept.get(name) for name in settings if kept.get(name) != settings[name]}
        raise SystemExit(f"{file} has other settings: {other}. Give them, or another --out.")
    part = file.with_suffix(".part")
    part.write_text(json.dumps(settings, indent=1))
    part.replace(file)


def count_tokens(tokenizer, texts, length):
    """How many tokens texts have, with a start and an end, each cut to a length."""
    batches = (texts[start : start + 1024] for start in range(0, len(texts), 1024))
    return sum(min(len(each) + 2, length) for batch in batches for each in tokenizer(batch))


class TokensASecond(keras.callbacks.Callback):
    """Logs how many tokens of an epoch are trained on in a second, without the validation.

    Args:
        tokens: how many tokens an epoch has, padding not counted.
    """

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.time()

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.time()

    def on_epoch_end(self, epoch, logs=None):
        logs["tokens_a_second"] = round(self.tokens / (self.ended - self.started))


def warmed_up(rate, steps, share=0.1):
    """A rate that rises along the first `share` of the steps and falls along a cosine."""
    warm = max(1, int(steps * share))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm), warmup_target=rate, warmup_steps=warm
    )


def train(distiller, data, file, *, epochs, tokens, validation_data=None):
    """Fits a compiled distiller and writes its student to `file`, whole or not at all.

    Its state is kept at the end of each epoch beside `file`, and found there by the next call.
    """
    backup = file.with_suffix(".backup")
    callbacks = [keras.callbacks.BackupAndRestore(backup), TokensASecond(tokens)]
    if hasattr(data, "begin"):  # on policy: a resumed run draws what its epoch draws
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: data.begin(epoch))
        callbacks.append(begin)
    print(f"Training {file.stem} for {epochs} epochs.", flush=True)
    verbose = 1 if sys.stdout.isatty() else 2
    distiller.fit(without_autotune(data), validation_data=without_autotune(validation_data),
                  epochs=epochs, verbose=verbose, callbacks=callbacks)  # fmt: skip
    part = file.with_suffix(".part.keras")
    distiller.save(part)
    part.replace(file)
    shutil.rmtree(backup, ignore_errors=True)


def loaded(file, eagerly):
    """A model that `train` has written; `eagerly` for a few calls, which graphs do not repay."""
    model = keras.saving.load_model(file, compile=False)
    model.run_eagerly = eagerly
    return model


def speeds(models, sizes=(1, 32), rounds=30, warmup=3):
    """Milliseconds a call and examples a second of models, by batch size: `{name: {size: ...}}`.

    They take turns, so that whatever else the machine does slows all of them; medians.

    Args:
        models: `{name: (model, inputs)}`. Models are called as in inference, by a compiled
            function; one that is to `run_eagerly` so and once. Inputs are a tensor or a dict of
            tensors of at least as many examples as the largest size.
        sizes: the sizes of a batch.
        rounds: how many calls of each are timed.
        warmup: how many calls go before them.
    """
    calls = {}
    for name, (model, inputs) in models.items():
        run = functools.partial(model, training=False)
        if model.run_eagerly:
            rounds, warmup = 1, 0
        else:
            run = tf.function(run)
        for size in sizes:
            batch = keras.tree.map_structure(lambda value, size=size: value[:size], inputs)
            calls[name, size] = functools.partial(run, batch), []
    for _ in range(warmup + rounds):
        for call, times in calls.values():
            started = time.perf_counter()
            keras.tree.map_structure(np.asarray, call())
            times.append(time.perf_counter() - started)
    found = {name: {} for name in models}
    for (name, size), (_, times) in calls.items():
        median = float(np.median(times[warmup:]))
        found[name][size] = {"ms": 1e3 * median, "examples_a_second": size / median}
    return found
