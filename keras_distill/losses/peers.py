"""Losses of networks that teach each other."""

import keras
from keras import ops

from keras_distill.losses.arithmetic import at_least
from keras_distill.losses.distillation_loss import one_of
from keras_distill.losses.label_aware import target_mask, target_or_not
from keras_distill.losses.softened import (
    LOWEST,
    SoftenedLoss,
    log_probabilities,
    scaled,
)
from keras_distill.schedules import Hyperparameter

ENSEMBLES = ("mean", "best", "min_logit")


@keras.saving.register_keras_serializable(package="keras_distill")
class CollaborativeKL(SoftenedLoss):
    """Kullback-Leibler divergence from an ensemble of peers for each example (KDCL).

    `loss = T^2 * KL(softmax(z / T) || softmax(student / T))`. The ensemble's logits `z` are one of
    three. `mean` is the mean of the peers' logits. `best` takes the peer with the lowest
    cross-entropy (the paper's "Naive"). `min_logit` first shifts each peer's logits so that the
    label's is 0, then takes the least logit of each class. For mutual learning and for branches
    with a gated ensemble, use `KLDivergence`.

    Args:
        ensemble: `"mean"`, `"best"` or `"min_logit"`. Defaults to `"min_logit"`.
        temperature: `T`, positive: a number, a schedule or a `keras.Variable`. Defaults to `2.0`.
        name: the loss's name. Defaults to `"collaborative_kl"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: a list of the peers' logits, each (batch, ..., classes). It includes the student's
            own if they are to count.
        y_pred: the student's logits, of the same shape.
        labels: classes, (batch, ...) or (batch, ..., 1), or one-hot, (batch, ..., classes);
            not needed for the mean.

    Returns:
        One value per example or token: (batch, ...).

    Raises:
        ValueError: for an unknown `ensemble`, or a `temperature` that is not positive.

    Example:

    ```python
    peers = ["output:a", "output:b"]
    Term(losses.CollaborativeKL(), student="output:a", teacher=peers, source="self", name="a")
    ```

    Reference:
        - [Guo et al., 2020](https://openaccess.thecvf.com/content_CVPR_2020/html/Guo_Online_Knowledge_Distillation_via_Collaborative_Learning_CVPR_2020_paper.html)
    """

    needs = ("labels",)
    config = ("ensemble",)
    same_shape = False

    def __init__(
        self, ensemble: str = "min_logit", temperature: Hyperparameter | str = 2.0, **kwargs
    ):
        super().__init__(temperature, **kwargs)
        self.ensemble = one_of("ensemble", ensemble, ENSEMBLES)

    def call(self, y_true, y_pred, labels=None, temperature=None):
        temperature = self.temperature_now(y_pred, temperature)
        teacher = ops.stop_gradient(self._together(ops.stack(y_true), labels))
        sides = (scaled(side, temperature) for side in (teacher, y_pred))
        return temperature**2 * self.kl(*map(log_probabilities, sides))

    def _together(self, peers, labels):
        if self.ensemble == "mean":
            return ops.mean(peers, axis=0)
        target = target_mask(self, labels, peers[0])
        if self.ensemble == "best":
            fit = ops.stack([target_or_not(peer, target)[..., 0] for peer in _each(peers)])
            best = ops.expand_dims(ops.expand_dims(ops.argmax(fit, axis=0), 0), -1)
            return ops.take_along_axis(peers, best, axis=0)[0]
        own = ops.sum(ops.where(target, peers, 0.0), axis=-1, keepdims=True)
        return ops.min(peers - at_least(own, LOWEST), axis=0)


def _each(peers):
    return [peers[index] for index in range(peers.shape[0])]
