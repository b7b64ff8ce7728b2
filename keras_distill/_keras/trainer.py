"""The parts of Keras's trainers that a model needs if it trains another model."""

import contextlib
import inspect
import threading

import keras
from keras import ops

from keras_distill import _backend

# The first Keras, as (3, 16), whose own `fit` and `evaluate` run on several workers; `None` if
# there is none. `tests/training/workers_test.py` fails when there is one. Then write its version
# here.
RUNS_ON_WORKERS = None

# The attributes that `compile` sets on a model. Keras has no public name for the compiled loss
# without the regularization, for whether there is one, or for the mean that logs report as "loss".
COMPILED = ("_compile_loss", "_compile_metrics", "_loss_tracker")


class SharesCompiled:
    """A trainer whose compiled loss, metrics and mean loss are those of `self.judged`.

    Keras's own `_symbolic_build` and `_get_metrics_result_or_logs` then use that model's.
    """

    def _get_metrics_result_or_logs(self, logs):
        """Calls Keras's method; an epoch that resumes after its last step has no logs."""
        return super()._get_metrics_result_or_logs(logs) or self.get_metrics_result()


class LooksFirst:
    """A trainer whose `look_first(iterator, data_batch)` runs before the first step.

    Keras has no public hook at this point: the data are known, no callback or step has run.
    """

    def build_as_keras(self, iterator, data_batch):
        """Builds layers, optimizer and metrics, as Keras does on JAX and PyTorch at this point."""
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)


def _look_first(self, iterator=None, data_batch=None):
    self.look_first(iterator, data_batch)


# On TensorFlow Keras builds nothing at this point, and asks by another name whether it must.
BEFORE_STEPS = "_maybe_symbolic_build" if _backend.NAME == "tensorflow" else "_symbolic_build"
setattr(LooksFirst, BEFORE_STEPS, _look_first)


def _shared(name):
    def read(self):
        return getattr(self.judged, name)

    def write(self, value):
        """Ignores what Keras's constructor and `compile` set: the judged model's stay."""

    return property(read, write)


for _name in (*COMPILED, "loss"):
    setattr(SharesCompiled, _name, _shared(_name))


def forget_compiled(model):
    """Removes the loss of an earlier `compile`, which Keras would keep without a new one."""
    model._compile_loss = model._compile_metrics = None
    model.loss = None


@contextlib.contextmanager
def uncompiled(model):
    """Within the block a saved file of the model has no optimizer, which is twice its weights."""
    held = {name: getattr(model, name, None) for name in ("compiled", "optimizer")}
    model.compiled, model.optimizer = False, None
    try:
        yield
    finally:
        for name, value in held.items():
            setattr(model, name, value)


def has_label_loss(model):
    """Returns whether a model has a loss on labels: compiled, or a `compute_loss` of its own."""
    return model._compile_loss is not None or overrides(model, "compute_loss")


def compiled_metrics(model):
    """Returns the metrics that `compile` got, or `None` if there are none."""
    return model._compile_metrics and (
        model._compile_metrics._user_metrics,
        model._compile_metrics._user_weighted_metrics,
    )


def loss_weights(model):
    """Returns the weights of the losses that `compile` got, or `None`."""
    return model._compile_loss and model._compile_loss._user_loss_weights


def label_loss(model, y, y_pred, sample_weight, share=None):
    """Returns the compiled loss alone, without the regularization that `compute_loss` adds.

    Args:
        model: a compiled model.
        y, y_pred, sample_weight: as its compiled loss takes them.
        share: a function `(value, loss, y_true, y_pred, sample_weight)` for each output. It returns
            the value to use in place of the loss's value. Defaults to `None`: the loss's value.
    """
    compiled = model._compile_loss
    if share is None:
        return compiled(y, y_pred, sample_weight)
    if not compiled.built:
        compiled(y, y_pred, sample_weight)
    # Keras has no public list of the losses whose sum is a compiled loss.
    compiled._flat_losses = [
        each._replace(loss=_Shared.around(each.loss)) for each in compiled._flat_losses
    ]
    _Shared.now.share = share
    try:
        return compiled(y, y_pred, sample_weight)
    finally:
        _Shared.now.share = None


