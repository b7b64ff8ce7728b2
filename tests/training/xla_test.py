"""Every train step compiles by XLA with static shapes, and nothing in it needs the host.

A TPU runs no Python, no strings, no assertions and no printing in the middle of a step.
"""

import keras
import pytest

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("a step of JAX is compiled as a whole", allow_module_level=True)

from schemes import CASES, dataset_of  # noqa: E402

OF_THE_HOST = ("PyFunc", "String", "Assert", "Print", "AsString", "Unicode", "Outfeed", "Infeed",
               "HostCompute", "Save", "Restore", "Iterator")  # fmt: skip
CALLS_TO_THE_HOST = ("callback", "outfeed", "infeed", " send(", " recv(")
SCHEMES = ("offline", "cached", "cached_tokens", "ensemble", "online", "self_taught",
           "moving_average", "masked_tokens", "raw_text", "fused_head", "several_outputs",
           "half_precision", "judged")  # fmt: skip


def operations(function):
    """The kinds of operations of a graph, and of all functions that it calls."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {node.op for node in nodes}


def step_of(make):
    """`(the compiled train step, a batch)` of a scheme, after its first look."""
    distiller, data = make()
    distiller.jit_compile, distiller.train_function = True, None
    distiller.guard = distiller.new_guard()
    seen = []
    look = distiller.look

    def noted(batch):
        seen.append(batch)
        look(batch)

    distiller.look = noted
    distiller.fit(dataset_of(data), epochs=0, verbose=0)
    distiller.mode = "train"
    return tf.function(distiller.train_step, jit_compile=True), seen[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_is_one_program_of_the_device(scheme):
    step, batch = step_of(CASES[scheme])
    found = operations(step.get_concrete_function(batch))
    assert not {op for op in found if any(name in op for name in OF_THE_HOST)}
    program = step.experimental_get_compiler_ir(batch)(stage="hlo")
    assert not [name for name in CALLS_TO_THE_HOST if name in program.lower()]
    assert "<=" not in program.splitlines()[0]  # a bound of a shape that is not static


def test_what_needs_the_host_is_found():
    def step(x):
        tf.debugging.Assert(tf.reduce_all(x > 0), ["not positive"])
        tf.py_function(lambda x: x, [x], tf.float32)
        tf.print(tf.strings.as_string(x))

    found = operations(tf.function(step).get_concrete_function(tf.ones(2)))
    for name in ("Assert", "PyFunc", "String", "Print"):
        assert any(name in op for op in found), name
