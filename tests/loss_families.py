"""How each exported loss is made and fed in the contract tests, where it differs from the usual.

The usual loss compares logits (or features, if it does not declare `expects_logits`) of shape
(examples, classes), and (examples, tokens, classes) where it takes them; it has no argument but
perhaps a temperature, and is zero where both sides agree. A loss that is unlike that may say so in
its class attribute `example`, with the fields of `Family`, instead of in the table here.
"""

import dataclasses
import inspect
from typing import Any

from keras_distill import losses

CLASSES = 5


@dataclasses.dataclass(frozen=True)
class Family:
    """What the contract tests must know of a loss.

    Attributes:
        arguments: for its constructor.
        shapes: of the student's side, a case each: a tuple with the batch first, or a dict or
            list of such tuples.
        teacher: the same for the teacher's side where it differs, in the same order. A part of it
            with no axis but the batch's holds indices below `CLASSES`.
        kind: "logits", or "features" where a constant added to a row counts.
        minimum: its value where both sides agree; `None` where that is no minimum.
        scale: the standard deviation of the inputs.
        slope: whether the gradient is the slope of the value; not where a part is held constant.
        step: of the finite difference that is the slope; small where the loss has many kinks.
        labels: the shape of one example's label, where it is not one class an example or token.
        tokens: whether the axis after the batch runs over tokens that a mask may leave out, though
            some shapes are not (batch, tokens, width) or a value is an example's.
        tolerance: of what is compared over batches, graphs and replicas.
    """

    arguments: Any = None
    shapes: tuple = ((6, CLASSES), (4, 3, CLASSES))
    teacher: tuple = ()
    kind: str = "logits"
    minimum: float | None = 0.0
    scale: float = 2.0
    slope: bool = True
    step: float = 1e-2
    labels: tuple | None = None
    tokens: bool = False
    tolerance: float = 1e-5

    def teacher_of(self, shape):
        return self.teacher[self.shapes.index(shape)] if self.teacher else shape


def features(*shapes, **others):
    return Family(shapes=shapes, kind="features", **others)


def attention(heads, width):
    """The shapes of an attention layer's projections."""
    return {name: (3, 4, heads, width) for name in ("query", "key", "value")}

MAPS = ((3, 4, 4, 3), (2, 3, 3, 2))  # of a teacher: other channels, another size

