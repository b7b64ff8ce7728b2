"""Published methods for transformers, as lists of terms.

They take models whose blocks hold attention layers: keras_hub's tasks and backbones, or any Keras
model with `MultiHeadAttention`. Padding is left out where `mask` names the model's padding mask.
Where sample weights mask prompts, `mask="input:padding_mask"` compares attention to prompts too.
"""

from keras_distill import losses, taps
from keras_distill.recipes.matching import match_layers
from keras_distill.training.term import Term

PADDING = ("sample_weight", "input:padding_mask")


def patient(student, teacher, pairs=None, weight=100.0, mask=PADDING):
    """The first token after each block, PKD, [Sun et al., 2019](https://arxiv.org/abs/1908.09355).

    Args:
        student: a built transformer.
        teacher: a built transformer of the same width.
        pairs: `[(student's path, teacher's path)]` of blocks. Defaults to all but the last of
            `match_layers`, as in the authors' "PKD-skip".
        weight: of the mean over blocks and over the width, which the authors' code takes.
            Defaults to `100.0`: what most of the best runs that it reports have (1 to 500). It
            gives normalization as an option; these terms always have it.
        mask: as in `Term`.
    """
    pairs = pairs or match_layers(student, teacher, verbose=False)[:-1]
    shapes = taps.shapes(teacher)
    return [
        Term(losses.PatientKD(), student=ours, teacher=theirs, mask=mask, name=f"patient_{i}",
             weight=weight / (len(pairs) * shapes[theirs][-1]))
        for i, (ours, theirs) in enumerate(pairs)
    ]  # fmt: skip


def tinybert(student, teacher, pairs=None, mask=PADDING):
    """Attention scores and hidden states of every block, [Jiao et al., 2020](https://arxiv.org/abs/1909.10351).

    All weights are 1, as in the authors' code. Its first of two stages, without the embeddings' loss:
    the second is `losses.SoftCrossEntropy` on the outputs. The hidden states are projected by one
    layer a block (by one for all in the paper), so that the student may be narrower; the numbers
    of attention heads must be the same.

    Args:
        student: a built transformer.
        teacher: a built transformer.
        pairs: as in `patient`. Defaults to `match_layers`.
        mask: as in `Term`.
    """  # noqa: E501
    terms = []
    for i, (ours, theirs) in enumerate(pairs or match_layers(student, teacher, verbose=False)):
        hidden = {"student": ours, "teacher": theirs, "projector": "auto", "mask": mask}
        scores = f"{attention_of(student, ours)}:scores", f"{attention_of(teacher, theirs)}:scores"
        terms.append(Term(losses.Hint(), **hidden, name=f"hidden_{i}"))
        terms.append(Term(losses.AttentionMSE(), student=scores[0], teacher=scores[1], mask=mask,
                          name=f"attention_{i}"))  # fmt: skip
    return terms


def minilm(student, teacher, pair=None, version=2, relation_heads=None, weight=1.0, mask=PADDING):
    """Relations between the queries, keys and values of one block, [Wang et al., 2020](https://arxiv.org/abs/2002.10957), [2021](https://arxiv.org/abs/2012.15828).

    Widths and, with `relation_heads`, numbers of heads may differ.

    Args:
        student: a built transformer.
        teacher: a built transformer.
        pair: paths of blocks. Defaults to the last of each, as in MiniLM; MiniLMv2 examines
            other blocks of the teacher.
        version: 1 (query-key and value-value) or 2 (query-query, key-key, value-value).
        relation_heads: as in `losses.MiniLMRelations`.
        weight: Defaults to `1.0`, our choice: the method has no other loss.
        mask: as in `Term`.
    """  # noqa: E501
    if version not in (1, 2):
        raise ValueError(f"`version` must be 1 or 2. Received: version={version}")
    pair = pair or match_layers(student, teacher, count=1, verbose=False)[0]
    relations = [("query", "key"), ("value", "value")]
    if version == 2:
        relations = [(name, name) for name in ("query", "key", "value")]
    ours, theirs = (
        taps.attention(attention_of(model, path)) for model, path in zip((student, teacher), pair)
    )
    loss = losses.MiniLMRelations(relations, relation_heads)
    return [Term(loss, student=ours, teacher=theirs, weight=weight, mask=mask)]


def distilbert(student, teacher, pair=None, temperature=2.0, weights=(2.5, 0.5), mask=PADDING):
    """Softened outputs and the cosine of last hidden states, [Sanh et al., 2019](https://arxiv.org/abs/1910.01108).

    The third of its terms is the label loss. The paper gives no weights; the command in its
    authors' code has 5, 1 and 2 for outputs, cosine and labels: 2.5 and 0.5 beside a label loss of
    weight 1.

    Args:
        student: a built transformer.
        teacher: a built transformer of the same width.
        pair: paths of the hidden states. Defaults to the last blocks.
        temperature: Defaults to `2.0`, the authors' code's.
        weights: of the outputs and of the cosine. Defaults to `(2.5, 0.5)`.
        mask: of the cosine, as in `Term`.
    """  # noqa: E501
    ours, theirs = pair or match_layers(student, teacher, count=1, verbose=False)[0]
    return [
        Term(losses.KLDivergence(temperature), weight=weights[0]),
        Term(losses.Cosine(), student=ours, teacher=theirs, weight=weights[1], mask=mask),
    ]


def attention_of(model, path):
    """The path of the first attention layer inside a block."""
    layers = {f"{path}/{below}": taps.find_layer(model, f"{path}/{below}")
              for below in taps.paths(taps.find_layer(model, path))}  # fmt: skip
    for inside, layer in layers.items():
        if hasattr(layer, "_compute_attention"):
            return inside
    if unlike := {type(layer).__name__ for layer in layers.values() if _attends(layer)}:
        raise ValueError(
            f"`{path}` of `{model.name}` has an attention of its own, {', '.join(sorted(unlike))}, "
            "whose scores are not to be had. Name its projections, as in `MiniLMRelations` with "
            '`taps.attention(path, names=("query_projector", "key_projector"))`.'
        )
    raise ValueError(
        f"`{path}` of `{model.name}` holds no attention layer. Give paths of blocks that do; "
        "`keras_distill.taps.shapes(model)` lists them."
    )


def _attends(layer):
    return "attention" in type(layer).__name__.lower()


def universal(temperature=1.0, weight=1.0, merge="mean"):
    """Sorted probabilities of aligned spans, ULD, [Boizard et al., 2024](https://arxiv.org/abs/2402.12030).

    Takes a `ModelTeacher(model, aligned=True)`, whose tokenizer may be another. The paper aligns
    tokens by their place in the answer; here it is done by the text they cover. The weight is
    that of the label loss.
    """  # noqa: E501
    loss = losses.AlignedSpans(losses.UniversalLogits(temperature), merge)
    return [Term(loss, teacher=losses.AlignedSpans.PATHS, weight=weight)]
