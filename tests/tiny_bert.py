"""A text classifier of KerasHub, small, and a batch for it."""

import numpy as np
import pytest

SENTENCES = {
    "token_ids": np.array([[1, 2, 3, 0], [4, 5, 0, 0]]),
    "padding_mask": np.array([[1, 1, 1, 0], [1, 1, 0, 0]]),
    "segment_ids": np.zeros((2, 4), int),
}


def make_bert():
    hub = pytest.importorskip("keras_hub")
    backbone = hub.models.BertBackbone(
        vocabulary_size=20,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=6,
    )
    return hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None)
