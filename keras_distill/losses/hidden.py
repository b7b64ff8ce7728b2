"""Losses on hidden states: (batch, tokens, width)."""

import keras
from keras import ops

from keras_distill.losses import masks
from keras_distill.losses.arithmetic import unit
from keras_distill.losses.distillation_loss import DistillationLoss, one_of


@keras.saving.register_keras_serializable(package="keras_distill")
class PatientKD(DistillationLoss):
    """Squared distance of normalised hidden states, BERT-PKD's loss of one layer.

    `loss = sum_d (h_teacher / |h_teacher| - h_student / |h_student|)^2`. It compares the first
    token that counts, which is BERT's [CLS], or each token.

    Args:
        tokens: `"first"` for the first token alone, `"all"` for each. Defaults to `"first"`.
        name: the loss's name. Defaults to `"patient_kd"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's hidden states, (batch, tokens, width) or (batch, width).
        y_pred: the student's, of the same shape.
        mask: weights of the tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per example, (batch,), or per token, (batch, tokens), with `tokens="all"`.

    Raises:
        ValueError: if `tokens` is none of these.

    Example:

    ```python
    Term(losses.PatientKD(), student="transformer_layer_0", teacher="transformer_layer_1")
    ```

    Reference:
        - [Sun et al., 2019](https://arxiv.org/abs/1908.09355)
    """

    needs = ("mask",)
    config = ("tokens",)

    def __init__(self, tokens: str = "first", **kwargs):
        super().__init__(**kwargs)
        self.tokens = one_of("tokens", tokens, ("first", "all"))

    def call(self, y_true, y_pred, mask=None):
        if self.tokens == "first" and len(y_pred.shape) == 3:
            y_true, y_pred = _first(y_true, mask), _first(y_pred, mask)
        return ops.sum(ops.square(unit(y_true) - unit(y_pred)), axis=-1)


def _first(hidden, mask):
    """Returns the first token that counts; zeros in a row of padding."""
    real = masks.tokens(mask, hidden)
    if real is None:
        return hidden[:, 0]
    first = real * ops.cast(ops.cumsum(real, axis=1) == 1, real.dtype)
    return ops.sum(hidden * first[:, :, None], axis=1)


@keras.saving.register_keras_serializable(package="keras_distill")
class SequenceFlow(DistillationLoss):
    """Mean squared error of the flow between two layers: the FSP matrix of hidden states.

    `loss = mean_ij (G_teacher - G_student)_ij^2` with `G = H_0^T H_1 / n`, (width, width), over
    the `n` tokens that the mask counts. The matrix says how two layers' features occur together in
    a sequence.

    Args:
        name: the loss's name. Defaults to `"sequence_flow"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's hidden states of two layers, a list of (batch, tokens, width).
        y_pred: the student's, of the same widths.
        mask: weights of the tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if the widths differ from the teacher's, or the number of layers is not two.

    Example:

    ```python
    pair = ["transformer_layer_0", "transformer_layer_1"]
    Term(losses.SequenceFlow(), student=pair, teacher=pair, mask="input:padding_mask")
    ```

    Reference:
        - [Yim et al., 2017](https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html)
        - [Yang et al., 2020](https://arxiv.org/abs/2002.12620)
    """

    needs = ("mask",)

    def call(self, y_true, y_pred, mask=None):
        y_true, y_pred = _two_layers(self, y_true, y_pred)
        widths = [[layer.shape[-1] for layer in side] for side in (y_true, y_pred)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"`{self.name}` compares layers of the same width. Give a `projector`. Received: "
                f"widths {widths[0]} (teacher), {widths[1]} (student)"
            )
        difference = _flow(y_true, mask) - _flow(y_pred, mask)
        return ops.mean(ops.square(difference), axis=(1, 2))


def _flow(layers, mask):
    first, second = layers
    real = masks.tokens(mask, first)
    if real is None:
        tokens = ops.cast(ops.shape(first)[1], first.dtype)
        return ops.einsum("bti,btj->bij", first, second) / tokens
    real = real[:, :, None]
    tokens = masks.at_least_one(ops.sum(real, axis=1, keepdims=True))
    return ops.einsum("bti,btj->bij", first * real, second) / tokens


@keras.saving.register_keras_serializable(package="keras_distill")
class TokenGram(DistillationLoss):
    """Mean squared error of the products of tokens across two layers, the MMD loss of TextBrewer.

    `loss(q) = mean_k (G_teacher - G_student)_qk^2` with `G = H_0 H_1^T / width`, (tokens, tokens),
    over the tokens that the mask counts. Give the same layer twice to compare how alike its tokens
    are. A batch's loss is the mean over its tokens. TextBrewer takes the mean over all products, so
    a token of a sequence of `n` tokens weighs `n` there.

    Args:
        name: the loss's name. Defaults to `"token_gram"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's hidden states of two layers, a list of (batch, tokens, width).
        y_pred: the student's, with the same tokens; its width may differ.
        mask: weights of the tokens, (batch, tokens), 0 for padding.

    Returns:
        One value per token: (batch, tokens).

    Raises:
        ValueError: if the number of layers is not two on either side.

    Example:

    ```python
    pair = ["transformer_layer_0", "transformer_layer_1"]
    Term(losses.TokenGram(), student=pair, teacher=pair, mask="input:padding_mask")
    ```

    Reference:
        - [Huang & Wang, 2017](https://arxiv.org/abs/1707.01219)
        - [Yang et al., 2020](https://arxiv.org/abs/2002.12620)
    """

    needs = ("mask",)
    same_shape = False

    def call(self, y_true, y_pred, mask=None):
        y_true, y_pred = _two_layers(self, y_true, y_pred)
        return masks.mean_over_tokens(ops.square(_gram(y_true) - _gram(y_pred)), mask)


def _gram(layers):
    first, second = layers
    return ops.einsum("bqd,bkd->bqk", first, second) / first.shape[-1]


def _two_layers(loss, *sides):
    """Returns both sides if each is a list of the hidden states of two layers."""
    found = [len(side) if isinstance(side, (list, tuple)) else 1 for side in sides]
    if found != [2, 2]:
        raise ValueError(
            f"`{loss.name}` compares two layers of the student with two of the teacher. Give two "
            f"paths for each, as in `student=[first, second]`. Received: {found[0]} of the "
            f"teacher, {found[1]} of the student"
        )
    return sides
