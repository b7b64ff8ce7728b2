"""Published methods in which each layer of the student learns from several of the teacher's."""

from keras import Model

from keras_distill import losses, projectors, taps
from keras_distill.recipes.features import given_or_all
from keras_distill.recipes.recipe import Pairs, recipe
from keras_distill.schedules import Hyperparameter
from keras_distill.training.term import Term


@recipe
def review_kd(
    student: Model,
    teacher: Model,
    pairs: Pairs | None = None,
    hidden: int | None = None,
    weight: Hyperparameter = 1.0,
) -> list[Term]:
    """Compares layers with the help of deeper layers of the student (ReviewKD).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to all pairs of `recipes.matching.match_layers`.
        hidden: channels of the maps that go from layer to layer. Defaults to the student's widest.
        weight: the weight of the term, non-negative. Defaults to `1.0`, as in the authors' code for
            ResNet-18 on ImageNet. It has 8 for MobileNet there, and 0.6 to 8 on CIFAR-100,
            depending on the pair of networks.

    Returns:
        A list of one `Term`, with a `ReviewMechanism`.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.review_kd(student, teacher, hidden=64)
    ```

    Reference:
        - [Chen et al., 2021](https://arxiv.org/abs/2104.09044)
    """
    pairs = given_or_all(student, teacher, pairs)
    ours, theirs = (list(side) for side in zip(*pairs))
    of_student, of_teacher = taps.shapes(student), taps.shapes(teacher)
    shapes = [of_teacher[path] for path in theirs]
    hidden = hidden or max(of_student[path][-1] for path in ours)
    projector = projectors.ReviewMechanism(
        [shape[-1] for shape in shapes], hidden, [shape[1:3] for shape in shapes]
    )
    loss = losses.HierarchicalContext(name="review")
    return [Term(loss, student=ours, teacher=theirs, projector=projector, weight=weight)]


@recipe
def semckd(
    student: Model,
    teacher: Model,
    pairs: Pairs | None = None,
    batch_size: int | None = None,
    weight: Hyperparameter = 400.0,
) -> list[Term]:
    """Makes each layer learn from all teacher layers that fit it (SemCKD).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Each layer of one side is compared with all of the other. Defaults
            to all pairs of `recipes.matching.match_layers`.
        batch_size: the largest number of examples in a batch, positive. Defaults to that of the
            first batch.
        weight: the weight of the term, non-negative. Defaults to `400.0`, as in the authors' code.

    Returns:
        A list of one `Term` with a `SemanticAttention`.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.semckd(student, teacher, batch_size=64)
    ```

    Reference:
        - [Chen et al., 2020](https://arxiv.org/abs/2012.03236)
    """
    pairs = given_or_all(student, teacher, pairs)
    ours, theirs = (list(dict.fromkeys(side)) for side in zip(*pairs))
    projector = projectors.SemanticAttention(batch_size)
    loss = losses.SemanticCalibration()
    return [Term(loss, student=ours, teacher=theirs, weight=weight, projector=projector)]
