"""What layers learn by `adapt`, which Keras keeps beside their weights."""

import tempfile

import keras

from keras_distill._keras.layers import sublayers

LOOKUPS = (keras.layers.TextVectorization, keras.layers.StringLookup, keras.layers.IntegerLookup)


def copy_adapted(target, source):
    """Gives a layer the vocabulary of another one, and constants that depend on its weights.

    `set_weights` does neither. A `Normalization` would not normalize, and a `TextVectorization`
    would know no word. The weights must have been copied before.

    Args:
        target: a layer or model.
        source: the layer or model from whose config it was made.
    """
    pairs = zip(*((each, *sublayers(each, recursive=True)) for each in (target, source)))
    for ours, theirs in pairs:
        if isinstance(ours, keras.layers.Normalization):
            ours.finalize_state()
        elif isinstance(ours, LOOKUPS) and isinstance(theirs, LOOKUPS):
            _copy_vocabulary(ours, theirs)


def _copy_vocabulary(ours, theirs):
    """Copies a vocabulary with its weights as a `.keras` file keeps them."""
    if not theirs.get_vocabulary(include_special_tokens=False):
        return
    store = {}
    theirs.save_own_variables(store)
    ours.load_own_variables(store)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_assets(folder)
        ours.load_assets(folder)
