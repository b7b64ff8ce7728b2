"""What a model that trains another one needs of Keras's trainers."""

import contextlib
import inspect
import threading

import keras
from keras import ops

from keras_distill import _backend

# The first Keras, as (3, 16), whose own `fit` and `evaluate` run on several workers; `None`: none
# does yet. `tests/training/workers_test.py` fails when one does: name its version here.
RUNS_ON_WORKERS = None

# What `compile` leaves in a model. Keras has no public way to the compiled loss without the
# regularization, to whether there is one, or to the mean that logs report as "loss".
COMPILED = ("_compile_loss", "_compile_metrics", "_loss_tracker")


class SharesCompiled:
    """A trainer whose compiled loss, metrics and mean loss are those of `self.judged`.

    Keras's own `_symbolic_build` and `_get_metrics_result_or_logs` then see that model's.
    """

    def _get_metrics_result_or_logs(self, logs):
        """Keras's; an epoch that goes on after its last step has metrics, and no step's logs."""
        return super()._get_metrics_result_or_logs(logs) or self.get_metrics_result()


class LooksFirst:
    """A trainer whose `look_first(iterator, data_batch)` runs before the first step.

    Keras has no public hook there: the data are known, and neither a callback nor a step has run.
    """

    def build_as_keras(self, iterator, data_batch):
        """Builds layers, optimizer and metrics, as Keras does on JAX and PyTorch at this place."""
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)


def _look_first(self, iterator=None, data_batch=None):
    self.look_first(iterator, data_batch)


# On TensorFlow Keras itself builds nothing then, and asks by another name whether it must.
BEFORE_STEPS = "_maybe_symbolic_build" if _backend.NAME == "tensorflow" else "_symbolic_build"
setattr(LooksFirst, BEFORE_STEPS, _look_first)


def _shared(name):
    def read(self):
        return getattr(self.judged, name)

    def write(self, value):
        """Keras's constructor and `compile` set their own; the judged model's stay."""

    return property(read, write)


for _name in (*COMPILED, "loss"):
    setattr(SharesCompiled, _name, _shared(_name))


def forget_compiled(model):
    """Before `compile`, which keeps the loss of an earlier call where it gets none."""
    model._compile_loss = model._compile_metrics = None
    model.loss = None


def has_label_loss(model):
    """Whether labels are compared: by a compiled loss, or by a `compute_loss` of its own."""
    return model._compile_loss is not None or overrides(model, "compute_loss")


def compiled_metrics(model):
    """Returns what `compile` was given as metrics, `None` where there are none."""
    return model._compile_metrics and (
        model._compile_metrics._user_metrics,
        model._compile_metrics._user_weighted_metrics,
    )


def label_loss(model, y, y_pred, sample_weight, share=None):
    """Returns the compiled loss alone: `compute_loss` adds the regularization.

    Args:
        model: a compiled model.
        y, y_pred, sample_weight: as its compiled loss takes them.
        share: a function `(value, loss, y_true, y_pred, sample_weight)` of each output that
            returns what is to stand in the place of its loss's value. Defaults to `None`: none.
    """
    compiled = model._compile_loss
    if share is None:
        return compiled(y, y_pred, sample_weight)
    if not compiled.built:
        compiled(y, y_pred, sample_weight)
    # Keras has no public list of the losses that a compiled loss is the sum of.
    compiled._flat_losses = [
        each._replace(loss=_Shared.around(each.loss)) for each in compiled._flat_losses
    ]
    _Shared.now.share = share
    try:
        return compiled(y, y_pred, sample_weight)
    finally:
        _Shared.now.share = None


class _Now(threading.local):
    """What a thread measures now: replicas run in threads, and wait for each other meanwhile."""

    share = None


class _Shared:
    """The loss of one output, of which each replica may have a share meanwhile."""

    now = _Now()

    def __init__(self, loss):
        self.loss = loss

    @classmethod
    def around(cls, loss):
        return loss if isinstance(loss, cls) else cls(loss)

    def __call__(self, y_true, y_pred, sample_weight=None):
        value = self.loss(y_true, y_pred, sample_weight)
        share = self.now.share
        return value if share is None else share(value, self.loss, y_true, y_pred, sample_weight)


