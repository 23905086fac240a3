"""Fields in rows of 32-bit words, and back."""

import numpy as np
import pytest
from amaranth.lib import data

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import load_word_layout
from zeroskip.sw.engines.payload import pack_fields, unpack_fields

LAYOUTS = {
    "load word": load_word_layout(EIEConfig(pes=16)),
    "one bit": data.StructLayout({"a": 1}),
    "one word": data.StructLayout({"a": 32}),
    "across words": data.StructLayout({"a": 30, "b": 32, "c": 3}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_field_lies_at_its_offset_and_comes_back(name):
    layout, rng = LAYOUTS[name], np.random.default_rng(10)
    values = {field: rng.integers(0, 1 << place.width, 50, dtype=np.uint64)
              for field, place in layout}
    payload = pack_fields(layout, values)
    assert payload.dtype == np.uint32
    for i, row in enumerate(payload.tolist()):
        assert sum(word << 32 * k for k, word in enumerate(row)) == sum(
            int(values[field][i]) << place.offset for field, place in layout)
    found = unpack_fields(layout, payload)
    for field, expected in values.items():
        np.testing.assert_array_equal(found[field], expected)


@pytest.mark.parametrize(("value", "said"), [
    (1 << 30, "field a of 30 bits cannot hold 1073741824$"),
    (np.array([0, -1]), f"field a of 30 bits cannot hold {2**64 - 1}$"),
])
def test_a_value_beyond_its_field_is_refused(value, said):
    values = np.append([0], value) if np.isscalar(value) else value
    with pytest.raises(ValueError, match=said):
        pack_fields(LAYOUTS["across words"], {"a": values, "b": [0, 0], "c": [0, 0]})


def test_by_hand():
    payload = pack_fields(LAYOUTS["across words"], {"a": [1], "b": [0xF0000001], "c": [5]})
    assert payload.tolist() == [[1 | 1 << 30, 0xF0000001 >> 2 | 1 << 30, 1]]
