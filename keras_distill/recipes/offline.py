"""Published methods with a frozen teacher, as lists of terms.

Each recipe returns terms of its own only: add lists to combine methods, as in
`hinton() + fitnets(student, teacher)`. Weights stand beside a label loss of weight 1; `alpha=0.5`
keeps that proportion. Each recipe says whose its weight is: of the authors' code, of another code
that runs the method, or our choice. RepDistiller is the code of Tian et al., 2020, who compared a
dozen methods on CIFAR-100 with the weights of its `scripts/run_cifar_distill.sh`.
"""

from keras_distill import losses, projectors, taps
from keras_distill.recipes.matching import embedding, match_layers
from keras_distill.training.term import Term

# Response


def hinton(temperature=2.0, weight=1.0):
    """Softened outputs, [Hinton et al., 2015](https://arxiv.org/abs/1503.02531).

    Temperature and weight are our choice: they depend on the data. On CIFAR-100 RepDistiller has
    temperature 4 and weight 0.9 beside a label loss of 0.1, which is `alpha=0.9`.
    """
    return [Term(losses.KLDivergence(temperature), weight=weight)]


def decoupled(temperature=4.0, alpha=1.0, beta=8.0, weight=1.0):
    """Target class and other classes weighed apart, DKD, [Zhao et al., 2022](https://arxiv.org/abs/2203.08679).

    `alpha`, `beta` and `temperature` are the defaults of the authors' code (mdistiller), for
    CIFAR-100. It sets another `beta` for some pairs of networks, and lets the loss grow from 0 in
    the first 20 epochs, which a schedule as `weight` does here.
    """  # noqa: E501
    return [Term(losses.DecoupledKD(alpha, beta, temperature), weight=weight)]


def dist(temperature=1.0, beta=2.0, gamma=2.0):
    """Correlations within examples and within classes, [Huang et al., 2022](https://arxiv.org/abs/2205.10536).

    `beta` and `gamma` are the weights of the two: 2 and 2, as MMRazor has for ImageNet (1 and 1,
    times a loss weight of 2). The authors' loss has 1 and 1 by default, and their training code
    multiplies by a weight of each experiment.
    """  # noqa: E501
    return [Term(losses.DIST(beta, gamma, temperature))]


def standardized(temperature=2.0, weight=9.0):
    """KL of standardized logits, [Sun et al., 2024](https://arxiv.org/abs/2403.01427).

    Temperature and weight are those that the authors' code is run with on CIFAR-100 (`--base-temp
    2 --kd-weight 9`). Its label loss has weight 1 in one version of its configuration, 0.1 in
    another: for that proportion give `weight=10` and the distiller's `alpha=0.9`.
    """
    loss = losses.Standardized(losses.KLDivergence(temperature))
    return [Term(loss, weight=weight)]


def multi_level(weight=9.0):
    """Logits aligned by example, class and batch, [Jin et al., 2023](https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html).

    All levels have one weight, 9, as in the authors' code: 0.9 beside a label loss of 0.1. That
    code also sees each input twice, and leaves out half of the examples and of the classes,
    those that the teacher is surer of.
    """  # noqa: E501
    return [Term(losses.MultiLevelLogits(), weight=weight)]


# Features