def compute_loss(model, x, y, y_pred, sample_weight, training):
    """Returns a model's own `compute_loss`, which may be older than the argument `training`."""
    if "training" in inspect.signature(model.compute_loss).parameters:
        return model.compute_loss(x, y, y_pred, sample_weight, training=training)
    return model.compute_loss(x, y, y_pred, sample_weight)


def added_losses(model):
    """Returns what a model and its layers add to the loss, each a scalar, as Keras weighs it."""
    return [model._aggregate_additional_loss(loss) for loss in model.losses]


def loss_tracker(model):
    """Returns the mean that logs report as "loss"."""
    return model._loss_tracker


def total_of_replicas(loss):
    """Returns a loss as Keras reports it: on replicas it was divided by their number."""
    if _backend.NAME != "tensorflow":
        return loss
    from keras.src.losses.loss import unscale_loss_for_distribution

    return unscale_loss_for_distribution(loss)


def overrides(model, name):
    """Returns whether a model's class has a method of its own in the place of `keras.Model`'s."""
    return getattr(type(model), name) is not getattr(keras.Model, name)


def strategy_of(model):
    """Returns the `tf.distribute` strategy that a model was made under, or `None`."""
    return getattr(model, "_distribute_strategy", None)


def is_one_of_workers(model):
    """Returns whether a model trains on several workers, each a process of its own."""
    return _worker_of(model) is not None


def runs_on_workers():
    """Whether this Keras trains on several workers by itself, so that nothing is mended for it."""
    found = tuple(int(part) for part in keras.version().split(".")[:2])
    return RUNS_ON_WORKERS is not None and found >= RUNS_ON_WORKERS


def is_first_worker(model):
    """Whether this process is the one that writes files: there is no other, or it is the first."""
    worker = _worker_of(model)
    return worker is None or worker.task_type == "chief" or not worker.task_id


def _worker_of(model):
    """Returns the cluster resolver of a strategy of several workers, or `None`."""
    if _backend.NAME != "tensorflow":
        return None
    kind = _backend.tensorflow("`tf.distribute`").distribute.MultiWorkerMirroredStrategy
    strategy = strategy_of(model)
    return strategy.cluster_resolver if isinstance(strategy, kind) else None


def takes_inputs_as_they_are(model):
    """Has Keras hand a model's inputs on: the model inside converts them, as it does alone."""
    model._convert_input_args = False
    model._allow_non_tensor_positional_args = True


def build_compiled(model, data_batch):
    """Builds what `fit` builds before the first step, from one batch."""
    model._symbolic_build(data_batch=data_batch)


def waits_for_data(model):
    """Returns whether Keras will look at a batch itself before `fit` (not on TensorFlow)."""
    unbuilt = [each for each in (model._compile_metrics, model._compile_loss) if each is not None]
    return not all(each.built for each in (*unbuilt, *model._flatten_layers()))


def add_to_mean(mean, value, count):
    """`mean.update_state(value, count)` of a `keras.metrics.Mean`, in two operations of twenty."""
    count = ops.cast(count, mean.count.dtype)
    mean.total.assign_add(ops.cast(value, mean.total.dtype) * count)
    mean.count.assign_add(count)


def has_updated(optimizer, count):
    """Whether a step has updated the weights: `True`, or a scalar tensor where not every step does.

    Args:
        optimizer: the optimizer, after the step.
        count: its `iterations` before it.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is None and not optimizer.gradient_accumulation_steps:
        return True
    return ops.not_equal(optimizer.iterations, count)


@contextlib.contextmanager
def optimizer_left(model, left):
    """Meanwhile Keras sees no optimizer where `left`: built now it would lack projectors."""
    optimizer = model.optimizer
    if left:
        model.optimizer = None
    try:
        yield
    finally:
        model.optimizer = optimizer