class _Now(threading.local):
    """The state of one thread: replicas run in threads, and wait for each other."""

    share = None


class _Shared:
    """The loss of one output, of which each replica computes its share."""

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
    """Calls a model's own `compute_loss`, which may not know the argument `training`."""
    if "training" in inspect.signature(model.compute_loss).parameters:
        return model.compute_loss(x, y, y_pred, sample_weight, training=training)
    return model.compute_loss(x, y, y_pred, sample_weight)


def added_losses(model):
    """Returns the losses that a model and its layers add, each a scalar as Keras weighs it."""
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
    """Returns whether a model's class overrides a method of `keras.Model`."""
    return getattr(type(model), name) is not getattr(keras.Model, name)


def strategy_of(model):
    """Returns the `tf.distribute` strategy under which a model was made, or `None`."""
    return getattr(model, "_distribute_strategy", None)


def is_one_of_workers(model):
    """Returns whether a model trains on several workers, each a process of its own."""
    return _worker_of(model) is not None


def runs_on_workers():
    """Returns whether this Keras trains on several workers without help of this package."""
    found = tuple(int(part) for part in keras.version().split(".")[:2])
    return RUNS_ON_WORKERS is not None and found >= RUNS_ON_WORKERS


def is_first_worker(model):
    """Returns whether this process writes the files: it is alone, or the first worker."""
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
    """Makes Keras pass a model's inputs on unchanged; the model inside converts them itself."""
    model._convert_input_args = False
    model._allow_non_tensor_positional_args = True


def build_compiled(model, data_batch):
    """Builds what `fit` builds before the first step, from one batch."""
    model._symbolic_build(data_batch=data_batch)


def build_judged(model, y, y_pred, sample_weight, x):
    """Makes the variables of compiled loss and metrics, as Keras does on JAX and PyTorch.

    Keras on TensorFlow makes them in the first step, and then traces this step a second time. An
    error is left to the step, which shows where it comes from.
    """

    def measure(x, y, y_pred, sample_weight):
        if model._compile_loss is not None and not model._compile_loss.built:
            model._compile_loss(y, y_pred, sample_weight)
        return model.compute_metrics(x, y, y_pred, sample_weight)

    shapes = keras.tree.map_structure(
        lambda v: v if v is None else keras.KerasTensor(
            v.shape, keras.backend.standardize_dtype(v.dtype)
        ),
        (x, y, y_pred, sample_weight),
    )
    step = keras.Operation()
    step.call = measure
    with contextlib.suppress(Exception):
        step.compute_output_spec(*shapes)


def waits_for_data(model):
    """Returns whether Keras looks at a batch itself before `fit` (not on TensorFlow)."""
    unbuilt = [each for each in (model._compile_metrics, model._compile_loss) if each is not None]
    return not all(each.built for each in (*unbuilt, *model._flatten_layers()))


def add_to_mean(mean, value, count):
    """Does `mean.update_state(value, count)` in two operations in place of twenty."""
    count = ops.cast(count, mean.count.dtype)
    mean.total.assign_add(ops.cast(value, mean.total.dtype) * count)
    mean.count.assign_add(count)


def has_updated(optimizer, count):
    """Returns whether a step has updated the weights: `True`, or a scalar tensor if steps may not.

    Args:
        optimizer: the optimizer, after the step.
        count: the optimizer's `iterations` before the step.
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is None and not optimizer.gradient_accumulation_steps:
        return True
    return ops.not_equal(optimizer.iterations, count)


@contextlib.contextmanager
def optimizer_left(model, left):
    """Hides the optimizer from Keras within the block: if built now, it would lack projectors."""
    optimizer = model.optimizer
    if left:
        model.optimizer = None
    try:
        yield
    finally:
        model.optimizer = optimizer
