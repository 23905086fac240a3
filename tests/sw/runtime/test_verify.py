"""verify finds a planted change of one bit, and names its place."""

from dataclasses import replace

import numpy as np
import pytest

from zeroskip.sw.runtime import backends
from zeroskip.sw.runtime.verify import verify


def compare(case, **tensors):
    """The verdict on the case's program with these tensors replaced."""
    program = case.program.with_images(replace(case.image, **tensors))
    return verify(program, case.inputs, (case.golden, backends.rtl("python")))


def test_an_intact_program_is_equal(digits_like):
    verdict = compare(digits_like)
    assert verdict.difference is None
    assert verdict.compared == 5 * (30 + 9)


@pytest.mark.parametrize(("tensor", "place", "bit"), [
    ("entries", (1, 5), 0),
    ("entries", (0, 3), 4),
    ("pointers", (1, 7), 0),
    ("codebooks", (0, 4), 3),
    ("biases", (0, 1), 9),
])
def test_a_change_of_one_bit_is_found(digits_like, tensor, place, bit):
    changed = getattr(digits_like.image, tensor).copy()
    changed[place] ^= 1 << bit
    verdict = compare(digits_like, **{tensor: changed})
    found = verdict.difference
    assert found is not None
    number, layers = ["layer0", "layer1"].index(found.layer), digits_like.image.layers
    order = digits_like.image.order[number * layers[0].slots:].tolist()
    assert (found.unit, found.pe) == ("PE", order.index(found.row) % digits_like.image.config.pes)
    assert found.cycle > 0
    assert found.values[0] != found.values[1]
    outputs = [result[0].outputs[number] for result in verdict.results]
    assert tuple(int(o[found.image, found.row]) for o in outputs) == found.values


def test_the_first_difference_is_the_earliest_image_and_layer(digits_like):
    codebooks = digits_like.image.codebooks.copy()
    codebooks[1] ^= 1
    found = compare(digits_like, codebooks=codebooks).difference
    assert (found.image, found.layer) == (0, "layer1")
    assert found.outputs <= np.prod((5, 9))
