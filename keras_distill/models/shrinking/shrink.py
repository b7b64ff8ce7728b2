"""Cuts a student from its teacher: fewer blocks, smaller widths, fewer tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_distill._keras.graph import is_graph
from keras_distill._keras.layers import sublayers
from keras_distill.models.shrinking import (
    blocks,
    copied_weights,
    graph_cut,
    measures,
    narrowing,
    sizes,
    units,
    vocabulary,
    word_vectors,
)
from keras_distill.models.shrinking.choice import Choice


def shrink(
    teacher: keras.Model,
    *,
    layers: Sequence[int] | dict[str, Sequence[int]] | None = None,
    every: int | None = None,
    depth: int | None = None,
    width: int | float | None = None,
    heads: int | float | None = None,
    feed_forward: int | float | None = None,
    importance: Iterable | None = None,
    measure: str = "activation",
    loss: Any = None,
    vocabulary: int | Sequence[int] | None = None,
    same_ids: bool = False,
    name: str | None = None,
) -> keras.Model:
    """Makes a student from a teacher's config, with the teacher's weights copied into it.

    - A cut in depth keeps whole blocks, each with its weights.
    - A cut in width shrinks `hidden_dim`, the inner dimension and the number of heads by the same
      share. In a graph of Keras layers it shrinks the channels and units between input and output.
      It keeps the first rows and columns of every weight or, with `importance`, the most important
      ones. This is a start for training, not a working model.
    - A cut of the vocabulary copies the rows of the kept tokens. In a task the tokenizer keeps
      only these tokens, with new ids in the same order. With `same_ids` the student reads the
      teacher's ids.

    With `importance` each feed-forward layer keeps its own hidden units, and each attention layer
    its own heads. Query heads that share a key stay together. The whole model keeps the same
    entries of `hidden_dim`, and a skip connection the same channels at both ends. The weights of
    norms over these channels are scaled so that their outputs keep their size.

    The student's blocks are numbered from the first, so block 2 of the teacher may be the student's
    `transformer_layer_1`. If nothing is cut, the outputs equal the teacher's.

    Args:
        teacher: a KerasHub backbone or task (BERT, DistilBERT, RoBERTa, ALBERT, GPT-2, Llama,
            Gemma, BART, T5, ViT, ResNet and others whose config has `num_layers`,
            `encoder_num_layers` and `decoder_num_layers`, or `stackwise_num_blocks`), or a
            functional or sequential model of blocks whose layers are named by number, such as
            `block_0_conv`, `block_1_conv`.
        layers: the positions of the blocks to keep, ascending from 0, for each stack of blocks, or
            `{part of a stack's name: positions}`. KerasHub's BART and T5 have one depth for encoder
            and decoder. A backbone with a depth for each may lose only decoder blocks.
        every: keeps the blocks 0, `every`, 2 `every` and so on.
        depth: how many blocks of each stack to keep, evenly spaced from the first to the last, so
            that the next layer still reads the last block. A depth of one keeps the first block.
        width: the new `hidden_dim`, or a share of the old one such as `0.5`. A graph of Keras's
            layers takes only a share.
        heads: the new number of (query) heads, or a share. Only if the config has a width of heads
            (`head_dim`), as Gemma's. Defaults to the number that `width` leaves.
        feed_forward: the new inner dimension, or a share. Defaults to the size that `width` leaves.
        importance: batches `x` or `(x, y)` of the teacher's inputs, on which the importance of
            heads, units and channels is measured. The first 16 are used. Defaults to `None`, which
            keeps the first rows and columns.
        measure: `"activation"`, the mean absolute output of a unit, or `"taylor"`, the sum of
            `|weight * gradient|` over the unit's weights. Defaults to `"activation"`.
        loss: for `"taylor"`, the loss on the labels `y`, as `compile` takes it.
        vocabulary: how many of the first tokens to keep, or the ids of the tokens to keep (see
            `common_tokens`). `kept_tokens` tells which rows the student has. A graph of Keras's
            layers needs one `Embedding` that reads its inputs.
        same_ids: whether the student reads the teacher's token ids, so that it needs no tokenizer
            of its own. It then translates them first, and all tokens that are not kept share one
            vector, the mean of theirs. Defaults to `False`.
        name: the student's name. Defaults to the teacher's name with `_student`.

    Returns:
        A model of the teacher's class, a functional or a sequential one. With `same_ids`, a
        functional model that holds it.

    Raises:
        ValueError: if the teacher cannot be cut in this way (the error says why), or there are two
            ways to choose blocks.

    Example:

    ```python
    student = models.shrink(teacher, layers=[0, 3])
    tokens = [teacher.preprocessor(texts)]
    student = models.shrink(teacher, width=0.5, importance=tokens)
    ids = models.common_tokens(teacher, texts, 8)
    student = models.shrink(teacher, depth=2, vocabulary=ids)
    distiller = Distiller(student, teacher=teacher)
    ```

    Reference:
        - [Sanh et al., 2019](https://arxiv.org/abs/1910.01108)
        - [Molchanov et al., 2019](https://arxiv.org/abs/1906.10771): `"taylor"`
        - [Ma et al., 2023](https://arxiv.org/abs/2305.11627): units that depend on each other
    """
    choice = Choice(layers, every, depth)
    choice.check()
    widths = sizes.Widths(width, heads, feed_forward)
    if not (choice.wanted or widths.given or vocabulary is not None):
        raise ValueError(
            "There is nothing to cut. Give `layers`, `every`, `depth`, `width`, `heads`, "
            "`feed_forward` or `vocabulary`."
        )
    if not isinstance(teacher, keras.Model) or not teacher.built:
        raise ValueError(f"`teacher` must be a built Keras model. Received: {teacher!r}")
    if any(layer.quantization_mode for layer in (teacher, *sublayers(teacher, recursive=True))):
        raise ValueError(
            f"`{teacher.name}` is quantized, so a student cut from it could not be trained. Cut "
            "the model before you quantize it."
        )
    name = name or f"{teacher.name}_student"
    measured = _importance(importance, measure, loss, widths)
    if same_ids:
        if vocabulary is None:
            raise ValueError("`same_ids` needs `vocabulary`, the tokens to keep.")
        if choice.wanted or widths.given:
            teacher = shrink(
                teacher, layers=layers, every=every, depth=depth, width=width, heads=heads,
                feed_forward=feed_forward, importance=importance, measure=measure, loss=loss,
            )  # fmt: skip
        return _of_same_ids(teacher, vocabulary, name)
    sized = _is_task(teacher) or sizes.config_of(teacher) is not None
    if sized and measured is not None:
        teacher = _by_importance(teacher, widths, measured, name)
        widths = sizes.Widths()
        if not choice.wanted and vocabulary is None:
            return teacher
    if sized:
        return _sized(teacher, choice, widths, vocabulary, name)
    return _graph(teacher, choice, widths, measured, vocabulary, name)


def _importance(data, measure, loss, widths):
    """Returns how importance is measured, or `None`."""
    found = measures.Importance(data, measure, loss)
    found.check()
    if data is None:
        if measure != "activation" or loss is not None:
            raise ValueError("`measure` and `loss` need `importance`, batches to measure on.")
        return None
    if not widths.given:
        raise ValueError(
            "`importance` chooses heads, units and channels. Give `width`, `heads` or "
            "`feed_forward` with it."
        )
    return found._replace(data=found.batches())


def _is_task(model):
    return isinstance(getattr(model, "backbone", None), keras.Model) and hasattr(
        model, "preprocessor"
    )


def _by_importance(teacher, widths, importance, name):
    """Returns the teacher with all its blocks, narrowed by one kind of sizes after the other."""
    old = _config(teacher)
    for config, roles in sizes.stages(old, sizes.cut_widths(old, widths, teacher.name)):
        student, whole = _made(teacher, config, name), blocks.Selection({})
        differing = units.Differing()
        copied_weights.copy(student, teacher, whole, differing)
        chosen = units.chosen(teacher, differing.cuts, roles, importance)
        copied_weights.copy(student, teacher, whole, chosen)
        teacher = student
    return teacher


def _config(model):
    """Returns the sizes of a backbone, or of a task's backbone."""
    backbone = model.backbone if _is_task(model) else model
    config = sizes.config_of(backbone)
    if config is None:
        raise ValueError(
            f"`{model.name}` cannot be cut, because the config of its backbone (a "
            f"`{type(backbone).__name__}`) has none of {', '.join(sizes.DEPTHS)}. Build the "
            "smaller student yourself."
        )
    return config


def _made(teacher, config, name, preprocessor=None):
    """Returns a model of other sizes; a task keeps its head.

    Args:
        preprocessor: the preprocessor of a task. Defaults to the teacher's.
    """
    if not _is_task(teacher):
        return type(teacher).from_config({**config, "name": name})
    backbone, head = teacher.backbone, teacher.get_config()
    old, new = backbone.get_config().get("hidden_dim"), config.get("hidden_dim")
    if old != new and head.get("hidden_dim") == old:
        head["hidden_dim"] = new
    head["preprocessor"] = preprocessor or teacher.preprocessor
    head |= {"name": name, "backbone": type(backbone).from_config(config)}
    return type(teacher).from_config(head)


def _sized(teacher, choice, widths, tokens, name, same_ids=False):
    """Returns a model, or a task around one, by its config."""
    config = _config(teacher)
    backbone = teacher.backbone if _is_task(teacher) else teacher
    config, selection = sizes.cut_depth(config, _stacks(backbone), choice, backbone.name)
    config = sizes.cut_widths(config, widths, backbone.name)
    rows, preprocessor = copied_weights.Rows(), None
    if tokens is not None:
        if sizes.words_of(config) is None:
            raise ValueError(
                f"`{backbone.name}` has no vocabulary to cut, because its config has none of "
                f"{', '.join(sizes.WORDS)}. Leave `vocabulary` out. Received: vocabulary={tokens}"
            )
        size = vocabulary.size_of(teacher)
        rows = copied_weights.Rows(size, vocabulary.kept_tokens(teacher, tokens))
        config = {**config, sizes.words_of(config): len(rows.ids)}
        if _is_task(teacher) and not same_ids:
            preprocessor = vocabulary.cut_preprocessor(teacher.preprocessor, rows.ids)
    student = _made(teacher, config, name, preprocessor)
    copied_weights.copy(student, teacher, selection, rows)
    return student


def _graph(teacher, choice, widths, importance, tokens, name):
    """Returns a functional model of Keras's layers."""
    for argument, value in widths._replace(width=None).given.items():
        raise ValueError(
            f"`{teacher.name}` cannot be cut by `{argument}`, because its config has none of "
            f"{', '.join(sizes.DEPTHS)}. Build the smaller student yourself. Received: "
            f"{argument}={value}"
        )
    if not is_graph(teacher):
        raise ValueError(
            f"`{teacher.name}` (a {type(teacher).__name__}) cannot be cut. It is neither "
            f"functional nor sequential, and its config has none of {', '.join(sizes.DEPTHS)}. "
            "Build the smaller student yourself."
        )
    if tokens is not None:
        teacher = word_vectors.cut_rows(teacher, vocabulary.kept_tokens(teacher, tokens), name)
    if widths.width is not None:
        teacher = narrowing.narrowed(teacher, widths.width, importance, name)
    if not choice.wanted:
        return teacher
    student, selection = graph_cut.cut(teacher, choice, name)
    copied_weights.copy(student, teacher, selection, copied_weights.Rows())
    return student


def _of_same_ids(teacher, tokens, name):
    """Returns a student with fewer tokens that reads the teacher's ids."""
    size, ids = vocabulary.size_of(teacher), vocabulary.kept_tokens(teacher, tokens)
    rest = sorted({*range(size)} - {*ids})
    ids = vocabulary.kept_tokens(teacher, [*ids, *rest[:1]])  # the first stands for the others
    if word_vectors.embedding_of(teacher) is None:
        student = _sized(teacher, Choice(), sizes.Widths(), ids, f"{name}_kept", same_ids=True)
    else:
        student = word_vectors.cut_rows(teacher, ids, f"{name}_kept")
    table = np.zeros(size, "int32")
    if rest:
        table[:] = ids.index(rest[0])
        word_vectors.share(student, teacher, sorted({*rest} - {*ids} | {rest[0]}), table[0])
    table[ids] = np.arange(len(ids))
    return word_vectors.translating(student, table, name)


def _stacks(model):
    """Returns the stacks of blocks in a model, or in its direct sublayers.

    The name of a stack is the beginning of its layers' names, or their class if Keras has named
    them.
    """
    for layers in (model.layers, *map(copied_weights.children, model.layers)):
        numbered = blocks.numbered_by_keras(layers)
        named = [layer for layer in layers if type(layer) not in numbered]
        inside = [layer for layer in named if sublayers(layer)]  # excludes Whisper's convolutions
        found = blocks.stacks_of(inside) or blocks.stacks_of(named)
        found |= {kind.__name__: [*range(len(each))] for kind, each in numbered.items()}
        if found:
            return found
    return {}
