"""The inputs of each exported loss in `losses.py`, with realistic shapes of both sides.

A loss that is not in the table gets shapes of the rank that the contract tests use first.
"""

import dataclasses
import inspect
import math
import pathlib
import sys
from typing import Any

import keras
import tensorflow as tf

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import loss_families  # noqa: E402

from keras_distill import losses  # noqa: E402
from keras_distill.batch import TopK  # noqa: E402

CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Case:
    """How to make a loss and its inputs.

    Attributes:
        loss: a function that makes the loss.
        student: the shape of an example on the student's side: a tuple, or a dict or list of
            tuples.
        teacher: the same for the teacher. `None` stands for the student's shapes. A function of
            (batch,) makes other inputs.
        batch: the number of examples.
        order: the power of the batch size with which the formula's time grows.
        labels: the shape of an example's label, and the number of classes.
    """

    loss: Any
    student: Any
    teacher: Any = None
    batch: int = 128
    order: int = 1
    labels: tuple = ((), CLASSES)

    @property
    def shape(self):
        largest = max(_leaves(self.student), key=math.prod)
        return " x ".join(map(str, (self.batch, *largest)))

    def made(self, batch):
        """Returns the student's side, and a function of it that returns the loss's values."""
        loss, student = self.loss(), _normal(self.student, batch)
        if callable(self.teacher):
            teacher = self.teacher(batch)
        else:
            teacher = _normal(self.teacher or self.student, batch)
        loss.build(*(keras.tree.map_structure(lambda x: tuple(getattr(x, "shape", ())), side)
                     for side in (student, teacher)))  # fmt: skip
        options = {}
        if "labels" in loss.needs:
            shape, classes = self.labels
            options["labels"] = tf.random.uniform((batch, *shape), 0, classes, "int32")
            if classes == 1:
                options["labels"] = tf.random.normal((batch, *shape))
        return student, lambda side: loss.call(teacher, side, **options)


def _leaves(shapes):
    if isinstance(shapes, tuple):
        return [shapes]
    parts = shapes.values() if isinstance(shapes, dict) else shapes
    return [leaf for part in parts for leaf in _leaves(part)]


def _normal(shapes, batch):
    if isinstance(shapes, dict):
        return {key: _normal(each, batch) for key, each in shapes.items()}
    if isinstance(shapes, list):
        return [_normal(each, batch) for each in shapes]
    return tf.random.normal((batch, *shapes))


def _top_k(batch, k=64):
    values, ids = tf.math.top_k(tf.nn.log_softmax(tf.random.normal((batch, CLASSES))), k)
    tail = tf.math.log1p(-tf.reduce_sum(tf.exp(values), axis=-1))
    return TopK(ids, values, tail)


