"""Makes inputs that are worse than those of the data: with noise, shifts or missing words."""

import keras
import numpy as np

NOISE = (0.1, 0.3)  # in standard deviations of the inputs
SHIFT = (1 / 16, 1 / 8)  # relative to the sides of an image
MISSING = (0.1, 0.3)  # the share of the words


def changes(x):
    """Returns the changes that can be made to these inputs, by their kind.

    Numbers get noise, images are also shifted, token ids and texts lose words.

    Args:
        x: a batch of inputs, an array or a dict of arrays.

    Returns:
        `{name: change}`. `change(x, random)` returns worse inputs, with a `numpy.random.Generator`
        as `random`.
    """
    arrays = keras.tree.flatten(x)
    found = {}
    if any(each.dtype.kind in "OSU" for each in arrays):
        found |= {f"{share:.0%} of the words missing": _missing_words(share) for share in MISSING}
    elif isinstance(x, dict) and "token_ids" in x:
        found |= {f"{share:.0%} of the tokens missing": _missing_ids(share) for share in MISSING}
    elif len(arrays) == 1 and arrays[0].dtype.kind in "iu" and arrays[0].ndim == 2:
        found |= {f"{share:.0%} of the tokens missing": _missing(share) for share in MISSING}
    elif all(each.dtype.kind in "fu" for each in arrays):
        found |= {f"noise of {level} deviations": _noise(level) for level in NOISE}
        if len(arrays) == 1 and arrays[0].ndim in (3, 4) and min(arrays[0].shape[1:3]) >= 8:
            side = min(arrays[0].shape[1:3])
            shares = {max(1, round(share * side)): share for share in SHIFT}
            found |= {f"shifted by {share:.0%}": _shift(share) for share in shares.values()}
    return found


def _noise(level):
    def change(x, random):
        noisy = [each + random.normal(size=each.shape) * level * max(each.std(), 1e-12)
                 for each in keras.tree.flatten(x)]  # fmt: skip
        noisy = [_in_type(new, old) for new, old in zip(noisy, keras.tree.flatten(x))]
        return keras.tree.pack_sequence_as(x, noisy)

    return change


def _in_type(new, old):
    if old.dtype.kind == "u":  # pixels
        limits = np.iinfo(old.dtype)
        new = np.clip(np.round(new), limits.min, limits.max)
    return new.astype(old.dtype)


def _shift(share):
    """Returns a change that shifts each image in a random direction and repeats its edge."""

    def change(x, random):
        image, = keras.tree.flatten(x)
        moved = np.empty_like(image)
        steps = [max(1, round(share * side)) for side in image.shape[1:3]]
        for row, signs in enumerate(random.choice((-1, 1), size=(len(image), 2))):
            at = [np.clip(np.arange(side) + sign * step, 0, side - 1)
                  for side, sign, step in zip(image.shape[1:3], signs, steps)]  # fmt: skip
            moved[row] = image[row][np.ix_(*at)]
        return keras.tree.pack_sequence_as(x, [moved])

    return change


def _gone(shape, share, random):
    """Returns which tokens are missing; the first stays, as it often marks the beginning."""
    gone = random.random(shape) < share
    gone[:, 0] = False
    return gone


def _missing(share):
    """Returns a change that replaces missing tokens by token 0."""

    def change(x, random):
        ids, = keras.tree.flatten(x)
        ids = np.where(_gone(ids.shape, share, random), 0, ids)
        return keras.tree.pack_sequence_as(x, [ids])

    return change


def _missing_ids(share):
    """Returns such a change for named ids; a mask, if there is one, hides the missing tokens."""

    def change(x, random):
        gone = _gone(x["token_ids"].shape, share, random)
        worse = {**x, "token_ids": np.where(gone, 0, x["token_ids"])}
        mask = x.get("padding_mask")
        if mask is not None and mask.shape == gone.shape:
            worse["padding_mask"] = np.where(gone, 0, mask).astype(mask.dtype)
        return worse

    return change


def _missing_words(share):
    def change(x, random):
        def shorter(text):
            text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            words = text.split()
            kept = [word for word in words if random.random() >= share]
            return " ".join(kept or words[:1])

        def each(array):
            if array.dtype.kind not in "OSU":
                return array
            return np.array([shorter(t) for t in array.ravel()], object).reshape(array.shape)

        return keras.tree.map_structure(each, x)

    return change
