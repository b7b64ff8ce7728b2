"""Online and self-distillation as lists of terms, whose source is "self"."""

import keras

from keras_distill._keras.graph import output_keys
from keras_distill.losses import CollaborativeKL, KLDivergence
from keras_distill.models import feature_path
from keras_distill.recipes.recipe import scheme
from keras_distill.schedules import Hyperparameter, check
from keras_distill.training.term import Term


@scheme
def byot(
    net: keras.Model,
    *,
    temperature: Hyperparameter = 3.0,
    hint: Hyperparameter = 0.1,
    deep: str = "final",
) -> list[Term]:
    """Makes every shallow exit learn from the outputs and the feature of the deepest one (BYOT).

    `terms = sum_i T^2 KL(p_deep(T) || p_i(T)) + hint * mean((f_i - f_deep)^2)`

    With labels on every exit and the distiller's `alpha` the total is `(1 - alpha) * sum_i CE_i +
    alpha * sum_i KL_i + lambda * sum_i L2_i`, where `hint = lambda / alpha`. The authors' code has
    no `T^2`, and gives the label loss of the deepest exit weight 1. For this weight, use
    `loss_weights={"final": 1 / (1 - alpha), ...}`.

    Args:
        net: a model with exits, as `models.add_exits` makes.
        temperature: `T`, positive. Defaults to `3.0`, as in the authors' code.
        hint: the weight of the features' distance, non-negative; 0 leaves features out. Defaults to
            `0.1`, since the authors' code has `alpha=0.3` and `lambda=0.03`. Its distance is the
            norm over a whole batch, and leaves out the shallowest exit. The mean square is our
            choice.
        deep: the name of the deepest exit. Defaults to `"final"`.

    Returns:
        A list of `Term`s.

    Raises:
        ValueError: if `net` has no such exit, or no layer has an exit's feature.

    Example:

    ```python
    net = models.add_exits(student, {"exit_1": "block_1", "exit_2": "block_2"})
    distiller = Distiller(net, terms=recipes.byot(net), alpha=0.3)
    distiller.compile("adam", loss, metrics=["accuracy"])
    ```

    Reference:
        - [Zhang et al., 2019](https://arxiv.org/abs/1905.08094)
    """
    check("hint", hint, low=0)
    shallow = _others(net, deep)
    terms = [_peer(exit, deep, temperature, name=f"{exit}_from_{deep}") for exit in shallow]
    for exit in shallow if hint else []:
        student, teacher = feature_path(net, exit), feature_path(net, deep)
        terms.append(Term("mse", student=student, teacher=teacher, source="self", weight=hint,
                          projector="auto", name=f"{exit}_hint"))  # fmt: skip
    return terms


@scheme
def mutual(*members: str, temperature: Hyperparameter = 1.0) -> list[Term]:
    """Makes each member learn from its peers' average divergence (deep mutual learning).

    `terms = sum_i 1 / (K - 1) * sum_{j != i} T^2 KL(p_j(T) || p_i(T))`, each `p_j` constant.

    With the distiller's `alpha=0.5`, labels and peers have equal weights as in the paper, and the
    loss is half as large.

    Args:
        *members: the names of the outputs of a `models.cohort`, two or more.
        temperature: `T`, positive. Defaults to `1.0`, since the method has none.

    Returns:
        A list of `Term`s, one for each ordered pair.

    Raises:
        ValueError: if there are fewer than two members, or the same one twice.

    Example:

    ```python
    net = models.cohort(one=student, other=teacher)
    distiller = Distiller(net, terms=recipes.mutual("one", "other"))
    distiller.compile("adam", loss, metrics=["accuracy"])
    ```

    Reference:
        - [Zhang et al., 2018](https://arxiv.org/abs/1706.00384)
    """
    _check_members(members)
    weight = 1 / (len(members) - 1)
    return [
        _peer(student, teacher, temperature, weight=weight, name=f"{student}_from_{teacher}")
        for student in members
        for teacher in members
        if student != teacher
    ]


