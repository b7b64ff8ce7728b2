"""How the examples of text train: the rate, tokens a second, and going on from the last epoch."""

import sys
import time

import keras

from keras_distill.data import without_autotune

MEASURED = (  # what says how models are measured, or which, and not how they are trained
    "out", "students", "arms", "seeds", "chat", "temperature", "split", "test", "documents",
    "words", "write", "runs",
)  # fmt: skip


def settings(given):
    """The flags that models are trained by: a run goes on only with the same."""
    return {name: value for name, value in vars(given).items() if name not in MEASURED}


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


def train(distiller, data, backup, *, epochs, tokens, validation_data=None):
    """Fits a compiled distiller; returns `(student, record)`, as an arm is trained.

    The state at each epoch's end is kept in the folder `backup` until `fit` ends: the next call
    goes on from there.
    """
    callbacks = [keras.callbacks.BackupAndRestore(backup), TokensASecond(tokens)]
    if hasattr(data, "begin"):  # on policy: a resumed run draws what its epoch draws
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
    """What reads a trained model; with `--tiny` for a few calls, which graphs do not repay."""

    def load(path):
        model = keras.saving.load_model(path, compile=False)
        model.run_eagerly = given.tiny
        return model

    return load
