"""Makes what a `drawing.Case` describes: models, teachers, terms and arrays."""

import math

import keras
import numpy as np
from drawing import LOSSES
from keras import layers, ops
from loss_families import CLASSES, each, family

from keras_distill import (
    CachedTeacher,
    Distiller,
    EMATeacher,
    EnsembleTeacher,
    Supervision,
    Term,
    TopK,
    models,
    recipes,
)
from keras_distill._keras.graph import output_keys

TOKENS, SIZES, SECOND = 3, (3, 2), 3  # tokens; of both inputs; classes of a second output
REGISTERED = keras.saving.register_keras_serializable("abuse")


@REGISTERED
class Place(layers.Layer):
    """A layer whose output has any shape, or counts whole numbers where it has no axis."""

    def __init__(self, sizes, by_token, **kwargs):
        super().__init__(**kwargs)
        self.sizes, self.by_token, self.supports_masking = tuple(sizes), by_token, True
        width = math.prod(self.sizes[1:] if by_token else self.sizes)
        self.dense = layers.Dense(width, "elu", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def compute_output_shape(self, input_shape):
        own = (input_shape[1], *self.sizes[1:]) if self.by_token else self.sizes
        return (input_shape[0], *own)

    def call(self, x):
        y = self.dense(x)
        if not self.sizes:
            return ops.mod(ops.floor(ops.squeeze(y, -1) * 10), CLASSES)
        own = (ops.shape(y)[1], *self.sizes[1:]) if self.by_token else self.sizes
        return ops.reshape(y, (ops.shape(y)[0], *own))

    def get_config(self):
        return {**super().get_config(), "sizes": self.sizes, "by_token": self.by_token}


@REGISTERED
class Head(layers.Layer):
    """Logits of a hidden layer and of all places, so that what terms teach counts for labels."""

    def __init__(self, classes, by_token, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.by_token, self.supports_masking = classes, by_token, True
        self.dense = layers.Dense(classes, dtype=self.dtype_policy)

    def build(self, shapes):
        keep = 2 if self.by_token else 1
        width = sum(math.prod(shape[keep:]) for shape in shapes if len(shape) > 1)
        self.dense.build((None, *shapes[0][1:keep], width))

    def compute_output_shape(self, shapes):
        return (*shapes[0][: 2 if self.by_token else 1], self.classes)

    def compute_mask(self, inputs, previous):
        return previous[0]

    def call(self, values):
        leading = ops.shape(values[0])[: 2 if self.by_token else 1]
        flat = [ops.reshape(each, (*leading, math.prod(each.shape[len(leading) :])))
                for each in values if len(each.shape) > 1]  # fmt: skip
        return self.dense(ops.concatenate(flat, -1))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "by_token": self.by_token}


@REGISTERED
class Attending(layers.Layer):
    """Attention of tokens to each other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.attention = layers.MultiHeadAttention(2, 3, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)

    def call(self, x):
        return x + self.attention(x, x)


def trunk(case, width, dtype):
    """The layers up to the hidden one, in their order; one may stand there twice."""
    l2 = "l2" if "l2" in case.parts else None
    found = [layers.Masking(dtype=dtype)] if "keras" in case.masks else []
    if case.build == "recurrent":
        found.append(layers.GRU(width, return_sequences=True, dtype=dtype))
    found.append(layers.Dense(width, "tanh", kernel_regularizer=l2, dtype=dtype))
    if case.build == "shared":
        again = layers.Dense(width, "tanh", name="again", dtype=dtype)
        found += [again, again]
    if case.build == "attention":
        found.append(Attending(dtype=dtype))
    if "norm" in case.parts:
        found.append(layers.BatchNormalization(dtype=dtype))
    if "dropout" in case.parts:
        found.append(layers.Dropout(0.3, dtype=dtype))
    return found


class Subclassed(keras.Model):
    """A network that Keras knows by its `call` alone."""

    def __init__(self, trunk, places, heads, arrange, **kwargs):
        super().__init__(**kwargs)
        self.trunk, self.heads, self.arrange = trunk, heads, arrange
        self.places = places

    def call(self, x, training=None):
        x = x if not isinstance(x, dict) else [x[name] for name in ("a", "b") if name in x]
        x = ops.concatenate(x, -1) if isinstance(x, list) and len(x) > 1 else x
        x = x[0] if isinstance(x, list) else x
        for layer in self.trunk:
            x = layer(x, training=training) if takes_training(layer) else layer(x)
        shown = [place(x) for place in self.places]
        return self.arrange([head([x, *shown]) for head in self.heads])


def takes_training(layer):
    return isinstance(layer, (layers.Dropout, layers.BatchNormalization))


class Made:
    """Everything that a case has, with a student that can begin anew.

    Args:
        case: the `drawing.Case`.
        scope: a context manager in which variables are made.
    """

    def __init__(self, case):
        keras.utils.set_random_seed(case.seed)
        self.case, self.random = case, np.random.default_rng(case.seed)
        self.dtype = case.dtype
        self.wide = "float64" if case.dtype == "float64" else "float32"
        self.make()
        self.start = [np.array(ops.convert_to_numpy(v.value)) for v in self.student.variables]

    def distiller(self, *, alpha=None, mode=None, reverse=False):
        """A new distiller around the student as it was at first, compiled."""
        teachers = self.teachers()  # the first time they draw their weights
        self.rewind()
        terms = self.terms()
        terms = terms[::-1] if reverse else terms
        alpha = self.alpha() if alpha is None else alpha
        made = Distiller(self.student, teacher=teachers, terms=terms, alpha=alpha)
        made.compile(**self.settings(mode))
        return made

    def rewind(self):
        """Gives the student the values that it had at first, and draws as at first."""
        for variable, value in zip(self.student.variables, self.start, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(self.case.seed + 1)

    def values(self):
        """All values of the student, float64 arrays."""
        return [np.array(ops.convert_to_numpy(ops.cast(v.value, "float64")))
                for v in self.student.variables]  # fmt: skip

    def alpha(self):
        if self.case.alpha == "schedule":
            return keras.optimizers.schedules.PolynomialDecay(0.8, 10, 0.2)
        return None if self.case.alpha == "left out" else self.case.alpha

    def settings(self, mode=None):
        """The arguments of `compile`."""
        optimizer = {
            "sgd": lambda: keras.optimizers.SGD(0.02),
            "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.5),
            "clipped": lambda: keras.optimizers.SGD(0.02, global_clipnorm=1.0),
            "adam": lambda: keras.optimizers.Adam(0.01),
        }[self.case.optimizer]()
        mode = mode or self.case.mode
        modes = {"eager": {"run_eagerly": True, "jit_compile": False},
                 "graph": {"jit_compile": False}, "xla": {"jit_compile": True}}  # fmt: skip
        if keras.backend.backend() == "torch":
            modes = dict.fromkeys(modes, {"run_eagerly": True, "jit_compile": False})
        if keras.backend.backend() == "jax":
            modes = dict.fromkeys(modes, {"jit_compile": True}) | {
                "eager": {"run_eagerly": True, "jit_compile": False}
            }
        return {"optimizer": optimizer, "loss": self.loss(), **modes[mode]}

    def loss(self):
        """Counted by the weights, as terms are: what weighs nothing then changes nothing."""
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )

    # The batch

    def batch(self, rows=None, filler=None, size=2):
        """`(x, y, sample_weight)`: of some rows, or with rows and tokens more that count nothing.

        Args:
            rows: which, a slice. Defaults to all.
            filler: what stands in the targets of what is added. Defaults to `None`: nothing is.
            size: how many are added.
        """
        rows = slice(None) if rows is None else rows
        x, y, weight = ({name: value[rows] for name, value in each.items()}
                        for each in (self.x, self.y, self.w))  # fmt: skip
        targets = keras.tree.map_structure(lambda value: value[rows], self.targets)
        if filler is not None:
            count = len(next(iter(y.values())))
            real = 0 if "keras" in self.case.masks else 50
            x = {name: self.padded(value, real if value.dtype.kind == "f" else 0, size)
                 for name, value in x.items()}  # fmt: skip
            y = {name: self.padded(value, 0, size) for name, value in y.items()}
            fillers = lambda v: filler if v.dtype.kind == "f" else 0  # noqa: E731
            targets = keras.tree.map_structure(lambda v: self.padded(v, fillers(v), size), targets)
            if not weight:
                ones = np.ones((count, TOKENS)[: 2 if self.case.tokens else 1], "float32")
                weight = dict.fromkeys(y, ones)
            weight = {name: self.padded(value, 0, size) for name, value in weight.items()}
        return self.packed(x, y, weight, targets)

    def padded(self, value, filler, size):
        """An array with rows and, where it has tokens, tokens more."""
        by_token = self.case.tokens and value.ndim > 1 and self.pads_tokens
        more = [(0, size), *([(0, size)] if by_token else [])]
        more += [(0, 0)] * (value.ndim - len(more))
        return np.pad(value, more, constant_values=filler)

    def packed(self, x, y, weight, targets):
        x = x if len(x) > 1 or self.as_dict else next(iter(x.values()))
        y, weight = self.like_outputs(y), self.like_outputs(weight) if weight else None
        return x, Supervision(y, targets) if targets else y, weight

    def like_outputs(self, values):
        """In the structure of the student's outputs."""
        if self.case.outputs == "dict":
            return values
        return [*values.values()] if self.case.outputs == "list" else next(iter(values.values()))

    def for_student(self, batch):
        """The batch as the student's own `fit` takes it."""
        x, y, weight = batch
        if isinstance(x, dict):
            x = {name: value for name, value in x.items() if name in self.own}
            x = next(iter(x.values())) if not self.own_dict else x
        return x, y.labels if isinstance(y, Supervision) else y, weight


class Network(Made):
    """A student and teachers of dense layers with a place for every term."""

    @property
    def pads_tokens(self):
        """Whether a token more leaves the others as they are."""
        return self.case.build != "attention" or "keras" in self.case.masks

    def make(self):
        case, random = self.case, self.random
        shape = (2 * case.batch - (case.batch > 1), *([TOKENS] if case.tokens else []))
        names = ("a", "b")[: case.inputs]
        self.x = {name: random.normal(size=(*shape, size)).astype(self.wide)
                  for name, size in zip(names, SIZES)}  # fmt: skip
        masks = {*case.masks} & {"input", "example"}
        self.own, self.own_dict = set(self.x), case.inputs > 1 or bool(masks)
        self.as_dict = self.own_dict
        if "keras" in case.masks:
            real = np.arange(TOKENS) < random.integers(0, TOKENS + 1, (shape[0], 1))
            self.x = {name: value * real[..., None] for name, value in self.x.items()}
        for mask in sorted(masks):
            size = shape if mask == "input" else shape[:1]
            self.x[mask] = random.integers(0, 2, size).astype("float32")
        self.y = {"label": random.integers(0, CLASSES, shape)}
        if case.outputs != "one":
            self.y["second"] = random.integers(0, SECOND, shape)
        self.w = {}
        if case.weights != "none":
            size = shape if case.weights == "tokens" else shape[:1]
            weight = random.choice([0.0, 0.5, 1.0, 2.0], size).astype("float32")
            self.w = dict.fromkeys(self.y, weight)
        self.targets = self.cached(shape)
        self.student = self.net(case.build, 4, self.places(("student", "own")), self.dtype)
        self.nets = {}

    def cached(self, shape):
        """The targets of a `CachedTeacher`, arrays."""
        found = {}
        for index, term in enumerate(self.case.terms):
            if term.source == "top_k":
                ids = np.argsort(self.random.normal(size=(*shape, CLASSES)))[..., :2]
                shares = self.random.dirichlet(np.ones(3), shape).astype("float32")
                logs = np.log(0.99 * shares + 0.01 / 3)  # a distribution, none of it zero
                warm = np.full(shape[:1], self.temperature(term), "float32")
                found[f"t{index}"] = TopK(ids.astype("int32"), logs[..., :2], logs[..., 2], warm)
            elif term.source == "cached":
                kind = LOSSES[term.loss]
                for name, sizes in self.sides(index, term)[1].items():
                    sizes = (shape[0], *sizes)
                    found[name] = (
                        self.random.integers(0, CLASSES, sizes).astype("float32")
                        if len(sizes) == 1
                        else family(kind).scale * self.random.normal(size=sizes).astype("float32")
                    )
        return found

    def temperature(self, term):
        """At which a `TopK` is taken: the loss's own."""
        return family(LOSSES[term.loss]).arguments.get("temperature", 1.0)

    def shapes(self, term):
        """The shapes of both sides of a term, without the batch, in their structures."""
        usual = family(LOSSES[term.loss])
        shape = usual.shapes[term.shape]

        def sizes(part):
            return (TOKENS, *part[2:]) if self.case.tokens and len(part) > 1 else part[1:]

        student, teacher = each(sizes, shape), each(sizes, usual.teacher_of(shape))
        if term.projected:
            student = (*student[:-1], student[-1] + 2)
        return student, teacher

    def named(self, structure, prefix):
        """The structure with a name in the place of every shape, and `{name: shape}`."""
        found = {}

        def name(part, where):
            if isinstance(part, dict):
                return {key: name(value, f"{where}_{key}") for key, value in part.items()}
            if isinstance(part, list):
                return [name(value, f"{where}_{i}") for i, value in enumerate(part)]
            found[where] = part
            return where

        return name(structure, prefix), found

    def sides(self, index, term):
        """`{name: shape}` of the places of both sides of a term."""
        shapes = self.shapes(term)
        return [self.named(shape, f"{side}{index}")[1] for side, shape in zip("st", shapes)]

    def places(self, whose):
        """`{name: shape}` of the places that a network has.

        Args:
            whose: of the "student", of the teacher sides in it ("own"), of "model" or "tapped".
        """
        found = {}
        for index, term in enumerate(self.case.terms):
            if term.place != "tap":
                continue
            ours, theirs = self.sides(index, term)
            if "student" in whose:
                found |= ours
            if ("own" in whose and term.source in ("self", "ema")) or term.source in whose:
                found |= theirs
        return found

    def net(self, build, width, places, dtype):
        """A network with a layer for every place."""
        case = self.case
        parts = trunk(case, width, dtype)
        made = [Place(sizes, case.tokens and bool(sizes), name=name, dtype=dtype)
                for name, sizes in places.items()]  # fmt: skip
        heads = [Head(classes, case.tokens, name=name, dtype=dtype)
                 for name, classes in zip(self.y, (CLASSES, SECOND))]  # fmt: skip
        names = [*self.y]

        def arrange(outputs):
            return self.like_outputs(dict(zip(names, outputs)))

        if build == "subclassed":
            net = Subclassed(parts, made, heads, arrange, dtype=dtype)
            net(self.packed({n: v[:1] for n, v in self.x.items()}, self.y, {}, {})[0])
            return net
        inputs = {name: keras.Input((*([None] if case.tokens else []), size), name=name,
                                    dtype=self.wide)
                  for name, size in zip(("a", "b")[: case.inputs], SIZES)}  # fmt: skip
        x = [*inputs.values()]
        x = layers.Concatenate(dtype=dtype)(x) if len(x) > 1 else x[0]
        if build == "nested":
            inner = keras.Sequential([keras.Input(x.shape[1:]), *parts], name="trunk")
            symbol = keras.Input(x.shape[1:])
            hidden = inner(symbol)
            inner = keras.Model(symbol, [hidden, *(place(hidden) for place in made)], name="inner")
            shown = keras.tree.flatten(inner(x))
        else:
            for layer in parts:
                x = layer(x)
            shown = [x, *(place(x) for place in made)]
        outputs = arrange([head(shown) for head in heads])
        return keras.Model(inputs if self.own_dict else x_of(inputs), outputs)

    def model(self, whose):
        """A teacher's network, made once."""
        if whose not in self.nets:
            places = self.places((whose,))
            # "function" and "ensemble" have places as "model" has
            self.nets[whose] = self.net("functional" if whose != "tapped" else self.case.build, 6,
                                        places, self.dtype)  # fmt: skip
        return self.nets[whose]

    def teachers(self):
        sources = {term.source for term in self.case.terms}
        made = {}
        for source in sorted(sources - {"self", "cached", "top_k"}):
            if source in ("model", "tapped"):
                made[source] = self.model(source)
            elif source == "ema":
                made[source] = EMATeacher(0.9, model=self.copy())
            elif source == "function":
                made[source] = self.function()
            else:
                made[source] = EnsembleTeacher([self.model("one"), self.model("other")])
        if sources & {"cached", "top_k"}:
            made["cached"] = CachedTeacher()
        return made

    def copy(self):
        """A network like the student, for what Keras cannot copy."""
        if self.case.build != "subclassed":
            return None
        return self.net("subclassed", 4, self.places(("student", "own")), self.dtype)

    def function(self):
        """A teacher that is a function of the inputs: it shows a dict."""
        net = self.model("function")
        names = [*self.places(("function",))]
        shown = keras.Model(net.inputs, {
            "label": keras.tree.flatten(net.outputs)[0],
            **{name: net.get_layer(name).output for name in names},
        })  # fmt: skip

        def answer(x):
            x = [x[name] for name in ("a", "b") if name in x] if isinstance(x, dict) else [x]
            return shown(x)

        return answer

    def terms(self):
        return [self.term(i, each) for i, each in enumerate(self.case.terms)]

    def term(self, index, term):
        usual = family(LOSSES[term.loss])
        loss = LOSSES[term.loss](**usual.arguments)
        several = {"one": "output", "dict": "output:label", "list": "output:0"}[self.case.outputs]
        ours, theirs = (self.named(shape, f"{side}{index}")[0]
                        for side, shape in zip("st", self.shapes(term)))  # fmt: skip
        if term.place == "output":
            ours = theirs = several
            if term.source in ("cached", "top_k"):
                theirs = f"t{index}"
            elif term.source == "function":
                theirs = "output:label"
        else:
            ours = self.path(ours, self.case.build)
            if term.source == "function":
                theirs = keras.tree.map_structure(lambda name: f"output:{name}", theirs)
            elif term.source in ("tapped", "self", "ema"):
                theirs = self.path(theirs, self.case.build)
        masks = [f"input:{mask}" for mask in self.case.masks if mask != "keras"]
        source = "cached" if term.source == "top_k" else term.source
        return Term(
            loss, student=ours, teacher=theirs, source=source, mask=("sample_weight", *masks),
            weight=self.weight(term), projector="auto" if term.projected else None,
            name=f"term_{index}",
        )  # fmt: skip

    def path(self, names, build):
        prefix = "inner/" if build == "nested" else ""
        return keras.tree.map_structure(lambda name: prefix + name, names)

    @staticmethod
    def weight(term):
        if term.weight == "schedule":
            return keras.optimizers.schedules.PolynomialDecay(0.5, 10, 0.1)
        return keras.Variable(0.7, trainable=False) if term.weight == "variable" else 0.7


def x_of(inputs):
    return next(iter(inputs.values()))


# Recipes


@REGISTERED
class Block(layers.Layer):
    """Attention and a dense layer, each with its sum."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.attention = layers.MultiHeadAttention(2, width // 2)
        self.dense = layers.Dense(width, activation="relu")

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.dense.build(input_shape)

    def call(self, x):
        x = x + self.attention(x, x)
        return x + self.dense(x)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def convolutional(inputs, width, blocks):
    """`blocks` convolutions at each of two sizes."""
    x = inputs
    for stage in (1, 2):
        for block in range(blocks):
            x = layers.Conv2D(width * stage, 3, padding="same", activation="relu",
                              name=f"stage_{stage}_{block}")(x)  # fmt: skip
        if stage == 1:
            x = layers.MaxPooling2D(name="pool")(x)
    return layers.GlobalAveragePooling2D(name="embedding")(x)


def transformer(inputs, width, blocks):
    x = layers.Conv2D(width, 2, strides=2, name="patches")(inputs)
    x = layers.Reshape((4, width))(x)
    for block in range(blocks):
        x = Block(width, name=f"block_{block}")(x)
    return layers.GlobalAveragePooling1D(name="embedding")(x)


def image_network(network, width, blocks, numbered=False):
    inputs = keras.Input((4, 4, 1), name="image")
    make = {"cnn": convolutional, "vit": transformer}[network]
    logits = layers.Dense(CLASSES, name="label")(make(inputs, width, blocks))
    if numbered:
        inputs = {"image": inputs, "index": keras.Input((), dtype="int32", name="index")}
    return keras.Model(inputs, logits)


class Recipe(Made):
    """A student and a teacher of images that a recipe compares."""

    pads_tokens = False

    def make(self):
        case, random = self.case, self.random
        rows = 2 * case.batch - (case.batch > 1)
        self.x = {"image": random.normal(size=(rows, 4, 4, 1)).astype("float32")}
        numbered = case.recipe == "crd"
        if numbered:
            self.x["index"] = random.permutation(rows).astype("int32")
        self.own, self.own_dict = set(self.x), numbered
        self.as_dict = numbered
        labels = random.integers(0, CLASSES, rows)
        self.teacher, self.targets = None, {}
        same = case.recipe in ("pkd", "distilbert")
        if case.recipe in recipes.recipe.TOGETHER:
            self.student = self.together()
        else:
            self.student = image_network(case.network, 4, 2, numbered)
            self.teacher = image_network(case.network, 4 if same else 6, 3, numbered)
        names = keras.tree.flatten(self.names())
        self.y = dict.fromkeys(names, labels)
        self.w = {}
        if case.weights != "none":
            weight = random.choice([0.0, 0.5, 1.0, 2.0], rows).astype("float32")
            self.w = dict.fromkeys(names, weight)

    def names(self):
        return output_keys(self.student) or ["label"]

    def like_outputs(self, values):
        if self.case.recipe in recipes.recipe.TOGETHER:
            return values
        return next(iter(values.values()))

    def loss(self):
        found = super().loss()
        if self.case.recipe in recipes.recipe.TOGETHER:
            return {name: found for name in self.names()}
        return found

    def together(self):
        """A model whose networks are trained together."""
        name = self.case.recipe
        if name == "byot":
            head = lambda x: layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))  # noqa: E731
            exits = {"exit_1": "stage_1_0", "exit_2": "stage_2_0"}
            return models.add_exits(image_network("cnn", 4, 1), exits,
                                    head=head if self.case.seed % 2 else None)  # fmt: skip
        if name == "one":
            inputs = keras.Input((4, 4, 1), name="image")
            hidden = layers.Dense(4, "relu", name="hidden")(layers.Flatten()(inputs))
            branches = {name: layers.Dense(CLASSES, name=name)(hidden) for name in ("one", "two")}
            return models.gated_ensemble(keras.Model(inputs, branches), gate="hidden")
        return models.cohort(student=image_network("cnn", 2, 1), teacher=image_network("cnn", 3, 1))

    def teachers(self):
        return self.teacher

    def terms(self):
        name = self.case.recipe
        if name in OF_OUTPUTS:
            return getattr(recipes, name)()
        if name in ("byot", "one"):
            return getattr(recipes, name)(self.student)
        if name in ("mutual", "kdcl"):
            return getattr(recipes, name)("student", "teacher")
        if name == "online":
            return recipes.online(back=0.5)
        options = {"mask": "sample_weight"} if name in OF_BLOCKS else {}
        if name == "crd":
            options = {"examples": len(self.x["index"]) + 2, "negatives": 4, "width": 3, "seed": 0}
        return getattr(recipes, name)(self.student, self.teacher, **options)


OF_OUTPUTS = ("hinton", "dkd", "dist", "standardized", "mlkd")
OF_BLOCKS = ("tinybert", "pkd", "minilm", "distilbert")


def made(case):
    """What a case has."""
    return (Recipe if case.recipe else Network)(case)
