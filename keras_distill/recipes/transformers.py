"""Published methods for transformers, as lists of terms.

They take models whose blocks hold attention layers: keras_hub's tasks and backbones, or any Keras
model with `MultiHeadAttention`. If a model has an encoder and a decoder, both are compared.

`mask="auto"` leaves padding out: it multiplies the sample weights by the model's `padding_mask`, if
there is such an input (`decoder_padding_mask` in a decoder). Sample weights by token belong to the
decoder's tokens. In an encoder they weigh whole examples, each by its largest weight
(`"example:sample_weight"`). They also do so in a block whose tokens are not text, such as an image
tower. If tokens of an image precede those of the text, as in PaliGemma, only the text counts
(`"last:..."`). If sample weights mask prompts, `mask="input:padding_mask"` compares attention to
prompts too.
"""

from collections.abc import Sequence
from typing import Any

import keras

from keras_distill import losses
from keras_distill.recipes.attention_layers import NAMES
from keras_distill.recipes.compared import (
    blocks,
    check_attention,
    heads_of,
    mask_of,
    mask_of_first,
    projections_of,
    scores_of,
)
from keras_distill.recipes.recipe import recipe
from keras_distill.schedules import Hyperparameter
from keras_distill.training.term import Term


@recipe
def pkd(
    student: keras.Model,
    teacher: keras.Model,
    pairs: list[tuple[str, str]] | None = None,
    weight: Hyperparameter = 100.0,
    mask: str | tuple[str, ...] | None = "auto",
) -> list[Term]:
    """Compares the first token after each block, PKD, [Sun et al., 2019](https://arxiv.org/abs/1908.09355).

    `loss = weight / (blocks * width) * sum_i |h_i / |h_i| - H_i / |H_i||^2` of the first tokens.

    In a decoder that reads from left to right, the first token has no information about the others.
    For such a decoder make terms with `losses.PatientKD(tokens="all")` for the pairs of
    `match_layers`.

    Args:
        student: a built transformer.
        teacher: a built transformer of the same width.
        pairs: `[(student's path, teacher's path)]` of blocks. Defaults to all but the last of
            `match_layers` (of encoder and of decoder), as in the authors' "PKD-skip". A student
            with one block gets the last pair.
        weight: the weight of the mean over blocks and over the width, as in the authors' code.
            Defaults to `100.0`, which most of the best runs that it reports have (1 to 500).
            Normalization is an option there; these terms always have it.
        mask: as in `Term`, or `"auto"` (see above).

    Returns:
        A list of `Term`s, one for each pair.

    Raises:
        ValueError: if no blocks match.

    Example:

    ```python
    student = models.shrink(teacher, every=2)
    Distiller(student, teacher=teacher, terms=recipes.pkd(student, teacher))
    ```
    """
    stacks = blocks(student, teacher, pairs)
    pairs = [pair for each in stacks for pair in (each if pairs else each[:-1] or each)]
    return [
        Term(losses.PatientKD(), student=ours.path, teacher=theirs.path, name=f"patient_{i}",
             weight=weight / (len(pairs) * theirs.shape[-1]),
             mask=mask_of_first(student, ours, mask))
        for i, (ours, theirs) in enumerate(pairs)
    ]  # fmt: skip


@recipe
def tinybert(
    student: keras.Model,
    teacher: keras.Model,
    pairs: list[tuple[str, str]] | None = None,
    mask: str | tuple[str, ...] | None = "auto",
) -> list[Term]:
    """Compares attention scores and hidden states of every block, [Jiao et al., 2020](https://arxiv.org/abs/1909.10351).

    `loss = sum_i mean((W_i h_i - H_i)^2) + mean((a_i - A_i)^2)`, scores `a` before the softmax.

    All weights are 1, as in the authors' code. This is the first of its two stages, without the loss
    of the embeddings. The second stage is `losses.SoftCrossEntropy` on the outputs. Each block has
    its own layer to project the hidden states (the paper has one for all), so the student may be
    narrower. The numbers of attention heads must be the same. A decoder's block compares both
    attentions, to its own tokens and to the encoder's. A block without attention compares only its
    states.

    Args:
        student: a built transformer.
        teacher: a built transformer.
        pairs: as in `pkd`. Defaults to `match_layers`.
        mask: as in `pkd`.

    Returns:
        A list of `Term`s, two or three for each pair.

    Raises:
        ValueError: if no blocks match, or an attention layer shows no scores.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.tinybert(student, teacher), alpha=1.0)
    ```
    """  # noqa: E501
    terms = []
    stacks = blocks(student, teacher, pairs)
    check_attention(student, teacher, stacks)
    for i, (ours, theirs) in enumerate(pair for each in stacks for pair in each):
        weighs = mask_of(student, ours, mask)
        terms.append(Term(losses.Hint(), student=ours.path, teacher=theirs.path, projector="auto",
                          mask=weighs, name=f"hidden_{i}"))  # fmt: skip
        for turn, layers in enumerate(zip(ours.attentions, theirs.attentions)):
            scores = scores_of(student, ours, layers[0]), scores_of(teacher, theirs, layers[1])
            terms.append(Term(losses.AttentionMSE(cross=turn > 0), student=scores[0],
                              teacher=scores[1], mask=weighs,
                              name=f"{'cross_' * turn}attention_{i}"))  # fmt: skip
    return terms


