"""The bits of what travels: a host and a board that differ in one do not understand each other."""

import pytest

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.hw.tensorcore.layouts import (
    CHANNEL,
    LEAST_SHIFT,
    PATTERNS,
    activation_word_layout,
    gemm_layout,
    output_layout,
    panel_layout,
    step_layout,
    strip_layout,
    weight_word_layout,
    window_layout,
)

DENSE, SPARSE, FINE = (TensorCoreConfig(
    rows=3, columns=2, products=4, weight_words=100, activation_words=60, patterns=patterns)
    for patterns in (("dense",), ("dense", "2:4"), ("dense", "2:4", "1:4")))


@pytest.mark.parametrize(("layout", "bits"), [
    (gemm_layout(SPARSE), {
        "rows": 16, "columns": 24, "block": 24, "chunks": 8, "steps": 7, "words": 6, "pattern": 2,
        "int4": 1, "zero_point": 8, "relu": 1, "raw": 1, "keep": 1}),
    (CHANNEL, {"bias": 32, "multiplier": 31, "shift": 5}),
    (weight_word_layout(DENSE), {"values": 32}),
    (weight_word_layout(SPARSE), {"values": 32, "metadata": 8}),
    (step_layout(FINE), {"phase": 2, "first": 1, "last": 1}),
    (output_layout(SPARSE), {"values": 64, "saturated": 2}),
], ids=["command", "channel", "dense weights", "sparse weights", "step", "output"])
def test_fields_and_their_bits(layout, bits):
    assert [(name, field.width) for name, field in layout] == list(bits.items())


@pytest.mark.parametrize(("config", "operands", "reach"), [(DENSE, 4, 2), (SPARSE, 8, 4),
                                                           (FINE, 16, 8)])
def test_operands_of_a_word_and_of_a_lane(config, operands, reach):
    assert activation_word_layout(config).size == 8 * operands
    assert strip_layout(config).size == 2 * 8 * operands
    assert window_layout(config).size == 8 * reach
    assert panel_layout(config).size == 3 * weight_word_layout(config).size


def test_numbers_of_patterns():
    assert {name: pattern.value for name, pattern in PATTERNS.items()} == {
        "dense": 0, "2:4": 1, "1:4": 2}


def test_the_least_shift():
    assert LEAST_SHIFT == 24