def _spans(batch, ours=128, theirs=96, classes=1100):
    """Returns spans for a teacher that cuts 128 tokens' text into 96; 48 hold whole tokens."""
    numbers = [tf.tile(tf.range(length)[None] * 48 // length + 1, (batch, 1))
               for length in (theirs, ours)]  # fmt: skip
    logits = tf.random.normal((batch, theirs, classes))
    return {"logits": logits, "spans": numbers[0], "student_spans": numbers[1]}


def _remembered(batch):
    index = tf.range(batch, dtype="int32")
    return {"feature": tf.random.normal((batch, 1024)), "index": index}


def _projections(heads):
    return {name: (128, heads, 64) for name in ("query", "key", "value")}


LOGITS, EMBEDDING, WIDE = (CLASSES,), (512,), (1024,)
MAPS, LARGE, DEEP = (14, 14, 256), (28, 28, 128), (7, 7, 512)
ATTENTION, HIDDEN, PIXELS = (12, 128, 128), (128, 768), (64, 64, 19)
TOKENS = {"batch": 8}



def usual(loss):
    """Returns the case of a loss that is not in the table."""
    family = loss_families.family(loss)
    shape = family.shapes[0]
    if not isinstance(shape, tuple) or len(shape) not in RANKS:
        raise ValueError(f"Give a case for `{loss.__name__}`, which takes {shape}.")
    student, batch = ((LOGITS, 128) if loss.expects_logits else RANKS[len(shape)])
    return Case(lambda: loss(**family.arguments), student, batch=batch)


RANKS = {2: (EMBEDDING, 128), 3: (HIDDEN, 8), 4: (MAPS, 32)}
TABLE = {
    # outputs
    "ClassSubset": Case(lambda: losses.ClassSubset(losses.KLDivergence()), LOGITS, (1100,)),
    "Standardized": Case(lambda: losses.Standardized(losses.KLDivergence()), LOGITS),
    "UniversalLogits": Case(losses.UniversalLogits, LOGITS, (1100,)),
    "AlignedSpans": Case(
        lambda: losses.AlignedSpans(losses.UniversalLogits()), (128, CLASSES), _spans, batch=8
    ),
    "MultiLevelLogits": Case(losses.MultiLevelLogits, LOGITS, order=2),
    "HingeRanking": Case(losses.HingeRanking, LOGITS, _top_k),
    "LogisticRanking": Case(losses.LogisticRanking, LOGITS, _top_k),
    "TeacherBoundedRegression": Case(losses.TeacherBoundedRegression, (4,), labels=((4,), 1)),
    "CollaborativeKL": Case(losses.CollaborativeKL, LOGITS, [LOGITS] * 3),
    # features
    **{
        name: Case(getattr(losses, name), MAPS, batch=32)
        for name in (
            "ActivationBoundary",
            "Cosine",
            "FactorTransfer",
            "HierarchicalContext",
            "Hint",
            "MaskedGeneration",
            "PearsonCorrelation",
        )
    },
    "OverhaulMargin": Case(lambda: losses.OverhaulMargin(-0.5), MAPS, batch=32),
    "AttentionTransfer": Case(losses.AttentionTransfer, MAPS, LARGE, 32),
    "NeuronSelectivity": Case(losses.NeuronSelectivity, MAPS, (14, 14, 512), 32),
    "ClassAttentionTransfer": Case(losses.ClassAttentionTransfer, (7, 7, CLASSES), batch=32),
    "FlowOfSolutionProcedure": Case(losses.FlowOfSolutionProcedure, [LARGE, MAPS], batch=32),
    "SemanticCalibration": Case(
        losses.SemanticCalibration, [(2, 2), LARGE, MAPS, LARGE, MAPS], [LARGE, MAPS], 32
    ),
    "VariationalInformation": Case(
        losses.VariationalInformation, {"mean": MAPS, "scale": (256,)}, MAPS, 32
    ),
    # relations between examples
    **{
        name: Case(getattr(losses, name), EMBEDDING, WIDE, order=2)
        for name in (
            "CenteredKernelAlignment",
            "CorrelationCongruence",
            "ProbabilisticTransfer",
            "RelationalDistance",
            "SimilarityPreserving",
        )
    },
    "RelationalAngle": Case(losses.RelationalAngle, EMBEDDING, WIDE, 64, order=3),
    "ContrastiveRepresentation": Case(
        lambda: losses.ContrastiveRepresentation(50_000, seed=0), EMBEDDING, _remembered
    ),
    # transformers
    **{
        name: Case(getattr(losses, name), ATTENTION, **TOKENS)
        for name in ("AttentionCrossEntropy", "AttentionDivergence", "AttentionMSE")
    },
    "MiniLMRelations": Case(
        lambda: losses.MiniLMRelations(relation_heads=12),
        _projections(6),
        _projections(12),
        **TOKENS,
    ),
    "PatientKD": Case(lambda: losses.PatientKD(tokens="all"), HIDDEN, **TOKENS),
    "SequenceFlow": Case(losses.SequenceFlow, [HIDDEN, HIDDEN], **TOKENS),
    "TokenGram": Case(losses.TokenGram, [HIDDEN, HIDDEN], **TOKENS),
    # dense prediction
    "ChannelWise": Case(losses.ChannelWise, PIXELS, batch=8),
    "PixelWise": Case(losses.PixelWise, PIXELS, batch=8),
    "IntraClassVariation": Case(
        lambda: losses.IntraClassVariation(19), (64, 64, 64), batch=8, labels=((512, 512), 19)
    ),
}
EXPORTED = {
    name: loss
    for name in losses.__all__
    if inspect.isclass(loss := getattr(losses, name)) and loss is not losses.DistillationLoss
}
CASES = {name: TABLE.get(name) or usual(loss) for name, loss in EXPORTED.items()}