FAMILIES = {
    # response
    "KLDivergence": Family({"temperature": 2.0}),
    "BinaryKLDivergence": features((6, CLASSES), (4, 3, CLASSES)),
    "UniversalLogits": Family(step=1e-3),
    "AlignedSpans": features(
        (4, 3, CLASSES),
        teacher=({"logits": (4, 2, 7), "spans": (4, 2), "student_spans": (4, 3)},),
        arguments={"loss": losses.UniversalLogits()},
        minimum=None,
    ),
    "ClassSubset": Family(
        {
            "loss": losses.KLDivergence(2.0),
            "student_classes": [4, 0, 2],
            "teacher_classes": [4, 0, 2],
        },
    ),
    "CollaborativeKL": Family(
        shapes=((6, CLASSES), (4, 3, CLASSES)),
        teacher=([(6, CLASSES)] * 2, [(4, 3, CLASSES)] * 3),
        kind="features",
        minimum=None,
    ),
    "DecoupledKD": Family(),
    "LogisticRanking": Family(minimum=None),
    "LogitsMSE": features((6, CLASSES), (4, 3, CLASSES)),
    "MultiLevelLogits": Family({"temperatures": [1.0, 2.0]}, shapes=((6, CLASSES),)),
    "NormalizedKD": Family(minimum=None),
    "SoftCrossEntropy": Family(minimum=None),
    "Standardized": Family({"loss": losses.KLDivergence(2.0)}),
    "TeacherBoundedRegression": features((6, 1)),
    "WeightedSoftLabels": Family(minimum=None, slope=False),
    # features
    "ActivationBoundary": features((4, 6), (3, 2, 2, 4), minimum=None),
    "AttentionTransfer": features((3, 4, 4, 2), (2, 5, 5, 3), teacher=MAPS),
    "ClassAttentionTransfer": features((3, 4, 4, 2), teacher=((3, 3, 3, 2),)),
    "Cosine": features((4, 6), (2, 3, 6), (2, 2, 2, 4)),
    "FactorTransfer": features((2, 3, 3, 2)),
    "FlowOfSolutionProcedure": features(
        [(2, 4, 4, 3), (2, 2, 2, 2)], teacher=([(2, 2, 2, 3), (2, 2, 2, 2)],)
    ),
    "HierarchicalContext": features((2, 5, 5, 2), [(2, 3, 3, 2), (2, 2, 2, 4)]),
    "Hint": features((4, 6), (2, 3, 6), (2, 2, 2, 4)),
    "MaskedGeneration": features((2, 2, 2, 4)),
    "NeuronSelectivity": features((3, 4, 4, 2), (2, 5, 5, 3), teacher=MAPS),
    "OverhaulMargin": features((2, 2, 2, 3), arguments={"margin": [-0.5, -1.0, -0.1]}),
    "PearsonCorrelation": features((6, 4), (3, 4, 5), (3, 3, 3, 2)),
    "SemanticCalibration": features(
        [(2, 1, 2), (2, 4, 4, 3), (2, 2, 2, 2)],
        teacher=([(2, 2, 2, 3), (2, 3, 3, 2)],),
        minimum=None,
    ),
    "VariationalInformation": features(
        {"mean": (3, 2, 2, 4), "scale": (3, 4)}, teacher=((3, 2, 2, 4),), minimum=None
    ),
    # relations
    "CenteredKernelAlignment": features((6, 5), (4, 2, 2, 3)),
    "ContrastiveRepresentation": features(
        (6, 5),
        teacher=({"feature": (6, 4), "index": (6,)},),
        arguments={
            "examples": CLASSES, "width": 3, "negatives": 4, "temperature": 0.5, "seed": 7,
        },
        minimum=None,
    ),
    "CorrelationCongruence": features((6, 5), (4, 2, 2, 3)),
    "ProbabilisticTransfer": features((6, 5), (4, 2, 2, 3)),
    "RelationalAngle": features((6, 5), (4, 2, 2, 3)),
    "RelationalDistance": features((6, 5), (4, 2, 2, 3)),
    "SimilarityPreserving": features((6, 5), (4, 2, 2, 3)),
    # transformers
    "AttentionCrossEntropy": Family(shapes=((3, 2, 4, 4),), minimum=None),
    "AttentionDivergence": Family(shapes=((3, 2, 4, 4),)),
    "AttentionMSE": features((3, 2, 4, 4)),
    "MiniLMRelations": features(
        attention(2, 3), teacher=(attention(3, 4),), arguments={"relation_heads": 3}, tokens=True
    ),
    "PatientKD": features((6, 5), (4, 3, 5), tokens=True),
    "SequenceFlow": features([(4, 3, 5), (4, 3, 2)], tokens=True),
    "TokenGram": features([(4, 3, 5)] * 2, teacher=([(4, 3, 6)] * 2,)),
    # dense prediction
    "ChannelWise": features((4, 3, 2, 5)),
    "IntraClassVariation": features((4, 3, 3, 5), arguments={"classes": 3}, labels=(5, 6)),
    "PixelWise": Family({"temperature": 2.0}, ((4, 3, 2, CLASSES),)),
}


def family(loss):
    """The family of a class of losses."""
    usual = {"kind": "logits" if loss.expects_logits else "features"}
    found = FAMILIES.get(loss.__name__) or Family(**{**usual, **loss.example})
    if found.arguments is not None:
        return found
    warm = "temperature" in inspect.signature(loss).parameters
    return dataclasses.replace(found, arguments={"temperature": 2.0} if warm else {})


def each(function, structure):
    """`function` of every leaf; a tuple is a leaf."""
    if isinstance(structure, dict):
        return {key: each(function, value) for key, value in structure.items()}
    if isinstance(structure, list):
        return [each(function, value) for value in structure]
    return function(structure)


def leaves(structure):
    """The leaves of a structure, in order."""
    found = []
    each(found.append, structure)
    return found


def title(structure):
    """A shape, or several, as part of a test's name."""
    return "-".join("x".join(map(str, shape)) for shape in leaves(structure))
