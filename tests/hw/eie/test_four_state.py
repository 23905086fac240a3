"""The array after nothing but a reset, in a simulator that knows X."""

import numpy as np
import pytest

from zeroskip.hw.eie.array import EIE
from zeroskip.hw.eie.layouts import INPUT, load_word_layout, output_layout
from zeroskip.sim.cases import make_case, random_layers
from zeroskip.sw.engines.eie.records import load_words
from zeroskip.sw.engines.payload import pack_fields

MODES = {"paper": {"escapes": False, "drops_empty": False, "counts": False},
         "zeroskip": {"escapes": True, "drops_empty": True, "counts": True}}


def numbers(layout, **fields):
    """Payloads with these fields, as numbers."""
    return [int.from_bytes(row.tobytes(), "little") for row in pack_fields(layout, fields)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_depends_on_what_was_there_before_reset(four_state, mode, groups):
    rng = np.random.default_rng(1)
    case = make_case(random_layers(rng, (20, 13, 7), 0.3), rng.integers(-99, 99, (2, 20)),
                     pes=2, groups=groups, runahead=2, queue_depth=2, **MODES[mode])
    image = case.image
    load = dict(zip(("target", "pe", "address", "data"), load_words(image).T, strict=True))
    length = case.inputs.shape[1]
    inputs = {"value": case.inputs.reshape(-1).view(np.uint16),
              "last": np.tile(np.arange(length) == length - 1, len(case.inputs))}
    sizes = [layer.slots for layer in image.layers]
    found = four_state(EIE(image.config), [
        {"load": numbers(load_word_layout(image.config), **load)},
        {"inputs": numbers(INPUT, **inputs)}],
        "outputs", len(case.inputs) * sum(sizes))

    layout = output_layout(image.config)
    items = iter([layout.from_bits(number) for number in found])
    for sample in range(len(case.inputs)):
        for layer, size in enumerate(sizes):
            values = np.zeros((1, size), np.int64)
            for item in (next(items) for _ in range(size)):
                values[0, item.index] = item.value
            assert (image.logical(layer, values)[0] == case.expected[layer][sample]).all()
