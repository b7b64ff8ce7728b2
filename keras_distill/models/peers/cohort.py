"""Several models trained together in one step."""

import keras


def cohort(**members):
    """One Keras model with an output per member, for online distillation.

    `cohort(teacher=a, student=b)(x) = {"teacher": a(x), "student": b(x)}`

    Terms over the source `"self"` let members learn from each other (see `recipes.mutual` and
    `recipes.online`); labels go to every member. A member is the very model that was given: it is
    `net.student`, its layers are tapped at `"student/..."`, and `net.student.save(path)` or
    `.export(path)` writes it alone. `scale_learning_rates` gives it a learning rate of its own.

    Args:
        **members: models of the same inputs by name; of any size and kind. Under a strategy all
            are made in its scope, and the cohort, too.

    Returns:
        A `Cohort`, a `keras.Model`.

    Raises:
        ValueError: for fewer than two members, the same model twice, or a name that is taken.
        TypeError: for a member that is no Keras model.

    Example:

    ```python
    net = models.cohort(teacher=big, student=small)
    distiller = Distiller(net, terms=recipes.online())
    adam = keras.optimizers.Adam(1e-3)
    distiller.compile(models.scale_learning_rates(adam, {net.teacher: 0.1}), loss)
    net.student.save("student.keras")
    ```
    """
    return Cohort(members)


@keras.saving.register_keras_serializable(package="keras_distill")
class Cohort(keras.Model):
    """The model that `cohort` makes.

    Args:
        members: `{name: model}`.
        name: the model's name. Defaults to `"cohort"`.
        **kwargs: as in `keras.Model`.

    Raises:
        ValueError: for fewer than two members, the same model twice, or a name that is taken.
        TypeError: for a member that is no Keras model.
    """

    def __init__(self, members, name="cohort", **kwargs):
        _check(members)
        policies = [member.dtype_policy for member in members.values()]
        scaled = [policy for policy in policies if policy.compute_dtype == "float16"]
        kwargs.setdefault("dtype", [*scaled, *policies][0])  # `compile` scales a float16 loss
        super().__init__(name=name, autocast=False, **kwargs)
        self.members = {}
        for key, member in members.items():
            if hasattr(self, key):
                raise ValueError(f"A member cannot be named `{key}`: a Keras model has that.")
            self.members[key] = member
            setattr(self, key, member)
        self._outputs_struct = {key: None for key in members}  # the names of the outputs
        self.built = all(member.built for member in members.values())

    def call(self, x, training=None):
        return {key: member(x, training=training) for key, member in self.members.items()}

    def get_config(self):
        saved = {k: keras.saving.serialize_keras_object(m) for k, m in self.members.items()}
        return {"name": self.name, "members": saved}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        members = {
            key: keras.saving.deserialize_keras_object(member, custom_objects)
            for key, member in config["members"].items()
        }
        return cls(members, name=config["name"])


def scale_learning_rates(optimizer, multipliers):
    """The optimizer with a learning rate of its own for some models or layers.

    `rate of a layer's variables = multiplier * the optimizer's learning rate`

    The multiplier is applied to the learning rate itself, not to the gradient, so that it counts
    in Adam as in SGD, in weight decay and under any schedule: a member of a cohort is trained as
    it would be alone with an optimizer of that learning rate, unless `global_clipnorm` clips all
    gradients together.

    Args:
        optimizer: any Keras optimizer that is not built yet; it is left as it is.
        multipliers: `{model or layer: non-negative number}`; all others have 1.

    Returns:
        An optimizer of the same kind.

    Raises:
        ValueError: for a negative multiplier, an optimizer that is built or scales losses, a
            layer that is not built or lies in another one that is named.

    Example:

    ```python
    adam = models.scale_learning_rates(keras.optimizers.Adam(1e-3), {net.teacher: 0.1})
    distiller.compile(adam, loss)
    ```
    """
    _check_scalable(optimizer)
    scales = _scales(multipliers)
    kind = type("Scaled" + type(optimizer).__name__, (_Scaled, type(optimizer)), {})
    config = optimizer.get_config()
    config["learning_rate"] = optimizer._learning_rate
    if isinstance(optimizer._learning_rate, keras.Variable):
        config["learning_rate"] = float(optimizer.learning_rate.numpy())
    scaled = kind.from_config(config)
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):  # in no config
            setattr(scaled, name, getattr(optimizer, name))
    scaled._scales = {scaled._var_key(variable): scale for variable, scale in scales}
    scaled._whole_decay = optimizer.weight_decay
    return scaled


class _Scaled:
    """What `scale_learning_rates` adds to an optimizer's class."""

    def _scale(self, variable):
        return self._scales.get(self._var_key(variable), 1.0)

    def update_step(self, gradient, variable, learning_rate):
        scale = self._scale(variable)
        if scale != 1:
            learning_rate = keras.ops.multiply(learning_rate, scale)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        if self._whole_decay is None:
            return
        groups = {}
        for variable in variables:
            groups.setdefault(self._scale(variable), []).append(variable)
        for scale, group in groups.items():  # decay counts times the learning rate
            self.weight_decay = scale * self._whole_decay
            super()._apply_weight_decay(group)
        self.weight_decay = self._whole_decay


def _check(members):
    if len(members) < 2:
        raise ValueError(f"A cohort has at least two members. Received: {list(members)}")
    for key, member in members.items():
        if not isinstance(member, keras.Model):
            raise TypeError(
                f"A member must be a Keras model. Received: {key}={member!r} "
                f"(of type {type(member).__name__})"
            )
        others = [other for other in members if other != key]
        if any(member is members[other] for other in others):
            raise ValueError(f"The member `{key}` is given twice: clone the model.")
        if member.name in others:
            raise ValueError(
                f"The model of the member `{key}` is named `{member.name}`, as another member is: "
                "give the model another name, or paths would mean either."
            )


def _check_scalable(optimizer):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Give the inner optimizer: `compile` adds the scaling of the loss. Received: "
            "a LossScaleOptimizer"
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer) or optimizer.built:
        raise ValueError(
            "`optimizer` must be a Keras optimizer that is not built yet. Received: "
            f"optimizer={optimizer!r}"
        )


def _scales(multipliers):
    """`(variable, multiplier)` of every trainable variable that has one of its own."""
    found = {}
    for layer, scale in multipliers.items():
        if not isinstance(scale, (int, float)) or not scale >= 0:
            raise ValueError(
                f"A multiplier must be a non-negative number. Received: {layer.name}: {scale!r}"
            )
        if not layer.built:
            raise ValueError(f"`{layer.name}` is not built: call it on a batch first.")
        for variable in layer.trainable_variables:
            if id(variable) in found:
                raise ValueError(f"`{variable.path}` belongs to two of the layers: name one.")
            found[id(variable)] = variable, scale
    return list(found.values())
