"""A student cut from its teacher: fewer blocks, narrower, with fewer tokens."""

from collections.abc import Sequence

import keras

from keras_distill._keras.graph import is_graph
from keras_distill._keras.layers import sublayers
from keras_distill.models.shrinking import blocks, copied_weights, graph_cut, sizes, vocabulary
from keras_distill.models.shrinking.choice import Choice


def shrink(
    teacher: keras.Model,
    *,
    layers: Sequence[int] | dict[str, Sequence[int]] | None = None,
    every: int | None = None,
    depth: int | None = None,
    width: int | float | None = None,
    vocabulary: int | Sequence[int] | None = None,
    name: str | None = None,
) -> keras.Model:
    """Makes a student from a teacher's config, with the teacher's weights copied into it.

    - A cut in depth keeps whole blocks, each with its weights.
    - A cut in width shrinks `hidden_dim`, the inner dimension and the number of heads by the same
      share, and copies the first rows and columns of every weight. This is a start for training,
      not a working model.
    - A cut of the vocabulary copies the rows of the kept tokens. In a task the tokenizer keeps
      only these tokens, with new ids in the same order.

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
        width: the new `hidden_dim`, or a share of the old one such as `0.5`. Only for models made
            from a config of sizes.
        vocabulary: how many of the first tokens to keep, or the ids of the tokens to keep (see
            `common_tokens`). `kept_tokens` tells which rows the student has.
        name: the student's name. Defaults to the teacher's name with `_student`.

    Returns:
        A model of the teacher's class, a functional or a sequential one.

    Raises:
        ValueError: if the teacher cannot be cut in this way (the error says why), or there are two
            ways to choose blocks.

    Example:

    ```python
    student = models.shrink(teacher, layers=[0, 3])
    student = models.shrink(teacher, depth=2, vocabulary=models.common_tokens(teacher, texts, 8))
    distiller = Distiller(student, teacher=teacher)
    ```

    Reference:
        - [Sanh et al., 2019](https://arxiv.org/abs/1910.01108)
    """
    choice = Choice(layers, every, depth)
    choice.check()
    if not (choice.wanted or width is not None or vocabulary is not None):
        raise ValueError(
            "There is nothing to cut. Give `layers`, `every`, `depth`, `width` or `vocabulary`."
        )
    if not isinstance(teacher, keras.Model) or not teacher.built:
        raise ValueError(f"`teacher` must be a built Keras model. Received: {teacher!r}")
    if any(layer.quantization_mode for layer in (teacher, *sublayers(teacher, recursive=True))):
        raise ValueError(
            f"`{teacher.name}` is quantized, so a student cut from it could not be trained. Cut "
            "the model before you quantize it."
        )
    name = name or f"{teacher.name}_student"
    backbone = getattr(teacher, "backbone", None)
    if isinstance(backbone, keras.Model) and hasattr(teacher, "preprocessor"):
        return _task(teacher, choice, width, vocabulary, name)
    if sizes.config_of(teacher) is not None:
        return _sized(teacher, choice, width, vocabulary, name)
    return _graph(teacher, choice, width, vocabulary, name)


def _sized(teacher, choice, width, tokens, name):
    """A model that its config describes."""
    config, selection = _plan(teacher, choice, width, tokens)
    student = type(teacher).from_config({**config, "name": name})
    copied_weights.copy(student, teacher, selection, _rows(teacher, tokens))
    return student


def _task(teacher, choice, width, tokens, name):
    """A task around a smaller backbone: its head is copied, its preprocessor shared."""
    backbone = teacher.backbone
    if sizes.config_of(backbone) is None:
        raise ValueError(
            f"`{teacher.name}` cannot be cut, because the config of its backbone (a "
            f"`{type(backbone).__name__}`) has none of {', '.join(sizes.DEPTHS)}. Build the "
            "smaller student yourself."
        )
    config, selection = _plan(backbone, choice, width, tokens)
    old, new = backbone.get_config().get("hidden_dim"), config.get("hidden_dim")
    head = teacher.get_config()
    if old != new and head.get("hidden_dim") == old:
        head["hidden_dim"] = new
    rows = _rows(teacher, tokens)
    head["preprocessor"] = teacher.preprocessor
    if rows.ids is not None and teacher.preprocessor is not None:
        head["preprocessor"] = vocabulary.cut_preprocessor(teacher.preprocessor, rows.ids)
    if rows.ids is not None:
        config = {**config, sizes.words_of(config): len(rows.ids)}
    head |= {"name": name, "backbone": type(backbone).from_config(config)}
    student = type(teacher).from_config(head)
    copied_weights.copy(student, teacher, selection, rows)
    return student


def _graph(teacher, choice, width, tokens, name):
    """A functional model of named blocks."""
    for argument, value in (("width", width), ("vocabulary", tokens)):
        if value is not None:
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
    student, selection = graph_cut.cut(teacher, choice, name)
    copied_weights.copy(student, teacher, selection, copied_weights.Rows())
    return student


def _plan(model, choice, width, tokens):
    """The config of the smaller model, and the `Selection` of its blocks."""
    config = sizes.config_of(model)
    config, selection = sizes.cut_depth(config, _stacks(model), choice, model.name)
    config = sizes.cut_width(config, width, model.name)
    if tokens is not None:
        if sizes.words_of(config) is None:
            raise ValueError(
                f"`{model.name}` has no vocabulary to cut, because its config has none of "
                f"{', '.join(sizes.WORDS)}. Leave `vocabulary` out. Received: vocabulary={tokens}"
            )
        config[sizes.words_of(config)] = len(vocabulary.kept_tokens(model, tokens))
    return config, selection


def _rows(teacher, tokens):
    if tokens is None:
        return copied_weights.Rows()
    size = vocabulary.size_of(teacher)
    return copied_weights.Rows(size, vocabulary.kept_tokens(teacher, tokens))


def _stacks(model):
    """The stacks of blocks in a model, or in the layers right under it.

    A stack is called by the beginning of its layers' names, or by their class where Keras has
    named them.
    """
    for layers in (model.layers, *map(copied_weights.children, model.layers)):
        numbered = blocks.numbered_by_keras(layers)
        named = [layer for layer in layers if type(layer) not in numbered]
        inside = [layer for layer in named if sublayers(layer)]  # not Whisper's two convolutions
        found = blocks.stacks_of(inside) or blocks.stacks_of(named)
        found |= {kind.__name__: [*range(len(each))] for kind, each in numbered.items()}
        if found:
            return found
    return {}
