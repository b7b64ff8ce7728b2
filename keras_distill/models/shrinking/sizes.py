"""The sizes in a model's own config, as in KerasHub's backbones, and how they shrink."""

import inspect
import numbers
from typing import Any, NamedTuple

from keras_distill.models.shrinking import blocks
from keras_distill.models.shrinking.choice import selected, whole

OF_SIDES = {
    "encoder_num_layers": "encoder",
    "decoder_num_layers": "decoder",
    "num_layers_enc": "encoder",
    "num_layers_dec": "decoder",
}
DEPTHS = ("num_layers", *OF_SIDES, "stackwise_num_blocks")
# Settings with an entry for each block, beside names that begin with "layer".
LISTED = ("rope_layer_enabled_list",)
INDICES = ("global_attention_layer_indices",)  # the blocks that differ from the others
# Widths before the blocks, which may equal the blocks' width, in ELECTRA and Moonshine.
BESIDE = ("embedding_dim", "filter_dim")
WORDS = ("vocabulary_size", "vocab_size")
INNER = ("intermediate_dim", "mlp_dim")
HEADS = (
    "num_heads",
    "encoder_num_heads",
    "decoder_num_heads",
    "num_query_heads",
    "num_key_value_heads",
)
OF_A_HEAD = ("head_dim", "key_value_dim")  # for configs with a separate width of a head


class Widths(NamedTuple):
    """The sizes that `shrink` cuts besides blocks and tokens."""

    width: Any = None
    heads: Any = None
    feed_forward: Any = None

    @property
    def given(self):
        """The given sizes, as `{name: value}`."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def config_of(model):
    """Returns the config of a model that is made from sizes alone, or `None`."""
    kind = type(model)
    if kind.__module__.startswith("keras.") or not hasattr(kind, "from_config"):
        return None
    try:
        config = model.get_config()
    except (NotImplementedError, ValueError):
        return None
    if not any(key in config for key in DEPTHS):
        return None
    for key, parameter in inspect.signature(kind.__init__).parameters.items():
        named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if named and key not in ("self", "dtype") and hasattr(model, key):
            config.setdefault(key, getattr(model, key))  # some configs leave arguments out
    return config


def words_of(config):
    """Returns the config's name for the size of its vocabulary, or `None`."""
    return next((key for key in WORDS if key in config), None)


def cut_depth(config, stacks, choice, name):
    """Returns the config with fewer blocks, and the `Selection` of the kept blocks."""
    if not choice.wanted:
        return config, blocks.Selection({})
    _refuse_depth(config, name)
    if "stackwise_num_blocks" in config:
        return _stackwise(config, stacks, choice, name)
    if "num_groups" in config:
        return _grouped(config, choice)
    if OF_SIDES.keys() & config.keys():
        return _two_sided(config, stacks, choice, name)
    count = config["num_layers"]
    found, stacks = stacks, {key: each for key, each in stacks.items() if len(each) == count}
    if not stacks:
        raise ValueError(
            f"`{name}` cannot be cut in depth, because its {count} blocks were not found. Their "
            f"names must be numbered. Found: {_counted(found)}. Build the shallower student "
            "yourself."
        )
    kept = selected(stacks, choice)
    depths = {stack: len(each) for stack, each in kept.items()}
    if len(set(depths.values())) > 1:
        raise ValueError(
            f"All stacks of `{name}` have the same depth (`num_layers`). Keep the same number of "
            f"blocks in each. Received: {depths}"
        )
    stack, each = next(iter(kept.items()))
    positions = [old - stacks[stack][0] for old in each.values()]
    config = {**config, "num_layers": len(positions)}
    return {**config, **_listed(config, "layer", count, positions)}, blocks.Selection(kept)


