"""Ids and log-probabilities come back from their bytes, within the promised sizes."""

import numpy as np
import pytest

from keras_distill.data import packing


@pytest.mark.parametrize("classes", [2, 10, 200, 257, 1000, 5000, 32_000, 65_537, 151_936])
@pytest.mark.parametrize("n", [1, 2, 3, 32, 128])
def test_ids_come_back(classes, n):
    n = min(n, classes)
    random = np.random.default_rng(0)
    ids = np.stack([random.permutation(classes)[:n] for _ in range(5)])
    ids[0] = np.arange(classes)[-n:]
    ids[1] = np.arange(n)
    width = packing.width_of(classes)
    packed = packing.pack(ids, width)
    assert packed.shape == (5, packing.packed_size(n, width))
    np.testing.assert_array_equal(packing.unpack(packed, n, width), ids)
    ids = np.sort(ids)
    packed = packing.pack_gaps(ids, classes)
    assert packed.shape == (5, packing.gap_layout(n, classes)[1])
    np.testing.assert_array_equal(packing.unpack_gaps(packed, n, classes), ids)


def test_sizes_for_a_large_vocabulary():
    assert packing.packed_size(128, packing.width_of(151_936)) == 288  # 18 bits each
    assert packing.gap_layout(128, 151_936)[1] <= 196


def test_quantized_probabilities_sum_to_one_with_the_tail():
    logits = np.random.default_rng(0).normal(0, 3, (50, 1000))
    log_probs = np.sort(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[:, ::-1]
    top, tail = log_probs[:, :32], np.log(np.exp(log_probs[:, 32:]).sum(-1))
    restored = packing.dequantize(*packing.quantize(top, tail)).numpy()
    np.testing.assert_allclose(np.exp(restored).sum(-1) + np.exp(tail), 1, atol=1e-5)
    assert np.abs(restored - top).max() < 0.05
    assert np.abs(restored - top)[:, :4].max() < 0.02


def test_refuses_too_many_classes():
    with pytest.raises(ValueError, match="2\\^24"):
        packing.width_of(2**24 + 1)