def fitnets(student, teacher, pairs=None, weight=100.0):
    """Hints from the middle of the teacher, [Romero et al., 2015](https://arxiv.org/abs/1412.6550).

    Args:
        student: a built model.
        teacher: a built model.
        pairs: `[(student's path, teacher's path)]`. Defaults to the middle pair of
            `match_layers`.
        weight: of each hint. Defaults to `100.0`, as in RepDistiller.
    """
    if pairs is None:
        pairs = match_layers(student, teacher, verbose=False)
        pairs = [pairs[len(pairs) // 2]]
    return _each(losses.Hint, pairs, weight, projector="auto")


def attention_transfer(student, teacher, pairs=None, weight=1000.0):
    """Where feature maps are active, [Zagoruyko and Komodakis, 2017](https://arxiv.org/abs/1612.03928).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`, of maps of one size. Defaults to all pairs of `match_layers`.
        weight: of each pair. Defaults to `1000.0`, which the authors' code is run with
            (`--beta 1e+3`), for its mean squared difference of maps.
    """  # noqa: E501
    pairs = _pairs(student, teacher, pairs)
    return _each(lambda: losses.AttentionTransfer(squared=True), pairs, weight)


def neuron_selectivity(student, teacher, pairs=None, weight=50.0):
    """What single neurons react to, NST, [Huang and Wang, 2017](https://arxiv.org/abs/1707.01219).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to the last pair of `match_layers`.
        weight: Defaults to `50.0`, as in RepDistiller.
    """
    return _each(losses.NeuronSelectivity, _last(student, teacher, pairs), weight)


def variational(student, teacher, pairs=None, weight=1.0):
    """Mutual information with the teacher's maps, VID, [Ahn et al., 2019](https://arxiv.org/abs/1904.05835).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to all pairs of `match_layers`.
        weight: of each pair. Defaults to `1.0`, as in RepDistiller, whose mean over elements
            is taken too.
    """  # noqa: E501
    pairs, shapes = _pairs(student, teacher, pairs), taps.shapes(teacher)

    def projector(path):
        _, height, width, channels = shapes[path]
        return projectors.VariationalProjector(channels, size=(height, width))

    return _each(
        lambda: losses.VariationalInformation(average=True), pairs, weight, projector=projector
    )


def masked_generation(student, teacher, pairs=None, weight=7e-5):
    """The teacher's maps generated from masked ones, MGD, [Yang et al., 2022](https://arxiv.org/abs/2205.01529).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`, of maps of one size. Defaults to the last pair of `match_layers`.
        weight: Defaults to `7e-5`, as the authors' code has for ImageNet, with 0.15 of the
            channels masked. For detection and segmentation it masks positions: see
            `projectors.MaskedGenerator`.
    """  # noqa: E501
    pairs, shapes = _last(student, teacher, pairs), taps.shapes(teacher)

    def projector(path):
        return projectors.MaskedGenerator(shapes[path][-1], ratio=0.15, masked="channels")

    return _each(losses.MaskedGeneration, pairs, weight, projector=projector)


def review(student, teacher, pairs=None, hidden=None, weight=1.0):
    """Deep features help shallow ones, ReviewKD, [Chen et al., 2021](https://arxiv.org/abs/2104.09044).

    Args:
        student: a built convolutional model.
        teacher: a built convolutional model.
        pairs: as in `fitnets`. Defaults to all pairs of `match_layers`.
        hidden: channels of what the layers hand on. Defaults to the widest of the student's.
        weight: Defaults to `1.0`, the authors' code's for ResNet-18 on ImageNet. It has 8 for
            MobileNet there, and 0.6 to 8 on CIFAR-100, from one pair of networks to another.
    """  # noqa: E501
    pairs = _pairs(student, teacher, pairs)
    ours, theirs = (list(side) for side in zip(*pairs))
    of_student, of_teacher = taps.shapes(student), taps.shapes(teacher)
    shapes = [of_teacher[path] for path in theirs]
    hidden = hidden or max(of_student[path][-1] for path in ours)
    projector = projectors.ReviewMechanism(
        [shape[-1] for shape in shapes], hidden, [shape[1:3] for shape in shapes]
    )
    loss = losses.HierarchicalContext(name="review")
    return [Term(loss, student=ours, teacher=theirs, projector=projector, weight=weight)]


# Relations between examples


def relational(student, teacher, pair=None, distance=25.0, angle=50.0):
    """Distances and angles between examples, RKD, [Park et al., 2019](https://arxiv.org/abs/1904.05068).

    Args:
        student: a built model.
        teacher: a built model.
        pair: the paths of the embeddings. Defaults to the last vector before each head.
        distance: the weight of the distances. Defaults to `25.0`, the authors' code's for
            classification, which first brings the embeddings to unit length; 1 for metric
            learning.
        angle: the weight of the angles. Defaults to `50.0`, of the same code; 2 for metric
            learning.
    """  # noqa: E501
    ours, theirs = _embeddings(student, teacher, pair)
    return [
        Term(losses.RelationalDistance(), student=ours, teacher=theirs, weight=distance),
        Term(losses.RelationalAngle(), student=ours, teacher=theirs, weight=angle),
    ]


def similarity(student, teacher, pair=None, weight=3000.0):
    """Which examples are alike, [Tung and Mori, 2019](https://arxiv.org/abs/1907.09682).

    Args:
        student: a built model.
        teacher: a built model.
        pair: paths of any shapes. Defaults to the last pair of `match_layers`.
        weight: Defaults to `3000.0`, as in RepDistiller.
    """
    pairs = _last(student, teacher, pair and [pair])
    return _each(losses.SimilarityPreserving, pairs, weight)


def correlation(student, teacher, pair=None, weight=100.0):
    """Correlation congruence, [Peng et al., 2019](https://arxiv.org/abs/1904.01802); as `relational`.

    The weight is that of Knowledge-Distillation-Zoo on CIFAR-10, which has this loss.
    RepDistiller's 0.02 is for another one: `losses.CorrelationCongruence(neighbors=True)`.
    """  # noqa: E501
    pair = _embeddings(student, teacher, pair)
    return _each(losses.CorrelationCongruence, [pair], weight)


def probabilistic(student, teacher, pair=None, weight=3e4):
    """Probabilistic knowledge transfer, [Passalis and Tefas, 2018](https://arxiv.org/abs/1803.10837); as `relational`.

    The weight is RepDistiller's, for the mean over all pairs, which its authors' code takes too:
    it is smaller than the paper's sum over neighbors by the number of examples in a batch. The
    authors' code trains with this loss alone and has no weight.
    """  # noqa: E501
    pair = _embeddings(student, teacher, pair)
    return _each(lambda: losses.ProbabilisticTransfer(reference=True), [pair], weight)


def contrastive(student, teacher, examples, pair=None, index="input:index", weight=0.8, **options):
    """An example against a memory of others, CRD, [Tian et al., 2020](https://arxiv.org/abs/1910.10699).

    Args:
        student: a built model.
        teacher: a built model.
        examples: how many examples the data set has.
        pair: as in `relational`.
        index: where the batch holds each example's number, in `[0, examples)`.
        weight: Defaults to `0.8`, the authors' code's (RepDistiller).
        **options: of `losses.ContrastiveRepresentation`.
    """  # noqa: E501
    ours, theirs = _embeddings(student, teacher, pair)
    loss = losses.ContrastiveRepresentation(examples, **options)
    return [Term(loss, student=ours, teacher={"feature": theirs, "index": index}, weight=weight)]


def alignment(student, teacher, pair=None, weight=1.0):
    """Centered kernel alignment, [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414); as `relational`.

    The paper measures with it. The weight is our choice.
    """  # noqa: E501
    pair = _embeddings(student, teacher, pair)
    return _each(losses.CenteredKernelAlignment, [pair], weight)


# Dense prediction


def channel_wise(student, teacher, pair=None, temperature=4.0, weight=50.0):
    """Each channel as a distribution over positions, CWD, [Shu et al., 2021](https://arxiv.org/abs/2011.13256).

    Args:
        student: a built model that gives maps.
        teacher: a built model that gives maps.
        pair: paths of feature maps. Defaults to the last pair of `match_layers`.
        temperature: Defaults to `4.0`, which the authors' code is run with.
        weight: Defaults to `50.0`, our choice, for features. The authors' code is run with 3 on
            logits.
    """  # noqa: E501
    pairs = _last(student, teacher, pair and [pair])
    return _each(lambda: losses.ChannelWise(temperature), pairs, weight, projector="auto")


def _pairs(student, teacher, pairs):
    return pairs or match_layers(student, teacher, verbose=False)


def _last(student, teacher, pairs):
    return pairs or match_layers(student, teacher, count=1, verbose=False)


def _embeddings(student, teacher, pair):
    return pair or (embedding(student), embedding(teacher))


def _each(make_loss, pairs, weight, projector=None):
    """A term for every pair, numbered where there are several.

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