def _refuse_depth(config, name):
    """Raises an error if `num_layers` alone does not describe the blocks."""
    if "layerwise_depths" in config:
        raise ValueError(
            f"`{name}` cannot be cut in depth, because it has stages of `layerwise_depths` blocks. "
            "Build the shallower student yourself."
        )
    if config.get("num_kv_shared_layers"):
        raise ValueError(
            f"`{name}` cannot be cut in depth, because its last {config['num_kv_shared_layers']} "
            "blocks use keys and values of earlier blocks (`num_kv_shared_layers`)."
        )


def _counted(stacks):
    return ", ".join(f"{len(each)} `{stack}...`" for stack, each in stacks.items()) or "none"


def _listed(config, prefix, count, positions):
    """Returns the settings that list a value for each block, at the kept positions."""
    listed = {
        key: [value[position] for position in positions]
        for key, value in config.items()
        if key.startswith(prefix) or key in LISTED
        if isinstance(value, (list, tuple)) and len(value) == count
    }
    for key in INDICES:
        if key in config:
            listed[key] = [new for new, old in enumerate(positions) if old in config[key]]
    return listed


def _two_sided(config, stacks, choice, name):
    """Cuts an encoder and a decoder with a depth each; a side of one block stays as it is."""
    depths = {key: side for key, side in OF_SIDES.items() if key in config}
    deep = {key: side for key, side in depths.items() if config[key] > 1}
    found = {
        key: [stack for stack, each in stacks.items() if side in stack and len(each) == config[key]]
        for key, side in deep.items()
    }
    if any(len(named) != 1 for named in found.values()):
        raise ValueError(
            f"`{name}` cannot be cut in depth, because the blocks of its sides were not found. "
            f"Found: {found}"
        )
    if not found:
        raise ValueError(f"`{name}` cannot be cut in depth, because each side has one block.")
    for side in {*depths.values()} - {*deep.values()}:
        if isinstance(choice.layers, dict) and side in choice.layers:
            choice.of(side, 1)  # raises an error for missing blocks
    kept = selected({stack: stacks[stack] for (stack,) in found.values()}, choice)
    cut = {}
    for key, (stack,) in found.items():
        positions = [old - stacks[stack][0] for old in kept[stack].values()]
        cut.update(_listed(config, f"{deep[key]}_layer", config[key], positions))
        cut[key] = len(positions)
    return {**config, **cut}, blocks.Selection(kept)


def _stackwise(config, stacks, choice, name):
    """Cuts a network of stages, such as a ResNet. Every stage keeps its first, narrowing block."""
    counts = config["stackwise_num_blocks"]
    stacks = {stack: indices for stack, indices in stacks.items() if len(indices) in counts}
    single = [index for index, count in enumerate(counts) if count == 1]
    if not stacks or len(stacks) + len(single) != len(counts):
        raise ValueError(
            f"`{name}` cannot be cut in depth, because its {len(counts)} stages of {counts} blocks "
            f"were not found. Found: {_counted(stacks)}. Build the shallower student yourself."
        )
    kept = selected(stacks, choice)
    depths = iter([len(each) for each in kept.values()])
    shrunk = [1 if index in single else next(depths) for index in range(len(counts))]
    for stack, each in kept.items():
        if list(each.items())[0] != (stacks[stack][0], stacks[stack][0]):
            raise ValueError(f"`{stack}` must keep its block 0, which changes the shape.")
    return {**config, "stackwise_num_blocks": shrunk}, blocks.Selection(kept)