@scheme
def online(
    teacher: str = "teacher",
    student: str = "student",
    *,
    temperature: Hyperparameter = 1.0,
    back: Hyperparameter = 0.0,
) -> list[Term]:
    """Trains a teacher and a student together; the student learns from labels and teacher.

    `student's loss = alpha * T^2 KL(p_teacher(T) || p_student(T)) + (1 - alpha) * CE`, with the
    distiller's `alpha`. The teacher learns from the labels and, if `back > 0`, from the student.

    The teacher's own cross entropy also has the weight `1 - alpha`, which does not matter to Adam.
    To give it full weight, compile with `loss={teacher: ce, student: ce}` and
    `loss_weights={teacher: 1 / (1 - alpha), student: 1}`.

    Args:
        teacher: the name of the teaching output of a `models.cohort`. Defaults to `"teacher"`.
        student: the name of the learning output. Defaults to `"student"`.
        temperature: `T`, positive. Defaults to `1.0`, no scaling; our choice.
        back: the weight of the teacher's loss against the student, non-negative. Defaults to `0.0`,
            no such loss; our choice.

    Returns:
        A list of `Term`s.

    Raises:
        ValueError: if `back` is negative or both names are the same.

    Example:

    ```python
    net = models.cohort(teacher=teacher, student=student)
    distiller = Distiller(net, terms=recipes.online(), alpha=0.5)
    distiller.compile("adam", loss, metrics=["accuracy"])
    net.student.save("student.keras")
    ```

    Reference:
        - [Anil et al., 2018](https://arxiv.org/abs/1804.03235)
    """
    _check_members((teacher, student))
    check("back", back, low=0)
    terms = [_peer(student, teacher, temperature, name=f"{student}_from_{teacher}")]
    if back:
        terms.append(
            _peer(teacher, student, temperature, weight=back, name=f"{teacher}_from_{student}")
        )
    return terms


@scheme
def one(
    net: keras.Model, *, temperature: Hyperparameter = 3.0, ensemble: str = "ensemble"
) -> list[Term]:
    """Makes each branch learn from the gated ensemble of all branches (ONE).

    `terms = sum_k T^2 KL(p_ensemble(T) || p_k(T))`, with `p_ensemble` constant. Branches and
    ensemble both have a loss on labels, and that of the ensemble trains the gate. The authors' code
    lets the terms grow in the first 80 epochs. To do so, use `Term(weight=schedule)`.

    Args:
        net: a model with branches and their ensemble, as `models.gated_ensemble` makes.
        temperature: `T`, positive. Defaults to `3.0`, as in the authors' code.
        ensemble: the name of the ensemble's output. Defaults to `"ensemble"`.

    Returns:
        A list of `Term`s, one for each branch.

    Raises:
        ValueError: if `net` has no such output.

    Example:

    ```python
    trunk = student.get_layer("hidden").output
    branches = {name: layers.Dense(10, name=name)(trunk) for name in ("branch_1", "branch_2")}
    net = models.gated_ensemble(keras.Model(student.input, branches), gate="hidden")
    distiller = Distiller(net, terms=recipes.one(net))
    distiller.compile("adam", loss)
    models.keep_exit(net, "branch_1").save("branch.keras")
    ```

    Reference:
        - [Lan et al., 2018](https://arxiv.org/abs/1806.04606)
    """
    return [
        _peer(branch, ensemble, temperature, name=f"{branch}_from_{ensemble}")
        for branch in _others(net, ensemble)
    ]


@scheme
def kdcl(
    *members: str, ensemble: str = "min_logit", temperature: Hyperparameter = 2.0
) -> list[Term]:
    """Makes each member learn from an ensemble of all members' logits (KDCL).

    `terms = sum_i T^2 KL(softmax(z / T) || softmax(z_i / T))`. The ensemble `z` is constant, and
    includes the member's own logits. The paper's distorted inputs are left out.

    Args:
        *members: the names of the outputs of a `models.cohort`, two or more.
        ensemble: `"min_logit"`, `"best"` or `"mean"`, see `losses.CollaborativeKL`. Defaults to
            `"min_logit"`, our choice.
        temperature: `T`, positive. Defaults to `2.0`, our choice.

    Returns:
        A list of `Term`s, one for each member.

    Raises:
        ValueError: if there are fewer than two members, or the same one twice.

    Example:

    ```python
    net = models.cohort(small=student, big=teacher)
    distiller = Distiller(net, terms=recipes.kdcl("small", "big"))
    distiller.compile("adam", loss)
    ```

    Reference:
        - [Guo et al., 2020](https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html)
    """
    _check_members(members)
    teachers = [f"output:{member}" for member in members]
    return [
        Term(CollaborativeKL(ensemble, temperature), student=f"output:{member}", teacher=teachers,
             source="self", name=f"{member}_from_all")
        for member in members
    ]  # fmt: skip


def _peer(student, teacher, temperature, *, weight=1.0, name=None):
    return Term(KLDivergence(temperature), student=f"output:{student}",
                teacher=f"output:{teacher}", source="self", weight=weight, name=name)  # fmt: skip


def _others(net, chosen):
    names = output_keys(net)
    if chosen not in names or len(names) < 2:
        raise ValueError(
            f"`net` must have an output `{chosen}` and at least one other. Received: {names or net}"
        )
    return [name for name in names if name != chosen]


def _check_members(members):
    if len(members) < 2 or len(set(members)) < len(members):
        raise ValueError(
            f"`members` must name at least two members, each once. Received: {members}"
        )
