"""The image of an EIE array: what it says of its layers, and that it refuses whatever the array
could go wrong with."""

import json
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest

from zeroskip.hw.eie.config import EIEConfig
from zeroskip.sw.engines.eie.image import EIEImage
from zeroskip.sw.engines.eie.layer import FixedLayer
from zeroskip.sw.engines.eie.lower import compile_layers
from zeroskip.sw.graph.types import TensorType


def layer(name, outputs, inputs, seed, activation="relu", density=0.3):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 16, (outputs, inputs), dtype=np.uint8)
    indices[rng.random(indices.shape) >= density] = 0
    return FixedLayer(
        name=name, activation=activation, indices=indices, codebook=np.arange(16, dtype=np.int16),
        bias=rng.integers(-99, 99, outputs), shift=3,
        input=TensorType.of(inputs, np.int16, 0.25), output=TensorType.of(outputs, np.int16, 0.25))


LAYERS = (layer("fc1", 21, 40, 1), layer("fc2", 8, 21, 2, density=1), layer("fc3", 7, 8, 3, "none"))
CONFIG = EIEConfig(pes=4, acc_depth=2, block=6, descriptors=32)
"""Three passes of two blocks each; a pass; and a pass."""
ARRAYS = {
    "counts": CONFIG,
    "pointers": replace(CONFIG, counts=False),
    "groups": replace(CONFIG, groups=2, acc_depth=4),
}


@pytest.fixture(params=ARRAYS)
def image(request):
    return compile_layers(LAYERS, ARRAYS[request.param])


@pytest.fixture
def counted():
    return compile_layers(LAYERS, CONFIG)


def test_the_images_of_these_tests():
    images = {name: compile_layers(LAYERS, config) for name, config in ARRAYS.items()}
    assert {name: [(each.grouped, each.balanced) for each in image.layers]
            for name, image in images.items()} == {
        "counts": [(0, 0), (0, 1), (0, 0)], "pointers": [(0, 0), (0, 1), (0, 0)],
        "groups": [(1, 0), (0, 1), (1, 0)]}
    assert [len(image.segments) for image in images.values()] == [8, 8, 8]
    assert [image.order.tolist().count(-1) for image in images.values()] == [4, 4, 2]


# --- what it says ---

def test_it_holds_together(image):
    image.check()
    image.traced().check()


def test_positions_are_the_inverse_of_the_order(image):
    ends = np.cumsum([each.slots for each in image.layers])
    for number, (info, own) in enumerate(zip(image.layers, np.split(image.order, ends[:-1]),
                                             strict=True)):
        assert own[image.positions(number)].tolist() == list(range(info.outputs))


def test_logical_outputs(image):
    for number, info in enumerate(image.layers):
        physical = np.arange(2 * info.slots, dtype=np.int16).reshape(2, -1)
        found = image.logical(number, physical)
        assert (found.dtype, found.shape) == (np.int16, (2, info.outputs))
        start = sum(each.slots for each in image.layers[:number])
        for position, output in enumerate(image.order[start:start + info.slots].tolist()):
            if output >= 0:
                assert found[:, output].tolist() == physical[:, position].tolist()


def test_owners(image):
    """An output is with the PE that its position says; a grouped layer's with the first of the
    cluster."""
    for number, info in enumerate(image.layers):
        dealt = image.config.clusters if info.grouped else image.config.pes
        for output, position in enumerate(image.positions(number).tolist()):
            assert image.owner(info, output) == position % dealt


def test_owner_follows_the_order(counted):
    first, *_ = counted.layers
    changed = replace(counted, order=np.concatenate([
        np.roll(counted.order[:24], 1), counted.order[24:]]))
    assert [changed.owner(first, output) for output in range(21)] == [
        (counted.owner(first, output) + 1) % 4 for output in range(21)]


def test_physical_columns(counted):
    assert [counted.columns(number) for number in range(3)] == [40, 24, 8]


def test_traced_sends_the_physical_outputs_of_every_layer(image):
    slots = [info.slots for info in image.layers]
    assert [s.outputs for s in image.segments if s.swap] == [0, 0, slots[-1]]
    assert [s.outputs for s in image.traced().segments if s.swap] == slots
    assert not any(s.outputs for s in image.traced().segments if not s.swap)