@recipe
def minilm(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    version: int = 2,
    relation_heads: int | None = None,
    weight: Hyperparameter = 1.0,
    mask: str | tuple[str, ...] | None = "auto",
) -> list[Term]:
    """Compares relations between the queries, keys and values of one block, [Wang et al., 2020](https://arxiv.org/abs/2002.10957), [2021](https://arxiv.org/abs/2012.15828).

    `loss = sum_(m, n) KL(softmax(M N^T / sqrt(d)) || softmax(m n^T / sqrt(d)))`, see
    `losses.MiniLMRelations`.

    Widths may differ and, with `relation_heads`, numbers of heads too. In a model with an encoder
    and a decoder the last block of each is compared, with a term for each. In the decoder the
    attention to its own tokens counts.

    Args:
        student: a built transformer.
        teacher: a built transformer.
        pair: paths of blocks. Defaults to the last blocks with an attention, as in MiniLM. MiniLMv2
            examines other blocks of the teacher.
        version: 1 (query-key and value-value) or 2 (query-query, key-key, value-value). Defaults
            to `2`.
        relation_heads: as in `losses.MiniLMRelations`. Defaults to the layers' own heads.
        weight: the weight of each term. Defaults to `1.0`, our choice, since the method has no
            other loss.
        mask: as in `pkd`.

    Returns:
        A list of one `Term`, or of one each for encoder and decoder.

    Raises:
        ValueError: if `version` is neither, if no blocks match, or if one layer makes query, key
            and value of their attention.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.minilm(student, teacher), alpha=1.0)
    ```
    """  # noqa: E501
    if version not in (1, 2):
        raise ValueError(f"`version` must be 1 or 2. Received: version={version}")
    relations = [("query", "key"), ("value", "value")]
    if version == 2:
        relations = [(name, name) for name in NAMES]
    stacks = blocks(student, teacher, pair and [pair], attending=True)
    terms = []
    for i, (ours, theirs) in enumerate(each[-1] for each in stacks):
        projections = projections_of(student, ours), projections_of(teacher, theirs)
        loss = losses.MiniLMRelations(relations, relation_heads or heads_of(ours, theirs))
        terms.append(Term(
            loss, student=projections[0], teacher=projections[1], weight=weight,
            mask=mask_of(student, ours, mask), name=_numbered("minilm_relations", i, stacks),
        ))  # fmt: skip
    return terms


@recipe
def distilbert(
    student: keras.Model,
    teacher: keras.Model,
    pair: tuple[str, str] | None = None,
    temperature: Hyperparameter = 2.0,
    weights: Sequence[float] | None = (2.5, 0.5),
    mask: Any = "auto",
) -> list[Term]:
    """Compares softened outputs and the cosine of last hidden states, [Sanh et al., 2019](https://arxiv.org/abs/1910.01108).

    `loss = w_0 T^2 KL(P(T) || p(T)) + w_1 mean(1 - cos(h, H))` beside the label loss.

    The method's third loss is that of the labels. The paper gives no weights. The command in its
    authors' code has 5, 1 and 2 for outputs, cosine and labels. This is 2.5 and 0.5 beside a label
    loss of weight 1. In a model with an encoder and a decoder the last states of both are compared,
    each by a term of its own with the whole weight.

    Args:
        student: a built transformer.
        teacher: a built transformer of the same width.
        pair: paths of the hidden states. Defaults to the last blocks.
        temperature: `T`, positive. Defaults to `2.0`, as in the authors' code.
        weights: the weights of the outputs and of the cosine. Defaults to `(2.5, 0.5)`.
        mask: the mask of the cosine, as in `pkd`.

    Returns:
        A list of two `Term`s, or of three for an encoder and a decoder.

    Raises:
        ValueError: if no blocks match.

    Example:

    ```python
    Distiller(student, teacher=teacher, terms=recipes.distilbert(student, teacher), alpha=0.5)
    ```
    """  # noqa: E501
    stacks = blocks(student, teacher, pair and [pair])
    return [Term(losses.KLDivergence(temperature), weight=weights[0])] + [
        Term(losses.Cosine(), student=ours.path, teacher=theirs.path, weight=weights[1],
             mask=mask_of(student, ours, mask), name=_numbered("cosine", i, stacks))
        for i, (ours, theirs) in enumerate(each[-1] for each in stacks)
    ]  # fmt: skip


def _numbered(name, index, stacks):
    """Returns a term's name: that of its loss, with a number if there are several stacks."""
    return name if len(stacks) == 1 else f"{name}_{index}"


@recipe
def uld(
    temperature: Hyperparameter = 1.0, weight: Hyperparameter = 1.0, merge: str = "mean"
) -> list[Term]:
    """Compares sorted probabilities of aligned spans, ULD, [Boizard et al., 2024](https://arxiv.org/abs/2402.12030).

    `loss = mean over spans of sum_k |P_(k) - p_(k)|`, probabilities sorted on either side.

    The terms need a `ModelTeacher(model, aligned=True)`, which may have another tokenizer. The
    paper aligns tokens by their place in the answer. Here the text that they cover aligns them. The
    weight is that of the label loss.

    Args:
        temperature: `T`, positive. Defaults to `1.0`, our choice.
        weight: the weight of the term. Defaults to `1.0`, our choice.
        merge: as in `losses.AlignedSpans`. Defaults to `"mean"`.

    Returns:
        A list of one `Term`.

    Example:

    ```python
    aligned = ModelTeacher(teacher, aligned=True)
    Distiller(student, teacher=aligned, terms=recipes.uld())
    ```
    """  # noqa: E501
    loss = losses.AlignedSpans(losses.UniversalLogits(temperature), merge)
    return [Term(loss, teacher=losses.AlignedSpans.PATHS, weight=weight)]
