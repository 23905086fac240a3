"""What the host writes: every word of every memory once, descriptors that decode."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.eie.layouts import (
    LoadTarget,
    descriptor_layout,
    descriptor_stride,
    descriptor_words,
    load_address_width,
    load_word_layout,
)
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.engines.eie.records import load_items, load_words, records
from zeroskip.sw.engines.payload import unpack_fields
from zeroskip.sw.graph.types import TensorType

CONFIGS = {
    "small": EIEConfig(pes=3, acc_depth=2, block=2),
    "one PE": EIEConfig(pes=1, act_depth=16),
    "pointers": EIEConfig(pes=3, acc_depth=2, counts=False),
    "groups": EIEConfig(pes=4, groups=2, acc_depth=4),
    "three words a descriptor": EIEConfig(pes=3, pointers=1 << 15, act_depth=1 << 9),
    "wide descriptors": EIEConfig(pes=3, acc_depth=2, pointers=1 << 20, act_depth=1 << 16,
                                  bias_depth=1 << 16),
}


def layer(name, outputs, inputs, activation, seed, density=0.4):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (outputs, inputs), dtype=np.uint8)
    indices[rng.random(indices.shape) >= density] = 0
    codebook = np.array([0, *rng.integers(-999, 999, 15)], np.int16)
    return FixedLayer(
        name=name, activation=activation, indices=indices, codebook=codebook,
        bias=rng.integers(-9999, 9999, outputs), shift=5 + seed,
        input=TensorType.of(inputs, np.int16, 1.0), output=TensorType.of(outputs, np.int16, 1.0))


@pytest.fixture(scope="module", params=CONFIGS)
def program(request):
    return compile_layers((layer("a", 13, 15, "relu", 0), layer("b", 7, 13, "none", 1, 1)),
                          CONFIGS[request.param])


def written_to(program, target):
    """What was written to one kind of memory: ``{pe: {address: data}}``."""
    written = {}
    for kind, pe, address, data in load_words(program).tolist():
        if kind == target.value:
            written.setdefault(pe, {})[address] = data
    return written


def whole(program, target):
    """The memories of all PEs or clusters as lists; a number or an address that is missing is a
    KeyError."""
    written = written_to(program, target)
    return [[written[pe][at] for at in range(len(written[pe]))] for pe in range(len(written))]


def test_no_word_is_written_twice(program):
    places = Counter(map(tuple, load_words(program)[:, :3].tolist()))
    assert set(places.values()) == {1}


def test_number_of_words(program):
    words = Counter(load_words(program)[:, 0].tolist())
    assert words == {
        LoadTarget.COUNTERS.value: 1,
        LoadTarget.WEIGHTS.value: program.entries.size // 4,
        LoadTarget.POINTERS.value: program.pointers.size,
        LoadTarget.BIASES.value: program.biases.size,
        LoadTarget.CODEBOOK.value: program.config.pes * 2 * 16,
        LoadTarget.DESCRIPTORS.value: len(program.segments) * descriptor_words(program.config)}


def test_weights_are_four_entries_a_word_the_first_in_the_low_byte(program):
    found = [[word >> 8 * byte & 0xFF for word in own for byte in range(4)]
             for own in whole(program, LoadTarget.WEIGHTS)]
    assert found == program.entries.tolist()


def test_column_directory(program):
    """Pointers one after another; words of counts, of three numbers, every four addresses."""
    written, expected = written_to(program, LoadTarget.POINTERS), program.pointers.tolist()
    assert len(written) == program.config.pes
    for pe, own in enumerate(expected):
        places = [4 * (at // 3) + at % 3 if program.config.counts else at
                  for at in range(len(own))]
        assert written[pe] == dict(zip(places, own, strict=True))


def test_counts_of_a_column():
    """Base, low and high nibbles at addresses 0, 1 and 2 of a word."""
    indices = np.zeros((2, 20), np.uint8)
    indices[0, [0, 9, 17]] = indices[1, 9] = 1
    one = replace(layer("a", 2, 20, "none", 0), indices=indices)
    image = compile_layers((one,), EIEConfig(pes=1))
    assert written_to(image, LoadTarget.POINTERS) == {0: {0: 0, 1: 1, 2: 0x20, 4: 3, 5: 0x10, 6: 0}}


def test_biases_of_each_cluster_in_twos_complement(program):
    assert np.any(program.biases < 0)
    assert len(program.biases) == program.config.clusters
    assert whole(program, LoadTarget.BIASES) == [
        [value % (1 << 32) for value in own] for own in program.biases.tolist()]


def test_every_pe_gets_every_codebook(program):
    assert np.any(program.codebooks < 0)
    values = [value % (1 << 16) for value in program.codebooks.reshape(-1).tolist()]
    assert whole(program, LoadTarget.CODEBOOK) == [values] * program.config.pes


def test_descriptors_decode_to_the_segments(program):
    written = written_to(program, LoadTarget.DESCRIPTORS)
    assert list(written) == [0]
    stride, found = descriptor_stride(program.config), []
    for at in range(len(program.segments)):
        bits = sum(written[0][stride * at + k] << 32 * k
                   for k in range(descriptor_words(program.config)))
        found.append({name: bits >> field.offset & (1 << field.width) - 1
                      for name, field in descriptor_layout(program.config)})
    assert found == [{**vars(segment), "pause": 0} for segment in program.segments]


def test_words_of_the_descriptors():
    assert [(descriptor_words(config), descriptor_stride(config))
            for config in CONFIGS.values()] == [(2, 2), (2, 2), (2, 2), (2, 2), (3, 4),
                                                   (4, 4)]


def test_addresses_fit_the_load_bus(program):
    assert load_words(program)[:, 2].max() < 1 << load_address_width(program.config)


def test_counters_are_cleared_first(program):
    assert load_words(program)[0].tolist() == [LoadTarget.COUNTERS.value, 0, 0, 0]


def test_words_are_32_bits(program):
    assert load_words(program).dtype == np.uint32


def test_records_of_samples(program):
    """Each sample's values, the last with its mark, then as many outputs as the last layer has
    slots."""
    inputs = np.array([[-1, 0, 5] + 12 * [7], 15 * [-32768]], np.int16)
    first, read, second, again = records(program, inputs)
    assert (first.port, read.port) == ("inputs", "outputs")
    assert first.items.ravel().tolist() == [0xFFFF, 0, 5, *11 * [7], 1 << 16 | 7]
    assert second.items.ravel().tolist() == [*14 * [0x8000], 1 << 16 | 0x8000]
    assert read == again
    assert read.items == program.layers[-1].slots


def test_items_are_the_words_of_the_load_bus(program):
    fields = unpack_fields(load_word_layout(program.config), load_items(program))
    found = np.stack([fields[name] for name in ("target", "pe", "address", "data")], axis=1)
    np.testing.assert_array_equal(found, load_words(program))