def _grouped(config, choice):
    """Cuts ALBERT: blocks of a group share weights, so only their number can be chosen."""
    groups, count = config["num_groups"], config["num_layers"]
    size = count // groups
    positions = selected({"group": list(range(count))}, choice)["group"].values()
    repeats = {group: 0 for group in sorted({position // size for position in positions})}
    for position in positions:
        repeats[position // size] += 1
    if len(set(repeats.values())) > 1:
        raise ValueError(
            f"The blocks share weights in {groups} groups of {size}. Keep the same number of "
            f"blocks in each group that you keep. Received, by group: {repeats}"
        )
    inner = range(config["num_inner_repetitions"])
    kept = {"group_": dict(enumerate(repeats))} if inner else {}
    config = {**config, "num_groups": len(repeats), "num_layers": len(positions)}
    return config, blocks.Selection(kept)


def cut_widths(config, widths, name):
    """Returns the config with smaller sizes. Heads keep their width, and their number falls.

    Args:
        config: the sizes.
        widths: `Widths`. Each is a new size, an integer, or its share of the old one, a float.
        name: the model's name for error messages.

    Raises:
        ValueError: if a model does not have a size, or a new size is no whole number.
    """
    cut = config
    if widths.width is not None:
        old = _known(config, ("hidden_dim",), name, "width")
        new = fewer("width", widths.width, old, "the teacher's `hidden_dim`")
        cut = {**cut, "hidden_dim": new}
        cut |= {key: new for key in BESIDE if config.get(key) == old}
        cut |= _scaled(config, (*INNER, *HEADS), new, old, "width")
    if widths.heads is not None:
        if not any(config.get(key) for key in OF_A_HEAD):
            raise ValueError(
                f"`{name}` cannot be cut by `heads`, because a head is as wide as `hidden_dim` "
                "divided by the number of heads, so fewer heads would be wider. Cut `width`, which "
                "also removes heads."
            )
        old = _known(config, HEADS, name, "heads")
        new = fewer("heads", widths.heads, old, "the teacher's number of heads")
        cut = {**cut, **_scaled(config, HEADS, new, old, "heads")}
    if widths.feed_forward is not None:
        old = _known(config, INNER, name, "feed_forward")
        new = fewer("feed_forward", widths.feed_forward, old, "the teacher's inner dimension")
        cut = {**cut, **_scaled(config, INNER, new, old, "feed_forward")}
    return cut


def stages(config, cut):
    """Returns the steps from one config to another; in no step two kinds of sizes are equal.

    Returns:
        A list of `(config, {"hidden" | "heads" | "inner": {old size: new size}})`.
    """
    steps, before = [], config
    inner = {**config, **{key: cut[key] for key in INNER if key in cut}}
    for after in (inner, cut):
        roles = {
            role: {before[key]: after[key] for key in keys
                   if key in before and before[key] != after[key]}
            for role, keys in (("inner", INNER), ("heads", HEADS),
                               ("hidden", ("hidden_dim", *BESIDE)))
        }  # fmt: skip
        if any(roles.values()):
            steps.append((after, roles))
        before = after
    return steps


def _known(config, keys, name, argument):
    for key in keys:
        if config.get(key) is not None:
            return config[key]
    raise ValueError(
        f"`{name}` cannot be cut by `{argument}`, because its config has no "
        f"{' or '.join(f'`{key}`' for key in keys)}. Cut its depth, or build the narrower student "
        "yourself."
    )


def _scaled(config, keys, new, old, argument):
    """Returns the sizes of some keys, scaled by `new / old`."""
    found = {}
    for key in keys:
        shared = key == "num_key_value_heads" and config.get(key) == 1  # all query heads share it
        if config.get(key) is None or shared:
            continue
        found[key], rest = divmod(config[key] * new, old)
        if rest or not found[key]:
            raise ValueError(
                f"`{argument}` must leave whole numbers, and attention heads keep their width. "
                f"With {new} instead of {old}, `{key}` would be {found[key] + rest / old:.4g}. "
                f"Choose another `{argument}`."
            )
    return found


def fewer(name, value, old, what):
    """Returns the new size for an argument, a whole number or a share of the old one.

    Raises:
        ValueError: if the new size is not in [1, old].
    """
    share = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
    new = old * value if share else whole(name, value)
    if not 0 < new <= old or new != int(new) or isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be a share in (0, 1] or a whole number up to {old}, {what}. "
            f"Received: {name}={value}"
        )
    return int(new)
