"""The vectors of a model's tokens: found, cut, shared, and read by the teacher's ids."""

import keras

from keras_distill._keras import graph
from keras_distill._keras.adapted import copy_adapted
from keras_distill.models.shrinking import graph_cut
from keras_distill.models.shrinking.sizes import words_of


def config_of(model):
    """Returns the config of a backbone, or of a task's; a plain model has none."""
    backbone = getattr(model, "backbone", model)
    if type(backbone).__module__.startswith("keras."):
        return {}
    try:
        return backbone.get_config()
    except NotImplementedError:
        return {}


def embedding_of(model):
    """Returns the one `Embedding` that reads the inputs of a graph of Keras's layers, or `None`."""
    if words_of(config_of(model)) is not None:
        return None
    found = {id(node.operation): node.operation for node in _reading_inputs(model)
             if type(node.operation) is keras.layers.Embedding}  # fmt: skip
    return next(iter(found.values())) if len(found) == 1 else None


def token_inputs(model):
    """Returns the ids of the symbolic inputs of a graph that hold token ids."""
    words = embedding_of(model)
    if words is not None:
        return {id(node.input_tensors[0]) for node in _reading_inputs(model)
                if node.operation is words}  # fmt: skip
    return {id(symbol) for symbol in keras.tree.flatten(graph.inputs(model))
            if symbol.name.endswith("token_ids")}  # fmt: skip


def cut_rows(model, ids, name):
    """Returns a graph like a functional or sequential one, with the rows of the kept tokens.

    Args:
        model: the graph, with one `Embedding` that reads its inputs.
        ids: the kept tokens, ascending.
        name: the new model's name.
    """
    words = embedding_of(model)

    def changed(layer, config):
        return {**config, "input_dim": len(ids)} if layer is words else config

    student, made = graph_cut.remade(model, changed, name)
    for layer in model.layers:
        if id(layer) in made:
            values = layer.get_weights()
            if layer is words:
                values[0] = values[0][ids]
            made[id(layer)].set_weights(values)
            copy_adapted(made[id(layer)], layer)
    return student


def share(student, teacher, dropped, place):
    """Gives the student's token at `place` the mean of the vectors of the teacher's dropped ones.

    Args:
        student: the teacher with fewer tokens.
        teacher: a graph with an `Embedding`, a KerasHub backbone or a task.
        dropped: the ids of the dropped tokens.
        place: the id of a token of the student.
    """
    ours, theirs = (
        embedding_of(model) or getattr(model, "backbone", model).token_embedding
        for model in (student, teacher)
    )
    vectors = keras.ops.convert_to_numpy(ours.embeddings)
    vectors[place] = keras.ops.convert_to_numpy(theirs.embeddings)[dropped].mean(0)
    ours.embeddings.assign(vectors)


def translating(student, table, name):
    """Returns a model that looks its token ids up in a table, and calls the student with these.

    Args:
        student: a functional model of token ids.
        table: an array, the student's id of each id.
        name: the model's name.
    """
    tokens = token_inputs(student)

    def read(symbol, given):
        if id(symbol) in tokens:
            return keras.ops.take(table, keras.ops.cast(given, "int32"))
        return given

    symbols = graph.inputs(student)
    inputs = keras.tree.map_structure(
        lambda each: keras.Input(batch_shape=each.shape, dtype=each.dtype, name=each.name), symbols
    )
    return keras.Model(
        inputs, student(keras.tree.map_structure(read, symbols, inputs)), name=name
    )


def _reading_inputs(model):
    """Returns the calls of a graph that read nothing but its inputs."""
    if not graph.is_graph(model):
        return []
    given = {id(symbol) for symbol in keras.tree.flatten(graph.inputs(model))}
    return [node for node in graph.nodes(model)
            if node.input_tensors and given.issuperset(map(id, node.input_tensors))]  # fmt: skip
