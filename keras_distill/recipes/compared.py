"""Pairs of blocks that recipes for transformers compare, with their attention and masks."""

from keras_distill import taps
from keras_distill.recipes.attention_layers import attentions
from keras_distill.recipes.matching import matched
from keras_distill.recipes.stacks import Block, stacks_of

PADDING = {
    "encoder": ("encoder_padding_mask",),
    "decoder": ("decoder_padding_mask", "padding_mask"),
    None: ("padding_mask",),
}
SIDES = ("", "encoder_", "decoder_")
TEXT = {f"{side}{name}" for side in SIDES for name in (
    "token_ids", "padding_mask", "segment_ids", "positions")}  # fmt: skip
EXAMPLES = "example:sample_weight"
TOKENS = 16  # the tokens of a text on which models are tried out


def blocks(student, teacher, pairs=None, *, attending=False):
    """Returns pairs of blocks, `[[(student's, teacher's)]]`, with a list for each stack.

    Args:
        student: a built transformer.
        teacher: a built transformer.
        pairs: `[(student's path, teacher's path)]`, which make one list. Defaults to all blocks,
            matched by depth.
        attending: whether to take only blocks with attention.

    Raises:
        ValueError: if no blocks match, or none of them has the attention that it needs.
    """
    if pairs is None:
        stacks = matched(student, teacher, keep=_attends if attending else None)
    else:
        stacks = [[(_named(student, ours), _named(teacher, theirs)) for ours, theirs in pairs]]
    for model, found in zip((student, teacher), zip(*stacks[-1])):
        if pairs is None and len(found[-1].shape) == 4 and not found[-1].attentions:
            raise ValueError(_of_maps(model, found[-1]))
    if attending:
        check_attention(student, teacher, stacks)
    return stacks


def _of_maps(model, end):
    kind = type(taps.find_layer(model, end.path.partition(":")[0])).__name__
    return (
        f"`{model.name}` has no transformer block, only feature maps such as {end.shape} at "
        f"`{end.path}`, a `{kind}`. Give pairs of paths, or compare feature maps, as "
        "`recipes.fitnets` does."
    )


def check_attention(student, teacher, stacks):
    """Raises an error if no block of the stacks holds an attention."""
    for pairs in stacks:
        for model, found in zip((student, teacher), zip(*pairs)):
            if not any(block.attentions for block in found):
                raise ValueError(_no_attention(model, found[-1].path))


def _no_attention(model, path):
    layer = taps.find_layer(model, path)
    return (
        f"`{path}` of `{model.name}`, a `{type(layer).__name__}`, holds no attention layer. Its "
        f"layers are: {', '.join(_below(layer)) or 'none'}. Give paths of blocks with attention. "
        "`keras_distill.taps.shapes(model)` lists all layers."
    )


def scores_of(model, block, attention):
    """Returns the path of an attention layer's scores."""
    if not attention.shows_scores:
        kind = type(taps.find_layer(model, attention.path)).__name__
        raise ValueError(
            f"The attention scores of `{attention.path}` in `{model.name}`, a `{kind}`, cannot be "
            f"read. Compare its projections {_layers_of(attention)} instead, as `recipes.minilm` "
            "does."
        )
    return f"{attention.path}:scores"


def projections_of(model, block):
    """Returns the projections that a block's first attention compares, `{"query": path, ...}`."""
    attention = block.attentions[0]
    if attention.fused:
        raise ValueError(
            f"`{block.path}` of `{model.name}` computes query, key and value in one layer, "
            f"{_layers_of(attention)}, so they cannot be compared one by one. Compare hidden "
            "states, as `recipes.distilbert` does, or attention scores, as `recipes.tinybert` does."
        )
    return attention.projections


def heads_of(ours, theirs):
    """Returns the number of heads for projections without an axis of heads, or `None`."""
    attention, other = ours.attentions[0], theirs.attentions[0]
    if attention.split and other.split:
        return None
    if attention.heads is None or attention.heads != other.heads:
        raise ValueError(
            f"`relation_heads` is needed, because the projections {_layers_of(attention)} and "
            f"{_layers_of(other)} are not split into heads. Give a number that divides both "
            f"widths. Received: {attention.heads} (student) and {other.heads} (teacher) heads"
        )
    return attention.heads


def mask_of(model, block, mask):
    """Returns the `mask` of a block's term; `"auto"` is its tokens' weights and padding."""
    if mask != "auto":
        return mask
    given = _input_names(model)
    padding = [f"input:{name}" for name in PADDING[block.side] if name in given][:1]
    weights = EXAMPLES if block.side == "encoder" else "sample_weight"
    if not padding or {*given} <= TEXT:
        return (weights, *padding)
    before = _tokens_before(model, block)
    if before is None:  # tokens of an image, or of sound at another rate
        return (EXAMPLES,)
    return tuple(f"last:{name}" if before and name != EXAMPLES else name
                 for name in (weights, *padding))  # fmt: skip


def mask_of_first(model, block, mask):
    """Returns the `mask` of a term for the first token; by example if it precedes the text."""
    masks = mask_of(model, block, mask)
    before = mask == "auto" and any(name.startswith("last:") for name in masks)
    return (EXAMPLES,) if before else masks


def _tokens_before(model, block):
    """Returns how many of a block's tokens precede those of the text; `None` for other tokens."""
    try:
        shape = taps.shapes(model, unknown=TOKENS)[block.path.partition(":")[0].partition("#")[0]]
    except ValueError:  # too short for another input, such as sound
        return None
    shape = shape[0] if isinstance(shape[0], (list, tuple)) else shape
    tokens = shape[1] - TOKENS
    return None if tokens < 0 or block.shape[1] is not None else tokens


def _input_names(model):
    """Returns the names of a model's inputs if it takes them in a dict."""
    if getattr(model, "inputs", None):  # a functional model
        given = model.input
    else:
        config = model.get_build_config() or {}
        given = config.get("input_shape")
    return list(given) if isinstance(given, dict) else []


def _attends(block):
    return bool(block.attentions)


def _named(model, path):
    """Returns the block, or the layer, at a user's path, with the attention that it holds."""
    known = {block.path: block for stack in stacks_of(model) for block in stack}
    if path in known:
        return known[path]
    names = path.partition(":")[0].partition("#")[0]
    calls = [block for block in known.values() if block.path.partition("#")[0] == names]
    if calls:
        return calls[-1]._replace(path=path)  # without "#" the path names the last call
    inside = [each for each in attentions(model) if f"{each.path}/".startswith(f"{names}/")]
    return Block(path, taps.shapes(model)[names], tuple(inside))


def _below(layer):
    return [path for path in taps.paths(layer) if "/" not in path]


def _layers_of(attention):
    return ", ".join(f"`{path}`" for path in attention.projections.values())
