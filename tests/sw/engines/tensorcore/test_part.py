"""A tensor core's part of a program: what is written is read, and each misfit is refused."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zeroskip.hw.tensorcore.config import TensorCoreConfig
from zeroskip.sw.compiler.program import Program
from zeroskip.sw.engines.tensorcore.part import (
    TensorCoreLayer,
    TensorCorePart,
    kept_columns,
    pack_indices,
)
from zeroskip.sw.errors import BadInput
from zeroskip.sw.graph.im2col import Geometry

CONFIG = TensorCoreConfig(rows=4, patterns=("dense", "2:4", "1:4"))
GEOMETRY = Geometry((2, 5, 4), (3, 2), (2, 1), (1, 0, 1, 1), (1, 1))
"""K = 12; 3 x 4 positions."""


def layer(name="fc", pattern="dense", inputs=12, rows=6, geometry=None, **fields):
    """A random layer; a group keeps random places."""
    rng = np.random.default_rng(3)
    columns = 12 if geometry else inputs
    kept = kept_columns(columns, pattern)
    each = {"dense": 0, "2:4": 2, "1:4": 1}[pattern]
    groups = -(-columns // 4)
    places = np.sort(rng.random((rows, groups, 4)).argsort(axis=2)[..., :each], axis=2)
    values = rng.integers(-128, 128, (rows, kept)).astype(np.int8)
    if each:
        behind = (np.arange(groups)[:, None] * 4 + places >= columns).reshape(rows, kept)
        values[behind] = 0
    return TensorCoreLayer(**{
        "name": name, "pattern": pattern, "activation": "relu", "geometry": geometry,
        "inputs": 40 if geometry else inputs, "outputs": rows * (12 if geometry else 1),
        "input_scale": 0.25, "input_zero_point": -3, "output_scale": 0.25,
        "output_zero_point": -3, "raw": False, "values": values,
        "indices": places.astype(np.uint8).reshape(rows, -1),
        "bias": rng.integers(-9999, 9999, rows).astype(np.int32),
        "multiplier": rng.integers(0, 2**31, rows).astype(np.int32),
        "shift": rng.integers(24, 56, rows).astype(np.int32), **fields})


PARTS = {
    "dense": (layer(),),
    "2:4": (layer(pattern="2:4"),),
    "1:4": (layer(pattern="1:4"),),
    "K no multiple of four": (layer(pattern="2:4", inputs=13), layer("b", "1:4", 6, 5)),
    "several words of metadata": (layer(pattern="2:4", inputs=200),),
    "convolution": (layer("conv", "2:4", geometry=GEOMETRY), layer("fc", inputs=72)),
    "raw": (layer(), layer("last", inputs=6, activation="none", raw=True)),
}


@pytest.fixture
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("file") / "model.zsk"    # messages must not name the test


def reference_of(part):
    """Its layers, where they can be had."""
    try:
        return tuple(part.unpacked())
    except (ValueError, IndexError):
        return ()


def save(path, *layers):
    part = TensorCorePart(CONFIG, layers)
    Program.chain((part,), reference_of(part)).save(path)


def refuse(path, message, *layers):
    save(path, *layers)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


def forge(path, change):
    """Applies ``change(part of the header, tensors)`` and makes the CRC-32 good again."""
    content = path.read_bytes()
    header = json.loads(json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
                        ["__metadata__"]["zeroskip"])
    tensors = load_file(path)
    change(header["steps"][0], tensors)
    header["crc32"] = {name: zlib.crc32(t.tobytes()) for name, t in tensors.items()}
    text = json.dumps(header)
    save_file(tensors, path, {"zeroskip": text, "crc32": str(zlib.crc32(text.encode()))})


def refuse_forged(path, message, change, *layers):
    save(path, *(layers or (layer(pattern="2:4"),)))
    forge(path, change)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


@pytest.mark.parametrize("name", PARTS)
def test_round_trip(path, name):
    save(path, *PARTS[name])
    (part,) = Program.load(path).images
    assert part.config == CONFIG
    for found, expected in zip(part.layers, PARTS[name], strict=True):
        for field, value in vars(expected).items():
            loaded = getattr(found, field)
            if isinstance(value, np.ndarray):
                assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape), field
                assert np.array_equal(loaded, value), field
            else:
                assert loaded == value, field


def test_what_goes_in_and_out():
    part = TensorCorePart(CONFIG, PARTS["convolution"])
    assert (part.inputs, part.outputs) == (40, 6)
    assert (part.input.dtype, part.input.scale, part.input.zero_point) == (np.int8, 0.25, -3)
    assert part.output.dtype == np.int8
    assert TensorCorePart(CONFIG, PARTS["raw"]).output.dtype == np.int32
    assert part.traced() is part


def test_owner_of_an_output():
    part = TensorCorePart(CONFIG, PARTS["convolution"])
    owners = [part.owner(part.layers[0], output) for output in range(72)]
    assert owners == [channel % 4 for channel in range(6) for _ in range(12)]
    assert [part.owner(part.layers[1], output) for output in range(6)] == [0, 1, 2, 3, 0, 1]


def test_storage_by_hand():
    part = TensorCorePart(CONFIG, (layer(pattern="2:4", inputs=13),))   # four groups of 6 rows
    assert part.storage() == {"weights": 48, "indices": 12, "biases": 24, "multipliers": 24,
                              "shifts": 6, "float32": 4 * 6 * 14}


@pytest.mark.parametrize(("columns", "pattern", "kept"), [
    (5, "dense", 5), (4, "2:4", 2), (5, "2:4", 4), (4, "1:4", 1), (5, "1:4", 2)])
def test_kept_columns(columns, pattern, kept):
    assert kept_columns(columns, pattern) == kept


def test_indices_in_words_by_hand():
    indices = np.array([[0, 3, 1, 2] * 4 + [1, 2]], np.uint8)
    assert pack_indices(indices).tolist() == [[0b10011100 * 0x01010101, 0b1001]]
    assert pack_indices(indices).dtype == np.uint32


def test_indices_of_a_dense_matrix_take_no_word():
    assert pack_indices(np.zeros((3, 0), np.uint8)).shape == (3, 0)


@pytest.mark.parametrize(("fields", "message"), [
    ({"pattern": "4:8"}, "pattern is '4:8', expected 'dense' or '2:4' or '1:4'"),
    ({"activation": "tanh"}, "activation is 'tanh'"),
    ({"raw": True}, "raw is True"),
    ({"raw": 0}, "raw is 0"),
    ({"inputs": 0}, "inputs is 0"),
    ({"inputs": 11.0}, "inputs is 11.0"),
    ({"outputs": -6}, "outputs is -6"),
    ({"input_scale": 0.0}, "input_scale is 0.0"),
    ({"output_scale": float("nan")}, "output_scale is nan"),
    ({"output_scale": "1"}, "output_scale is '1'"),
    ({"input_zero_point": 128}, "input_zero_point is 128, expected -128 to 127"),
    ({"output_zero_point": -129}, "output_zero_point is -129"),
    ({"output_zero_point": None}, "output_zero_point is None"),
])
def test_field_out_of_range(path, fields, message):
    refuse(path, f"layer fc: {message}", replace(layer(), **fields))


@pytest.mark.parametrize("array", ["values", "bias", "multiplier", "shift"])
def test_wrong_dtype(path, array):
    wrong = getattr(layer(), array).astype(np.int64)
    refuse(path, f"layer fc: {array} is int64", replace(layer(), **{array: wrong}))


@pytest.mark.parametrize("array", ["bias", "multiplier", "shift"])
def test_wrong_length(path, array):
    short = getattr(layer(), array)[:5]
    refuse(path, f"layer fc: {array} is int32 .5., expected int32 .6.",
           replace(layer(), **{array: short}))


@pytest.mark.parametrize("pattern", ["dense", "2:4", "1:4"])
def test_values_of_other_columns(path, pattern):
    whole = layer(pattern=pattern)
    refuse(path, r"layer fc: values is int8 \[6, \d+\], expected int8 \[6, ",
           replace(whole, values=whole.values[:, 1:], indices=whole.indices[:, 1:]))


def test_pattern_that_the_machine_does_not_have(path):
    config = TensorCoreConfig(patterns=("dense",))
    Program.chain((TensorCorePart(config, (layer(pattern="2:4"),)),), ()).save(path)
    with pytest.raises(BadInput, match="layer fc: pattern is '2:4', expected 'dense';"):
        Program.load(path)


@pytest.mark.parametrize(("array", "value", "expected"), [
    ("shift", 23, "24 to 55"), ("shift", 56, "24 to 55"), ("multiplier", -1, "0 to 2147483647")])
def test_value_out_of_range_names_its_row(path, array, value, expected):
    wrong = getattr(layer(), array).copy()
    wrong[4] = value
    refuse(path, f"layer fc, row 4: {array} is {value}, expected {expected}",
           replace(layer(), **{array: wrong}))


@pytest.mark.parametrize("places", [(2, 2), (3, 1)])
def test_positions_that_do_not_ascend(path, places):
    wrong = layer(pattern="2:4").indices.copy()
    wrong[3, 2:4] = places
    refuse(path, rf"layer fc, row 3, group 1: positions \[{places[0]}, {places[1]}\] do not",
           replace(layer(pattern="2:4"), indices=wrong))


def test_position_beyond_its_group():
    wrong = layer(pattern="1:4").indices.copy()
    wrong[5, 2] = 4                 # a file cannot hold it
    with pytest.raises(ValueError, match="layer fc, row 5, group 2: a position is 4"):
        replace(layer(pattern="1:4"), indices=wrong).check(CONFIG)


def test_weight_behind_the_last_column(path):
    whole = layer(pattern="1:4", inputs=5)
    indices, values = whole.indices.copy(), whole.values.copy()
    indices[2, 1], values[2, 1] = 1, 7
    refuse(path, "layer fc, row 2, group 1: a weight stands behind the last of 5 columns",
           replace(whole, indices=indices, values=values))


def test_metadata_behind_the_last_position(path):
    def change(_, tensors):
        tensors["step0.layer0.metadata"][4] |= np.uint32(1 << 12)     # six positions a row
    refuse_forged(path, "layer fc, row 4: the metadata goes on behind its 6 positions", change)


@pytest.mark.parametrize("wrong", [
    np.zeros((6, 1), np.int32), np.zeros((6, 2), np.uint32), np.zeros((5, 1), np.uint32),
    np.zeros(6, np.uint32)], ids=["dtype", "words", "rows", "dimensions"])
def test_metadata_of_another_kind(path, wrong):
    def change(_, tensors):
        tensors["step0.layer0.metadata"] = wrong
    refuse_forged(path, "layer fc: metadata is u?int32", change)


def test_dense_layer_with_metadata(path):
    def change(_, tensors):
        tensors["step0.layer0.metadata"] = np.zeros((6, 1), np.uint32)
    refuse_forged(path, r"metadata is uint32 \[6, 1\], expected uint32 \[6, 0\]", change, layer())


def test_values_without_rows(path):
    def change(_, tensors):
        tensors["step0.layer0.values"] = np.zeros(6, np.int8)
    refuse_forged(path, "layer fc: values have 1 dimensions", change)


@pytest.mark.parametrize("name", ["values", "metadata", "bias", "multiplier", "shift"])
def test_missing_tensor(path, name):
    refuse_forged(path, f"layer0.{name}", lambda _, t: t.pop(f"step0.layer0.{name}"))


@pytest.mark.parametrize("key", ["name", "pattern", "activation", "geometry", "inputs", "outputs",
                                 "input_scale", "input_zero_point", "output_scale",
                                 "output_zero_point", "raw"])
def test_missing_key(path, key):
    refuse_forged(path, key, lambda part, _: part["layers"][0].pop(key))


@pytest.mark.parametrize(("change", "message"), [
    ({"kernel": [0, 2]}, "layer conv: kernel must be"),
    ({"stride": [1]}, "layer conv: stride must be"),
    ({"padding": [1, 0, -1, 0]}, "layer conv: padding must be"),
    ({"dilation": [1, "2"]}, "layer conv: dilation must be"),
    ({"kernel": [9, 9]}, "layer conv: a kernel of"),
    ({"colour": [1]}, "layer conv: .*colour"),
    ({"kernel": 3}, "layer conv: .*iterable"),
    ({"input_shape": [2, 5, 5]}, "layer conv: inputs is 40, expected 50"),
    ({"stride": [1, 1]}, "layer conv: outputs is 72, expected a multiple of its 20 positions"),
    ({"kernel": [3, 1], "padding": [1, 0, 1, 0]}, r"layer conv: values is int8 \[6, 6\], expected"),
])
def test_geometry_that_does_not_fit(path, change, message):
    refuse_forged(path, message, lambda part, _: part["layers"][0]["geometry"].update(change),
                  layer("conv", "2:4", geometry=GEOMETRY))


@pytest.mark.parametrize("geometry", [7, [1], "text"])
def test_geometry_that_is_no_object(path, geometry):
    refuse_forged(path, "does not hold together",
                  lambda part, _: part["layers"][0].update(geometry=geometry))


def test_part_without_layers(path):
    refuse(path, "0 layers")


def test_layers_that_do_not_follow_one_another(path):
    refuse(path, "layer b: inputs is 7, expected 6 to 6", layer(), layer("b", inputs=7))


@pytest.mark.parametrize("fields", [{"input_scale": 0.5}, {"input_zero_point": 0}])
def test_layers_of_other_scales(path, fields):
    refuse(path, "layer b: takes zero point", layer(), layer("b", inputs=6, **fields))


def test_raw_layer_that_is_not_the_last(path):
    refuse(path, "layer fc: raw is True, but it is not the last", layer(
        raw=True, activation="none"), layer("b", inputs=6))


LARGE = Geometry((1, 4096, 4096), (4, 3), (1, 1), (2, 1, 1, 1), (1, 1))
"""K = 12; 2^24 positions."""


@pytest.mark.parametrize(("large", "said"), [
    (layer(rows=1 << 16, inputs=1), "65536 rows"),
    (layer(rows=1, inputs=4 * 1024 * 255 + 1), "256 chunks of K"),
    (replace(layer(rows=1, geometry=LARGE), inputs=1 << 24, outputs=1 << 24), "16777216 columns"),
], ids=["rows", "chunks", "positions"])
def test_layer_that_is_not_one_command(path, large, said):
    refuse(path, f"layer fc: a GEMM with {said} is not one command", large)


def test_unknown_field_of_the_configuration(path):
    refuse_forged(path, "colour", lambda part, _: part["config"].update(colour=1))


def test_configuration_changed_under_its_digest(path):
    refuse_forged(path, "digest", lambda part, _: part["config"].update(columns=7))


# --- bound to the reference, and within memory ---

@pytest.mark.parametrize("change", [
    {"input_scale": 0.5}, {"output_scale": 0.5}, {"input_zero_point": 4}, {"output_zero_point": 4},
    {"name": "other"}, {"activation": "none"}], ids=str)
def test_what_the_reference_does_not_say(path, change):
    refuse_forged(path, "not those of the reference",
                  lambda part, _: part["layers"][0].update(change))


@pytest.mark.parametrize("name", ["values", "bias", "multiplier", "shift"])
def test_tensor_that_the_reference_does_not_have(path, name):
    def change(_, tensors):
        tensor = tensors[f"step0.layer0.{name}"]
        tensor.reshape(-1)[0] = 30
    refuse_forged(path, "not those of the reference", change)


def test_type_of_the_input(path):
    """Integers of a model that are taken for real values would be scaled once more."""
    part = TensorCorePart(CONFIG, (layer(),))
    Program.chain((part,), part.unpacked(), "uint8").save(path)
    assert Program.load(path).input_dtype == "uint8"
    content = path.read_bytes()
    for other in ("float32", "int8"):
        path.write_bytes(content)
        header = json.loads(load_header(path))
        header["input_dtype"] = other
        text = json.dumps(header)
        save_file(load_file(path), path, {"zeroskip": text,
                                          "crc32": str(zlib.crc32(text.encode()))})
        with pytest.raises(BadInput, match="not those of the reference"):
            Program.load(path)


def load_header(path):
    content = path.read_bytes()
    return json.loads(content[8:8 + int.from_bytes(content[:8], "little")])[
        "__metadata__"]["zeroskip"]


def test_unpacked_is_what_was_packed():
    for name, layers in PARTS.items():
        for own in layers:
            weight = own.unpacked().weight
            assert weight.shape == (own.rows, own.columns), name
            for row in range(own.rows):
                dense, each = np.zeros(-(-own.columns // 4) * 4, np.int8), own.values.shape[1]
                places = np.arange(each)
                if own.pattern != "dense":
                    groups = each // (len(dense) // 4)
                    places = places // groups * 4 + own.indices[row]
                dense[places] = own.values[row]
                assert weight[row].tolist() == dense[:own.columns].tolist(), name


def test_overflow_is_proved_again(path):
    bias = np.full(6, (1 << 31) - 9, np.int32)
    refuse(path, "layer fc, row .: a sum can reach 2147.*, which int32 does not hold",
           replace(layer(), bias=bias))


@pytest.mark.parametrize(("sizes", "message"), [
    ({"weight_words": 10**6}, "buffers have about 8,016,384 words, at most 262,144"),
    ({"rows": 128, "columns": 128, "weight_words": 64, "activation_words": 64},
     "has about 65,536 multipliers, at most 4,096"),
])
def test_core_that_takes_too_long_to_build(path, sizes, message):
    Program.chain((TensorCorePart(replace(CONFIG, **sizes), (layer(),)),), ()).save(path)
    with pytest.raises(BadInput, match=message):
        Program.load(path)


def test_core_of_a_trillion_rows(path):
    refuse_forged(path, f"rows must be at most 256, not {1 << 40}",
                  lambda part, _: part["config"].update(rows=1 << 40))


@pytest.mark.parametrize(("padding", "message"), [
    ([30_000] * 4, "takes 7,201,.* values a sample, at most 268,435,456"),
    ([1 << 62, 0, 0, 0], "padding must be at most 65536"),
])
def test_padding_that_fills_the_memory(path, padding, message):
    def change(part, _):
        part["layers"][0]["geometry"].update(padding=padding, stride=[9999, 9999])
    refuse_forged(path, message, change, layer(geometry=GEOMETRY))


def test_sample_that_fills_the_memory():
    large = layer(geometry=Geometry((2, 2000, 2000), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)))
    many = replace(large, inputs=8_000_000, outputs=6 * large.positions)
    many.check_size(CONFIG)
    outputs = replace(many, outputs=600 * many.positions)
    with pytest.raises(BadInput, match="a sample takes about .* bytes of memory, at most 4,294"):
        outputs.check_size(CONFIG)
    with pytest.raises(BadInput, match="a sample takes about .* multiplications, at most 68,7"):
        replace(many, outputs=6000 * many.positions).check_size(CONFIG)


def test_weights_streamed_for_every_block_by_hand():
    """A column of tiles takes the whole buffer, so 899 positions make 225 blocks."""
    image = Geometry((1000, 29, 31), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
    wide = replace(layer(geometry=image), inputs=899_000, outputs=899_000)
    taken = 20 * (225 * 1000 * 1000 + 225 * 4 * 63 * 16) + 40 * 899_000
    with pytest.raises(BadInput, match=f"a sample takes about {taken:,} bytes of memory"):
        wide.check_size(replace(CONFIG, activation_words=63))
