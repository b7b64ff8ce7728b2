"""Published methods on outputs, with a frozen teacher, as lists of terms.

Each recipe returns only its own terms. Add lists to combine methods, as in
`hinton() + fitnets(student, teacher)`. Weights are relative to a label loss of weight 1, and
`alpha=0.5` keeps this proportion. Each recipe says where its weight comes from: the authors' code,
other code that runs the method, or our choice. RepDistiller is the code of Tian et al., 2020, who
compared a dozen methods on CIFAR-100 with the weights in its `scripts/run_cifar_distill.sh`.
"""

from keras_distill import losses
from keras_distill.recipes.recipe import recipe
from keras_distill.schedules import Hyperparameter
from keras_distill.training.term import Term


@recipe
def hinton(temperature: Hyperparameter = 2.0, weight: Hyperparameter = 1.0) -> list[Term]:
    """Compares softened outputs (knowledge distillation, KD).

    `term = T^2 * KL(p_teacher(T) || p_student(T))`

    Temperature and weight are our choice, since they depend on the data. On CIFAR-100 RepDistiller
    has temperature 4 and weight 0.9 with a label loss of 0.1, which is `alpha=0.9` here.

    Args:
        temperature: `T`, positive: as in `losses.KLDivergence`. Defaults to `2.0`.
        weight: the weight of the term, non-negative. Defaults to `1.0`.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if `temperature` is not positive, or `weight` is negative.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.hinton(temperature=4.0), alpha=0.9)
    ```

    Reference:
        - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """
    return [Term(losses.KLDivergence(temperature), weight=weight)]


@recipe
def dkd(
    temperature: Hyperparameter = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    weight: Hyperparameter = 1.0,
) -> list[Term]:
    """Compares the target class and the others, with separate weights (decoupled KD, DKD).

    `alpha`, `beta` and `temperature` are the defaults of the authors' code (mdistiller) for
    CIFAR-100. It sets another `beta` for some pairs of networks. It also lets the loss grow from 0
    in the first 20 epochs; to do so, give a schedule as `weight`.

    Args:
        temperature: `T`, positive. Defaults to `4.0`.
        alpha: the weight of the target class, non-negative. Defaults to `1.0`.
        beta: the weight of the other classes, non-negative. Defaults to `8.0`.
        weight: the weight of the term, non-negative. Defaults to `1.0`.

    Returns:
        A list of one `Term`, which needs labels.

    Raises:
        ValueError: if a number is out of range.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.dkd())
    ```

    Reference:
        - [Zhao et al., 2022](https://arxiv.org/abs/2203.08679)
    """
    return [Term(losses.DecoupledKD(alpha, beta, temperature), weight=weight)]


@recipe
def dist(temperature: Hyperparameter = 1.0, beta: float = 2.0, gamma: float = 2.0) -> list[Term]:
    """Compares predictions by their correlation within examples and classes (DIST).

    `beta` and `gamma` are 2 and 2, as in MMRazor for ImageNet (1 and 1, times a loss weight of 2).
    The authors' loss has 1 and 1 by default, and their training code multiplies it by a weight for
    each experiment.

    Args:
        temperature: `T`, positive. Defaults to `1.0`.
        beta: the weight of the correlation within examples, non-negative. Defaults to `2.0`.
        gamma: the weight of the correlation within classes, non-negative. Defaults to `2.0`.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if a number is out of range.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.dist())
    ```

    Reference:
        - [Huang et al., 2022](https://arxiv.org/abs/2205.10536)
    """
    return [Term(losses.DIST(beta, gamma, temperature))]


@recipe
def standardized(temperature: Hyperparameter = 2.0, weight: Hyperparameter = 9.0) -> list[Term]:
    """Compares standardized logits by Kullback-Leibler divergence (logit standardization).

    Temperature and weight are those with which the authors run their code on CIFAR-100
    (`--base-temp 2 --kd-weight 9`). Its label loss has weight 1 in one version of its
    configuration, and 0.1 in another. For the latter, use `weight=10` and the distiller's
    `alpha=0.9`.

    Args:
        temperature: the base temperature, positive. Defaults to `2.0`.
        weight: the weight of the term, non-negative. Defaults to `9.0`.

    Returns:
        A list of one `Term`.

    Raises:
        ValueError: if `temperature` is not positive, or `weight` is negative.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.standardized())
    ```

    Reference:
        - [Sun et al., 2024](https://arxiv.org/abs/2403.01427)
    """
    loss = losses.Standardized(losses.KLDivergence(temperature))
    return [Term(loss, weight=weight)]


@recipe
def mlkd(weight: Hyperparameter = 9.0) -> list[Term]:
    """Aligns logits by example, class and batch (multi-level logit distillation, MLKD).

    All levels have one weight, 9, as in the authors' code: 0.9 with a label loss of 0.1. That code
    also shows each input twice, and leaves out the half of the examples and of the classes of which
    the teacher is surer.

    Args:
        weight: the weight of the term, non-negative. Defaults to `9.0`.

    Returns:
        A list of one `Term`, for logits of shape (batch, classes).

    Raises:
        ValueError: if `weight` is negative.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.mlkd())
    ```

    Reference:
        - [Jin et al., 2023](https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html)
    """
    return [Term(losses.MultiLevelLogits(), weight=weight)]
