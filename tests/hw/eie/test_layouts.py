"""The bits of what travels: a host and a board that differ in one do not understand each other."""

import re
from dataclasses import replace

import pytest

from zeroskip.hw.eie import layouts
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import (
    ENTRY,
    PACKED_ENTRY,
    LoadTarget,
    Phase,
    activation_layout,
    command_layout,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
    job_layout,
    load_address_width,
    load_word_layout,
    operation_layout,
    reading_layout,
    work_layout,
)

CONFIG = EIEConfig(pes=6, groups=2, weight_rows=512, pointers=512, act_depth=64, bias_depth=33,
                   codebooks=5)
"""Numbers of PEs have 3 bits, bytes of the weight memory 13, columns and outputs 9, words 6,
biases 6, codebooks 3."""


def widths(layout):
    """Name and bits of each field, from bit 0 on."""
    return {name: field.width for name, field in layout}


@pytest.mark.parametrize(("layout", "bits"), [
    (load_word_layout(CONFIG), {"target": 3, "pe": 3, "address": 10, "data": 32}),
    (descriptor_layout(CONFIG), {
        "first": 13, "limit": 9, "outputs": 9, "destination": 6, "stride": 6, "bias": 6,
        "codebook": 3, "shift": 5, "balanced": 1, "grouped": 1, "begin": 1, "clear": 1, "relu": 1,
        "swap": 1, "last": 1, "pause": 1}),
    (activation_layout(CONFIG), {"index": 9, "column": 9, "value": 16}),
    (work_layout(CONFIG), {"place": 13, "value": 16}),
    (job_layout(CONFIG), {"value": 16, "start": 13, "last": 13, "blank": 1}),
    (PACKED_ENTRY, {"v": 4, "z": 4}),
    (ENTRY, {"v": 4, "gap": 9, "first": 1, "value": 16}),
    (operation_layout(CONFIG), {"weight": 16, "value": 16, "row": 6}),
    (reading_layout(CONFIG), {"bias": 6, "shift": 5, "relu": 1, "raw": 1, "summed": 1}),
    (command_layout(CONFIG), {
        "scan": 1, "emit": 1, "clear": 1, "begin": 1, "wipe": 1, "limit": 9, "reading": 14,
        "role": 1, "grouped": 1, "balanced": 1, "stride": 6, "destination": 6, "codebook": 3,
        "computing": 1, "phase": 2}),
], ids=["load", "descriptor", "activation", "work", "job", "packed entry", "entry", "operation",
        "reading", "command"])
def test_fields_and_their_bits(layout, bits):
    assert list(widths(layout).items()) == list(bits.items())


@pytest.mark.parametrize(("enum", "names"), [
    (LoadTarget, ["WEIGHTS", "POINTERS", "BIASES", "CODEBOOK", "ACTIVATIONS", "DESCRIPTORS",
                  "COUNTERS", "RESUME"]),
    (Phase, ["FILL", "FULL", "TAIL"]),
])
def test_numbers_of_names(enum, names):
    assert {each.name: each.value for each in enum} == {
        name: number for number, name in enumerate(names)}


@pytest.mark.parametrize(("sizes", "bits"), [
    ({"weight_rows": 33}, 7), ({"pointers": 80}, 7), ({"bias_depth": 65}, 7),
    ({"codebooks": 5}, 7), ({"act_depth": 65}, 7), ({"descriptors": 33}, 7),
    ({"descriptors": 32}, 6), ({"weight_rows": 32}, 6),
], ids=str)
def test_the_deepest_target_decides_the_bits_of_a_load_address(sizes, bits):
    small = {"pes": 1, "weight_rows": 8, "pointers": 16, "act_depth": 8, "bias_depth": 8,
             "codebooks": 1, "descriptors": 2, "block": 8, "acc_depth": 8}
    assert load_address_width(EIEConfig(**small | sizes)) == bits


@pytest.mark.parametrize(("codebooks", "words", "stride"), [(4, 2, 2), (5, 3, 4)])
def test_words_of_a_descriptor_of_64_and_65_bits(codebooks, words, stride):
    config = replace(CONFIG, codebooks=codebooks)
    assert (descriptor_words(config), descriptor_stride(config)) == (words, stride)


def test_the_figure_of_clusters_and_slots():
    """Each element of the vector of 20 stands where the docstring's rule puts it."""
    lines = layouts.__doc__[layouts.__doc__.index("PE 0  PE 4"):].splitlines()
    numbers = [[int(number) for number in re.findall(r"\d+", line.split("slot")[0])]
               for line in lines if "word" in line]
    places = [(word, c, g) for word in range(3) for c in range(4) for g in range(2)]
    plain = [element for word in range(3) for element in numbers[word][1:]]
    assert plain == [j for word, c, g in places if (j := 8 * word + 4 * g + c) < 20]
    assert [pair for line in numbers[3:6] for pair in zip(line[1::2], line[2::2], strict=True)] == [
        (4 * word + c,) * 2 for word in (0, 1, 4) for c in range(4)]
