"""Published methods on features and feature maps, with a frozen teacher, as lists of terms."""

from keras import Model

from keras_distill import losses, projectors, taps
from keras_distill.recipes.matching import match_layers
from keras_distill.recipes.recipe import Pairs, recipe
from keras_distill.schedules import Hyperparameter
from keras_distill.training.term import Term


@recipe
def fitnets(
    student: Model, teacher: Model, pairs: Pairs | None = None, weight: Hyperparameter = 100.0
) -> list[Term]:
    """Compares layers in the middle, as hints of the teacher (FitNets).

    Args:
        student: a built model.
        teacher: a built model.
        pairs: `[(student's path, teacher's path)]`. Defaults to the middle pair of
            `recipes.matching.match_layers`.
        weight: the weight of each hint, non-negative. Defaults to `100.0`, as in RepDistiller.

    Returns:
        A list of `Term`s, one for each pair, with a projector where the shapes differ.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.fitnets(student, teacher, [("block_2", "block_4")])
    ```

    Reference:
        - [Romero et al., 2015](https://arxiv.org/abs/1412.6550)
    """
    if pairs is None:
        pairs = match_layers(student, teacher, verbose=False)
        pairs = [pairs[len(pairs) // 2]]
    return each(losses.Hint, pairs, weight, projector="auto")


@recipe
def at(
    student: Model, teacher: Model, pairs: Pairs | None = None, weight: Hyperparameter = 1000.0
) -> list[Term]:
    """Compares where feature maps are active (attention transfer, AT).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to all pairs of `recipes.matching.match_layers`.
        weight: the weight of each pair, non-negative. Defaults to `1000.0`, which the authors' code
            is run with (`--beta 1e+3`), for its mean squared difference of maps.

    Returns:
        A list of `Term`s, one for each pair.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.at(student, teacher)
    ```

    Reference:
        - [Zagoruyko and Komodakis, 2017](https://arxiv.org/abs/1612.03928)
    """
    pairs = given_or_all(student, teacher, pairs)
    return each(lambda: losses.AttentionTransfer(variant="code"), pairs, weight)


@recipe
def nst(
    student: Model, teacher: Model, pairs: Pairs | None = None, weight: Hyperparameter = 50.0
) -> list[Term]:
    """Compares the patterns to which neurons react (neuron selectivity transfer, NST).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to the last pair of `recipes.matching.match_layers`.
        weight: the weight of each pair, non-negative. Defaults to `50.0`, as in RepDistiller.

    Returns:
        A list of `Term`s, one for each pair.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.nst(student, teacher)
    ```

    Reference:
        - [Huang and Wang, 2017](https://arxiv.org/abs/1707.01219)
    """
    return each(losses.NeuronSelectivity, last(student, teacher, pairs), weight)


@recipe
def vid(
    student: Model, teacher: Model, pairs: Pairs | None = None, weight: Hyperparameter = 1.0
) -> list[Term]:
    """Maximizes mutual information with the teacher's maps (VID).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to all pairs of `recipes.matching.match_layers`.
        weight: the weight of each pair, non-negative. Defaults to `1.0`, as in RepDistiller. As
            there, the loss takes the mean over elements.

    Returns:
        A list of `Term`s, one for each pair, each with a `VariationalProjector`.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.vid(student, teacher)
    ```

    Reference:
        - [Ahn et al., 2019](https://arxiv.org/abs/1904.05835)
    """
    pairs, shapes = given_or_all(student, teacher, pairs), taps.shapes(teacher)

    def projector(path):
        _, height, width, channels = shapes[path]
        return projectors.VariationalProjector(channels, size=(height, width))

    def loss():
        return losses.VariationalInformation(variant="code")

    return each(loss, pairs, weight, projector=projector)


@recipe
def mgd(
    student: Model, teacher: Model, pairs: Pairs | None = None, weight: Hyperparameter = 7e-5
) -> list[Term]:
    """Generates the teacher's maps from masked maps of the student (MGD).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`, of maps of one size. Defaults to the last pair of
            `recipes.matching.match_layers`.
        weight: the weight of each pair, non-negative. Defaults to `7e-5`, which the authors' code
            has for ImageNet, where it masks 0.15 of the channels. For detection and segmentation it
            masks positions (see `projectors.MaskedGenerator`).

    Returns:
        A list of `Term`s, one for each pair, each with a `MaskedGenerator`.

    Raises:
        ValueError: if the models have no layers of one kind and no `pairs` are given.

    Example:

    ```python
    terms = recipes.hinton() + recipes.mgd(student, teacher)
    ```

    Reference:
        - [Yang et al., 2022](https://arxiv.org/abs/2205.01529)
    """
    pairs, shapes = last(student, teacher, pairs), taps.shapes(teacher)

    def projector(path):
        return projectors.MaskedGenerator(shapes[path][-1], ratio=0.15, masked="channels")

    return each(losses.MaskedGeneration, pairs, weight, projector=projector)


@recipe
def cwd(
    student: Model,
    teacher: Model,
    pair: tuple[str, str] | None = None,
    temperature: Hyperparameter = 4.0,
    weight: Hyperparameter = 50.0,
) -> list[Term]:
    """Compares each channel as a distribution over positions (channel-wise distillation, CWD).

    Args:
        student: a built model with feature maps.
        teacher: a built model with feature maps.
        pair: paths of feature maps. Defaults to the last pair of `recipes.matching.match_layers`.
        temperature: `T`, positive. Defaults to `4.0`, as the authors run their code.
        weight: the weight of the term, non-negative. Defaults to `50.0`, our choice, for features.
            The authors run their code with 3 on logits.

    Returns:
        A list of one `Term`, with a projector where the shapes differ.

    Raises:
        ValueError: if `temperature` is not positive, or the models have no layers of one kind and
            no `pair` is given.

    Example:

    ```python
    terms = recipes.cwd(student, teacher, pair=("output", "output"), weight=3.0)
    ```

    Reference:
        - [Shu et al., 2021](https://arxiv.org/abs/2011.13256)
    """
    pairs = last(student, teacher, pair and [pair])
    return each(lambda: losses.ChannelWise(temperature), pairs, weight, projector="auto")


def given_or_all(student, teacher, pairs):
    """Returns the given pairs, or all pairs that match."""
    return pairs or match_layers(student, teacher, verbose=False)


def last(student, teacher, pairs):
    """Returns the given pairs, or the last pair that matches."""
    return pairs or match_layers(student, teacher, count=1, verbose=False)


def each(make_loss, pairs, weight, projector=None):
    """Returns a term for every pair; several terms get numbers.

    `projector` may be a function of the teacher's path.
    """
    terms = []
    for index, (ours, theirs) in enumerate(pairs):
        loss = make_loss()
        name = loss.name if len(pairs) == 1 else f"{loss.name}_{index}"
        layer = projector(theirs) if callable(projector) else projector
        terms.append(Term(loss, student=ours, teacher=theirs, weight=weight, projector=layer,
                          name=name))  # fmt: skip
    return terms
