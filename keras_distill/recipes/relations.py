"""Published methods on relations between examples, with a frozen teacher, as lists of terms."""

import keras

from keras_distill import losses
from keras_distill.recipes.features import each, last
from keras_distill.recipes.matching import embedding
from keras_distill.recipes.recipe import recipe
from keras_distill.schedules import Hyperparameter
from keras_distill.training.term import Term


@recipe
def rkd(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    distance: Hyperparameter = 25.0,
    angle: Hyperparameter = 50.0,
) -> list[Term]:
    """Compares distances and angles between examples (relational distillation, RKD).

    Args:
        student: a built model.
        teacher: a built model.
        pair: the paths of the embeddings. Defaults to the last vector before each head.
        distance: the weight of the distances, non-negative. Defaults to `25.0`, as in the authors'
            code for classification, which first scales the embeddings to unit length. For metric
            learning it has 1.
        angle: the weight of the angles, non-negative. Defaults to `50.0`, from the same code. For
            metric learning it has 2.

    Returns:
        A list of two `Term`s.

    Raises:
        ValueError: if a model has no vector before its head and no `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.rkd(student, teacher)
    ```

    Reference:
        - [Park et al., 2019](https://arxiv.org/abs/1904.05068)
    """
    ours, theirs = _embeddings(student, teacher, pair)
    return [
        Term(losses.RelationalDistance(), student=ours, teacher=theirs, weight=distance),
        Term(losses.RelationalAngle(), student=ours, teacher=theirs, weight=angle),
    ]


@recipe
def sp(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    weight: Hyperparameter = 3000.0,
) -> list[Term]:
    """Compares similarities between examples (similarity-preserving distillation, SP).

    Args:
        student: a built model.
        teacher: a built model.
        pair: paths of any shapes. Defaults to the last pair of `recipes.matching.match_layers`.
        weight: the weight of the term, non-negative. Defaults to `3000.0`, as in RepDistiller.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if the models have no layers of one kind and no `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.sp(student, teacher)
    ```

    Reference:
        - [Tung and Mori, 2019](https://arxiv.org/abs/1907.09682)
    """
    pairs = last(student, teacher, pair and [pair])
    return each(losses.SimilarityPreserving, pairs, weight)


@recipe
def cc(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    weight: Hyperparameter = 100.0,
) -> list[Term]:
    """Compares correlations between examples by a Gaussian kernel (CC).

    RepDistiller's weight of 0.02 is for another loss,
    `losses.CorrelationCongruence(variant="code")`.

    Args:
        student: a built model.
        teacher: a built model.
        pair: as in `rkd`.
        weight: the weight of the term, non-negative. Defaults to `100.0`, as
            Knowledge-Distillation-Zoo has on CIFAR-10 for this loss.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if a model has no vector before its head and no `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.cc(student, teacher)
    ```

    Reference:
        - [Peng et al., 2019](https://arxiv.org/abs/1904.01802)
    """
    pair = _embeddings(student, teacher, pair)
    return each(losses.CorrelationCongruence, [pair], weight)


@recipe
def pkt(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    weight: Hyperparameter = 3e4,
) -> list[Term]:
    """Compares probabilities of being neighbors (probabilistic knowledge transfer, PKT).

    Args:
        student: a built model.
        teacher: a built model.
        pair: as in `rkd`.
        weight: the weight of the term, non-negative. Defaults to `3e4`, as in RepDistiller, for the
            mean over all pairs, which its authors' code also takes. This mean is smaller than the
            paper's sum over neighbors, by the number of examples in a batch. The authors' code
            trains with this loss alone and has no weight.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if a model has no vector before its head and no `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.pkt(student, teacher)
    ```

    Reference:
        - [Passalis and Tefas, 2018](https://arxiv.org/abs/1803.10837)
    """
    pair = _embeddings(student, teacher, pair)
    return each(lambda: losses.ProbabilisticTransfer(variant="code"), [pair], weight)


@recipe
def crd(
    student: keras.Model,
    teacher: keras.Model,
    examples: int,
    pair: tuple[str, str] | None = None,
    index: str = "input:index",
    weight: Hyperparameter = 0.8,
    **options,
) -> list[Term]:
    """Contrasts an example's embedding with a memory of others (CRD).

    Args:
        student: a built model.
        teacher: a built model.
        examples: how many examples the data set has, positive.
        pair: as in `rkd`.
        index: the path of each example's number in the batch, in [0, examples). Defaults to
            `"input:index"`.
        weight: the weight of the term, non-negative. Defaults to `0.8`, as in the authors' code
            (RepDistiller).
        **options: further arguments of `losses.ContrastiveRepresentation`.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if `examples` is not positive, or a model has no vector before its head and no
            `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.crd(student, teacher, examples=50_000)
    ```

    Reference:
        - [Tian et al., 2020](https://arxiv.org/abs/1910.10699)
    """
    ours, theirs = _embeddings(student, teacher, pair)
    loss = losses.ContrastiveRepresentation(examples, **options)
    return [Term(loss, student=ours, teacher={"feature": theirs, "index": index}, weight=weight)]


@recipe
def cka(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    weight: Hyperparameter = 1.0,
) -> list[Term]:
    """Compares representations by centered kernel alignment (CKA).

    The paper uses it as a measure. The use as a loss, and the weight, are our choice.

    Args:
        student: a built model.
        teacher: a built model.
        pair: as in `rkd`.
        weight: the weight of the term, non-negative. Defaults to `1.0`.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if a model has no vector before its head and no `pair` is given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.cka(student, teacher)
    ```

    Reference:
        - [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414)
    """
    pair = _embeddings(student, teacher, pair)
    return each(losses.CenteredKernelAlignment, [pair], weight)


def _embeddings(student, teacher, pair):
    return pair or (embedding(student), embedding(teacher))
