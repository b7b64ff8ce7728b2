"""Optimizers for a distiller: learning rates that differ, and clipping on replicas."""

import keras

# `exclude_from_weight_decay` sets it. No config holds it, so no public name can copy it.
NOT_IN_THE_CONFIG = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def scaled(optimizer, scales):
    """Returns an optimizer that multiplies the learning rate of some variables.

    Args:
        optimizer: a Keras optimizer that is not built. It is not changed.
        scales: a list of `(variable, multiplier)`.
    """
    base = _one_by_one(type(optimizer))
    kind = type("Scaled" + base.__name__, (_Scaled, base), {})
    made = kind.from_config({**optimizer.get_config(), "learning_rate": _rate(optimizer)})
    for name in NOT_IN_THE_CONFIG:
        if hasattr(optimizer, name):
            setattr(made, name, getattr(optimizer, name))
    made._whole = optimizer.weight_decay
    made._scales = {made._var_key(variable): scale for variable, scale in scales}
    return made


def _one_by_one(kind):
    """Returns the class whose `update_step` updates one variable.

    On PyTorch `keras.optimizers.Adam(...)` makes an instance of a subclass that updates all
    variables at once, at one rate.
    """
    public = getattr(keras.optimizers, kind.__name__, kind)
    return public if issubclass(kind, public) else kind


def _rate(optimizer):
    """Returns the learning rate as it was given: a number, a schedule or a function.

    The public `learning_rate` returns a schedule's value at the first step, not the schedule.
    """
    rate = optimizer._learning_rate
    if not isinstance(rate, keras.Variable):
        return rate
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def clips(optimizer):
    """Returns whether an optimizer clips the gradients of each step."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    bounds = inner.clipnorm, inner.global_clipnorm, inner.clipvalue
    return any(bounds) and not inner.gradient_accumulation_steps


def scales(optimizer):
    """Returns whether an optimizer scales the loss, and skips a step if its gradients overflow."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def clipped(optimizer, gradients):
    """Clips gradients as the optimizer does. They stay scaled as the loss was.

    Keras clips inside of `apply`, where each replica has only its share of the gradients.

    Args:
        optimizer: an optimizer for which `clips` is true.
        gradients: a list of tensors.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    scale = keras.ops.convert_to_tensor(optimizer.scale_loss(1.0))
    found = inner._clip_gradients([g / _like(scale, g) for g in gradients])
    return [g * _like(scale, g) for g in found]


def _like(scale, gradient):
    return keras.ops.cast(scale, gradient.dtype)


class _Scaled:
    """The methods that are added to an optimizer's class.

    Three names are private. `_apply_weight_decay` multiplies the decay by the one learning rate.
    `_use_weight_decay` says which variables decay. By `_var_key` an optimizer tells variables
    apart; TensorFlow's passes them to `update_step` in its own form.
    """

    _scales = {}
    _whole = None  # replicas run in threads, and one may read what another has scaled

    def _scale(self, variable):
        return self._scales.get(self._var_key(variable), 1.0)

    def update_step(self, gradient, variable, learning_rate):
        scale = self._scale(variable)
        if scale != 1:
            learning_rate = keras.ops.multiply(learning_rate, scale)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        if self._whole is None:
            return
        groups = {}
        for variable in filter(self._use_weight_decay, variables):
            groups.setdefault(self._scale(variable), []).append(variable)
        for scale, group in groups.items():
            self.weight_decay = scale * self._whole
            super()._apply_weight_decay(group)
        self.weight_decay = self._whole