def test_spans_hold_the_stored_bytes(image):
    """Of each layer as many as it says, in the order of the columns."""
    for number, info in enumerate(image.layers):
        total = 0
        for segment in image.segments:
            if segment.codebook == number and segment.begin:
                starts, stops = image.spans(segment)
                assert starts.shape == stops.shape == (4, info.width(
                    image.config, image.columns(number)))
                np.testing.assert_array_equal(starts[:, 1:], stops[:, :-1])
                total += (stops - starts).sum()
        assert total == info.entries


def test_unpacked_is_what_was_packed(image):
    for found, given in zip(image.unpacked(), LAYERS, strict=True):
        np.testing.assert_array_equal(found.weight, given.weight)
        np.testing.assert_array_equal(found.bias, given.bias)


def test_bytes_between_two_words_of_counts(counted):
    """The second word of a pass begins behind the end of the first one."""
    apart = with_cell(counted, "pointers", (1, 3), counted.pointers[1, 3] + 1)
    with pytest.raises(ValueError, match="layer fc1: bytes between its columns belong to none"):
        list(apart.unpacked())


@pytest.mark.parametrize(("name", "pointers"), [
    # Per PE: 3 passes of 40 columns in 3 words, 8 columns in one.
    ("counts", 4 * 10 * (64 + 13)), ("pointers", 4 * (3 * 40 + 8 + 1) * 13),
    # 3 passes of 20 columns in 2 words, 4 columns in one.
    ("groups", 4 * 7 * (64 + 13))])
