"""Reads what named layers output while a model runs, once, as usual.

A path names one place of a model:

| path | what it names |
|---|---|
| `"encoder/block_3/dense"` | the output of a layer: names from the model down, joined by "/" |
| `"output"`, `"output:key"`, `"input:key"` | the model's own ends, or one of several |
| `"encoder/block_3/attention:scores"` | the scores of an attention layer, before the softmax |
| `"block_3:0"` | the first of several values that a layer returns, as T5's blocks do |
| `"block_3/query#0"` | the first of several calls of a layer in one pass; `"#-1"` is the last |
| `"block_3/query#0:1"` | the second value of the first call |

After `output:` write the key of a dict, the position in a list, the name by which `compile` knows
the output, or the field of a named tuple or dataclass.

Each step of a path is a layer's name or, if no layer has this name, the attribute that holds the
layer. If Keras numbers the names, use the attribute. Without "#" the path names the last call.

Keras itself is not changed. Only tapped layers are watched, and only during a run.
"""

from keras_distill.taps.paths import attention, find_layer, is_edge, paths, pick
from keras_distill.taps.recording import run
from keras_distill.taps.scores import MASKED, SCORES
from keras_distill.taps.shapes import calls, shapes

__all__ = [
    "MASKED",
    "SCORES",
    "attention",
    "calls",
    "find_layer",
    "is_edge",
    "paths",
    "pick",
    "run",
    "shapes",
]
