"""Losses on the relations between tokens by their queries, keys and values."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_distill.losses.attention import attention_divergence
from keras_distill.losses.distillation_loss import DistillationLoss
from keras_distill.losses.masks import mean_over_tokens


@keras.saving.register_keras_serializable(package="keras_distill")
class MiniLMRelations(DistillationLoss):
    """Divergence of the relations between tokens by queries, keys and values, as in MiniLM.

    `loss = sum_(m, n) w_mn * mean_h mean_q KL(R_teacher(h, q) || R_student(h, q))` with
    `R = softmax(X_m X_n^T / sqrt(width))`. `R` has a row for each query `q` and head `h`, over the
    tokens that the mask counts. The defaults are those of MiniLMv2. For MiniLM, take the relations
    `[("query", "key"), ("value", "value")]` with the layers' own heads.

    Args:
        relations: a list of `(m, n)` or `(m, n, weight)`, the names of the inputs. A weight
            defaults to 1. Defaults to query-query, key-key and value-value.
        relation_heads: into how many heads to split the inputs anew, so that the sides may have
            different numbers of attention heads. `None` keeps the layers' own heads. Defaults to
            `None`.
        name: the loss's name. Defaults to `"minilm_relations"`.
        **kwargs: as in `keras.losses.Loss`.

    Call arguments:
        y_true: the teacher's inputs by name, each (batch, tokens, heads, width) or, with
            `relation_heads`, (batch, tokens, width).
        y_pred: the student's, with the same tokens; widths may differ.
        mask: weights of the tokens, (batch, tokens), 0 for padding. Tokens that it leaves out are
            no keys either. If `sample_weight` leaves out prompts, give the term
            `mask="input:padding_mask"` to compare relations to the prompt.

    Returns:
        One value per example: (batch,).

    Raises:
        ValueError: if an argument is out of range, or the heads do not fit each other.

    Example:

    ```python
    Term(
        losses.MiniLMRelations(relation_heads=12),
        student=taps.attention("transformer_layer_5/self_attention_layer"),
        teacher=taps.attention("transformer_layer_11/self_attention_layer"),
        mask="input:padding_mask",
    )
    ```

    Reference:
        - [Wang et al., 2020](https://arxiv.org/abs/2002.10957)
        - [Wang et al., 2021](https://arxiv.org/abs/2012.15828)
    """

    needs = ("mask",)
    config = ("relations", "relation_heads")
    same_shape = False

    def __init__(
        self,
        relations: Sequence[tuple] = (("query", "query"), ("key", "key"), ("value", "value")),
        relation_heads: int | None = None,
        name: str | None = "minilm_relations",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if relation_heads is not None and not (
            isinstance(relation_heads, int) and relation_heads > 0
        ):
            raise ValueError(
                f"`relation_heads` must be a positive integer or `None`. Received: "
                f"relation_heads={relation_heads!r}"
            )
        if not relations or any(len(each) not in (2, 3) for each in relations):
            raise ValueError(
                "`relations` must list (name, name) or (name, name, weight). Received: "
                f"relations={relations!r}"
            )
        self.relations = [list(each) for each in relations]
        self.relation_heads = relation_heads

    def call(self, y_true, y_pred, mask=None):
        values = 0.0
        for one, other, *weight in self.relations:
            relations = [self._relation(side[one], side[other]) for side in (y_true, y_pred)]
            heads = [relation.shape[1] for relation in relations]
            if heads[0] != heads[1]:
                raise ValueError(_refusal(f"{heads[0]} (teacher) and {heads[1]} (student) heads"))
            values += (weight or [1.0])[0] * mean_over_tokens(
                attention_divergence(*relations, mask), mask
            )  # one by one: an attention may have fewer keys than queries, as in MiT
        return values

    def _relation(self, one, other):
        one, other = self._split(one), self._split(other)
        return ops.einsum("bqhd,bkhd->bhqk", one, other) / one.shape[-1] ** 0.5

    def _split(self, tensor):
        heads, width = self.relation_heads, math.prod(tensor.shape[2:])
        if heads is None and len(tensor.shape) == 4:
            return tensor
        if heads is None or width % heads:
            raise ValueError(_refusal(f"relation_heads={heads}, shape={tuple(tensor.shape)}"))
        return ops.reshape(tensor, (-1, ops.shape(tensor)[1], heads, width // heads))


def _refusal(received):
    return (
        "`relation_heads` is needed if teacher and student have different numbers of heads, or "
        f"none. Give a number that divides both widths. Received: {received}"
    )