def test_storage_by_hand(name, pointers):
    image = compile_layers(LAYERS, ARRAYS[name])     # 4096 bytes, so addresses of 13 bits
    entries = sum(info.entries for info in image.layers)
    assert image.storage() == {
        "weights": -(-entries // 2), "indices": -(-entries // 2), "pointers": -(-pointers // 8),
        "codebooks": 3 * 32, "biases": 4 * (21 + 8 + 7),
        "float32": 4 * (21 * 41 + 8 * 22 + 7 * 9)}


def test_storage_of_small_layers():
    indices = np.array([[1, 0], [0, 2], [3, 0]], np.uint8)
    small = replace(layer("fc", 3, 2, 0), indices=indices)
    sizes = {counts: compile_layers((small,), EIEConfig(pes=2, weight_rows=2, counts=counts))
             .storage() for counts in (True, False)}
    rest = {"weights": 2, "indices": 2, "codebooks": 32, "biases": 12, "float32": 36}
    assert sizes == {True: {**rest, "pointers": 18},        # 2 PEs x (64 + 5) bits
                     False: {**rest, "pointers": 4}}        # 2 PEs x 3 pointers x 5 bits


def test_storage_counts_escapes_and_padding():
    indices = np.zeros((40, 20), np.uint8)
    indices[33, 0] = 1              # 33 zeros before it: an escape, or two padding entries
    long = replace(layer("fc", 40, 20, 0), indices=indices)
    for escapes, entries in ((True, 2), (False, 3)):
        sizes = compile_layers((long,), EIEConfig(pes=1, escapes=escapes)).storage()
        assert (sizes["weights"], sizes["indices"]) == (-(-entries // 2),) * 2


def test_a_balanced_layer_has_no_directory():
    image = compile_layers((layer("fc", 8, 9, 1, density=1),), EIEConfig(pes=4))
    assert image.storage()["pointers"] == 0
    assert image.layers[0].balanced == 1
    image.check()


def test_round_trip_of_header_and_tensors(image):
    header = json.loads(json.dumps({"config": asdict(image.config), **image.header()}))
    found = EIEImage.from_file(header, image.tensors())
    found.check()
    assert vars(found).keys() == vars(image).keys()
    for name, value in vars(image).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_segment_of_a_file_without_what_only_a_last_one_has(image):
    """It ends no layer and sends nothing."""
    header = json.loads(json.dumps({"config": asdict(image.config), **image.header()}))
    for name in ("bias", "shift", "relu", "swap", "outputs", "last"):
        assert header["segments"][0].pop(name) == 0
    assert EIEImage.from_file(header, image.tensors()).segments == image.segments


# --- what it refuses ---

def refuse(image, message):
    with pytest.raises(ValueError, match=message):
        image.check()


def with_segment(image, at, **values):
    segments = list(image.segments)
    segments[at] = replace(segments[at], **values)
    return replace(image, segments=tuple(segments))


def with_layer(image, at, **values):
    layers = list(image.layers)
    layers[at] = replace(layers[at], **values)
    return replace(image, layers=tuple(layers))


def with_type(image, at, name, **values):
    """With another input or output of a layer."""
    return with_layer(image, at, **{name: replace(getattr(image.layers[at], name), **values)})


def with_cell(image, name, place, value):
    tensor = getattr(image, name).copy()
    tensor[place] = value
    return replace(image, **{name: tensor})


FIELDS = ("first", "stride", "balanced", "grouped", "begin", "limit", "clear", "destination",
          "codebook", "bias", "shift", "relu", "swap", "last")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("at", range(8))
def test_segment_field_that_is_another(image, at, field):
    """All follow from the layers, but for shifts and where bank-balanced layers begin."""
    segment = image.segments[at]
    value = getattr(segment, field)
    for other in {value + 1, value - 1, 1 - value}:
        wrong = with_segment(image, at, **{field: other})
        if field == "shift" and segment.swap and other >= 0:
            wrong.check()
        elif not segment.balanced or field not in ("first", "balanced"):
            refuse(wrong, f"segment {at}: {field} is {other}, expected ")


@pytest.mark.parametrize("value", [32, -1, 0.5, "1", None, [0]])
def test_shift_out_of_range(counted, value):
    refuse(with_segment(counted, -1, shift=value), "segment 7: shift is .*, expected 0 to 31")


def test_balanced_layers_may_begin_anywhere(counted):
    """Up to where they would leave the weight memory."""
    (at,) = (at for at, segment in enumerate(counted.segments) if segment.balanced)
    size, taken = counted.entries.shape[1], counted.layers[1].entries // 4
    with_segment(counted, at, first=0).check()
    with_segment(counted, at, first=size - taken).check()
    refuse(with_segment(counted, at, first=size - taken + 1),
           f"segment {at}: its columns leave the weight memory")
    refuse(with_segment(counted, at, first=size + 1), "first byte of the bank-balanced layers")
    for value in (-1, "0", None):
        refuse(with_segment(counted, at, first=value), "first byte of the bank-balanced layers")


def test_balanced_layer_whose_segment_is_not(counted):
    refuse(with_segment(counted, 6, balanced=0), "segment 6: first is .*, expected 0 to 0")
    refuse(with_segment(counted, 6, balanced=0, first=0),
           "segment 6: balanced is 0, expected 1 to 1")


def test_balanced_layers_follow_one_another():
    dense = partial(layer, density=1)
    image = compile_layers((dense("a", 8, 9, 1), dense("b", 8, 8, 2)), EIEConfig(pes=4))
    assert [segment.first for segment in image.segments] == [0, 18]
    refuse(with_segment(image, 1, first=17), "segment 1: first is 17, expected 18 to 18")
    refuse(with_segment(image, 0, first=1), "segment 1: first is 18, expected 19 to 19")


@pytest.mark.parametrize(("at", "value"), [(0, 21), (0, 24), (5, 21), (5, 25), (6, 9), (7, 0),
                                           (7, 7), (7, "8")])
def test_outputs_of_another_layer_or_within_one(counted, at, value):
    assert [info.slots for info in counted.layers] == [24, 8, 8]
    refuse(with_segment(counted, at, outputs=value), f"segment {at}: outputs is ")


@pytest.mark.parametrize(("count", "message"), [
    (0, "number of segments is 0, expected 1 to 32"),
    (7, "the list of 7 segments does not fit the 3 layers"),
    (9, "the list of 9 segments does not fit the 3 layers"),
    (40, "number of segments is 40, expected 1 to 32")])
def test_segments_missing_or_too_many(counted, count, message):
    refuse(replace(counted, segments=(counted.segments * 5)[:count]), message)


def test_more_segments_than_descriptors(counted):
    refuse(replace(counted, config=replace(CONFIG, descriptors=7)),
           "number of segments is 8, expected 1 to 7")


@pytest.mark.parametrize(("at", "field", "value"), [
    (0, "activation", "tanh"), (0, "activation", None), (0, "nonzeros", -1),
    (0, "entries", -1), (0, "padding", None),
    (0, "slots", 20), (0, "slots", 25), (0, "slots", "24"), (0, "slots", 24.0),
    (0, "grouped", 1), (0, "grouped", None), (0, "balanced", 2), (0, "balanced", "1"),
    (0, "stride", 0), (0, "stride", 3), (0, "stride", 1.0), (0, "stride", [1]),
    (1, "stride", 0), (1, "stride", 64)])
def test_layer_field_out_of_range(counted, at, field, value):
    refuse(with_layer(counted, at, **{field: value}), f"layer fc.: {field}")


@pytest.mark.parametrize(("at", "name", "field", "value", "message"), [
    *((0, "output", "scale", scale, "output_scale") for scale in (0.0, float("nan"), "1")),
    *((0, "input", "shape", (size,), "inputs") for size in (0, "40", None, 257)),
    *((0, "output", "shape", (size,), "outputs") for size in (-6, 257)),
    (1, "input", "shape", (24,), "inputs")])
def test_type_out_of_range(counted, at, name, field, value, message):
    refuse(with_type(counted, at, name, **{field: value}), f"layer fc.: {message} is ")


def test_layers_that_do_not_follow_one_another(counted):
    refuse(with_type(counted, 0, "output", shape=(22,)),
           "layer fc2: inputs is 21, expected 22 to 22")
    refuse(with_type(counted, 1, "input", scale=0.5),
           r"layer fc2: takes int16 \[21\] of scale 0.5 .*, but layer fc1 gives .* scale 0.25 ")


@pytest.mark.parametrize(("name", "at", "fields", "message"), [
    ("groups", 0, {"balanced": 1}, "balanced is 1, expected 0 to 0"),   # never in groups
    ("pointers", 0, {"stride": 2}, "stride is 2, expected 1"),
    ("groups", 0, {"grouped": 2}, "grouped is 2, expected 0 to 1"),
    ("groups", 0, {"slots": 23}, "slots is 23, expected 21 to 22"),     # 11 words of 2 clusters
])
def test_layer_field_that_such_an_array_cannot_have(name, at, fields, message):
    image = compile_layers(LAYERS, ARRAYS[name])
    refuse(with_layer(image, at, **fields), f"layer fc1: {message}")


def test_balanced_needs_escapes(counted):
    refuse(replace(counted, config=replace(CONFIG, escapes=False)),
           "layer fc2: balanced is 1, expected 0 to 0")


def test_activations_of_a_grouped_layer_have_fewer_owners():
    image = compile_layers(LAYERS, ARRAYS["groups"])
    refuse(replace(image, config=replace(image.config, act_depth=8)),
           "layer fc1: inputs is 40, expected 1 to 32")
    image = compile_layers((layer("fc1", 18, 8, 1, density=0.2),), replace(CONFIG, groups=2))
    assert image.layers[0].grouped == 1
    replace(image, config=replace(image.config, act_depth=9)).check()
    refuse(replace(image, config=replace(image.config, act_depth=8)),
           "layer fc1: outputs is 18, expected 1 to 16")


@pytest.mark.parametrize("count", [0, 6])
def test_number_of_layers(counted, count):
    refuse(replace(counted, layers=(counted.layers * 2)[:count]),
           f"number of layers is {count}, expected 1 to 4")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan"), "1", None])
def test_wrong_input_scale(counted, scale):
    refuse(with_type(counted, 0, "input", scale=scale), "input_scale")


TENSORS = ("entries", "pointers", "biases", "codebooks", "order")


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dtype(image, name):
    refuse(replace(image, **{name: getattr(image, name).astype(np.int64)}),
           f"tensor '{name}' is int64")


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_number_of_rows(image, name):
    refuse(replace(image, **{name: getattr(image, name)[:-1]}), f"tensor '{name}' is ")


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_dimensions(image, name):
    refuse(replace(image, **{name: getattr(image, name)[None]}), f"tensor '{name}' is ")


@pytest.mark.parametrize("name", ["pointers", "biases", "codebooks"])
@pytest.mark.parametrize("more", [1, -1])
def test_wrong_number_of_columns(image, name, more):
    tensor = getattr(image, name)
    wrong = np.pad(tensor, ((0, 0), (0, 1))) if more == 1 else tensor[:, :-1]
    refuse(replace(image, **{name: wrong}), f"tensor '{name}' is ")


@pytest.mark.parametrize("columns", [4104, 4092])
def test_weight_memory_too_long_or_not_in_whole_rows(counted, columns):
    refuse(replace(counted, entries=np.zeros((4, columns), np.uint8)),
           r"tensor 'entries' is uint8 \[4, .*\], expected uint8 \[4, 0 to 4096\] in whole rows")


def test_memories_that_are_just_full(counted):
    more = np.zeros((4, 4096 - counted.entries.shape[1]), np.uint8)
    replace(counted, entries=np.concatenate([counted.entries, more], axis=1)).check()
    compile_layers(LAYERS, replace(CONFIG, act_depth=10)).check()    # 40 inputs
    compile_layers((layer("fc", 1, 1, 1, density=1),), CONFIG).check()


def test_directory_too_long_for_the_memory(counted):
    refuse(replace(counted, config=replace(CONFIG, pointers=144)),
           "size of the column directory is 160, expected 0 to 144")
    pointers = compile_layers(LAYERS, ARRAYS["pointers"])
    refuse(replace(pointers, config=replace(pointers.config, pointers=128)),
           "size of the column directory is 129, expected 0 to 128")


def test_biases_too_many_for_the_memory(counted):
    refuse(replace(counted, config=replace(CONFIG, bias_depth=8)),
           "number of biases in a cluster is 10, expected 1 to 8")


@pytest.mark.parametrize(("place", "value"), [
    (0, -2), (0, 21), (0, 1 << 30), (-1, 0), (24, 7)])
def test_order_that_does_not_hold_every_output_once(counted, place, value):
    assert counted.order[24:32].tolist() == list(range(8))
    refuse(with_cell(counted, "order", place, value), "layer fc.: its order does not hold each of")


def test_order_that_holds_something_else_where_it_holds_none(counted):
    hole = np.flatnonzero(counted.order < 0)[0]
    refuse(with_cell(counted, "order", hole, -2), "layer fc1: its order does not hold each of")


def test_pointers_that_decrease():
    image = compile_layers(LAYERS, ARRAYS["pointers"])
    refuse(with_cell(image, "pointers", (1, 9), image.pointers[1, 8] - 1),
           "segment 0: its columns overlap in the weight memory")
    refuse(with_cell(image, "pointers", (1, -1), image.pointers[1, -2] - 1),
           "segment 7: its columns overlap in the weight memory")


def test_pointers_that_leave_the_memory():
    image = compile_layers(LAYERS, ARRAYS["pointers"])
    size = image.entries.shape[1]
    with_cell(image, "pointers", (0, -1), size).check()
    refuse(with_cell(image, "pointers", (0, -1), size + 1),
           "segment 7: its columns leave the weight memory")


def test_words_of_counts_that_overlap(counted):
    """The second word of a pass begins before the last column of the first one ends."""
    refuse(with_cell(counted, "pointers", (1, 3), counted.pointers[1, 3] - 1),
           "segment 0: its columns overlap in the weight memory")


@pytest.mark.parametrize("lane", [1, 2])
def test_counts_that_leave_the_memory(counted, lane):
    """In the last word, which has eight columns."""
    size = counted.entries.shape[1]
    wrong = with_cell(counted, "pointers", (0, -3), size)
    refuse(wrong, "segment 7: its columns leave the weight memory")
    empty = with_cell(with_cell(wrong, "pointers", (0, -2), 0), "pointers", (0, -1), 0)
    empty.check()
    if lane == 1:
        refuse(with_cell(empty, "pointers", (0, -2), 1), "segment 7: its columns leave")
    else:
        with_cell(empty, "pointers", (0, -1), 1).check()    # the layer has no such column
