"""The memory images of the EIE array, read as the array reads them, give back exactly the
layers; every segment, need and choice of the compiler."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroskip.hw.eie.config import CONFIGS, EIEConfig, paper
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers, cut, deepened
from zeroskip.sw.engines.eie.pack import Packed, unpack, width
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.types import TensorType


def layer(indices, name="fc", codebook=None, bias=None, shift=4, activation="none"):
    indices = np.asarray(indices, np.uint8)
    codebook = [7 * v - 50 if v else 0 for v in range(16)] if codebook is None else codebook
    bias = np.arange(len(indices)) - 2 if bias is None else bias
    outputs, inputs = indices.shape
    return FixedLayer(
        name=name, activation=activation, indices=indices, codebook=np.array(codebook, np.int16),
        bias=np.array(bias, np.int64), shift=shift, input=TensorType.of(inputs, np.int16, 0.25),
        output=TensorType.of(outputs, np.int16, 0.25))


def random_layer(outputs, inputs, seed, density=0.4, **fields):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (outputs, inputs), dtype=np.uint8)
    indices[rng.random(indices.shape) >= density] = 0
    codebook = [0, *rng.choice(np.arange(-999, 1000), 15, replace=False)]
    return layer(indices, codebook=codebook, bias=rng.integers(-9999, 9999, outputs), **fields)


def network(*widths, density=0.4):
    """Layers between these widths, each with its own shift; ReLU on all but the last."""
    shapes = list(zip(widths[1:], widths, strict=False))
    return tuple(
        random_layer(outputs, inputs, seed=i, name=f"fc{i}", shift=i, density=density,
                     activation="none" if i == len(shapes) - 1 else "relu")
        for i, (outputs, inputs) in enumerate(shapes))


# --- the array in plain Python ---

def span(config, pointers, segment, column):
    """Start and end of a column in a PE with these pointers, a list."""
    place = segment.first + column * segment.stride
    if segment.balanced:
        return place, place + segment.stride
    if not config.counts:
        return pointers[place], pointers[place + 1]
    base, low, high = pointers[3 * (place >> 4):3 * (place >> 4) + 3]
    lanes = [(low | high << 32) >> 4 * at & 15 for at in range(16)]
    counts = [sum(lanes[at + k] << 4 * k for k in range(segment.stride))
              for at in range(0, 16, segment.stride)]
    at = (place & 15) // segment.stride
    return base + sum(counts[:at]), base + sum(counts[:at + 1])


def decode(column, escapes):
    """(row, codebook index) of every entry among some bytes."""
    row, escaped = 0, False
    for byte in column:
        value, gap = byte & 15, byte >> 4
        if escapes and not value and not escaped:
            row, escaped = row + 16 * (gap + 1), True
            continue
        yield row + gap, value
        row, escaped = row + gap + 1, False


def columns_of(config, segment, pe, begin):
    """Inputs of a segment that a PE takes, with the number of their column in it."""
    clusters, groups = config.pes // config.groups, config.groups
    for j in range(begin, segment.limit):
        slot = j // clusters
        if not segment.grouped:
            yield j, j
        elif slot % groups == pe // clusters:
            yield j, j % clusters + clusters * (slot // groups)


def read_back(image):
    """Of every layer what the memories say: weight at every physical row and column, bias of every
    physical row, and shift and ReLU."""
    config, clusters = image.config, image.config.pes // image.config.groups
    layers, weight, begin, bias, passes = [], {}, 0, 0, []
    pointers = image.pointers.tolist()
    for s in image.segments:
        owners = clusters if s.grouped else config.pes
        assert bool(s.begin) == (s.destination not in passes)
        passes.append(s.destination)
        begin = 0 if s.begin else begin
        for pe in range(config.pes):
            for j, column in columns_of(config, s, pe, begin):
                start, stop = span(config, pointers[pe], s, column)
                for row, value in decode(image.entries[pe, start:stop].tolist(), config.escapes):
                    if value:
                        assert row < config.acc_depth
                        place = (s.destination + row) * owners + pe % owners, j
                        assert place not in weight
                        weight[place] = int(image.codebooks[s.codebook, value])
        begin = s.limit
        if not s.swap:
            assert (s.bias, s.shift, s.relu, s.outputs, s.last) == (0, 0, 0, 0, 0)
            continue
        assert s.bias == bias
        slots = image.layers[len(layers)].slots
        layers.append((weight, [int(image.biases[p % clusters, bias + p // clusters])
                                for p in range(slots)], (s.shift, s.relu)))
        bias += -(-slots // clusters)
        assert [t.clear for t in image.segments if t.codebook == s.codebook] == [
            int(destination == passes[-1]) for destination in passes]
        weight, begin, passes = {}, 0, []
    assert bias == image.biases.shape[1]
    return layers


def orders(image):
    """The order of every layer."""
    ends = np.cumsum([each.slots for each in image.layers])
    assert len(image.order) == ends[-1]
    return np.split(image.order, ends[:-1])


def check(image, layers):
    """The images hold these layers, and nothing else but zeros; the image checks itself."""
    image.check()
    found = read_back(image)
    assert len(found) == len(layers)
    columns = np.arange(layers[0].indices.shape[1])
    for (weight, bias, facts), order, expected in zip(found, orders(image), layers, strict=True):
        dense = np.zeros(expected.weight.shape, np.int64)
        for (i, j), value in weight.items():
            assert order[i] >= 0
            assert columns[j] >= 0
            dense[order[i], columns[j]] = value
        assert np.array_equal(dense, expected.weight)
        half = (1 << expected.shift) >> 1
        assert bias == [half + (int(expected.bias[row]) if row >= 0 else 0) for row in order]
        assert sorted(row for row in order if row >= 0) == list(range(len(expected.bias)))
        assert facts == (expected.shift, int(expected.activation == "relu"))
        columns = order


SMALL = EIEConfig(pes=3, acc_depth=64, block=64)
GROUPED = EIEConfig(pes=8, groups=2)
CASES = {
    "plain": (SMALL, (20, 15, 9)),
    "several passes": (replace(SMALL, acc_depth=2), (12, 20, 13)),
    "several blocks": (replace(SMALL, block=2), (20, 15, 9)),
    "passes and blocks": (replace(SMALL, acc_depth=2, block=1, descriptors=64), (10, 14, 7)),
    "last pass of one row": (replace(SMALL, acc_depth=2), (5, 13)),
    "last block of one input": (replace(SMALL, block=2), (13, 5)),
    "blocks that end with the inputs": (replace(SMALL, block=2), (12, 6)),
    "rows not a multiple of N": (replace(SMALL, pes=4), (7, 10, 5, 6)),
    "fewer rows than PEs": (replace(SMALL, pes=8), (3, 2, 5)),
    "one PE": (replace(SMALL, pes=1), (9, 12, 4)),
    "one weight": (replace(SMALL, pes=1), (1, 1)),
    "long gaps": (replace(SMALL, pes=1, act_depth=600, acc_depth=600, bias_depth=999,
                          pointers=2048), (3, 600, 3)),
    "groups": (GROUPED, (31, 23, 18, 7)),
    "groups, passes and blocks": (replace(GROUPED, acc_depth=2, block=1, descriptors=64),
                                  (21, 19, 12)),
    "groups of which some have no column": (replace(GROUPED, groups=4), (2, 9, 3)),
    "one cluster": (EIEConfig(pes=4, groups=4), (9, 11, 6)),
    "words of many columns": (EIEConfig(pes=2), (40, 35, 33)),
}
FORMATS = {"counts": {}, "pointers": {"counts": False}, "padding": {"escapes": False},
           "paper": {"counts": False, "escapes": False}}


@pytest.mark.parametrize("balance", [True, False], ids=["assigned", "in_turn"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_images_give_the_layers(case, form, balance):
    config, widths = CASES[case]
    layers = network(*widths, density=0.02 if case == "long gaps" else 0.4)
    check(compile_layers(layers, replace(config, **FORMATS[form]), balance=balance), layers)


@given(clusters=st.integers(1, 4), groups=st.sampled_from([1, 2, 4]), escapes=st.booleans(),
       counts=st.booleans(), balance=st.booleans(), acc_depth=st.integers(1, 9),
       block=st.integers(1, 9), widths=st.lists(st.integers(1, 30), min_size=2, max_size=4),
       density=st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_images_of_any_array_give_the_layers(clusters, groups, escapes, counts, balance,
                                             acc_depth, block, widths, density):
    config = deepened(EIEConfig(
        pes=clusters * groups, groups=groups, escapes=escapes, counts=counts,
        acc_depth=acc_depth, block=block))
    layers = network(*widths, density=density)
    image = compile_layers(layers, config, balance=balance)
    check(cut(image), layers)
    cut(image).traced().check()


def test_all_zero_matrix():
    layers = (layer(np.zeros((7, 5)), bias=range(7)),)
    image = compile_layers(layers, SMALL)
    assert image.entries.shape == (3, 0)
    assert image.layers[0].balanced == 0
    check(image, layers)


def test_all_zero_matrix_between_others():
    layers = list(network(8, 9, 7, 5))
    layers[1] = replace(layers[1], indices=np.zeros((7, 9), np.uint8))
    check(compile_layers(tuple(layers), SMALL), layers)


def test_matrix_without_a_zero():
    layers = (layer(np.full((10, 8), 15)),)
    check(compile_layers(layers, replace(SMALL, acc_depth=2)), layers)


@pytest.mark.parametrize(("escapes", "entries", "padding"), [
    (False, 12, 7),     # gaps of 0, 15, 16 and 35 rows, and one of 69: 0 + 0 + 1 + 2 + 4
    (True, 8, 3),       # an escape for each of the last three
])
def test_long_gaps(escapes, entries, padding):
    indices = np.zeros((70, 4))
    indices[[0, 16, 33, 69], 0] = 1, 2, 3, 4
    indices[69, 1] = 5
    layers = (layer(indices),)
    image = compile_layers(layers, EIEConfig(pes=1, act_depth=70, acc_depth=70, bias_depth=70,
                                            escapes=escapes))
    assert (image.layers[0].entries, image.layers[0].padding) == (entries, padding)
    check(image, layers)


def test_escape_in_one_row_of_the_memory_behind_another_layer():
    """The layer begins at byte 3, so that its byte 4 ends a row: a zero byte comes before."""
    first, second = np.zeros((4, 4)), np.zeros((40, 4))
    first[:3, 0] = second[:3, 0] = second[0, 1] = second[30, 2] = 1
    layers = (layer(first), layer(second))
    image = compile_layers(layers, EIEConfig(pes=1), balance=False)
    assert [(info.entries, info.padding) for info in image.layers] == [(3, 0), (7, 2)]
    check(image, layers)


def unpacked(image, number):
    """Indices of a layer at their physical places, by the independent unpacker, pass by pass."""
    config, info = image.config, image.layers[number]
    owners = config.clusters if info.grouped else config.pes
    columns, found = image.columns(number), []
    for s in image.segments:
        if s.codebook != number or not s.begin:
            continue
        starts, stops = image.spans(s)
        base = starts[:, :1]
        rows = min(config.acc_depth * owners, info.slots - s.destination * owners)
        packed = Packed(
            tuple(own[first:stop] for own, first, stop in zip(
                image.entries, starts[:, 0], stops[:, -1], strict=True)),
            np.concatenate([starts - base, stops[:, -1:] - base], axis=1), rows, columns,
            config.groups if info.grouped else 1, config.escapes)
        found.append(unpack(packed))
    return np.concatenate(found)


@pytest.mark.parametrize("config", [
    replace(SMALL, acc_depth=2), replace(SMALL, acc_depth=2, counts=False),
    replace(GROUPED, acc_depth=2), paper(3, acc_depth=2), EIEConfig(pes=3, act_depth=20)])
def test_unpack_gives_the_indices(config):
    layers = network(12, 20, 13)
    image, columns = compile_layers(layers, config), np.arange(12)
    for number, (expected, order) in enumerate(zip(layers, orders(image), strict=True)):
        found = unpacked(image, number)
        held, live = np.flatnonzero(order >= 0), np.flatnonzero(columns >= 0)
        assert np.count_nonzero(found) == np.count_nonzero(expected.indices)
        assert np.array_equal(found[np.ix_(held, live)],
                              expected.indices[np.ix_(order[held], columns[live])])
        columns = order


# --- order and groups ---

def test_rows_in_turn():
    layers = network(20, 15, 9)
    image = compile_layers(layers, SMALL, balance=False)
    assert [order.tolist() for order in orders(image)] == [list(range(15)), list(range(9))]


def test_assigned_rows_fill_whole_words():
    image = compile_layers(network(20, 14, 10), SMALL)
    assert [each.slots for each in image.layers] == [15, 12]
    assert [np.count_nonzero(order < 0) for order in orders(image)] == [1, 2]


def work(image):
    """Bytes of each PE in the only pass of an image."""
    starts, stops = image.spans(image.segments[0])
    return stops[:, -1] - starts[:, 0]


def test_assigned_rows_give_equal_work():
    """Row i has i + 1 entries: in turn, the last PE gets most."""
    layers, config = (layer(np.tri(16)),), EIEConfig(pes=4)
    assert work(compile_layers(layers, config, balance=False)).tolist() == [28, 32, 36, 40]
    assert np.ptp(work(compile_layers(layers, config))) <= 2


def test_each_pass_is_assigned_for_itself():
    """The first four rows are the first pass, however heavy."""
    image = compile_layers((layer(np.tri(8)),), EIEConfig(pes=2, acc_depth=2))
    assert [sorted(image.order[at:at + 4].tolist()) for at in (0, 4)] == [
        [0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize(("weights", "grouped"), [(63, 1), (64, 0)])
def test_grouped_below_two_entries_per_pe_and_column(weights, grouped):
    indices = np.zeros((64, 4))
    indices[:weights, 1] = 1
    config = EIEConfig(pes=8, groups=2)
    image = compile_layers((layer(indices),), config, balance=False)
    assert (image.layers[0].nonzeros, image.layers[0].grouped) == (weights, grouped)
    assert image.segments[0].grouped == grouped
    ungrouped = compile_layers((layer(indices),), replace(config, groups=1), balance=False)
    assert ungrouped.layers[0].grouped == 0


def test_rows_of_a_grouped_layer_are_assigned_by_groups():
    """Every row has eight columns of its own, all for the first PE of each cluster or all for the
    second: each cluster needs rows of both kinds, or one PE has all the work of a group."""
    indices = np.zeros((8, 64))
    for group in range(2):
        own = [j for j in range(64) if j // 2 % 2 == group]
        for row in range(4):
            indices[2 * row + group, own[8 * row:8 * row + 8]] = 1
    image = compile_layers((layer(indices),), EIEConfig(pes=4, groups=2))
    assert image.layers[0].grouped == 1
    assert work(image).tolist() == [16, 16, 16, 16]


# --- bank-balanced layers ---

def banked(rows, columns, pes, k, seed=0):
    """Indices with ``k`` entries in every column of each of ``pes`` banks."""
    rng = np.random.default_rng(seed)
    indices = np.zeros((rows, columns), np.uint8)
    for bank in range(pes):
        own = np.arange(bank, rows, pes)
        for column in range(columns):
            indices[rng.permutation(own)[:k], column] = rng.integers(1, 16, k)
    return indices


BANKS = EIEConfig(pes=4, act_depth=16)


@pytest.mark.parametrize("counts", [True, False])
def test_bank_balanced_layer(counts):
    """Four rows of each column in every PE: no directory, no assignment."""
    layers = (layer(banked(64, 20, 4, 4)),)
    image = compile_layers(layers, replace(BANKS, counts=counts, act_depth=64))
    (info,) = image.layers
    assert (info.balanced, info.stride, info.entries, info.padding) == (1, 4, 4 * 20 * 4, 0)
    assert image.pointers.shape == (4, 0)
    assert image.order.tolist() == list(range(64))
    segment = image.segments[0]
    assert (segment.balanced, segment.stride, segment.first) == (1, 4, 0)
    check(image, layers)


@pytest.mark.parametrize("counts", [True, False])
def test_bank_balanced_layers_come_behind_all_others(counts):
    """Where each of them begins is the same in all PEs, and their order in the memory is that of
    the network."""
    layers = (layer(banked(16, 20, 4, 2), "a", activation="relu"),
              random_layer(12, 16, 1, name="b"), layer(banked(16, 12, 4, 3), "c"),
              random_layer(9, 16, 2, name="d"))
    image = compile_layers(layers, replace(BANKS, counts=counts))
    assert [each.balanced for each in image.layers] == [1, 0, 1, 0]
    a, b, c, d = image.segments
    ends = image.spans(d)[1][:, -1]
    assert len(set(ends.tolist())) > 1
    assert (a.first, c.first) == (ends.max(), ends.max() + 20 * a.stride)
    assert (b.first, d.first) == (0, 16)    # a word of counts, or sixteen pointers
    assert not any(image.entries[pe, end:a.first].any() for pe, end in enumerate(ends))
    check(image, layers)


def test_bank_balanced_layer_behind_holes():
    """The columns of holes are stored too, as zero bytes."""
    layers = (random_layer(30, 16, 3), layer(banked(16, 30, 4, 2)))
    image = compile_layers(layers, BANKS)
    assert [each.slots for each in image.layers] == [32, 16]
    assert [each.balanced for each in image.layers] == [0, 1]
    assert image.layers[1].entries == 32 * 2 * 4
    assert image.layers[1].padding == 2 * 2 * 4
    check(image, layers)


def test_bank_balanced_layer_in_passes():
    layers = (layer(np.full((16, 20), 5)),)
    image = compile_layers(layers, replace(BANKS, acc_depth=2))
    assert image.layers[0].balanced == 1
    assert [s.first for s in image.segments] == [0, 40]
    check(image, layers)


def with_holes(holes):
    """Twelve columns with three weights each in two PEs, but for ``holes`` that have two."""
    indices = np.full((6, 12), 5)
    indices[4:].T.flat[:holes] = 0
    return indices


@pytest.mark.parametrize(("counts", "holes", "balanced"), [
    (True, 17, 1), (True, 18, 0), (False, 15, 1), (False, 16, 0)])
def test_balanced_only_where_that_takes_no_more_bits(counts, holes, balanced):
    """A word of counts takes 64 bits and an address of 5. In two PEs that is more than 17 bytes
    and less than 18; twelve pointers of 5 bits each are as much as 15 bytes."""
    layers = (layer(with_holes(holes)),)
    image = compile_layers(layers, EIEConfig(pes=2, counts=counts))
    assert image.layers[0].balanced == balanced
    assert image.layers[0].padding == holes * balanced
    check(image, layers)


def test_every_pass_of_a_layer_that_is_not_balanced_would_have_a_directory():
    layers = (layer(np.tile(with_holes(17), (3, 1))),)
    image = compile_layers(layers, EIEConfig(pes=2, acc_depth=3))
    assert (image.layers[0].balanced, len(image.segments)) == (1, 3)
    check(image, layers)


@pytest.mark.parametrize(("rows", "balanced"), [(63, 1), (64, 0)])
def test_balanced_only_up_to_63_bytes(rows, balanced):
    image = compile_layers((layer(np.full((rows, 3), 5)),), EIEConfig(pes=1, act_depth=64))
    assert image.layers[0].balanced == balanced
    assert image.layers[0].stride == (63 if balanced else 2)


def test_never_balanced_without_escapes():
    """Zero bytes would be entries."""
    for counts in (True, False):
        image = compile_layers((layer(np.full((16, 20), 5)),),
                              replace(BANKS, escapes=False, counts=counts))
        assert image.layers[0].balanced == 0


def test_balanced_does_not_depend_on_the_memories():
    layers = network(25, 17, 12, density=0.97)
    config = EIEConfig(pes=4)
    assert compile_layers(layers, deepened(config)).layers == compile_layers(layers, config).layers


# --- counts ---

@pytest.mark.parametrize(("longest", "stride"), [(15, 1), (16, 2), (255, 2), (256, 4)])
def test_nibbles_of_a_layer(longest, stride):
    """The longest column decides, in whatever PE and pass it is."""
    indices = np.zeros((longest + 9, 3))
    indices[9:, 1] = 3
    layers = (layer(indices, bias=np.zeros(longest + 9)),)
    image = compile_layers(layers, EIEConfig(pes=1, act_depth=512, acc_depth=512, bias_depth=512))
    assert image.layers[0].stride == stride
    check(image, layers)


def test_a_column_too_long_for_a_count():
    indices = np.zeros((65536, 2))
    indices[:, 0] = 1
    with pytest.raises(BadInput, match="^layer fc: a column takes 65536 bytes in one PE"):
        compile_layers((layer(indices),), deepened(EIEConfig(pes=1)))


# --- segments and facts ---

def test_segments_of_passes_and_blocks():
    image = compile_layers((layer(np.eye(5), shift=3),),
                          EIEConfig(pes=2, acc_depth=2, block=2), balance=False)
    common = {"stride": 1, "balanced": 0, "grouped": 0, "codebook": 0, "bias": 0, "shift": 0,
              "relu": 0, "swap": 0, "outputs": 0, "last": 0}
    assert [vars(segment) for segment in image.segments] == [
        common | {"first": 0, "begin": 1, "limit": 4, "clear": 0, "destination": 0},
        common | {"first": 0, "begin": 0, "limit": 5, "clear": 0, "destination": 0},
        common | {"first": 16, "begin": 1, "limit": 4, "clear": 1, "destination": 2},
        common | {"first": 16, "begin": 0, "limit": 5, "clear": 1, "destination": 2, "shift": 3,
                  "swap": 1, "outputs": 5, "last": 1}]


def test_segments_of_two_layers_in_groups():
    layers = (random_layer(9, 33, 0, density=0.2, name="a", activation="relu", shift=2),
              random_layer(6, 9, 1, density=0.2, name="b", shift=5))
    image = compile_layers(layers, replace(GROUPED, acc_depth=2, block=3), balance=False)
    common = {"stride": 1, "balanced": 0, "grouped": 1, "bias": 0, "shift": 0, "relu": 0,
              "swap": 0, "outputs": 0, "last": 0}
    # Of 33 inputs, PEs 0 to 3 take 17: two words; rows 0 to 7 of the first layer are one pass.
    assert [vars(segment) for segment in image.segments] == [
        common | {"first": 0, "begin": 1, "limit": 24, "clear": 0, "destination": 0,
                  "codebook": 0},
        common | {"first": 0, "begin": 0, "limit": 33, "clear": 0, "destination": 0,
                  "codebook": 0},
        common | {"first": 32, "begin": 1, "limit": 24, "clear": 1, "destination": 2,
                  "codebook": 0},
        common | {"first": 32, "begin": 0, "limit": 33, "clear": 1, "destination": 2,
                  "codebook": 0, "relu": 1, "shift": 2, "swap": 1},
        common | {"first": 64, "begin": 1, "limit": 9, "clear": 1, "destination": 0,
                  "codebook": 1, "bias": 3, "shift": 5, "swap": 1, "outputs": 6, "last": 1}]


def test_each_layer_has_its_own_codebook():
    layers = network(6, 5, 4)
    image = compile_layers(layers, SMALL)
    assert np.array_equal(image.codebooks, [each.codebook for each in layers])
    assert [segment.codebook for segment in image.segments] == [0, 1]


def test_facts_of_the_layers():
    layers = network(20, 15, 9)
    first, second = compile_layers(layers, SMALL).layers
    assert (first.name, first.inputs, first.outputs, first.activation) == ("fc0", 20, 15, "relu")
    assert (second.inputs, second.outputs, second.output.scale) == (15, 9, 0.25)
    for found, expected in zip((first, second), layers, strict=True):
        assert found.nonzeros == np.count_nonzero(expected.indices)
        assert found.entries == found.nonzeros + found.padding


def test_a_word_of_the_directory_starts_each_pass():
    """Seventeen columns take two words of counts, and so do the next ones."""
    layers = network(17, 12, density=0.5)
    image = compile_layers(layers, EIEConfig(pes=2, acc_depth=3))
    assert [s.first for s in image.segments] == [0, 32]
    assert image.pointers.shape == (2, 3 * 4)


@pytest.mark.parametrize("inputs", [1, 3, 8, 9, 13])
def test_width_of_a_group_in_the_directory(inputs):
    layers = (random_layer(5, inputs, 0, density=0.2),)
    image = compile_layers(layers, replace(GROUPED, counts=False))
    assert image.pointers.shape == (8, width(inputs, 8, 2) + 1)
    check(image, layers)


# --- memories ---

def arrow(rows, columns):
    """A full first column, and the diagonal."""
    indices = np.eye(rows, columns)
    indices[:, 0] = 1
    return indices


PAIR = (layer(arrow(6, 5), "a"), layer(arrow(6, 6), "b"))
TIGHT = EIEConfig(pes=1, weight_rows=3, pointers=6 * 16, act_depth=6, acc_depth=2, bias_depth=12,
                  codebooks=2, descriptors=6)
"""Exactly what the two layers of the next tests need."""
NEEDS = {
    "weight_rows": (1, "3 64-bit weight rows per PE (it has 2)"),     # 10 + 11 entries
    "pointers": (16, "96 nibbles of column counts per PE (it has 80)"),   # 3 passes of 2 layers
    "act_depth": (1, "6 activations per PE and role (it has 5)"),
    "bias_depth": (1, "12 biases per cluster (it has 11)"),
    "codebooks": (1, "2 codebooks (it has 1)"),
    "descriptors": (1, "6 descriptors (it has 5)"),
}
POINTERS = "34 column pointers per PE (it has 32)"      # 3 passes x (5 + 6), and the end


def test_network_that_fits_exactly():
    check(compile_layers(PAIR, TIGHT), PAIR)
    check(compile_layers(PAIR, replace(TIGHT, counts=False, pointers=34)), PAIR)


@pytest.mark.parametrize("memory", NEEDS)
def test_one_memory_too_short_by_one(memory):
    less, said = NEEDS[memory]
    short = replace(TIGHT, **{memory: getattr(TIGHT, memory) - less})
    with pytest.raises(BadInput) as error:
        compile_layers(PAIR, short)
    assert f"it needs {said}; " in str(error.value)


def test_pointers_too_few():
    with pytest.raises(BadInput) as error:
        compile_layers(PAIR, replace(TIGHT, counts=False, pointers=32))
    assert f"it needs {POINTERS}; " in str(error.value)


def test_every_short_memory_is_named():
    short = replace(TIGHT, **{memory: getattr(TIGHT, memory) - less
                              for memory, (less, _) in NEEDS.items()})
    with pytest.raises(BadInput) as error:
        compile_layers(PAIR, short)
    assert f"it needs {', '.join(said for _, said in NEEDS.values())}; " in str(error.value)


def test_activations_of_a_grouped_layer_take_more_words():
    """Every PE of a cluster holds all sums of the cluster: 4 rows for 16 outputs."""
    layers = (random_layer(16, 9, 0, density=0.1),)
    config = EIEConfig(pes=8, groups=2, act_depth=3)
    with pytest.raises(BadInput, match=r"it needs 4 activations per PE and role \(it has 3\); "):
        compile_layers(layers, config)
    check(compile_layers(layers, replace(config, act_depth=4)), layers)


def test_deepened_keeps_what_the_mode_is():
    ours = deepened(EIEConfig(act_depth=32, block=32, acc_depth=32))
    papers = deepened(paper(4, act_depth=512))
    assert (ours.act_depth, ours.block, ours.acc_depth) == (1 << 24,) * 3
    assert (papers.act_depth, papers.block, papers.acc_depth) == (1 << 24, 64, 64)
    assert (papers.counts, papers.queue_depth) == (False, 8)


@pytest.mark.parametrize(("config", "sizes"), [
    (TIGHT, {}),
    (deepened(TIGHT), {}),
    (deepened(replace(TIGHT, act_depth=2)), {"acc_depth": 6, "descriptors": 2, "pointers": 32}),
    (deepened(replace(TIGHT, act_depth=64)), {"block": 6}),
    (deepened(replace(TIGHT, counts=False)), {"pointers": 34}),
])
def test_cut_is_just_deep_enough(config, sizes):
    image = cut(compile_layers(PAIR, config))
    assert image.config == replace(TIGHT, counts=config.counts, **sizes)
    check(image, PAIR)


def test_cut_of_a_layer_without_a_directory():
    image = cut(compile_layers((layer(np.ones((4, 4))),), EIEConfig(pes=4)))
    assert image.pointers.shape == (4, 0)
    assert (image.config.pointers, image.config.act_depth, image.config.descriptors) == (16, 2, 2)
    image.check()


# --- overflow ---

def test_provable_overflow_names_layer_and_row():
    wide = layer([[1, 0, 0], [0, 2, 0], [1, 1, 1]], "fc7", [0, 32767, -5] + [0] * 13)
    with pytest.raises(BadInput, match="layer fc7, row 2: a sum can reach -?3221"):
        compile_layers((wide,), SMALL)


def overflowing_after(activation):
    """The second layer overflows only where its inputs can be negative."""
    first = layer(np.ones((2, 1)), "first", activation=activation)
    return first, layer([[1, 2]], "second", [0, 32767, -32767] + [0] * 13, bias=[1 << 20])


def test_overflow_counts_negative_inputs():
    with pytest.raises(BadInput, match="layer second, row 0"):
        compile_layers(overflowing_after("none"), SMALL)


def test_no_overflow_behind_a_relu():
    layers = overflowing_after("relu")
    check(compile_layers(layers, SMALL), layers)


def test_narrow_accumulator_overflows():
    narrow = layer([[1]], "fc", [0, 4] + [0] * 14, bias=[0], shift=0)
    compile_layers((narrow,), replace(SMALL, acc_width=18))
    with pytest.raises(BadInput, match="17-bit"):
        compile_layers((narrow,), replace(SMALL, acc_width=17))


def test_bias_alone_overflows():
    with pytest.raises(BadInput, match="layer fc, row 1: a sum can reach 2147483"):
        compile_layers((layer([[0], [0]], bias=[(1 << 31) - 9, (1 << 31) - 8]),), SMALL)


# --- large addresses ---

def save(layers, config, path):
    Program.chain((compile_layers(layers, config),), layers).save(path)


@pytest.mark.parametrize("counts", [True, False])
def test_addresses_beyond_65535(tmp_path, counts):
    """Weight memories of more than 16 bits of address."""
    layers = (layer(np.full((300, 300), 3)),)
    config = EIEConfig(pes=1, weight_rows=16384, act_depth=300, acc_depth=300, bias_depth=300,
                       block=300, counts=counts, pointers=2048)
    save(layers, config, tmp_path / "large.zsk")
    (image,) = Program.load(tmp_path / "large.zsk").images
    assert image.spans(image.segments[0])[1].max() == 90_000
    check(image, layers)


@pytest.mark.parametrize("counts", [True, False])
def test_columns_beyond_65535(tmp_path, counts):
    indices = np.zeros((2, 70_000))
    indices[0, 1::1000] = 3
    indices[1, 69_999] = 4
    layers = (layer(indices),)
    config = EIEConfig(pes=1, pointers=70_016, act_depth=70_000, block=70_000, counts=counts)
    save(layers, config, tmp_path / "wide.zsk")
    (image,) = Program.load(tmp_path / "wide.zsk").images
    assert image.segments[0].limit == 70_000
    assert image.spans(image.segments[0])[1][0, -2:].tolist() == [70, 71]
    check(image, layers)


@pytest.mark.parametrize("name", ["eie-64", "eie-paper-64"])
def test_array_of_64_holds_32_layers(name):
    layers = (random_layer(70, 70, seed=0, activation="relu"),) * 33
    image = compile_layers(layers[:32], CONFIGS[name])
    assert image.codebooks.shape == (32, 16)
    assert len(image.segments) >= 32
    with pytest.raises(BadInput, match=r"33 codebooks \(it has 32\)"):
        compile_layers(layers, CONFIGS[name])
