"""Trains the examples on text, counts tokens per second, and resumes after the last epoch."""

import sys
import time

import keras

from keras_distill.data import without_autotune

MEASURED = (  # the options that change only which models are measured, and how
    "out", "students", "arms", "seeds", "chat", "temperature", "split", "test", "documents",
    "words", "write", "runs",
)  # fmt: skip


def settings(given):
    """Returns the options that change the training. A run resumes only with the same ones."""
    return {name: value for name, value in vars(given).items() if name not in MEASURED}


def count_tokens(tokenizer, texts, length):
    """Counts the tokens of texts with a start and an end token, each text cut to `length`."""
    batches = (texts[start : start + 1024] for start in range(0, len(texts), 1024))
    return sum(min(len(each) + 2, length) for batch in batches for each in tokenizer(batch))


class TokensASecond(keras.callbacks.Callback):
    """Logs how many tokens per second are trained on in an epoch, without the validation.

    Args:
        tokens: the number of tokens in an epoch, without padding.
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
    """Returns a rate that rises over a `share` of the steps and decays along a cosine."""
    warm = max(1, int(steps * share))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm), warmup_target=rate, warmup_steps=warm
    )


def train(distiller, data, backup, *, epochs, tokens, validation_data=None):
    """Fits a compiled distiller; returns `(student, record)`.

    The folder `backup` keeps the state at the end of each epoch until `fit` ends. The next call
    resumes from there.
    """
    callbacks = [keras.callbacks.BackupAndRestore(backup), TokensASecond(tokens)]
    if hasattr(data, "begin"):  # on policy, a resumed epoch draws the same samples
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: data.begin(epoch))
        callbacks.append(begin)
    print(f"Training {backup.name} for {epochs} epochs.", flush=True)
    verbose = 1 if sys.stdout.isatty() else 2
    logs = distiller.fit(
        without_autotune(data), validation_data=without_autotune(validation_data),
        epochs=epochs, verbose=verbose, callbacks=callbacks,
    )  # fmt: skip
    history = {key: [float(value) for value in log] for key, log in logs.history.items()}
    return distiller.student, {"history": history}


def loader(given):
    """Returns a function that loads a trained model.

    With `--tiny` the model runs eagerly, because a graph takes longer than the few calls save.
    """

    def load(path):
        model = keras.saving.load_model(path, compile=False)
        model.run_eagerly = given.tiny
        return model

    return load
