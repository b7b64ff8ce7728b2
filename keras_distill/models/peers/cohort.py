"""Several models that are trained together in one step."""

import keras


def cohort(**members: keras.Model) -> keras.Model:
    """Joins models into one Keras model with an output per member, for online distillation.

    `cohort(teacher=a, student=b)(x) = {"teacher": a(x), "student": b(x)}`

    Terms with the source `"self"` let members learn from each other (see `recipes.mutual` and
    `recipes.online`). Labels go to every member. Each member is the model that you gave. Here
    `net.student` is `b`, paths to its layers begin with `"student/"`, and
    `net.student.save(path)` writes it alone. `scale_learning_rates` gives a member its own
    learning rate.

    Args:
        **members: models by name, of any size and kind, with the same inputs. Under a distribution
            strategy make all of them and the cohort in its scope.

    Returns:
        A `Cohort`, a `keras.Model`.

    Raises:
        ValueError: if there are fewer than two members, the same model twice, or a name that is
            taken.
        TypeError: if a member is no Keras model.

    Example:

    ```python
    net = models.cohort(teacher=teacher, student=student)
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
        ValueError: if there are fewer than two members, the same model twice, or a name that is
            taken.
        TypeError: if a member is no Keras model.

    Example:

    ```python
    net = models.Cohort({"teacher": teacher, "student": student})
    ```
    """

    def __init__(self, members: dict[str, keras.Model], name: str | None = "cohort", **kwargs):
        _check(members)
        policies = [member.dtype_policy for member in members.values()]
        scaled = [policy for policy in policies if policy.compute_dtype == "float16"]
        kwargs.setdefault("dtype", [*scaled, *policies][0])  # so that float16 losses are scaled
        super().__init__(name=name, autocast=False, **kwargs)
        self.members = {}
        for key, member in members.items():
            if hasattr(self, key):
                raise ValueError(
                    f"A member cannot be named `{key}`, which is an attribute of Keras models."
                )
            self.members[key] = member
            setattr(self, key, member)
        self.output_names = list(members)  # Keras and `recipes` read them
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


def _check(members):
    if len(members) < 2:
        raise ValueError(f"A cohort needs at least two members. Received: {list(members)}")
    for key, member in members.items():
        if not isinstance(member, keras.Model):
            raise TypeError(
                f"A member must be a Keras model. Received: {key}={member!r} "
                f"(of type {type(member).__name__})"
            )
        others = [other for other in members if other != key]
        if any(member is members[other] for other in others):
            raise ValueError(
                f"The member `{key}` is the same model as another member. Clone the model."
            )
        if member.name in others:
            raise ValueError(
                f"The model of the member `{key}` is named `{member.name}`, like another member, "
                "so a path could mean either. Give the model another name."
            )
