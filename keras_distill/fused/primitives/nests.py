"""Splits nests into tensors, which a compiled function takes, and other leaves."""

import keras


def split(nest):
    """Returns the tensors of a nest, and a function that puts as many tensors into their places."""
    leaves = keras.tree.flatten(nest)
    places = [place for place, leaf in enumerate(leaves) if keras.ops.is_tensor(leaf)]
    tensors = [leaves[place] for place in places]
    for place in places:
        leaves[place] = None  # so that `having` keeps no tensor alive
    frame = keras.tree.pack_sequence_as(nest, leaves)

    def having(tensors):
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return keras.tree.pack_sequence_as(frame, filled)

    return tensors, having
