"""Files damaged at random, as disks, copies and hands damage them."""

import json
import math

OTHERS = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**40, 0.5, -0.0, math.nan, math.inf, 1e308, "",
    "x", "..", "\0", "é", [], [[]], {}, {"": None}, "NaN", [0] * 40,
)  # fmt: skip


def mutated(content, random):
    """`(what was done, other bytes)` of a file's bytes.

    Args:
        content: the bytes.
        random: a `random.Random`.
    """
    ways = [flipped, cut, doubled, swapped, zeroed, inserted, emptied]
    ways += [of_other_types] * 4 if is_json(content) else []
    while True:
        way = random.choice(ways)
        found = way(content, random)
        if found != content:
            return way.__name__, found


def is_json(content):
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def piece(content, random, longest=64):
    """A random piece, `(begin, end)`."""
    begin = random.randrange(len(content) or 1)
    return begin, min(len(content), begin + random.randint(1, longest))


def flipped(content, random):
    """One to three bytes are others."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 3) if content else 0):
        changed[random.randrange(len(changed))] ^= random.randint(1, 255)
    return bytes(changed)


def cut(content, random):
    """The end is missing."""
    return content[: random.randrange(len(content) or 1)]


def doubled(content, random):
    """A piece, or all of it, stands there twice."""
    begin, end = random.choice([(0, len(content)), piece(content, random)])
    return content[:end] + content[begin:]


def swapped(content, random):
    """Two neighboring pieces have changed places."""
    begin, middle = piece(content, random)
    end = min(len(content), 2 * middle - begin)
    return content[:begin] + content[middle:end] + content[begin:middle] + content[end:]


def zeroed(content, random):
    """A piece is zeros, as a block that was never written."""
    begin, end = piece(content, random, 512)
    return content[:begin] + bytes(end - begin) + content[end:]


def inserted(content, random):
    """Random bytes stand in between."""
    begin, _ = piece(content, random)
    return content[:begin] + random.randbytes(random.randint(1, 8)) + content[begin:]


def emptied(content, random):
    """Nothing, or brackets without end, is left."""
    return random.choice([b"", b"\0" * len(content), b"[" * 100_000, b'{"a":' * 20_000, b"null"])


def of_other_types(content, random):
    """A value of JSON is another one, is missing or has another name."""
    value = json.loads(content)
    holders = [value] if isinstance(value, (dict, list)) else []
    for each in holders:  # grows as it is read
        inside = each.values() if isinstance(each, dict) else each
        holders += [inner for inner in inside if isinstance(inner, (dict, list))]
    holder = random.choice([each for each in holders if each] or [None])
    if holder is None or random.random() < 0.05:
        return json.dumps(random.choice(OTHERS)).encode()
    key = random.choice([*holder] if isinstance(holder, dict) else [*range(len(holder))])
    way = random.choice(("other", "other", "missing", "renamed", "twice", "near"))
    if way == "missing":
        del holder[key]
    elif way == "renamed" and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif way == "twice" and isinstance(holder, list):
        holder.append(holder[key])
    elif way == "near" and isinstance(holder[key], (int, float)) and math.isfinite(holder[key]):
        holder[key] = holder[key] + random.choice((-1, 1, 10**9, 10**15))
    else:
        holder[key] = random.choice(OTHERS)
    return json.dumps(value).encode()
